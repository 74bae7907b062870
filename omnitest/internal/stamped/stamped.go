// Package stamped is a server that answers as vLLM does, with times that were planted, and that keeps the truth about itself:
// when each request arrived, when each event was due and when it was written. A measuring client is tested against that truth.
//
// The schedule of an answer is absolute: event i (from 0) is due at arrival + TTFT + i * Interval, whatever became of the
// events before it. One thread per Options.Threads writes the events of all streams in the order in which they are due, each
// with a write of its own, so that ten thousand streams need no ten thousand sleeping goroutines.
//
// With Options.Stamp each event tells its own times (see Stamp), on the clock of Now. Routes: /v1/completions and
// /v1/chat/completions (streamed or not), /v1/models, /health, /version, /tokenize, /detokenize, /metrics, and GET /truth
// (?events=0 leaves the events out), DELETE /truth.
//
// The shapes of the answers are those of testdata/recordings/vllm-0.32.0.
package stamped

import (
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options of a server. The zero value serves 16 tokens at once.
type Options struct {
	TTFT     time.Duration `json:"ttft,omitempty"`     // from the arrival of the request's last byte to the first token
	Interval time.Duration `json:"interval,omitempty"` // between two tokens
	Tokens   int           `json:"tokens,omitempty"`   // of an answer whose request sets no limit; 0: 16
	// Jitter delays each event by a uniform time in [0, Jitter), drawn from Seed and the number of the request.
	Jitter time.Duration `json:"jitter,omitempty"`
	Seed   uint64        `json:"seed,omitempty"`

	Stamp      bool   `json:"stamp,omitempty"`       // each event carries a Stamp
	EventBytes int    `json:"event_bytes,omitempty"` // fill events up to so many bytes, without the framing of HTTP; 0: as they are, about 220
	Model      string `json:"model,omitempty"`       // "": the model that the request names, else "stamped"
	Fault      Fault  `json:"fault,omitempty"`       // of every answer; a request's "fault" field says it for itself
	Addr       string `json:"addr,omitempty"`        // "": a free port of 127.0.0.1
	Threads    int    `json:"threads,omitempty"`     // that write; 0: 1

	// CPUs are the cores that a process of its own (Spawn) is pinned to, on Linux; nil: all.
	CPUs []int `json:"cpus,omitempty"`
}

// Fault is something that a server gets wrong.
type Fault string

const (
	Healthy       Fault = ""
	CloseAt200    Fault = "close"     // 200 and the headers, then the connection is closed
	NoDone        Fault = "no-done"   // the answer ends well, without [DONE]
	LongLines     Fault = "1mb"       // each event is 1 MiB
	UsageOnChoice Fault = "usage"     // the usage is on the last event that has choices, and has no event of its own
	Endless       Fault = "endless"   // tokens until the client leaves
	Reset         Fault = "reset"     // the connection is reset after half of the tokens
	Error500      Fault = "500"       // vLLM's error object with status 500
	CutEvent      Fault = "cut-event" // the connection is closed inside an event, after half of the tokens
)

var faults = map[Fault]bool{Healthy: true, CloseAt200: true, NoDone: true, LongLines: true, UsageOnChoice: true, Endless: true,
	Reset: true, Error500: true, CutEvent: true}

func (o *Options) fill() error {
	if o.TTFT < 0 || o.Interval < 0 || o.Jitter < 0 || o.Tokens < 0 || o.EventBytes < 0 || o.Threads < 0 {
		return fmt.Errorf("stamped: negative option: %+v", *o)
	}
	if !faults[o.Fault] {
		return fmt.Errorf("stamped: unknown fault %q", o.Fault)
	}
	if o.Tokens == 0 {
		o.Tokens = 16
	}
	if o.Threads == 0 {
		o.Threads = 1
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	return nil
}

// Server is a running one.
type Server struct {
	URL string // http://127.0.0.1:port

	opts   Options
	ln     net.Listener
	pacers []*pacer
	ledger ledger
	number atomic.Uint64 // of requests for tokens
	wg     sync.WaitGroup

	mu     sync.Mutex
	conns  map[*conn]struct{}
	closed bool
}

// Start serves in this process. Close it.
func Start(o Options) (*Server, error) {
	if err := o.fill(); err != nil {
		return nil, err
	}
	ln, err := net.Listen("tcp", o.Addr)
	if err != nil {
		return nil, fmt.Errorf("stamped: %w", err)
	}
	tellArrivals(ln)
	s := &Server{URL: "http://" + ln.Addr().String(), opts: o, ln: ln, conns: map[*conn]struct{}{}}
	for range o.Threads {
		p, err := newPacer(s)
		if err != nil {
			ln.Close()
			s.stopPacers()
			s.wg.Wait()
			return nil, fmt.Errorf("stamped: %w", err)
		}
		s.pacers = append(s.pacers, p)
		s.wg.Go(p.run)
	}
	s.wg.Go(s.accept)
	return s, nil
}

// Close breaks off what is under way and waits until nothing of the server runs.
func (s *Server) Close() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	s.ln.Close()
	for c := range s.conns {
		c.raw.Close()
	}
	s.mu.Unlock()
	s.stopPacers()
	s.wg.Wait()
}

func (s *Server) stopPacers() {
	for _, p := range s.pacers {
		p.stop()
	}
}

// Truth is what has happened since the start or the last Reset.
func (s *Server) Truth() Truth { return s.ledger.truth(s.opts, true) }

// Reset forgets the answers that have ended.
func (s *Server) Reset() { s.ledger.reset() }
