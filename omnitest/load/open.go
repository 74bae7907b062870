package load

import (
	"context"
	"runtime"
	"time"
)

// open runs the schedule: one pacer hands each conversation to a lane that waits for it.
func (p *phase[T]) open(ctx context.Context) {
	p.jobs = make(chan *session[T])
	lanes := p.plan.Concurrency
	if lanes == 0 {
		p.ahead = int64(crowd(p.due))
		lanes = int(p.ahead)
	}
	for range min(lanes, len(p.due)) {
		p.spawn(ctx)
	}
	paced := make(chan struct{})
	go func() {
		defer close(paced)
		// The thread is never unlocked: it ends with this goroutine, and the settings of the pacer with it.
		runtime.LockOSThread()
		p.pace(ctx)
	}()
	<-paced
}

// crowd is the most calls that are due within 50 ms, and a few more: so many lanes wait, so that no call waits for a goroutine to
// be started.
func crowd(due []time.Duration) int {
	most, from := 0, 0
	for i, d := range due {
		for due[from] < d-50*time.Millisecond {
			from++
		}
		most = max(most, i-from+1)
	}
	return most + 16
}

func (p *phase[T]) spawn(ctx context.Context) {
	n := int(p.lanes.Add(1)) - 1
	p.wg.Add(1)
	p.live.Add(1)
	p.idle.Add(1)
	go (&lane[T]{p: p, ctx: ctx, n: n}).run()
}

// take waits for the next conversation of an open loop; nil: there is no more.
func (p *phase[T]) take(l *lane[T]) *session[T] {
	if l.busy {
		l.busy = false
		if n := p.idle.Add(1); p.ahead > 0 && n > 2*p.ahead {
			p.idle.Add(-1)
			return nil // one of a crowd that is over
		}
	}
	s, more := <-p.jobs
	if !more {
		return nil
	}
	l.busy = true
	if n := p.idle.Add(-1); p.ahead > 0 && n < (p.ahead+1)/2 {
		p.spawn(l.ctx)
	}
	return s
}

// pace hands out the conversations of the schedule, each a moment before it is due. All times are absolute, since p.began: what one wait is late, the next
// makes up (relative sleeps gave 603 calls/s of 1,000).
func (p *phase[T]) pace(ctx context.Context) {
	defer close(p.jobs)
	w := newWaiter(ctx)
	p.began = time.Now()
	for range p.due {
		s := p.draw(true)
		if !w.near(p.began.Add(s.due)) {
			return
		}
		select { // the short way first
		case p.jobs <- s:
			continue
		default:
		}
		select {
		case p.jobs <- s:
		case <-ctx.Done():
			return
		case <-p.dead:
			return
		}
	}
}
