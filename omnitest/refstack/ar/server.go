package ar

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a running AR engine with its HTTP surface, side channel and metrics.
type Server struct {
	config      Config
	model       *model
	pool        *pool
	metrics     *metrics
	log         logger
	pullTimeout time.Duration

	// the way into the scheduler
	mu       sync.Mutex
	inbox    []func()
	stopped  bool
	wake     chan struct{} // capacity 1
	started  atomic.Bool
	arriving atomic.Int64  // requests in the inbox
	serving  atomic.Int64  // HTTP requests under way, for /load
	ended    atomic.Uint64 // requests that have ended, as of the last gauges

	// pulls and notifications: they end with the engine
	life    context.Context
	endLife context.CancelFunc
	tasks   sync.WaitGroup

	// owned by the scheduler goroutine
	open     map[*request]struct{}
	waiting  []*request
	running  []*request
	loading  int
	stuck    int
	held     map[string]held
	death    error
	requests uint64
	outgoing []delivery
	batch    []work
	attend   []*work
	scratch  []*scratch
	grown    [][]byte
	planned  time.Time // when the last iteration should have ended by its planted latency; zero after an idle one

	sideHost string
	sidePort int
	peersMu  sync.Mutex
	peers    map[string]string // engine id -> address of a handshake that went well
	agent    string            // names this life of the engine, as NIXL's agent does
	shadows  shadows
	first    firstPeer
	pulls    int // how often faults that spare every second pull were asked

	driftFrom int // fault drift: from which generated token on; 0: off
}

// New builds the engine; nothing listens yet.
func New(c Config) (*Server, error) {
	set := func(field *int, value int) {
		if *field == 0 {
			*field = value
		}
	}
	if c.Model == "" {
		c.Model = "reference"
	}
	if c.EngineID == "" {
		c.EngineID = randomHex(16)
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	if c.Side == "" {
		c.Side = "127.0.0.1:0"
	}
	set(&c.BlockSize, 16)
	set(&c.Blocks, 2048)
	room := (c.Blocks - 1) * c.BlockSize
	set(&c.MaxModelLen, min(8192, room))
	set(&c.MaxSeqs, 16)
	set(&c.MaxBatch, 2048)
	if c.Lease == 0 {
		c.Lease = 30 * time.Second
	}
	if c.LoadFailure == "" {
		c.LoadFailure = "fail"
	}
	switch {
	case c.BlockSize < 1 || c.Blocks < 2 || c.MaxModelLen < 2 || c.MaxSeqs < 1 || c.MaxBatch < 1 || c.Lease < 0:
		return nil, fmt.Errorf("ar: sizes must be positive: block size %d, blocks %d (at least 2), max model len %d (at least 2), max seqs %d, max batch %d, lease %s",
			c.BlockSize, c.Blocks, c.MaxModelLen, c.MaxSeqs, c.MaxBatch, c.Lease)
	case c.MaxModelLen > room:
		return nil, fmt.Errorf("ar: max model len %d is larger than the %d tokens that the KV cache holds (%d blocks of %d, one unused)",
			c.MaxModelLen, room, c.Blocks, c.BlockSize)
	case c.LoadFailure != "fail" && c.LoadFailure != "recompute":
		return nil, fmt.Errorf("ar: load failure policy %q: want fail or recompute", c.LoadFailure)
	case c.Faults.TransferFails != "" && c.Faults.TransferFails != "fail" && c.Faults.TransferFails != "recompute":
		return nil, fmt.Errorf("ar: fault transfer-fails %q: want fail or recompute", c.Faults.TransferFails)
	case c.Timing.Jitter < 0 || c.Timing.Jitter > 1:
		return nil, fmt.Errorf("ar: jitter %g: want 0 to 1", c.Timing.Jitter)
	}
	drift, err := driftFrom(c.Faults.Drift)
	if err != nil {
		return nil, err
	}
	log := c.Log
	if log == nil {
		log = io.Discard
	}
	life, end := context.WithCancel(context.Background())
	return &Server{
		life: life, endLife: end,
		config: c, model: newModel(c.BlockSize, c.MaxModelLen), pool: newPool(c.Blocks, c.BlockSize), metrics: newMetrics(c), log: logger{log, new(sync.Mutex)},
		pullTimeout: 10 * time.Second, wake: make(chan struct{}, 1), open: map[*request]struct{}{},
		held: map[string]held{}, peers: map[string]string{}, sideHost: "127.0.0.1", agent: randomHex(16), driftFrom: drift,
	}, nil
}

// Serve listens (HTTP and side channel) and runs until ctx ends; then it refuses new requests, finishes nothing, and
// returns nil. ready, if not nil, is called once with the real addresses. An engine death (the assertion of a ticket
// with too few blocks) is a returned error.
func (s *Server) Serve(ctx context.Context, ready func(httpAddr, sideAddr string)) error {
	ln, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return fmt.Errorf("ar: HTTP: %w", err)
	}
	side, err := net.Listen("tcp", s.config.Side)
	if err != nil {
		ln.Close()
		return fmt.Errorf("ar: KV side channel: %w", err)
	}
	addr := side.Addr().(*net.TCPAddr)
	s.sidePort = addr.Port
	if !addr.IP.IsUnspecified() {
		s.sideHost = addr.IP.String()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{Handler: s.Handler(), ReadHeaderTimeout: 30 * time.Second}
	var wg sync.WaitGroup
	var httpErr error
	wg.Go(func() {
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			httpErr = err
			cancel()
		}
	})
	wg.Go(func() { s.serveSide(side) })
	s.log.infof("Started server, engine %s, HTTP %s, KV side channel %s", s.config.EngineID, ln.Addr(), side.Addr())
	if ready != nil {
		ready(ln.Addr().String(), side.Addr().String())
	}
	err = s.Run(ctx)
	if err != nil {
		// A dying engine still tells its clients (recorded: the error event comes before the port closes).
		grace, done := context.WithTimeout(context.Background(), 2*time.Second)
		srv.Shutdown(grace)
		done()
	}
	srv.Close()
	side.Close()
	wg.Wait()
	return errors.Join(err, httpErr)
}

