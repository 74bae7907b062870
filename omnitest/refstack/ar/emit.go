package ar

import (
	"slices"
	"time"
)

// collect turns logits into tokens, and finishes what has ended.
func (s *Server) collect(batch []work, now time.Time) {
	tokens := 0
	for _, w := range batch {
		r := w.r
		if r.state != running {
			continue
		}
		r.hashes = extendHashes(r.hashes, r.tokens[:r.computed], s.config.BlockSize)
		for ; r.cached < r.computed/s.config.BlockSize; r.cached++ {
			s.pool.register(r.table[r.cached], r.hashes[r.cached])
		}
		if r.computed < len(r.tokens) {
			continue // a chunk of a long prefill
		}
		if r.generated == 0 {
			tokens += r.prefill
		}
		tokens++
		s.emit(r, w.logits, now)
	}
	if tokens > 0 {
		s.metrics.iteration.Observe(float64(tokens))
	}
}

// emit appends one token to a request.
func (s *Server) emit(r *request, sc *scratch, now time.Time) {
	token := int32(EOS)
	if sc != nil {
		token = pick(sc.logits[:], r.sampling.temperature, r.rng)
		if ends(token) && !s.mayStop(r) {
			// The end is not wanted yet: begin again, and if the text is empty read any byte.
			r.cursor = r.start
			s.model.logits(s.pool, r.table, r.computed, r.start, sc)
			token = pick(sc.logits[:EOS], r.sampling.temperature, r.rng)
		}
	}
	if s.endsAtOnce(r) {
		token = EOS
	}
	r.cursor++
	r.tokens = append(r.tokens, token)
	r.generated++
	s.metrics.token(r, now)

	e := event{index: r.index, token: token, cached: r.hit, external: r.external > 0}
	if r.sampling.logprobs >= 0 {
		e.logprob = logprobs(token, sc, r.sampling.logprobs)
	}
	match := ""
	e.text, match = r.text.add(r.detok.add(token), r.sampling.stops)
	switch {
	case match != "":
		e.finish, e.stop = "stop", match
	case ends(token):
		e.finish = "stop"
	case slices.Contains(r.sampling.stopIDs, token) && r.generated > r.sampling.minTokens:
		e.finish, e.stopID = "stop", token
	case r.generated >= r.sampling.maxTokens:
		e.finish = "length"
	}
	if e.finish != "" {
		if match == "" {
			e.text += r.text.flush()
		}
		s.finish(r, e.finish, now)
		if r.hold && !(s.config.Faults.NoTicketOnStop && e.finish == "stop") {
			e.ticket = s.hold(r, now)
		} else {
			s.pool.release(s.config.Faults.freed(r.table, s.requests))
		}
		r.table = nil
	}
	s.send(r, e)
}

// finish takes a request out of the books; its blocks are the caller's to release.
func (s *Server) finish(r *request, reason string, now time.Time) {
	s.running = without(s.running, r)
	r.state = finished
	delete(s.open, r)
	s.requests++
	s.metrics.finished(r, reason, now)
}

func logprobs(token int32, sc *scratch, k int) *tokenLogprob {
	lp := &tokenLogprob{token: token}
	if sc == nil { // the end of text after the prompt is certain
		lp.top = append(lp.top, alternative{token, 0})[:min(k, 1)]
		return lp
	}
	lse := logSumExp(sc.logits[:])
	lp.logprob = float64(sc.logits[token]) - lse
	for t, x := range sc.logits {
		at, _ := slices.BinarySearchFunc(lp.top, x, func(a alternative, x float32) int {
			if a.logprob >= float64(x)-lse {
				return -1
			}
			return 1
		})
		if at < k {
			lp.top = slices.Insert(lp.top, at, alternative{int32(t), float64(x) - lse})
			lp.top = lp.top[:min(len(lp.top), k)]
		}
	}
	return lp
}

// send keeps an event until the iteration's books are closed: a client that has its last token must find the counters
// and gauges of the request in the next scrape.
func (s *Server) send(r *request, e event) {
	s.outgoing = append(s.outgoing, delivery{r.out, e})
}

type delivery struct {
	to *outbox
	e  event
}

func (s *Server) publish() {
	for _, d := range s.outgoing {
		d.to.put(d.e)
	}
	clear(s.outgoing)
	s.outgoing = s.outgoing[:0]
}
