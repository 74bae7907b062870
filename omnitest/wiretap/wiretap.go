// Package wiretap gives a foreign proxy the flow ledger that it does not keep.
//
// A tap is a recording reverse proxy in front of a stage: point the foreign proxy at the taps instead of at its engines. Bytes
// pass untouched in both directions and streams are flushed as they come. What the taps saw is put together into one
// flow.Record per client request and served as a handoff.Ledger.
//
//	taps, err := wiretap.New(wiretap.Config{Prefill: prefill, Decode: decode})
//	go taps.Serve(ctx, func(u wiretap.URLs) { ... start the proxy with u.Prefill and u.Decode ... })
//	taps.Front(proxyURL) // optional: a tap in front of the proxy too, at u.Entry
//	source.Ledger = taps
//
// The taps of the stages alone do not see what the client sent and was told. With the tap in front, clients that use u.Entry are
// seen as well: errors that were swallowed, limits that were lost, and requests of a proxy that gives its legs ids of its own.
//
// A join is never guessed, see join.go.
package wiretap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// Config names the stages to tap by their base URLs, without /v1. An empty one gets no tap.
type Config struct {
	Prefill, Decode, DiT string
}

// URLs are where the taps listen. Entry stands in front of the proxy and answers 503 until Front says where that is.
type URLs struct {
	Entry, Prefill, Decode, DiT string
}

// Taps is a set of taps with one ledger. It is safe for concurrent use.
type Taps struct {
	taps map[string]*tap // by stage; "entry" in front of the proxy
	book *book
	http *http.Transport
}

var stages = []string{"entry", "prefill", "decode", "dit"}

// New builds the taps; it dials nothing yet.
func New(c Config) (*Taps, error) {
	t := &Taps{taps: map[string]*tap{}, book: newBook(c.DiT != ""), http: newTransport()}
	for _, s := range []struct{ stage, base string }{{"entry", ""}, {"prefill", c.Prefill}, {"decode", c.Decode}, {"dit", c.DiT}} {
		if s.base == "" && s.stage != "entry" {
			continue
		}
		x := newTap(s.stage, t.book, t.http)
		if err := x.aim(s.base); err != nil {
			return nil, err
		}
		t.taps[s.stage] = x
	}
	if len(t.taps) == 1 {
		return nil, errors.New("wiretap: no stage to tap: set Prefill, Decode or DiT")
	}
	return t, nil
}

// Front says where the proxy is, so that clients can go through the tap in front of it. From then on a leg belongs to a client
// request that was seen, or to none: call it before the first request.
func (t *Taps) Front(proxy string) error {
	if proxy == "" {
		return errors.New("wiretap: entry: the proxy's URL is empty")
	}
	if err := t.taps["entry"].aim(proxy); err != nil {
		return err
	}
	t.book.front()
	return nil
}

// Handler is the tap of a stage ("entry", "prefill", "decode", "dit") for a server of the caller's own; nil: there is none.
func (t *Taps) Handler(stage string) http.Handler {
	if x := t.taps[stage]; x != nil {
		return x
	}
	return nil
}

// Serve listens on free ports of 127.0.0.1 until ctx ends, and then cuts what is still in flight. ready, if not nil, is called
// once with the URLs.
func (t *Taps) Serve(ctx context.Context, ready func(URLs)) error {
	var u URLs
	var servers []*http.Server
	var serving sync.WaitGroup
	defer func() {
		for _, s := range servers {
			s.Close()
		}
		serving.Wait()
		t.http.CloseIdleConnections()
	}()
	failed := make(chan error, len(stages))
	for _, stage := range stages {
		x := t.taps[stage]
		if x == nil {
			continue
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return fmt.Errorf("wiretap: %s: %w", stage, err)
		}
		*map[string]*string{"entry": &u.Entry, "prefill": &u.Prefill, "decode": &u.Decode, "dit": &u.DiT}[stage] = "http://" + l.Addr().String()
		s := &http.Server{Handler: x, ReadHeaderTimeout: 10 * time.Second, ErrorLog: silent}
		servers = append(servers, s)
		serving.Go(func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("wiretap: %s: %w", stage, err)
			}
		})
	}
	if ready != nil {
		ready(u)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Page implements handoff.Ledger. The last 4096 records are kept.
func (t *Taps) Page(_ context.Context, since int64) (flow.Page, error) {
	return t.book.page(since, time.Now()), nil
}

// baseURL checks a base URL as the proxy does.
func baseURL(stage, base string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimRight(base, "/"))
	switch {
	case err != nil || u.Host == "" || !slices.Contains([]string{"http", "https"}, u.Scheme):
		return nil, fmt.Errorf("wiretap: %s %q: want a base URL like http://127.0.0.1:8000", stage, base)
	case strings.HasSuffix(u.Path, "/v1"):
		return nil, fmt.Errorf("wiretap: %s %q: want the base URL without /v1", stage, base)
	}
	return u, nil
}

// newTransport is as the proxy's: no proxy from the environment, no compression asked for, and idle connections given up before
// uvicorn closes them (5 s), because a POST sent into that moment fails.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     3 * time.Second,
		TLSHandshakeTimeout: 10 * time.Second,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      32 << 10,
	}
}
