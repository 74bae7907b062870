package offline

import (
	"bufio"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/internal/proc"
)

//go:embed runner.py
var program []byte

const (
	maxLine   = 256 << 20       // one answer; a batch of 1,000 texts of 8,192 tokens is about 90 MB
	lastWords = 2 * time.Second // for what a process has written before its end
	tailLines = 20
)

// runner is one running runner.py. It answers one call after the other.
type runner struct {
	process  *proc.Process
	dir      string // socket and program
	listener net.Listener
	slot     chan struct{} // capacity 1; full while a call is unanswered, also when its caller has gone
	dead     chan struct{} // closed when no answer can come any more; why is then set

	mu      sync.Mutex
	conn    net.Conn
	latest  int                    // number of the latest call; 0 is the greeting
	open    bool                   // it is unanswered
	waiter  chan<- json.RawMessage // capacity 1; nil: nobody waits
	closing bool                   // an end from now on is no death
	why     *Error
}

// launch starts the process. It has not said anything yet.
func launch(python, model string, env []string, log string) (_ *runner, err error) {
	fail := func(err error) (*runner, error) {
		return nil, &Error{Kind: NotStarted, Op: "start", Message: err.Error(), cause: err}
	}
	dir, err := socketDir()
	if err != nil {
		return fail(err)
	}
	defer func() {
		if err != nil {
			os.RemoveAll(dir)
		}
	}()
	file := filepath.Join(dir, "runner.py") // a file, because vLLM spawns its engine core, which imports it again
	if err := os.WriteFile(file, program, 0o600); err != nil {
		return fail(err)
	}
	// A socket in a folder that only we may enter needs no secret, and keeps what vLLM prints out of the protocol.
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fail(err)
	}
	if log == "" {
		logs, err := os.MkdirTemp("", "omnitest-offline-")
		if err != nil {
			listener.Close()
			return fail(err)
		}
		log = filepath.Join(logs, "runner.log")
	}
	if log, err = filepath.Abs(log); err != nil { // errors name it: it must be found from anywhere
		listener.Close()
		return fail(err)
	}
	base := []string{"PYTHONUNBUFFERED=1", "VLLM_NO_USAGE_STATS=1", "DO_NOT_TRACK=1"}
	if st, err := os.Stat(model); err == nil && st.IsDir() {
		base = append(base, "HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1")
	}
	process, err := proc.Start(proc.Command{
		Path: cmp.Or(python, "python3"), Args: []string{file, "--socket", path}, Env: append(base, env...), Log: log,
	})
	if err != nil {
		listener.Close()
		return fail(fmt.Errorf("%w; name the Python of an environment that has vllm", err))
	}
	return &runner{process: process, dir: dir, listener: listener, slot: make(chan struct{}, 1), dead: make(chan struct{})}, nil
}

// socketDir makes a folder whose name is short: a socket's path may have 104 bytes on macOS, and its $TMPDIR takes half.
func socketDir() (string, error) {
	dir, err := os.MkdirTemp("", "omni-")
	if err != nil || len(dir) <= 90 {
		return dir, err
	}
	os.Remove(dir)
	return os.MkdirTemp("/tmp", "omni-")
}

// connect waits for the process to call and to introduce itself.
func (r *runner) connect(ctx context.Context) (python string, err error) {
	type accepted struct {
		conn net.Conn
		err  error
	}
	incoming := make(chan accepted, 1)
	go func() {
		conn, err := r.listener.Accept()
		incoming <- accepted{conn, err}
	}()
	defer r.listener.Close() // one call is all that is taken; this also ends an Accept that is still waiting
	select {
	case a := <-incoming:
		if a.err != nil {
			return "", r.fail(NotStarted, "%v", a.err).in("start")
		}
		r.mu.Lock()
		r.conn = a.conn
		r.mu.Unlock()
	case <-r.process.Done():
		return "", r.fail(Died, "%s before it called", r.process.Exit()).in("start")
	case <-r.dead:
		return "", r.why.in("start")
	case <-ctx.Done():
		return "", r.late(ctx, "start", "it has not called")
	}
	r.slot <- struct{}{}
	greeting := make(chan json.RawMessage, 1)
	r.open, r.waiter = true, greeting // nobody else knows r yet
	go r.read()
	var h hello
	if err := r.await(ctx, "start", greeting, &h); err != nil {
		return "", err
	}
	if h.Protocol != protocol {
		return "", r.fail(Protocol, "the runner speaks protocol %d, this program %d", h.Protocol, protocol).in("start")
	}
	return h.Python, nil
}

// call sends a request, once the call before is answered, and decodes its answer into out.
func (r *runner) call(ctx context.Context, op string, request func(id int) any, out any) error {
	select {
	case r.slot <- struct{}{}:
	case <-r.dead:
		return r.why.in(op)
	case <-ctx.Done():
		return r.late(ctx, op, "the engine is still busy with the call before")
	}
	answer := make(chan json.RawMessage, 1)
	r.mu.Lock()
	r.latest++
	r.open, r.waiter = true, answer
	conn, id := r.conn, r.latest
	r.mu.Unlock()
	text, err := json.Marshal(request(id))
	if err != nil {
		r.mu.Lock()
		r.open, r.waiter = false, nil
		r.mu.Unlock()
		<-r.slot
		return fmt.Errorf("offline %s: %w", op, err)
	}
	// The engine is idle, so it reads. If it doesn't, half a line is under way and nothing can follow.
	sent := make(chan error, 1)
	go func() { _, err := conn.Write(append(text, '\n')); sent <- err }()
	select {
	case err := <-sent:
		if err != nil {
			select {
			case <-r.dead: // the reader knows better why
			case <-time.After(2 * lastWords):
			}
			return r.fail(Died, "the connection broke: %v", err).in(op)
		}
	case <-r.dead:
		return r.why.in(op)
	case <-ctx.Done():
		e := r.fail(Timeout, "the request was not taken: %v", context.Cause(ctx)).in(op)
		e.cause = ctx.Err()
		return e
	}
	return r.await(ctx, op, answer, out)
}

