package stamped

import (
	"container/heap"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stream is one answer under way. Once it was added, only its pacer touches it, but for left and done.
type stream struct {
	conn   *conn
	pacer  *pacer
	req    *Request
	rng    *rand.Rand // of the jitter; nil: none
	id     string
	object string
	model  []byte // as JSON

	chat, streamed        bool
	withUsage, continuous bool
	closes                bool // the client asked for the connection's end
	fault                 Fault
	created               int64
	n, bytes              int

	next    int    // token that is due next
	due     int64  // when
	wake    int64  // when the pacer looks at it: due, or earlier while bytes are pending
	ended   int64  // when its last bytes were tried; 0: not yet
	pending []byte // what the reader's full buffers did not take
	blocked int
	told    bool // the ledger has it
	over    bool
	left    atomic.Bool   // the client is gone
	done    chan struct{} // closed when it is over
}

func newStream(c *conn, req *http.Request, a ask, n int, fault Fault, arrived, read int64) *stream {
	s := c.srv
	number := s.number.Add(1)
	model, _ := json.Marshal(s.model(a.Model))
	st := &stream{conn: c, pacer: s.pacers[number%uint64(len(s.pacers))], id: fmt.Sprintf("cmpl-%016x", number), object: "text_completion",
		model: model, chat: req.URL.Path == "/v1/chat/completions", streamed: a.Stream, withUsage: a.StreamOptions.Usage,
		continuous: a.StreamOptions.Continuous, closes: req.Close, fault: fault, created: time.Now().Unix(), n: n, bytes: s.opts.EventBytes, done: make(chan struct{})}
	if st.chat {
		st.id, st.object = "chat"+st.id, "chat.completion"
		if a.Stream {
			st.object = "chat.completion.chunk"
		}
	}
	switch fault {
	case LongLines:
		st.bytes = 1 << 20
	case Endless:
		st.n = 1 << 40
	}
	if s.opts.Jitter > 0 {
		st.rng = rand.New(rand.NewPCG(s.opts.Seed, number))
	}
	id := req.Header.Get("X-Request-Id")
	if id == "" {
		id = st.id
	}
	st.req = &Request{ID: id, Path: req.URL.Path, Stream: a.Stream, Arrived: arrived, Read: read, PromptTokens: promptTokens(a), Asked: n}
	if a.Stream {
		st.req.Due, st.req.Written = make([]int64, 0, min(n, 4096)), make([]int64, 0, min(n, 4096))
	} else {
		st.next = n - 1 // there is one moment: when the last token would be due
	}
	st.schedule()
	return st
}

// schedule sets when token next is due.
func (st *stream) schedule() {
	o := st.conn.srv.opts
	st.due = st.req.Arrived + int64(o.TTFT) + int64(st.next)*int64(o.Interval)
	if st.rng != nil {
		st.due += st.rng.Int64N(int64(o.Jitter))
	}
	st.wake = st.due
}

// pacer writes the events of its streams, in the order in which they are due, on one thread.
type pacer struct {
	srv  *Server
	wait *waiter

	mu      sync.Mutex // also of wait, which is gone once gone is true
	inbox   []*stream
	gone    bool
	arrived atomic.Bool // the inbox is not empty
	stopped atomic.Bool

	queue   queue
	scratch []byte
}

func newPacer(s *Server) (*pacer, error) {
	w, err := newWaiter()
	return &pacer{srv: s, wait: w}, err
}

// add hands over a new stream, or one whose client has left.
func (p *pacer) add(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		p.finish(st, StateLeft)
		return
	}
	p.inbox = append(p.inbox, st)
	p.arrived.Store(true)
	p.wait.wake()
}

func (p *pacer) stop() {
	p.stopped.Store(true)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.wait.wake()
	}
}

