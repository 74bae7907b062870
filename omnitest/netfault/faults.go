package netfault

import (
	"errors"
	"time"
)

// state is all faults of a link; the zero value is a healthy one.
type state struct {
	delay, jitter time.Duration
	rate          int // bytes per second; 0: no limit
	cut           *cut
	reset         *reset
	halfOpen      bool
	refuse        bool
}

// A cut and a reset are pointers so that a connection knows whether it has met this one already.
type cut struct{ after int64 }

type reset struct {
	after time.Duration
	since time.Time
}

// Delay holds everything back for d, on average, each way: a request with its answer takes 2 d longer. Jitter spreads it
// uniformly over d-jitter to d+jitter; bytes never overtake each other. Applies to existing connections from the next byte on,
// and to new ones; accepting is not delayed. Up to 128 reads, of 8 KiB at most, wait in each direction; a sender who is further ahead is
// held up, as by any full buffer. 0 takes the delay away.
func (l *Link) Delay(d, jitter time.Duration) {
	l.set(func(s *state) { s.delay, s.jitter = max(d, 0), max(jitter, 0) })
}

// Slow limits each direction of each connection to so many bytes per second, in pieces of 20 ms. Applies
// to existing connections at once, and to new ones. 0, or less, takes the limit away.
func (l *Link) Slow(bytesPerSecond int) {
	l.set(func(s *state) { s.rate = max(bytesPerSecond, 0) })
}

// CutAfter ends each connection properly (FIN, as a process that exits in the middle of its answer) once so many bytes of the
// upstream's have passed: counted from now for existing connections, from the start for new ones. With 0 the first byte to come is
// the end. The upstream's side is closed as well; what the client still sends is thrown away.
func (l *Link) CutAfter(bytes int64) {
	l.set(func(s *state) { s.cut = &cut{max(bytes, 0)} })
}

// Reset resets each connection (RST, "connection reset by peer") on both sides, also one on which nothing happens: existing
// ones so long after this call, new ones so long after they were accepted. What passed before is not taken back.
func (l *Link) Reset(after time.Duration) {
	l.set(func(s *state) { s.reset = &reset{max(after, 0), time.Now()} })
}

// HalfOpen is a peer that is gone without a word: connections are accepted, bytes of the client are swallowed, nothing ever comes
// back. Existing connections freeze in the same way. For new ones the upstream is not dialled. A connection that lost bytes
// cannot be whole again: Heal resets it, and one that only waited goes on.
func (l *Link) HalfOpen() {
	l.set(func(s *state) { s.halfOpen = true })
}

// Refuse is a server whose process was killed: existing connections are reset, new ones are refused.
func (l *Link) Refuse() {
	l.set(func(s *state) { s.refuse = true })
}

// Heal takes all faults away and listens again after Refuse. An error means that the port could not be listened on any more, or
// that the link is closed.
func (l *Link) Heal() error {
	if l.life.Err() != nil {
		return errors.New("netfault: the link is closed")
	}
	return l.set(func(s *state) { *s = state{} })
}

// set changes the state and lets every connection know.
func (l *Link) set(change func(*state)) (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.state)
	close(l.changed)
	l.changed = make(chan struct{})
	switch {
	case l.life.Err() != nil:
	case l.state.refuse:
		l.hangUp()
	case l.ln == nil:
		err = l.listen()
	}
	return err
}

// now is the state, and what tells that it is no longer that.
func (l *Link) now() (state, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state, l.changed
}
