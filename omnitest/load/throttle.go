package load

import (
	"context"
	"time"
)

// Throttle makes a slow reader: it gives a callback for api.Client.StreamComplete and its like that lets one event pass every
// gap, and then calls each (nil: nothing). What the server sends faster waits in the buffers of the connection, and when these are
// full the server's writes block. The times of such a call are the reader's and not the server's: keep them apart.
//
// The gap counts from the last event, so a reader that waited for the server does not hurry to catch up. The callback returns the
// cause of ctx when that ends. It is for one stream.
func Throttle[E any](ctx context.Context, gap time.Duration, each func(E) error) func(E) error {
	var next time.Time
	return func(event E) error {
		if wait := time.Until(next); wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		next = time.Now().Add(gap)
		if each == nil {
			return nil
		}
		return each(event)
	}
}
