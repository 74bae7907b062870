package netfault

import (
	"errors"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	readSize = 8 << 10
	queued   = 128                   // reads in flight: 1 MiB, or 1.3 s of a stream with an event every 10 ms
	piece    = 20 * time.Millisecond // of a limited rate
)

// pump moves bytes in one direction. Reading and writing are apart: a delay must move a stream of events in time, not bunch it.
type pump struct {
	c        *conn
	from, to *net.TCPConn // to is nil where the upstream was never dialled
	passed   *atomic.Int64
	queue    chan chunk
	answer   bool // from upstream to client: the direction that CutAfter counts

	free time.Time // when a limited rate allows the next bytes
	cut  *cut      // the one that left belongs to
	left int64
}

// chunk is what one read gave, and last of all the end of what the source sends.
type chunk struct {
	data       []byte
	end, reset bool
	at         time.Time
	roll       float64 // -1 to 1: where in the jitter
}

// read fills the queue until the source ends.
func (p *pump) read() {
	buf := make([]byte, readSize)
	for {
		n, err := p.from.Read(buf)
		if n > 0 && !p.swallows() && !p.put(chunk{data: append([]byte(nil), buf[:n]...)}) {
			return
		}
		switch {
		case err == nil:
		case p.to == nil:
			p.c.close(false)
			return
		default:
			p.put(chunk{end: true, reset: errors.Is(err, syscall.ECONNRESET)})
			return
		}
	}
}

func (p *pump) put(b chunk) bool {
	b.at, b.roll = time.Now(), 2*rand.Float64()-1
	select {
	case p.queue <- b:
		return true
	case <-p.c.ended:
		return false
	}
}

// swallows tells that the client's bytes go nowhere. If the link healed in this moment, the connection has a hole all the same.
func (p *pump) swallows() bool {
	s, _ := p.c.l.now()
	switch {
	case p.answer:
		return false
	case p.c.cut.Load():
		return true
	case !s.halfOpen && p.to != nil:
		return false
	}
	p.c.lost.Store(true)
	if s, _ := p.c.l.now(); !s.halfOpen {
		p.c.close(true)
	}
	return true
}

// write empties the queue into the destination, when and as fast as the state of the link lets it, until the end of what the
// source sends or of the connection. An end is passed on as what it was.
func (p *pump) write() {
	for {
		var b chunk
		select {
		case b = <-p.queue:
		case <-p.c.ended:
			return
		}
		for !p.c.cut.Load() && (b.end || len(b.data) > 0) {
			m := p.next(&b)
			if m.wait > 0 {
				if !p.wait(m) {
					return
				}
				continue
			}
			if b.end {
				break
			}
			n, err := p.to.Write(b.data[:m.bytes])
			p.passed.Add(int64(n))
			b.data = b.data[n:]
			if m.cut {
				p.c.cutOff()
				break
			}
			if err != nil && !p.c.cut.Load() {
				p.c.close(true) // the destination was reset
				return
			}
		}
		switch {
		case !b.end:
		case b.reset && !p.c.cut.Load():
			p.c.close(true)
			return
		default:
			_ = p.to.CloseWrite()
			return
		}
	}
}

// move is what may happen to a chunk next: bytes of it go now, or nothing until wait is over or the state has changed.
type move struct {
	bytes   int
	cut     bool // and then the connection ends
	wait    time.Duration
	changed <-chan struct{}
}

func (p *pump) next(b *chunk) move {
	s, changed := p.c.l.now()
	if s.halfOpen {
		return move{wait: time.Hour, changed: changed}
	}
	now := time.Now()
	due := b.at.Add(s.delay + time.Duration(b.roll*float64(s.jitter)))
	if s.rate > 0 && p.free.After(due) {
		due = p.free
	}
	if due.After(now) {
		return move{wait: due.Sub(now), changed: changed}
	}
	m := move{bytes: len(b.data)}
	if s.rate > 0 {
		m.bytes = min(m.bytes, max(1, int(float64(s.rate)*piece.Seconds())))
	}
	if s.cut != nil && p.answer {
		if p.cut != s.cut {
			p.cut, p.left = s.cut, s.cut.after
		}
		m.bytes = int(min(int64(m.bytes), p.left))
		p.left -= int64(m.bytes)
		m.cut = p.left == 0
	}
	if s.rate > 0 {
		if late := now.Add(-piece); p.free.Before(late) { // a timer that woke late is made up for, a pause is not
			p.free = late
		}
		p.free = p.free.Add(time.Duration(float64(m.bytes) / float64(s.rate) * float64(time.Second)))
	}
	return m
}

func (p *pump) wait(m move) bool {
	timer := time.NewTimer(m.wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.changed:
	case <-p.c.ended:
		return false
	}
	return true
}
