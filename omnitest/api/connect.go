package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"
)

const (
	connectLimit = time.Minute // for all connections of one Connect together
	dialing      = 128         // connections that are opened at the same time: a server's accept queue is finite, and a lost SYN costs a second
	putBackLimit = 5 * time.Second
)

// Connected is what Connect did.
type Connected struct {
	Opened  int           // connections that it opened
	Reused  int           // that were open before
	Took    time.Duration // from the call until all were open and free
	Slowest time.Duration // to open one of them
}

// Connect opens keep-alive connections until n of them are open and free, before the clock of a measurement starts: a burst of n
// requests then measures the server and not the time to connect, which is told here apart. Each connection carries one GET /health;
// whatever the server answers, it is enough that the connection stays open. An error says how many were opened and why not more,
// or that the server closes connections after an answer.
//
// What it opened is closed again after 3 s without use, before servers of the kind of uvicorn close it (5 s): start at once. A
// server that asks for many connections needs many descriptors: see ulimit -n.
func (c *Client) Connect(ctx context.Context, n int) (Connected, error) {
	url, err := c.address("/health")
	if err != nil || n <= 0 {
		return Connected{}, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ctx, stop := context.WithTimeoutCause(ctx, connectLimit, fmt.Errorf("%s passed", connectLimit))
	defer stop()
	o := &opening{client: c, url: url, all: make(chan struct{}), slots: make(chan struct{}, dialing), cancel: cancel}
	o.missing.Store(int64(n))
	begin := time.Now()
	var each sync.WaitGroup
	for range n {
		each.Go(func() { o.one(ctx) })
	}
	each.Wait()
	done := Connected{Opened: int(o.opened.Load()), Reused: int(o.reused.Load()), Took: time.Since(begin), Slowest: time.Duration(o.slowest.Load())}
	switch {
	case o.missing.Load() > 0:
		return done, fmt.Errorf("api: %d of %d connections to %s are open: %w", done.Opened+done.Reused, n, c.BaseURL, context.Cause(ctx))
	case int(o.kept.Load()) < n:
		why := "the connections broke"
		if o.closes.Load() {
			why = "the server closes them after an answer"
		}
		return done, fmt.Errorf("api: %d of %d connections to %s stay open: %s", o.kept.Load(), n, c.BaseURL, why)
	}
	return done, nil
}

// opening is one Connect under way.
type opening struct {
	client *Client
	url    string
	cancel context.CancelCauseFunc
	slots  chan struct{}
	all    chan struct{} // closed when every request has a connection of its own: none may go back to the pool before

	missing, opened, reused, kept, slowest atomic.Int64
	closes                                 atomic.Bool
}

func (o *opening) one(ctx context.Context) {
	select {
	case o.slots <- struct{}{}:
	case <-ctx.Done():
		return
	}
	free := sync.OnceFunc(func() { <-o.slots })
	defer free()
	asked := time.Now()
	put := make(chan struct{}, 1)
	trace := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(i httptrace.GotConnInfo) {
			o.note(i.Reused, time.Since(asked))
			free()
			select {
			case <-o.all:
			case <-ctx.Done():
			}
		},
		PutIdleConn: func(err error) {
			if err == nil {
				o.kept.Add(1)
			}
			select {
			case put <- struct{}{}:
			default:
			}
		},
	})
	req, err := http.NewRequestWithContext(trace, http.MethodGet, o.url, nil)
	if err != nil {
		o.cancel(err)
		return
	}
	req.Header.Set("User-Agent", "omnitest")
	if o.client.APIKey != "" {
		req.Header.Set("Authorization", "Bearer "+o.client.APIKey)
	}
	resp, err := o.client.http().Do(req)
	if err != nil {
		select {
		case <-o.all: // it was open, and broke
		default:
			o.cancel(fmt.Errorf("%s", rootText(err)))
		}
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, errorBytes))
	resp.Body.Close()
	if resp.Close {
		o.closes.Store(true)
		return
	}
	select { // the transport takes the connection back just after the body ended
	case <-put:
	case <-ctx.Done():
	case <-time.After(putBackLimit):
	}
}

// note counts a connection that a request of ours holds now.
func (o *opening) note(reused bool, took time.Duration) {
	if reused {
		o.reused.Add(1)
	} else {
		o.opened.Add(1)
		for old := o.slowest.Load(); int64(took) > old && !o.slowest.CompareAndSwap(old, int64(took)); old = o.slowest.Load() {
		}
	}
	if o.missing.Add(-1) == 0 {
		close(o.all)
	}
}