// await waits for the answer to the open call.
func (r *runner) await(ctx context.Context, op string, answer <-chan json.RawMessage, out any) error {
	select {
	case text := <-answer:
		return r.decode(op, text, out)
	case <-r.dead:
		select {
		case text := <-answer: // it came before the end
			return r.decode(op, text, out)
		default:
		}
		return r.why.in(op)
	case <-ctx.Done():
		r.mu.Lock()
		r.waiter = nil
		r.mu.Unlock()
		return r.late(ctx, op, "no answer")
	}
}

func (r *runner) decode(op string, text json.RawMessage, out any) error {
	var head reply
	err := json.Unmarshal(text, &head)
	if err == nil && head.Error != nil {
		return &Error{
			Kind: Exception, Op: op, Type: head.Error.Type, Message: head.Error.Message, Traceback: head.Error.Traceback,
			LogPath: r.process.LogPath(),
		}
	}
	if err == nil {
		err = json.Unmarshal(text, out)
	}
	if err != nil {
		return r.fail(Protocol, "the answer does not fit (%v); it begins %.80q", err, text).in(op)
	}
	return nil
}

// late is the error of a caller who waits no longer.
func (r *runner) late(ctx context.Context, op, what string) *Error {
	return &Error{
		Kind: kindOf(ctx), Op: op, Message: fmt.Sprintf("%s: %v; the process still runs", what, context.Cause(ctx)),
		LogPath: r.process.LogPath(), Tail: r.process.Tail(tailLines), cause: ctx.Err(),
	}
}

// read hands answers to those who wait for them, until the connection ends. It is the only reader.
func (r *runner) read() {
	go func() { // a worker that was forked may hold the connection open beyond the end of the process
		<-r.process.Done()
		r.conn.SetReadDeadline(time.Now().Add(lastWords))
	}()
	lines := bufio.NewScanner(r.conn)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	for lines.Scan() {
		if err := r.deliver(lines.Bytes()); err != nil {
			r.fail(Protocol, "%v", err)
			return
		}
	}
	if err := lines.Err(); errors.Is(err, bufio.ErrTooLong) {
		r.fail(Protocol, "a line of more than %d MB", maxLine>>20)
		return
	}
	select {
	case <-r.process.Done():
		r.fail(Died, "%s", r.process.Exit())
	case <-time.After(lastWords):
		r.fail(Protocol, "it closed the connection and runs on")
	}
}

// deliver gives one line to whoever waits for it.
func (r *runner) deliver(text []byte) error {
	var head reply
	if err := json.Unmarshal(text, &head); err != nil {
		return fmt.Errorf("what came is no answer in JSON: %.80q", text)
	}
	if head.ID == nil {
		return fmt.Errorf("an answer without id: %.80q", text)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open || *head.ID != r.latest {
		return fmt.Errorf("an answer to call %d, which is not open: %.80q", *head.ID, text)
	}
	if r.waiter != nil {
		r.waiter <- append(json.RawMessage(nil), text...)
	}
	r.open, r.waiter = false, nil
	<-r.slot
	return nil
}

// fail notes the end of the runner, once, kills what is left of it and gives the first reason.
func (r *runner) fail(kind Kind, format string, args ...any) *Error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.why == nil {
		if r.closing {
			kind, format, args = Closed, "the engine was closed", nil
		}
		r.why = &Error{
			Kind: kind, Message: fmt.Sprintf(format, args...), LogPath: r.process.LogPath(), Tail: r.process.Tail(tailLines),
		}
		close(r.dead)
		if kind != Closed { // Close gives it time
			r.process.Kill()
		}
	}
	return r.why
}

// in is the error as the caller of op gets it.
func (e *Error) in(op string) *Error {
	c := *e
	c.Op = op
	return &c
}

// end asks an idle engine to end by itself; a busy one cannot hear. It gives the engine's failure, if it failed before.
func (r *runner) end(grace time.Duration) error {
	r.mu.Lock()
	why, idle := r.why, r.conn != nil && !r.open
	r.closing = true
	r.mu.Unlock()
	if why != nil {
		return why.in("close")
	}
	if idle {
		ctx, cancel := limited(context.Background(), grace)
		defer cancel()
		var nothing struct{}
		if r.call(ctx, "close", func(id int) any { return closeRequest{id, "close"} }, &nothing) == nil {
			select {
			case <-r.process.Done():
			case <-ctx.Done():
			}
		}
	}
	r.fail(Closed, "the engine was closed")
	return nil
}

// stop ends whatever is left, and waits for it.
func (r *runner) stop(grace time.Duration) error {
	r.fail(Closed, "the engine was closed")
	_, err := r.process.Stop(context.Background(), grace)
	r.listener.Close()
	r.mu.Lock()
	if r.conn != nil {
		r.conn.Close()
	}
	r.mu.Unlock()
	os.RemoveAll(r.dir)
	if err != nil {
		return &Error{Kind: Closed, Op: "close", Message: err.Error(), LogPath: r.process.LogPath(), Tail: r.process.Tail(tailLines), cause: err}
	}
	return nil
}