func (p *pacer) run() {
	p.wait.enter()
	for !p.stopped.Load() {
		if p.arrived.Load() {
			p.take()
		}
		if len(p.queue) == 0 {
			p.wait.wait(-1)
			continue
		}
		st := p.queue[0]
		if st.over { // ended before its time
			heap.Pop(&p.queue)
			continue
		}
		if now := Now(); st.wake > now {
			p.wait.wait(time.Duration(st.wake - now))
			continue
		}
		if p.step(st); st.over {
			heap.Pop(&p.queue)
		} else {
			heap.Fix(&p.queue, 0)
		}
	}
	p.take()
	for _, st := range p.queue {
		p.finish(st, StateLeft)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, st := range p.inbox {
		p.finish(st, StateLeft)
	}
	p.gone = true
	p.wait.close()
}

// take empties the inbox.
func (p *pacer) take() {
	p.mu.Lock()
	fresh := p.inbox
	p.inbox = nil
	p.arrived.Store(false)
	p.mu.Unlock()
	for _, st := range fresh {
		if st.left.Load() {
			p.finish(st, StateLeft)
		}
		if !st.over {
			heap.Push(&p.queue, st)
		}
	}
}

// step does what is due for a stream: the rest of an earlier event, or the next event.
func (p *pacer) step(st *stream) {
	if len(st.pending) > 0 {
		p.flush(st)
		return
	}
	now := Now()
	st.req.Due, st.req.Written = append(st.req.Due, st.due), append(st.req.Written, now)
	if !st.streamed {
		body := st.whole(nil)
		st.next, st.ended = st.n, now
		p.tell(st, StateDone)
		p.write(st, append(head(nil, 200, "application/json", len(body)), body...))
		p.settle(st)
		return
	}
	if st.chat && st.next == 0 && !p.write(st, p.frame(st.role)) {
		st.pending = append(st.pending, p.frame(func(b []byte) []byte { return st.event(b, 0, nil) })...)
	} else {
		stamp := &Stamp{st.next, st.due, now}
		if !p.srv.opts.Stamp {
			stamp = nil
		}
		p.write(st, p.frame(func(b []byte) []byte { return st.event(b, st.next, stamp) }))
	}
	st.next++
	if st.next == (st.n+1)/2 && (st.fault == Reset || st.fault == CutEvent) {
		if st.fault == Reset {
			_ = st.conn.raw.SetLinger(0) // closing sends RST
		} else {
			whole := p.frame(func(b []byte) []byte { return st.event(b, st.next, nil) })
			p.write(st, whole[:len(whole)/2])
		}
		p.finish(st, StateFault) // before the client can know
		st.conn.raw.Close()
		return
	}
	if st.next == st.n {
		st.ended = Now()
		if len(st.pending) == 0 {
			p.tell(st, StateDone)
		}
		p.write(st, append(p.frame(st.end), "0\r\n\r\n"...))
	}
	p.settle(st)
}

// settle decides when the pacer looks at a stream again.
func (p *pacer) settle(st *stream) {
	switch {
	case st.over:
	case len(st.pending) > 0:
		st.wake = Now() + int64(time.Millisecond)
	case st.next >= st.n:
		p.finish(st, StateDone)
	default:
		st.schedule()
	}
}

// flush tries the pending bytes again. The event that they end counts as written when they went.
func (p *pacer) flush(st *stream) {
	rest := st.pending
	st.pending = nil
	now := Now()
	if p.write(st, rest) && !st.over && !st.told {
		st.req.Written[len(st.req.Written)-1] = now
		if st.ended > 0 {
			st.ended = now
		}
	}
	p.settle(st)
}

const frameRoom = 10 // for a chunk's length in hex and its line end

// frame makes a chunk of what fill appends. It is valid until the next call.
func (p *pacer) frame(fill func([]byte) []byte) []byte {
	b := fill(append(p.scratch[:0], "          "...))
	n := len(b) - frameRoom
	if n == 0 {
		return b[:0] // a chunk of no bytes would end the body
	}
	var digits [frameRoom]byte
	size := append(strconv.AppendInt(digits[:0], int64(n), 16), "\r\n"...)
	from := frameRoom - len(size)
	copy(b[from:], size)
	b = append(b, "\r\n"...)
	p.scratch = b
	return b[from:]
}

// write tries once, and keeps what the socket's buffer has no room for: one slow reader must not hold up the others. It
// says whether all went.
func (p *pacer) write(st *stream, b []byte) bool {
	if st.over || len(b) == 0 {
		return !st.over
	}
	if len(st.pending) > 0 {
		st.pending = append(st.pending, b...)
		return false
	}
	var n int
	var failed error
	err := st.conn.sys.Write(func(fd uintptr) bool {
		for {
			if n, failed = syscall.Write(int(fd), b); failed != syscall.EINTR {
				return true
			}
		}
	})
	n = max(n, 0)
	switch {
	case err != nil || failed != nil && failed != syscall.EAGAIN:
		p.finish(st, StateLeft)
		return false
	case n < len(b):
		st.blocked++
		st.pending = append(st.pending[:0], b[n:]...)
		return false
	}
	return true
}

func (p *pacer) finish(st *stream, state State) {
	if st.over {
		return
	}
	st.over = true
	if state != StateDone {
		st.ended = Now()
	}
	p.tell(st, state)
	if st.closes {
		st.conn.raw.Close()
	}
	close(st.done)
}

// tell puts a stream into the ledger, or corrects what it told. It is called before the last bytes are written: a client that
// has read them finds its request there.
func (p *pacer) tell(st *stream, state State) {
	p.srv.ledger.end(st.req, state, st.ended, st.blocked, !st.told)
	st.told = true
}

// queue is a heap by wake.
type queue []*stream

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].wake < q[j].wake }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)        { *q = append(*q, x.(*stream)) }
func (q *queue) Pop() any {
	old := *q
	st := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return st
}