// wait makes an iteration last as long as its planted latency: computing is inside it, not on top. An iteration that follows at
// once begins when the one before it should have ended, so that the lateness of a wait is made up for and does not add up.
func (s *Server) wait(ctx context.Context, began time.Time, prefill, decodes int) {
	planted := time.Duration(prefill) * s.config.Timing.PrefillPerToken
	if decodes > 0 {
		planted += s.config.Timing.DecodePerStep
	}
	if planted <= 0 {
		s.planned = time.Time{}
		return
	}
	if late := began.Sub(s.planned); late > 0 && late < planted {
		began = s.planned
	}
	s.planned = began.Add(s.jitter(planted))
	sleepUntil(ctx, s.planned)
}

// jitter scales d by 1 +- Jitter, uniformly.
func (s *Server) jitter(d time.Duration) time.Duration {
	if j := s.config.Timing.Jitter; j > 0 {
		return time.Duration(float64(d) * (1 + j*(2*mathrand.Float64()-1)))
	}
	return d
}

// watched is how long before its time a planted wait stops sleeping and watches the clock: a timer of Go is up to 1 ms late, as
// netpoll waits in whole milliseconds (golang/go#44343).
const watched = time.Millisecond

// sleepUntil reports false when ctx ended first.
func sleepUntil(ctx context.Context, t time.Time) bool {
	if d := time.Until(t) - watched; d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return false
		}
	}
	for time.Until(t) > 0 && ctx.Err() == nil {
		runtime.Gosched()
	}
	return ctx.Err() == nil
}

// grow keeps memory for ever, touched, so that the resident size grows.
func (s *Server) grow() {
	if n := s.config.Timing.GrowPerRequest; n > 0 {
		b := make([]byte, n)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		s.grown = append(s.grown, b)
	}
}

func randomHex(digits int) string {
	b := make([]byte, (digits+1)/2)
	rand.Read(b)
	return hex.EncodeToString(b)[:digits]
}

// logger writes lines in the words of vLLM's log.
type logger struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l logger) line(level, format string, args []any) {
	if l.w == io.Discard {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "%s %s [ar] %s\n", level, time.Now().Format("01-02 15:04:05.000"), fmt.Sprintf(format, args...))
}

func (l logger) infof(format string, args ...any)  { l.line("INFO", format, args) }
func (l logger) warnf(format string, args ...any)  { l.line("WARNING", format, args) }
func (l logger) errorf(format string, args ...any) { l.line("ERROR", format, args) }
