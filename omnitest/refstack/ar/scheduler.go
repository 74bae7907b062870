package ar

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

type work struct {
	r      *request
	n      int // tokens to compute
	logits *scratch
}

// step is one iteration: choose, compute, hand out. It reports whether anything was done.
func (s *Server) step(ctx context.Context) bool {
	began := time.Now()
	batch, preempted := s.schedule(began)
	if s.death != nil || len(batch) == 0 {
		return preempted // the blocks of a request that preempted itself are free now: look again
	}
	s.gauges() // an iteration may take long: what runs is seen while it runs
	prefill, decodes := s.compute(batch)
	s.wait(ctx, began, prefill, decodes)
	s.drain() // who was aborted meanwhile gets nothing, above all no ticket that holds blocks
	s.collect(batch, time.Now())
	return true
}

// schedule fills the token budget: running requests first, then the waiting queue in order.
func (s *Server) schedule(now time.Time) (batch []work, preempted bool) {
	batch = s.batch[:0]
	budget := s.config.MaxBatch
	for i := 0; i < len(s.running) && budget > 0; i++ {
		r := s.running[i]
		n := min(len(r.tokens)-r.computed, budget)
		for !s.extend(r, r.computed+n) {
			preempted = true
			victim := s.running[len(s.running)-1]
			s.preempt(victim)
			if victim == r {
				n = 0
				break
			}
		}
		if n > 0 {
			batch = append(batch, work{r: r, n: n})
			budget -= n
		}
	}
	// A pool that just refused a running request has nothing for a new one.
	for !preempted && budget > 0 && len(s.waiting) > 0 && len(s.running) < s.config.MaxSeqs && s.death == nil {
		r := s.waiting[0]
		admitted, compute := s.admit(r, budget, now)
		if !admitted {
			break
		}
		s.waiting = s.waiting[1:]
		if compute == 0 {
			continue // went off to load, or is stuck
		}
		r.state = running
		if r.scheduled.IsZero() {
			r.scheduled = now
		}
		s.running = append(s.running, r)
		batch = append(batch, work{r: r, n: compute})
		budget -= compute
	}
	s.batch = batch
	return batch, preempted
}

// admit gives a waiting request its blocks. compute is how many tokens the coming iteration computes for it; 0 with
// admitted: the request left the queue for another state.
func (s *Server) admit(r *request, budget int, now time.Time) (admitted bool, compute int) {
	if r.loaded {
		return true, len(r.tokens) - r.computed
	}
	r.hashes = extendHashes(r.hashes, r.tokens, s.config.BlockSize)
	// At least one token is computed, or there would be no logits: the last token never comes from the cache.
	hits := s.pool.match(r.hashes[:min(len(r.hashes), (len(r.tokens)-1)/s.config.BlockSize)])
	r.table, r.computed = hits, len(hits)*s.config.BlockSize
	r.cached = len(hits)
	remote := r.ticket != nil && !r.admitted && !s.config.Faults.SilentRecompute && !s.config.Faults.ClaimHitWithoutBytes
	need := len(r.tokens)
	if !remote {
		need = min(need, r.computed+budget)
	}
	if !s.extend(r, need) {
		s.pool.release(r.table)
		r.table, r.computed, r.cached = nil, 0, 0
		return false, 0
	}
	if !r.admitted {
		r.admitted = true
		r.hit = r.computed
		claimed := r.ticket != nil && !s.config.Faults.SilentRecompute
		if claimed {
			r.external = r.prompt - r.hit
		}
		s.metrics.admitted(r, claimed)
		if claimed && !remote {
			s.tasks.Go(func() { s.notifyOnly(r.ticket) }) // ClaimHitWithoutBytes: all looks well on the other side too
		}
	}
	if remote {
		s.load(r)
		return true, 0
	}
	return true, need - r.computed
}

func (s *Server) extend(r *request, tokens int) (ok bool) {
	want := (tokens + s.config.BlockSize - 1) / s.config.BlockSize
	if n := want - len(r.table); n > 0 {
		r.table, ok = s.pool.take(r.table, n)
		return ok
	}
	return true
}

// preempt takes a running request's blocks away; it computes everything again later (its full blocks may still be in
// the prefix cache).
func (s *Server) preempt(r *request) {
	if s.config.Faults.DieOnPreemption {
		s.die(errors.New("ar: engine died: ValueError: Counters can only be incremented by non-negative amounts"))
	}
	s.running = without(s.running, r)
	s.pool.release(r.table)
	r.table, r.computed, r.cached, r.loaded, r.state = nil, 0, 0, false, waiting
	r.preemptions++
	s.metrics.preemptions.Inc()
	s.waiting = slices.Insert(s.waiting, 0, r)
}

// compute writes the KV of the scheduled tokens and makes logits where a request has reached its last token.
func (s *Server) compute(batch []work) (prefill, decodes int) {
	attend := s.attend[:0]
	s.pool.mu.Lock()
	for i := range batch {
		w := &batch[i]
		r := w.r
		for pos := r.computed; pos < r.computed+w.n; pos++ {
			s.pool.write(s.model, r.table, pos, r.tokens[pos])
			s.drifted(r, pos)
		}
		r.computed += w.n
		if r.generated == 0 && !r.loaded {
			r.prefill += w.n
		}
		if w.n > 1 || r.generated == 0 {
			prefill += w.n
		}
		if r.computed == len(r.tokens) {
			if r.generated > 0 {
				decodes++
			}
			attend = append(attend, w)
		}
	}
	s.pool.mu.Unlock()
	s.attend = attend
	for len(s.scratch) < len(attend) {
		s.scratch = append(s.scratch, new(scratch))
	}
	var next atomic.Int64
	worker := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= len(attend) {
				return
			}
			r := attend[i].r
			pos := r.cursor
			if pos >= r.prompt {
				if s.mayStop(r) {
					continue // past the prompt: the end of text needs no attention
				}
				r.cursor, pos = r.start, r.start
			}
			attend[i].logits = s.scratch[i]
			s.model.logits(s.pool, r.table, r.computed, pos, attend[i].logits)
		}
	}
	workers := min(runtime.GOMAXPROCS(0), len(attend))
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(worker)
	}
	worker()
	wg.Wait()
	return prefill, decodes
}

func (s *Server) mayStop(r *request) bool {
	return !r.sampling.ignoreEOS && r.generated >= r.sampling.minTokens
}
