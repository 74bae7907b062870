package refpd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Running is a started stack: the base URLs of its stages, DiT "" without one. Its methods know the stages as "proxy", "prefill",
// "decode" and "dit"; Restart and Break fit probe.Options.
type Running struct {
	Entry, Prefill, Decode, DiT string

	stages map[string]*stage
}

// run is one life of a stage: it serves until ctx ends and calls ready once with its address. listen is "" in the first life and the
// address of the first in those that follow.
type run func(ctx context.Context, listen string, ready func(addr string)) error

// stage is a server that can be ended and started again.
type stage struct {
	mu   sync.Mutex
	name string
	run  run
	addr string
	life *life // the present one, or the last
}

// life is one start of a stage.
type life struct {
	cancel context.CancelFunc
	over   chan struct{} // closed when it has ended; err may be read then
	err    error
}

// Kill ends a stage at once: connections break, the port refuses. A stage that is down stays so.
func (r *Running) Kill(name string) error {
	s, err := r.stage(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.end()
}

// Restart ends a stage and starts it anew at the same URL, with an empty cache and fresh counters. A stage that died or was
// killed is started again. It returns when the stage answers; an error means that it does not. Who kept a connection open, the
// proxy too, may find it broken once, as with any restart.
func (r *Running) Restart(ctx context.Context, name string) error {
	s, err := r.stage(name)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.end(); err != nil {
		return err
	}
	return s.begin(ctx)
}

// Break takes a stage away: its port refuses until mend starts it again.
func (r *Running) Break(_ context.Context, name string) (mend func() error, err error) {
	if err := r.Kill(name); err != nil {
		return nil, err
	}
	return func() error { return r.Restart(context.Background(), name) }, nil
}

func (r *Running) stage(name string) (*stage, error) {
	if s, ok := r.stages[name]; ok {
		return s, nil
	}
	return nil, fmt.Errorf("refpd: no stage %q was started", name)
}

// start begins the first life of a stage, gives its base URL, and ends its last one with the test.
func (r *Running) start(t testing.TB, name string, life run) string {
	t.Helper()
	s := &stage{name: name, run: life}
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.end(); err != nil {
			t.Error(err)
		}
	})
	if err := s.begin(context.Background()); err != nil {
		t.Fatal(err)
	}
	r.stages[name] = s
	return "http://" + s.addr
}

// begin starts a life and waits for its address. Somebody may hold the port for a moment (an outgoing connection of any process
// on this machine can), so a taken one is tried again. The caller holds mu.
func (s *stage) begin(ctx context.Context) error {
	ctx, done := context.WithTimeoutCause(ctx, Limit, fmt.Errorf("refpd: %s was not ready within %v", s.name, Limit))
	defer done()
	for {
		serving, cancel := context.WithCancel(context.Background())
		l := &life{cancel: cancel, over: make(chan struct{})}
		s.life = l
		addr := make(chan string, 1)
		go func() {
			l.err = s.run(serving, s.addr, func(a string) { addr <- a })
			close(l.over)
		}()
		select {
		case a := <-addr:
			s.addr = a
			return nil
		case <-l.over:
			cancel()
			if !errors.Is(l.err, syscall.EADDRINUSE) {
				return fmt.Errorf("refpd: %s ended before it was ready: %w", s.name, l.err)
			}
		case <-ctx.Done():
			cancel()
			return context.Cause(ctx)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), l.err)
		}
	}
}

// end ends the present life. That it had died by itself before is no error here: some faults do that. The caller holds mu.
func (s *stage) end() error {
	if s.life == nil {
		return nil
	}
	s.life.cancel()
	select {
	case <-s.life.over:
		return nil
	case <-time.After(Limit):
		return fmt.Errorf("refpd: %s did not end within %v", s.name, Limit)
	}
}
