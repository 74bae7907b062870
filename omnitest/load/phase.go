package load

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// phase is one set of calls under one plan: the warm-up, or what is measured.
type phase[T any] struct {
	plan     Plan
	op       func(context.Context, Turn[T]) (T, error)
	sessions Sessions
	first    int             // number of the first conversation
	due      []time.Duration // of an open loop; nil: closed

	over           error // cause of the end of a call's context at its limit
	began          time.Time
	inFlight, peak atomic.Int64

	mu    sync.Mutex
	drawn []*session[T] // in the order of their numbers
	calls int           // in drawn

	// Open loop.
	jobs  chan *session[T]
	idle  atomic.Int64 // workers that wait for a job
	ahead int64        // how many of them there should be
	lanes atomic.Int64 // workers made so far

	wg   sync.WaitGroup // lanes that have not come to their end
	live atomic.Int64   // lanes that are not stuck
	dead chan struct{}  // closed when live has come to 0

	short time.Duration // a closed loop with a Duration was ended after this time; 0: it was not
}

// session is one conversation with the slots of its turns.
type session[T any] struct {
	n      int
	due    time.Duration
	slots  []slot[T]
	values []T // of the turns that were made, grows with them
}

// slot is one call. Its record is written by the lane, unless the watch of a stuck call was faster.
type slot[T any] struct {
	Call
	value T
	sent  atomic.Bool   // the record holds what is known before the operation
	done  atomic.Bool   // its end is decided
	ended chan struct{} // closed when the lane has it back; made only where a watch waits
}

// draw takes the next conversation of the plan; nil: there is no more. Without send it is taken only to be accounted for.
func (p *phase[T]) draw(send bool) *session[T] {
	p.mu.Lock()
	defer p.mu.Unlock()
	k := len(p.drawn)
	if p.plan.Requests > 0 && k >= p.plan.Requests {
		return nil
	}
	if p.due == nil && p.plan.Duration > 0 && (!send || time.Since(p.began) >= p.plan.Duration) {
		return nil // a closed loop has no calls in its plan that nobody had time for
	}
	s := &session[T]{n: p.first + k}
	s.slots = make([]slot[T], p.sessions.turns(s.n))
	index := p.calls
	if p.first < 0 {
		index += p.first
	}
	for i := range s.slots {
		s.slots[i].Call = Call{Index: index + i, Session: s.n, Turn: i, Lane: -1, State: NotSent}
	}
	if p.due != nil {
		s.due = p.due[k]
	}
	p.calls += len(s.slots)
	p.drawn = append(p.drawn, s)
	return s
}

func (p *phase[T]) run(ctx context.Context) {
	p.dead = make(chan struct{})
	p.over = fmt.Errorf("limit of %v: %w", p.plan.Limit, context.DeadlineExceeded)
	if p.due == nil {
		n := p.plan.Concurrency
		if p.plan.Requests > 0 {
			n = min(n, p.plan.Requests)
		}
		p.began = time.Now()
		p.wg.Add(n)
		p.live.Add(int64(n))
		for k := range n {
			go (&lane[T]{p: p, ctx: ctx, n: k}).run()
		}
	} else {
		p.open(ctx)
	}
	p.wg.Wait()
	if ran := time.Since(p.began); p.due == nil && ctx.Err() != nil && ran < p.plan.Duration {
		p.short = ran
	}
	for p.draw(false) != nil { // what a run that ended early never came to
	}
}

// records gives the calls by index, and what they returned.
func (p *phase[T]) records(keep bool) (calls []Call, values []T) {
	calls = make([]Call, 0, p.calls)
	if keep {
		values = make([]T, 0, p.calls)
	}
	for _, s := range p.drawn {
		for i := range s.slots {
			calls = append(calls, s.slots[i].Call)
			if !keep {
				continue
			}
			var v T // of a call that is stuck, the lane may write the slot's at any time
			if st := s.slots[i].State; st != Stuck {
				v = s.slots[i].value
			}
			values = append(values, v)
		}
	}
	return calls, values
}

func raise(peak *atomic.Int64, n int64) {
	for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
	}
}
