package api

import (
	"context"
	"errors"
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
	putBackLimit = time.Second
	// net/http gives a connection up whose write was not confirmed 50 ms after the answer, which happens on a machine that is
	// overloaded: such connections are opened again.
	rounds = 4
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
	begin := time.Now()
	var done Connected
	for round := 1; ; round++ {
		o := &opening{client: c, url: url, all: make(chan struct{}), slots: make(chan struct{}, dialing), cancel: cancel}
		o.missing.Store(int64(n))
		var each sync.WaitGroup
		for range n {
			each.Go(func() { o.one(ctx) })
		}
		each.Wait()
		if round == 1 {
			done.Reused = int(o.reused.Load())
		}
		done.Opened += int(o.opened.Load())
		done.Took, done.Slowest = time.Since(begin), max(done.Slowest, time.Duration(o.slowest.Load()))
		why, _ := o.why.Load().(reason)
		switch {
		case o.missing.Load() > 0:
			return done, fmt.Errorf("api: %d of %d connections to %s are open: %w", n-int(o.missing.Load()), n, c.BaseURL, context.Cause(ctx))
		case int(o.kept.Load()) == n:
			return done, nil
		case round == rounds || why == errCloses:
			if why.error == nil {
				why = errLate
			}
			return done, fmt.Errorf("api: %d of %d connections to %s stay open: %w", o.kept.Load(), n, c.BaseURL, why.error)
		}
	}
}

// opening is one round of Connect.
type opening struct {
	client *Client
	url    string
	cancel context.CancelCauseFunc
	slots  chan struct{}
	all    chan struct{} // closed when every request has a connection of its own: none may go back to the pool before

	missing, opened, reused, kept, slowest atomic.Int64
	why                                    atomic.Value // the first reason of a connection that did not stay open
}

// reason is what atomic.Value holds, which wants one type.
type reason struct{ error }

var (
	errCloses = reason{errors.New("the server closes them after an answer")}
	errLate   = reason{errors.New("the transport did not take the others back")}
)

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
			} else {
				o.why.CompareAndSwap(nil, reason{err})
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
		err := errors.New(rootText(err))
		select {
		case <-o.all: // it was open, and broke
			o.why.CompareAndSwap(nil, reason{err})
		default:
			o.cancel(err)
		}
		return
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, errorBytes))
	resp.Body.Close()
	if resp.Close {
		o.why.CompareAndSwap(nil, errCloses)
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
