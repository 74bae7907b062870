package ar

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"
)

// Run drives the scheduler without any listener, until ctx ends. Serve calls it itself. One goroutine owns all
// requests, block tables and the prefix cache; everybody else sends it closures (do). An engine death is returned.
func (s *Server) Run(ctx context.Context) error {
	if !s.started.CompareAndSwap(false, true) {
		return errors.New("ar: Run or Serve was called before: an engine has one life")
	}
	defer s.stop()
	for {
		if ctx.Err() != nil {
			return nil
		}
		s.drain()
		worked := s.expire(time.Now())
		if s.death == nil {
			worked = s.step(ctx) || worked
		}
		s.gauges()
		s.publish()
		if s.death != nil {
			return s.death
		}
		if worked {
			continue
		}
		s.planned = time.Time{}
		var lease <-chan time.Time
		if d, ok := s.nextExpiry(); ok {
			lease = time.After(time.Until(d))
		}
		select {
		case <-ctx.Done():
		case <-s.wake:
		case <-lease:
		}
	}
}

// do runs f on the scheduler goroutine between two iterations; false: the engine has ended and f will not run.
func (s *Server) do(f func()) bool {
	s.mu.Lock()
	if s.stopped {
		s.mu.Unlock()
		return false
	}
	s.inbox = append(s.inbox, f)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return true
}

func (s *Server) drain() {
	for {
		s.mu.Lock()
		fs := s.inbox
		s.inbox = nil
		s.mu.Unlock()
		if len(fs) == 0 {
			return
		}
		for _, f := range fs {
			f()
		}
	}
}

// stop refuses new work and tells every open request that the engine is gone.
func (s *Server) stop() {
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	s.drain()
	s.endLife() // pulls and notifications under way
	for r := range s.open {
		s.send(r, event{index: r.index, token: -1, err: errEngineDead})
	}
	clear(s.open)
	s.publish()
	s.tasks.Wait()
}

// die is an assertion failure of the engine: all requests end, Serve returns the error, the port closes.
func (s *Server) die(err error) {
	if s.death == nil {
		s.death = err
		s.log.errorf("EngineCore encountered a fatal error. %v", err)
	}
}

// enqueue submits requests; false: the engine has ended. They count as waiting from now on, though the scheduler may
// be busy with an iteration: a scrape must not take the engine for idle.
func (s *Server) enqueue(rs []*request) bool {
	n := int64(len(rs))
	s.arriving.Add(n)
	s.metrics.waiting.Add(float64(n))
	s.metrics.capacity.Add(float64(n))
	return s.do(func() {
		s.arriving.Add(-n)
		for _, r := range rs {
			s.submit(r)
		}
	})
}

func (s *Server) submit(r *request) {
	r.arrival = time.Now()
	r.cursor = r.start
	r.rng = rand.New(rand.NewPCG(r.sampling.seed, uint64(r.index)))
	s.open[r] = struct{}{}
	s.waiting = append(s.waiting, r)
	s.grow()
}

// abort is what a client's disconnect does: blocks of a running or waiting request are free at once; a request whose
// pull is under way keeps them until the pull has ended, or the transfer would write into reused blocks.
func (s *Server) abort(r *request) {
	if _, open := s.open[r]; !open || r.aborted {
		return
	}
	r.aborted = true
	s.requests++
	switch r.state {
	case loading:
		r.cancel() // loadEnded frees
		return
	case waiting:
		s.waiting = without(s.waiting, r)
		if r.ticket != nil && !r.admitted {
			s.tasks.Go(func() { s.notifyOnly(r.ticket) }) // prefill must not wait for its lease
		}
	case running:
		s.running = without(s.running, r)
	case stuck:
		s.stuck--
	}
	s.drop(r)
}

// drop forgets an aborted request and frees its blocks.
func (s *Server) drop(r *request) {
	if !s.config.Faults.LeakOnAbort && !s.config.Faults.LeakAborted {
		s.pool.release(r.table)
	}
	r.table, r.state = nil, finished
	delete(s.open, r)
}

func without(rs []*request, r *request) []*request {
	if i := slices.Index(rs, r); i >= 0 {
		return slices.Delete(rs, i, i+1)
	}
	return rs
}
