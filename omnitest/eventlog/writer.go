package eventlog

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// pendingBytes is how far the disk may lag behind before Add waits for it.
const pendingBytes = 64 << 20

// Writer writes a log. Add is safe for concurrent use and does not wait for the disk: a goroutine of the Writer's own hands on what
// was added, at once. Only when the disk is 64 MiB behind does Add wait for it, because then the alternative is to lose events.
type Writer struct {
	base time.Time
	dst  io.Writer
	file *os.File // nil: dst is the caller's

	mu       sync.Mutex
	changed  *sync.Cond // pending or err changed
	pending  []byte
	requests int
	closing  bool
	err      error
	finished chan struct{}
}

// Create makes a log of that name, which must not exist: a log is never written over.
func Create(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, fmt.Errorf("eventlog: %w", err)
	}
	w := New(f)
	w.file = f
	return w, nil
}

// New writes a log to dst, which only the Writer may use until Close has returned.
func New(dst io.Writer) *Writer {
	w := &Writer{base: time.Now(), dst: dst, pending: appendHeader(nil), finished: make(chan struct{})}
	w.changed = sync.NewCond(&w.mu)
	go w.write()
	return w
}

// Add appends one request to a row of the result. The sample is not kept. An error says that the log is not whole any more: it was
// closed, or could not be written, and then every later Add and Close say so too.
func (w *Writer) Add(row string, s *metrics.Sample) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.pending) > pendingBytes && w.err == nil {
		w.changed.Wait()
	}
	switch {
	case w.err != nil:
		return w.err
	case w.closing:
		return errors.New("eventlog: Add after Close")
	}
	b, err := appendRequest(w.pending, w.base, row, s)
	w.pending = b
	if err != nil {
		return err
	}
	w.requests++
	w.changed.Broadcast()
	return nil
}

// Close writes what is pending and the end of the log, and gives the first error of all. It may be called again.
func (w *Writer) Close() error {
	w.mu.Lock()
	first := !w.closing
	w.closing = true
	if first {
		w.pending, _ = appendEnd(w.pending, w.requests) // a few bytes: never too long
	}
	w.changed.Broadcast()
	w.mu.Unlock()
	<-w.finished
	w.mu.Lock()
	defer w.mu.Unlock()
	if first && w.file != nil {
		if err := w.file.Close(); err != nil && w.err == nil {
			w.err = fmt.Errorf("eventlog: %w", err)
		}
	}
	return w.err
}

// write is the Writer's goroutine: it swaps two buffers.
func (w *Writer) write() {
	defer close(w.finished)
	var writing []byte
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		for len(w.pending) == 0 && !w.closing {
			w.changed.Wait()
		}
		if len(w.pending) == 0 || w.err != nil {
			return
		}
		writing, w.pending = w.pending, writing[:0]
		w.mu.Unlock()
		_, err := w.dst.Write(writing)
		w.mu.Lock()
		if err != nil {
			w.err = fmt.Errorf("eventlog: %w", err)
		}
		w.changed.Broadcast()
	}
}
