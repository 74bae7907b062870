//go:build !linux

package canary

import (
	"os"
	"sync"
	"time"
)

// alarm wakes a goroutine at a moment, by Go's own timer.
type alarm struct {
	closed chan struct{}
	once   sync.Once
}

func newAlarm() (*alarm, error) { return &alarm{closed: make(chan struct{})}, nil }

// wait returns at the moment, or at once when it has passed. It fails after close.
func (a *alarm) wait(at time.Time) error {
	t := time.NewTimer(time.Until(at))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-a.closed:
		return os.ErrClosed
	}
}

func (a *alarm) close() { a.once.Do(func() { close(a.closed) }) }
