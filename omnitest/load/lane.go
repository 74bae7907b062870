package load

import (
	"context"
	"fmt"
	"time"
)

// lane makes calls one after the other, in one goroutine whose stack stays grown: a goroutine for each call would be started
// between the moment a call is due and the moment it is sent.
type lane[T any] struct {
	p    *phase[T]
	ctx  context.Context // of the run
	n    int
	free time.Duration // when its last call ended

	s    *session[T] // under way; nil: none
	turn int         // the next one of s
	lost bool        // its call was stuck: it has been given up
	busy bool        // it has a job of an open loop
}

func (l *lane[T]) run() {
	whole := false
	defer func() {
		switch {
		case l.lost: // whoever gave it up has settled its account
		case !whole: // the operation called runtime.Goexit, which ends this goroutine and not the lane
			go l.run()
		default:
			l.p.wg.Done()
		}
	}()
	for l.step() {
	}
	whole = true
}

// step makes one call; false: there are no more.
func (l *lane[T]) step() bool {
	if l.s == nil {
		if l.s, l.turn = l.next(), 0; l.s == nil {
			return false
		}
	}
	s, k := l.s, l.turn
	if k > 0 && !l.goesOn(s, k) {
		l.s = nil
		return true
	}
	c := &s.slots[k]
	if l.ctx.Err() != nil {
		l.s = nil
		return l.p.due != nil // an open lane goes back for the end of the jobs
	}
	c.Lane = l.n
	switch {
	case l.p.due == nil || k > 0:
		c.Due = l.free
	default:
		c.Due, c.Queue = s.due, max(0, l.free-s.due)
	}
	l.turn++
	l.call(c, Turn[T]{Index: c.Index, Session: s.n, Turn: k, History: s.values})
	if l.lost {
		return false
	}
	if l.turn == len(s.slots) {
		l.s = nil
	}
	return true
}

// goesOn closes the books of the last turn and waits as long as the user thinks.
func (l *lane[T]) goesOn(s *session[T], k int) bool {
	if s.slots[k-1].State != OK {
		for i := k; i < len(s.slots); i++ {
			s.slots[i].State = Skipped
		}
		return false
	}
	s.values = append(s.values, s.slots[k-1].value)
	if think := l.p.sessions.Think; think != nil {
		wait := time.NewTimer(think(l.p.plan.rng(streamThink, uint64(s.slots[k].Index))))
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-l.ctx.Done():
			return false
		}
		l.free = time.Since(l.p.began)
	}
	return true
}

func (l *lane[T]) next() *session[T] {
	if l.p.due != nil {
		return l.p.take(l)
	}
	if l.ctx.Err() != nil {
		return nil
	}
	return l.p.draw(true)
}

// call makes one call. It comes back with l.lost if the call was given up as stuck meanwhile.
func (l *lane[T]) call(c *slot[T], turn Turn[T]) {
	p := l.p
	own, cancel := context.WithTimeoutCause(l.ctx, p.plan.Limit, p.over)
	defer cancel()
	var leave context.CancelCauseFunc
	if p.plan.abandons(c.Index) {
		c.Leaving = true
		own, leave = context.WithCancelCause(own)
		defer leave(nil)
	}
	c.ended = make(chan struct{})
	unwatch := context.AfterFunc(own, func() { l.watch(own, c) })
	defer unwatch()

	var v T
	err := errExited
	// The record is closed in deferred calls, which a runtime.Goexit of the operation runs too.
	defer func() {
		end := time.Since(p.began)
		p.inFlight.Add(-1)
		close(c.ended)
		if !c.done.CompareAndSwap(false, true) {
			l.lost = true
			return
		}
		c.End, c.Err, c.value, l.free = end, err, v, end
		c.State = l.judge(own, c)
	}()
	defer func() {
		if x := recover(); x != nil {
			err = newPanicError(x)
		}
	}()
	if p.due != nil && c.Turn == 0 {
		watch(p.began.Add(c.Due)) // all is ready
	}
	c.Sent = time.Since(p.began)
	c.sent.Store(true)
	if leave != nil {
		defer time.AfterFunc(p.plan.Cancel.Delay, func() { leave(ErrAbandoned) }).Stop()
	}
	raise(&p.peak, p.inFlight.Add(1))
	turn.Due, turn.Queue = p.began.Add(c.Due), c.Queue
	v, err = p.op(own, turn)
}

// judge says how a call that returned has ended. It may set c.Err.
func (l *lane[T]) judge(own context.Context, c *slot[T]) State {
	switch limit := l.p.plan.Limit; {
	case c.Err == nil && c.End-c.Sent > limit:
		// It ignored its context and came back with a success that a user would no longer have waited for.
		c.Err = fmt.Errorf("returned after %v, over its limit of %v", c.End-c.Sent, limit)
		return Failed
	case c.Err == nil:
		return OK
	case l.ctx.Err() != nil:
		return Cancelled // the run ended under it; whatever it says, it is no failure of the target
	case context.Cause(own) == ErrAbandoned:
		return Abandoned
	default:
		return Failed
	}
}

// watch runs when the context of a call has ended before the call. If the call does not come back within its grace, it is stuck.
func (l *lane[T]) watch(own context.Context, c *slot[T]) {
	grace := time.NewTimer(l.p.plan.Grace)
	defer grace.Stop()
	for waiting := true; waiting; {
		select {
		case <-c.ended:
			return
		case <-grace.C:
			if waiting = !c.sent.Load(); waiting { // held up before the operation: that is not the operation's fault
				grace.Reset(l.p.plan.Grace)
			}
		}
	}
	if !c.done.CompareAndSwap(false, true) {
		return
	}
	c.End, c.State = time.Since(l.p.began), Stuck
	c.Err = fmt.Errorf("%w %v after its context ended (%w)", ErrStuck, l.p.plan.Grace, context.Cause(own))
	for i := range l.s.slots[c.Turn+1:] {
		l.s.slots[c.Turn+1+i].State = Skipped
	}
	if l.p.live.Add(-1) == 0 {
		close(l.p.dead)
	}
	l.p.wg.Done()
}
