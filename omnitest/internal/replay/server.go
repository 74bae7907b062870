package replay

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Options of a Server. The zero value answers as fast as possible and only what was recorded.
type Options struct {
	// Scale stretches the recorded times: 1 is real time, 0.1 ten times as fast, 0 as fast as possible. A chunk is never
	// sent before its time, counted from the moment when the request had been read.
	Scale float64
	// Any answers whatever is asked with the next exchange in turn, round and round, for a client that cannot send the
	// recorded bytes. Otherwise method, path and body decide; bodies that are JSON are compared as JSON values.
	Any bool
	// Hang keeps an Unfinished answer open until the client goes, as the engine did. Otherwise it is cut off there.
	Hang bool
}

// Received is one request as it came to the Server.
type Received struct {
	Method, Path string
	Header       http.Header
	Body         []byte
	Answered     string // name of the exchange; "": none fits, the answer was 501
}

// Server is a TCP server that speaks recorded bytes: net/http writes none of them, so what it would tidy up stays.
type Server struct {
	URL string

	options  Options
	listener net.Listener
	ctx      chan struct{} // closed by Close
	all      sync.WaitGroup

	mu       sync.Mutex
	byKey    map[string][]*Exchange // not yet played; the last one stays
	inTurn   []*Exchange
	next     int
	received []Received
	open     map[net.Conn]struct{}
}

// limit bounds one connection: a test server never outlives its test for long.
const limit = 2 * time.Minute

// Serve starts a server on a free port of the loopback.
func Serve(o Options, exchanges ...Exchange) (*Server, error) {
	if len(exchanges) == 0 {
		return nil, errors.New("replay: no exchanges to serve")
	}
	if o.Scale < 0 {
		return nil, fmt.Errorf("replay: negative Scale %g", o.Scale)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("replay: %w", err)
	}
	s := &Server{URL: "http://" + l.Addr().String(), options: o, listener: l, ctx: make(chan struct{}),
		byKey: map[string][]*Exchange{}, open: map[net.Conn]struct{}{}}
	for i := range exchanges {
		e := &exchanges[i]
		k := key(e.Method, e.Path, e.RequestBody)
		s.byKey[k] = append(s.byKey[k], e)
		s.inTurn = append(s.inTurn, e)
	}
	s.all.Go(s.accept)
	return s, nil
}

// Close ends the server and its connections and waits for them.
func (s *Server) Close() {
	s.mu.Lock()
	select {
	case <-s.ctx:
	default:
		close(s.ctx)
	}
	s.listener.Close()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.all.Wait()
}

// Requests gives what came so far, in the order in which it came.
func (s *Server) Requests() []Received {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Received(nil), s.received...)
}

// Unanswered describes the requests that no recording fits, one a line; "": there was none.
func (s *Server) Unanswered() string {
	var b strings.Builder
	for _, r := range s.Requests() {
		if r.Answered == "" {
			fmt.Fprintf(&b, "%s %s %.300s\n", r.Method, r.Path, r.Body)
		}
	}
	return b.String()
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.open[conn] = struct{}{}
		select {
		case <-s.ctx: // Close has been through the open ones already
			conn.Close()
		default:
		}
		s.mu.Unlock()
		s.all.Go(func() {
			defer func() {
				conn.Close()
				s.mu.Lock()
				delete(s.open, conn)
				s.mu.Unlock()
			}()
			conn.SetDeadline(time.Now().Add(limit))
			s.serve(conn)
		})
	}
}

// serve reads one request and plays its answer. One request a connection, as the recorder asked for.
func (s *Server) serve(conn net.Conn) {
	in := bufio.NewReader(conn)
	req, err := http.ReadRequest(in)
	if err != nil {
		return
	}
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return
	}
	began := time.Now()
	e := s.pick(req, body)
	if e == nil {
		text := "replay: no recording answers " + req.Method + " " + req.URL.Path + "\n"
		fmt.Fprintf(conn, "HTTP/1.1 501 Not Implemented\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		leave(conn, in)
		return
	}
	for _, c := range e.Chunks {
		if !s.wait(time.Until(began.Add(time.Duration(s.options.Scale * float64(c.At))))) {
			return
		}
		if _, err := conn.Write(c.Data); err != nil {
			return // the client is gone: its business
		}
	}
	switch {
	case len(e.Chunks) == 0:
		return // no answer was recorded: closed without a byte
	case e.Unfinished() && s.options.Hang:
		in.ReadByte() // until the client goes, or the deadline
	default:
		leave(conn, in)
	}
}

// leave ends the answer and waits until the client has read it: a close with unread bytes in the socket would reset the
// connection and take the answer's end with it.
func leave(conn net.Conn, in *bufio.Reader) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.CloseWrite()
	}
	io.Copy(io.Discard, in)
}

func (s *Server) wait(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx:
		return false
	}
}

func (s *Server) pick(req *http.Request, body []byte) (e *Exchange) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.options.Any {
		e = s.inTurn[s.next%len(s.inTurn)]
		s.next++
	} else {
		k := key(req.Method, req.URL.RequestURI(), body)
		if list := s.byKey[k]; len(list) > 0 {
			e = list[0]
			if len(list) > 1 {
				s.byKey[k] = list[1:]
			}
		}
	}
	r := Received{Method: req.Method, Path: req.URL.RequestURI(), Header: req.Header, Body: body}
	if e != nil {
		r.Answered = e.Name
	}
	s.received = append(s.received, r)
	return e
}

// key is equal for requests that mean the same: JSON is compared without regard to spacing and the order of keys, and
// with numbers as they are spelled.
func key(method, path string, body []byte) string {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if d.Decode(&v) == nil && !d.More() {
		if sorted, err := json.Marshal(v); err == nil {
			body = sorted
		}
	}
	return fmt.Sprintf("%s %s %x", method, path, sha256.Sum256(body))
}
