package dit

import (
	"context"
	"errors"
	"fmt"
	"image"
	"net"
	"net/http"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	defaultModel = "reference-dit"
	stopGrace    = 5 * time.Second // for requests in flight when the server is told to stop
)

// Server is a running DiT. Safe for concurrent use.
type Server struct {
	cfg   Config
	queue *queue
	meter *meter
	mux   *router

	latents latentPool

	stop     context.Context // ends when the server stops: a stalled request is let go
	stopping context.CancelFunc
	work     context.Context // ends when the grace is over: running pictures are given up
	quit     context.CancelFunc

	mu      sync.Mutex
	painted map[image.Point]*Result // Faults.RepeatPicture
	kept    [][]byte                // Timing.GrowPerRequest: never given back
}

// New builds the server; nothing listens yet.
func New(c Config) (*Server, error) {
	if c.MaxBatch < 0 {
		return nil, fmt.Errorf("dit: MaxBatch %d: want 0 (which means 1) or more", c.MaxBatch)
	}
	if j := c.Timing.Jitter; j < 0 || j > 1 {
		return nil, fmt.Errorf("dit: Jitter %g: want 0..1", j)
	}
	if c.Model == "" {
		c.Model = defaultModel
	}
	s := &Server{cfg: c, queue: newQueue(max(1, c.MaxBatch)), meter: newMeter(c.Model), latents: make(latentPool, max(1, c.MaxBatch))}
	s.stop, s.stopping = context.WithCancel(context.Background())
	s.work, s.quit = context.WithCancel(context.Background())
	s.mux = s.routes()
	return s, nil
}

// Handler is the HTTP surface, for tests without a listener.
func (s *Server) Handler() http.Handler { return s.mux }

// Serve listens until ctx ends. ready, if not nil, is called once with the real address. When told to stop it refuses
// new connections at once and finishes the requests in flight, as recorded of vLLM-Omni, for at most five seconds.
// A Server serves once.
func (s *Server) Serve(ctx context.Context, ready func(addr string)) error {
	defer s.quit()
	defer s.stopping()
	listen := s.cfg.Listen
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("dit: listen: %w", err)
	}
	h := &http.Server{Handler: s.mux, ReadHeaderTimeout: 30 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(l) }()
	if ready != nil {
		ready(l.Addr().String())
	}
	select {
	case err := <-failed:
		return fmt.Errorf("dit: serve: %w", err)
	case <-ctx.Done():
	}
	s.stopping()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	if err := h.Shutdown(grace); err != nil {
		s.quit()
		if err := h.Close(); err != nil {
			return fmt.Errorf("dit: close: %w", err)
		}
	}
	return nil
}

// batch is what one request gave.
type batch struct {
	results []*Result
	stages  map[string]float64 // as in "stage_durations": seconds, and milliseconds where the key ends in _ms
	peakMB  float64
}

// maxPictures bounds n on the routes whose validation does not (edits and chat, as recorded).
const maxPictures = 128

// errGone: the client left while its request waited.
var errGone = errors.New("dit: the client left")

// run takes a request through the queue and paints its n pictures. Picture i has the job's seed + i. The work is not
// stopped when the client leaves: recorded, vLLM-Omni finishes the job and the next request waits for it.
func (s *Server) run(ctx context.Context, arrived time.Time, j Job, n int) (*batch, error) {
	if n > maxPictures {
		s.meter.finished("abort", arrived)
		return nil, fmt.Errorf("dit: %d pictures in one request: at most %d", n, maxPictures)
	}
	if s.cfg.Faults.WrongCount {
		n++
	}
	queued := time.Now()
	slots, err := func() (int, error) {
		s.meter.waiting.Inc()
		defer s.meter.waiting.Dec()
		return s.queue.acquire(ctx, n)
	}()
	if err != nil {
		s.meter.finished("abort", arrived)
		return nil, fmt.Errorf("%w: %w", errGone, err)
	}
	defer s.queue.release(slots)
	s.meter.running.Inc()
	defer s.meter.running.Dec()
	if s.cfg.Faults.Stall {
		select {
		case <-ctx.Done():
		case <-s.stop.Done():
		}
		s.meter.finished("abort", arrived)
		return nil, errGone
	}
	b := &batch{results: make([]*Result, n), stages: map[string]float64{}}
	for first := 0; first < n; first += slots {
		if err := s.wave(j, first, b.results[first:min(n, first+slots)], b.stages); err != nil {
			s.meter.finished("abort", arrived)
			return nil, err
		}
	}
	s.grow()
	burn(s.cfg.Timing.BurnPerRequest)
	// The units are mixed and queue_wait_ms does not hold the queueing: both as recorded.
	b.stages["queue_wait_ms"] = queued.Sub(arrived).Seconds() * 1e3
	b.stages["stage_0_gen_ms"] = time.Since(queued).Seconds() * 1e3
	b.peakMB = peakMemoryMB()
	s.meter.finished("stop", arrived)
	return b, nil
}

// wave paints pictures side by side and adds the slowest of each stage to stages.
func (s *Server) wave(j Job, first int, out []*Result, stages map[string]float64) error {
	errs := make([]error, len(out))
	var wg sync.WaitGroup
	for i := range out {
		one := j
		one.Seed += int64(first + i)
		paint := func() { out[i], errs[i] = s.repeated(s.Render(s.work, one)) }
		if len(out) == 1 {
			paint()
			break
		}
		wg.Go(paint)
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	slowest := map[string]time.Duration{}
	for _, r := range out {
		for k, d := range r.Stages {
			slowest[k] = max(slowest[k], d)
		}
	}
	for k, d := range slowest {
		stages[stageKey(k, len(j.Inputs) > 0)] += d.Seconds()
	}
	return nil
}

// repeated applies Faults.RepeatPicture.
func (s *Server) repeated(r *Result, err error) (*Result, error) {
	if err != nil || !s.cfg.Faults.RepeatPicture {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.painted[r.Image.Bounds().Max]; old != nil {
		return old, nil
	}
	if s.painted == nil {
		s.painted = map[image.Point]*Result{}
	}
	s.painted[r.Image.Bounds().Max] = r
	return r, nil
}

// stageKey is the wire's name of a stage: the pipeline's class, then the module.
func stageKey(stage string, edit bool) string {
	if stage == "text_encoder" {
		stage += ".forward"
	}
	if edit {
		return "ReferenceEditPipeline." + stage
	}
	return "ReferencePipeline." + stage
}

// grow keeps planted memory for ever. Every page is written, so that it is resident and not only reserved.
func (s *Server) grow() {
	n := s.cfg.Timing.GrowPerRequest
	if n <= 0 {
		return
	}
	b := make([]byte, n)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	s.mu.Lock()
	s.kept = append(s.kept, b)
	s.mu.Unlock()
}

// peakMemoryMB is the most memory the process has had mapped: never the request's own, as recorded.
func peakMemoryMB() float64 {
	m := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(m)
	return float64(m[0].Value.Uint64() >> 20)
}
