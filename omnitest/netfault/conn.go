package netfault

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one connection through a link: a client, the upstream, and a pump for each direction.
type conn struct {
	l        *Link
	born     time.Time
	client   *net.TCPConn
	upstream *net.TCPConn // nil: born while the link was half open
	lost     atomic.Bool  // bytes were swallowed
	cut      atomic.Bool  // CutAfter happened
	ended    chan struct{}
	once     sync.Once
}

// serve is the life of one connection; it returns when all its goroutines have.
func (l *Link) serve(client *net.TCPConn, ln net.Listener) {
	c := &conn{l: l, born: time.Now(), client: client, ended: make(chan struct{})}
	if s, _ := l.now(); !s.halfOpen {
		up, err := (&net.Dialer{Timeout: dialLimit}).DialContext(l.life, "tcp", l.upstream)
		if err != nil {
			c.close(true)
			return
		}
		c.upstream = up.(*net.TCPConn)
	}
	l.mu.Lock()
	l.conns[c] = true
	if l.ln != ln { // Refuse and Close reset what they find, and did not find this one
		c.close(true)
	}
	l.mu.Unlock()

	up := &pump{c: c, from: c.client, to: c.upstream, passed: &l.up, queue: make(chan chunk, queued)}
	down := &pump{c: c, from: c.upstream, to: c.client, passed: &l.down, queue: make(chan chunk, queued), answer: true}
	var reading, writing sync.WaitGroup
	reading.Go(up.read)
	if c.upstream != nil {
		reading.Go(down.read)
		writing.Go(up.write)
		writing.Go(down.write)
		reading.Go(func() {
			writing.Wait()
			c.close(false) // both directions came to their end
		})
	}
	c.watch()
	reading.Wait()
	l.mu.Lock()
	delete(l.conns, c)
	l.mu.Unlock()
}

// watch does what happens to a connection on which nothing moves. It returns when the connection has ended.
func (c *conn) watch() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s, changed := c.l.now()
		if !s.halfOpen && (c.lost.Load() || c.upstream == nil) {
			c.close(true)
		}
		var due <-chan time.Time
		if s.reset != nil {
			from := s.reset.since
			if c.born.After(from) {
				from = c.born
			}
			timer.Reset(time.Until(from.Add(s.reset.after)))
			due = timer.C
		}
		select {
		case <-due:
			c.close(true)
		case <-changed:
		case <-c.ended:
			return
		}
	}
}

// cutOff ends the answer in the middle. The client's side is not closed, because bytes of the client that nobody has read would
// make a reset of it; it is when the client has left.
func (c *conn) cutOff() {
	c.cut.Store(true)
	c.upstream.Close()
	_ = c.client.CloseWrite()
}

// close ends both sides, once. With a reset the peers read "connection reset by peer" instead of a proper end.
func (c *conn) close(reset bool) {
	c.once.Do(func() {
		close(c.ended)
		for _, side := range []*net.TCPConn{c.client, c.upstream} {
			if side == nil {
				continue
			}
			if reset {
				_ = side.SetLinger(0)
			}
			side.Close()
		}
	})
}
