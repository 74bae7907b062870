// Package proc runs one engine as a process group that cannot outlive us.
//
// A test binary can end in six ways, and deferred code runs in one of them (t.Fatal; not in: test timeout, panic in a
// goroutine, os.Exit, SIGKILL, Ctrl-C). An engine left behind holds a GPU. So every engine gets a watchdog, a small
// shell process that learns of our death from the kernel (end of file on a pipe) and then does what Stop would have done.
//
// Three nets catch the engine's own children: the process group; the process tree as it was when the stop began (for
// children that called setsid); a random tag in the environment, OMNITEST_RUN (for those whose parent had died before).
// The tag alone would not do: setproctitle, which vLLM uses, overwrites what /proc shows as the environment. The second
// and third need /proc, hence Linux.
//
// What processes leave that is no process, files in shared memory, goes the same two ways: Stop removes them, or the watchdog.
package proc

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// RunTag is the environment variable that marks every process of one engine.
const RunTag = "OMNITEST_RUN"

// Command is what to start.
type Command struct {
	Path string   // looked up in PATH if it has no slash
	Args []string // without the program's name
	Env  []string // added to our own environment; later entries win
	Dir  string   // working directory; "": ours
	Log  string   // file that gets stdout and stderr, appended; its folder is made. Required.
}

// Process is a started Command. Its methods are safe for concurrent use.
type Process struct {
	cmd     *exec.Cmd
	pid     int // also the process group
	tag     string
	log     logFile
	started time.Time
	dog     *watchdog
	shared  *shared
	done    chan struct{} // closed when the first process has ended and exit is set
	exit    Exit

	mu   sync.Mutex
	gone bool // the group is empty and its number may belong to strangers by now: never signal it again

	stop    sync.Once
	ending  Ending
	stopErr error
}

// Start runs c in a process group of its own.
//
// The watchdog is started first and told the group afterwards. Should we be killed in between, there is an engine that
// the watchdog has no number for; it then finds the engine by its tag. (Only by it: without /proc, that is on macOS, this
// window of about a millisecond stays open.)
func Start(c Command) (*Process, error) {
	if c.Log == "" {
		return nil, errors.New("proc: no log file given")
	}
	if err := os.MkdirAll(filepath.Dir(c.Log), 0o755); err != nil {
		return nil, err
	}
	// A file and not a pipe: an orphan that holds our pipe would keep `go test` waiting for as long as it lives.
	log, err := os.OpenFile(c.Log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	size, err := log.Seek(0, 2)
	if err != nil {
		return nil, err
	}
	p := &Process{tag: newTag(), log: logFile{c.Log, size}, shared: newShared(), done: make(chan struct{})}
	p.cmd = exec.Command(c.Path, c.Args...)
	p.cmd.Dir = c.Dir
	p.cmd.Env = append(append(p.cmd.Environ(), c.Env...), RunTag+"="+p.tag)
	p.cmd.Stdout, p.cmd.Stderr = log, log // stdin stays the null device
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if p.cmd.Err != nil {
		return nil, p.cmd.Err // before a watchdog is spent on it
	}
	if p.dog, err = startWatchdog(p.tag); err != nil {
		return nil, err
	}
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, p.dog.dismiss())
	}
	p.pid = p.cmd.Process.Pid
	told := p.dog.guard(p.pid)
	go p.wait()
	if told != nil {
		p.Kill()
		<-p.done
		return nil, errors.Join(told, p.dog.dismiss())
	}
	go p.watchShared()
	return p, nil
}

func newTag() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func (p *Process) wait() {
	err := p.cmd.Wait()
	took := time.Since(p.started)
	p.mu.Lock()
	p.exit = exitOf(p.cmd.ProcessState, err, took)
	if !groupAlive(p.pid, true) {
		p.gone = true
		p.dog.forget()
	}
	p.mu.Unlock()
	close(p.done)
}

// PID of the first process, which is also the number of its group.
func (p *Process) PID() int { return p.pid }

// Tag is the value of OMNITEST_RUN in the engine's environment.
func (p *Process) Tag() string { return p.tag }

// Done is closed when the first process has ended, for whatever reason. Its children may still run; see Stop.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how the first process ended. It waits for Done.
func (p *Process) Exit() Exit {
	<-p.done
	return p.exit
}

// LogPath is the file with the output.
func (p *Process) LogPath() string { return p.log.path }

// Tail gives the last n lines of output of this run.
func (p *Process) Tail(n int) []string { return p.log.tail(n) }

// Signal sends a signal to the whole group: a hang test wants the workers stopped too. os.ErrProcessDone when none is left.
//
// A signal works some time after it was sent. For SIGSTOP that would let a server answer one more request, so that, where
// /proc tells, Signal waits (5 s at most; under a load of 25 on two cores one was not enough) until the whole group has stopped.
func (p *Process) Signal(sig os.Signal) error {
	s, ok := sig.(syscall.Signal)
	if !ok {
		return fmt.Errorf("proc: %v is not a signal of this system", sig)
	}
	err := p.send(s)
	if err == nil && s == syscall.SIGSTOP {
		for end := time.Now().Add(5 * time.Second); !groupHalted(p.pid) && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	return err
}

func (p *Process) send(s syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return os.ErrProcessDone
	}
	err := syscall.Kill(-p.pid, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}

// Kill ends the whole group at once with SIGKILL, as a crash would. Stop is still due.
func (p *Process) Kill() error {
	// What the processes hold in shared memory can only be seen while they live, and must not change under our eyes.
	if err := p.send(syscall.SIGSTOP); err != nil {
		return err
	}
	p.lookAt(family(p.pid, p.tag))
	return p.send(syscall.SIGKILL)
}

// Exit is how a process ended.
type Exit struct {
	Code   int           // exit status; -1 when a signal ended it
	Signal os.Signal     // nil unless a signal ended it
	Took   time.Duration // from start to end
	Err    error         // the end could not be observed
}

func exitOf(s *os.ProcessState, err error, took time.Duration) Exit {
	if s == nil {
		return Exit{Code: -1, Took: took, Err: err}
	}
	e := Exit{Code: s.ExitCode(), Took: took}
	if ws, ok := s.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		e.Signal = ws.Signal()
	}
	return e
}

func (e Exit) String() string {
	switch {
	case e.Err != nil:
		return fmt.Sprintf("was lost after %s: %v", Span(e.Took), e.Err)
	case e.Signal != nil:
		return fmt.Sprintf("was ended by signal %d (%s) after %s", e.Signal, e.Signal, Span(e.Took))
	}
	return fmt.Sprintf("exited with code %d after %s", e.Code, Span(e.Took))
}

// Span prints a duration the way a person says it: "120 ms", "2.3 s", "84 s".
func Span(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
	}
	return fmt.Sprintf("%.0f s", d.Seconds())
}
