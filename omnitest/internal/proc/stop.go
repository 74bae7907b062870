package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"
)

// Ending is how a Stop went.
type Ending struct {
	Exit    Exit
	Took    time.Duration
	Forced  bool     // something of the group was still there after the grace and got SIGKILL
	Escaped []string // processes found outside the group and killed, "1234 ray::worker"
	Removed []string // files that it had left in shared memory, "psm_19b4377c"
}

func (e Ending) String() string {
	s := fmt.Sprintf("stopped in %s, %s", Span(e.Took), e.Exit)
	if e.Forced {
		s += "; SIGKILL was needed"
	}
	if len(e.Escaped) > 0 {
		s += "; escaped from the group and killed: " + strings.Join(e.Escaped, ", ")
	}
	if len(e.Removed) > 0 {
		s += "; removed from shared memory: " + strings.Join(e.Removed, ", ")
	}
	return s
}

const (
	workers = time.Second      // how long children may outlive the first process on a stop, within the grace
	dying   = 10 * time.Second // how long the kernel may take to end what got SIGKILL (a GPU driver unmaps memory)
	tick    = 10 * time.Millisecond
)

// Stop ends the engine: SIGTERM to the group, SIGKILL after grace or as soon as ctx ends, then whatever escaped from the
// group. Then it removes what they left in shared memory, and dismisses the watchdog. It may be called again (and after a
// crash) and then gives the first result. The error says what is still there; it is nil even if force was needed.
//
// A context that has ended already means no grace at all: t.Context() is such a one inside t.Cleanup.
func (p *Process) Stop(ctx context.Context, grace time.Duration) (Ending, error) {
	p.stop.Do(func() { p.ending, p.stopErr = p.end(ctx, grace) })
	return p.ending, p.stopErr
}

func (p *Process) end(ctx context.Context, grace time.Duration) (Ending, error) {
	start := time.Now()
	kin := family(p.pid, p.tag) // now: once a parent is dead nothing ties its children to us
	p.lookAt(kin)
	if ctx.Err() == nil && grace > 0 {
		p.Signal(syscall.SIGTERM)
		p.Signal(syscall.SIGCONT) // a stopped process would see its SIGTERM only after the grace
		timer := time.NewTimer(grace)
		defer timer.Stop()
		select {
		case <-p.done:
			p.await(ctx, min(workers, grace-time.Since(start)))
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	e := Ending{Forced: p.groupLives()}
	var errs []error
	if e.Forced {
		p.Kill()
		if !p.await(context.Background(), dying) {
			errs = append(errs, fmt.Errorf("process group %d is still there %s after SIGKILL: %s", p.pid, Span(dying), strings.Join(members(p.pid), ", ")))
		}
	}
	select {
	case <-p.done:
		e.Exit = p.exit
	case <-time.After(dying):
		e.Exit = Exit{Code: -1, Took: time.Since(p.started), Err: errors.New("it does not end")}
	}
	var left []string
	e.Escaped, left = sweep(kin, p.pid, p.tag)
	if len(left) > 0 {
		errs = append(errs, fmt.Errorf("these processes survived SIGKILL: %s", strings.Join(left, ", ")))
	}
	removed, err := p.shared.remove()
	if err != nil {
		errs = append(errs, fmt.Errorf("left in shared memory: %w", err))
	}
	e.Removed = removed
	if err := p.dog.dismiss(); err != nil {
		errs = append(errs, err)
	}
	e.Took = time.Since(start)
	return e, errors.Join(errs...)
}

// await waits until the group is empty and says whether it is.
func (p *Process) await(ctx context.Context, limit time.Duration) bool {
	for end := time.Now().Add(limit); p.groupLives(); time.Sleep(tick) {
		if time.Now().After(end) || ctx.Err() != nil {
			return false
		}
	}
	return true
}

// groupLives looks whether any process of the group is there, and remembers for ever when none is.
func (p *Process) groupLives() bool {
	select {
	case <-p.done:
	default:
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone && !groupAlive(p.pid, true) {
		p.gone = true
	}
	return !p.gone
}

// sweep kills the escaped: those of kin (as recorded) and all that carry the tag. It repeats, since a process may have
// forked while it was looked at. It gives what it killed and what is left after that.
func sweep(kin map[int]uint64, group int, tag string) (killed, left []string) {
	seen := map[int]bool{}
	for end := time.Now().Add(dying); ; time.Sleep(tick) {
		found := escaped(kin, group, tag)
		left = left[:0]
		for pid, name := range found {
			label := fmt.Sprintf("%d %s", pid, name)
			left = append(left, label)
			if !seen[pid] {
				seen[pid] = true
				killed = append(killed, label)
			}
			if pr, err := os.FindProcess(pid); err == nil {
				pr.Signal(syscall.SIGKILL)
				pr.Release()
			}
		}
		if len(found) == 0 || time.Now().After(end) {
			return killed, left
		}
	}
}
