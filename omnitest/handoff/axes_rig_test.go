package handoff_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/wiretap"
)

// lent lets a stack live and die with one drawn case instead of the test: a case must not find what an earlier one left.
type lent struct {
	testing.TB
	rt   *rapid.T
	ends []func()
}

func (l *lent) Helper()                        {}
func (l *lent) Cleanup(f func())               { l.ends = append(l.ends, f) }
func (l *lent) Errorf(format string, a ...any) { l.rt.Errorf(format, a...) }
func (l *lent) Fatalf(format string, a ...any) { l.rt.Fatalf(format, a...) }
func (l *lent) Fatal(a ...any)                 { l.rt.Fatal(a...) }

func (l *lent) end() {
	for i := len(l.ends) - 1; i >= 0; i-- {
		l.ends[i]()
	}
}

// gate stands before a stage. It tells when a request has arrived, then holds it as long as it is told to.
type gate struct {
	next *httputil.ReverseProxy
	hold func(ctx context.Context, id string)
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body) // to its end: only then does net/http notice that the client leaves
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	if r.Method == http.MethodPost && g.hold != nil {
		g.hold(r.Context(), r.Header.Get("X-Request-Id"))
	}
	if r.Context().Err() == nil {
		g.next.ServeHTTP(w, r)
	}
}

func newGate(l *lent, base string) (*gate, string) {
	to, err := url.Parse(base)
	if err != nil {
		l.Fatal(err)
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	g := &gate{next: &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(to) },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	}}
	srv := httptest.NewServer(g)
	l.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); transport.CloseIdleConnections() })
	return g, srv.URL
}

// rig is the reference stack of one drawn case.
type rig struct {
	source          handoff.Source
	entry           *api.Client
	prefill, decode *gate
}

func (a axes) start(l *lent, f faults) *rig {
	const plenty = 1024
	p := ar.Config{BlockSize: a.Block, MaxBatch: a.Batch, Blocks: plenty, Lease: a.Lease, Faults: f.prefill}
	d := ar.Config{BlockSize: a.Block, MaxBatch: a.Batch, Blocks: plenty, Lease: a.Lease, Faults: f.decode}
	if a.PrefillBlocks > 0 {
		p.Blocks = a.PrefillBlocks
	}
	if a.DecodeBlocks > 0 {
		d.Blocks = a.DecodeBlocks
	}
	switch a.Trouble {
	case leavesPrefill:
		p.Timing.PrefillPerToken = time.Millisecond
	case leavesWaiting:
		d.Timing.TransferPerBlock = 10 * time.Millisecond
	case leavesDecoding:
		d.Timing.DecodePerStep = 2 * time.Millisecond
	}
	prefill, decode := refpd.Engine(l, "prefill", p), refpd.Engine(l, "decode", d)
	r := &rig{}
	at, taps := wiretap.URLs{Prefill: prefill, Decode: decode}, (*wiretap.Taps)(nil)
	if a.Ledger == "taps" {
		at, taps = newTaps(l, prefill, decode)
	}
	c := proxy.Config{Faults: f.proxy}
	r.prefill, c.Prefill = newGate(l, at.Prefill)
	r.decode, c.Decode = newGate(l, at.Decode)
	between, err := proxy.New(c)
	if err != nil {
		l.Fatal(err)
	}
	srv := httptest.NewServer(between)
	l.Cleanup(func() { srv.CloseClientConnections(); srv.Close(); _ = between.Close() })

	r.entry = &api.Client{BaseURL: srv.URL}
	r.source = handoff.Source{
		Prefill:       handoff.Endpoint{API: &api.Client{BaseURL: prefill}},
		Decode:        handoff.Endpoint{API: &api.Client{BaseURL: decode}},
		BytesPerToken: ar.BytesPerToken,
		Settle:        10 * time.Millisecond, IdleWithin: refpd.Limit,
	}
	switch a.Ledger {
	case "own":
		r.source.Entry = r.entry
	case "taps":
		if err := taps.Front(srv.URL); err != nil {
			l.Fatal(err)
		}
		r.entry = &api.Client{BaseURL: at.Entry}
		r.source.Entry, r.source.Ledger = r.entry, taps
	}
	return r
}

// newTaps puts taps in front of the engines, and one where the proxy will be.
func newTaps(l *lent, prefill, decode string) (wiretap.URLs, *wiretap.Taps) {
	taps, err := wiretap.New(wiretap.Config{Prefill: prefill, Decode: decode})
	if err != nil {
		l.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan wiretap.URLs, 1), make(chan error, 1)
	go func() { ended <- taps.Serve(ctx, func(u wiretap.URLs) { ready <- u }) }()
	l.Cleanup(func() { cancel(); <-ended })
	select {
	case u := <-ready:
		return u, taps
	case <-time.After(refpd.Limit):
		l.Fatalf("taps were not ready within %v", refpd.Limit)
	}
	panic("unreachable")
}

// window brings the caches into the drawn state and then runs the requests, some lanes at a time, in one window.
func (a axes) window(rt *rapid.T, tb testing.TB, f faults) *handoff.Evidence {
	l := &lent{TB: tb, rt: rt}
	defer l.end()
	r := a.start(l, f)
	ctx, cancel := context.WithTimeout(context.Background(), 3*refpd.Limit)
	defer cancel()

	for i, q := range a.Requests {
		for _, warm := range []struct {
			at     *api.Client
			tokens int
		}{{r.source.Prefill.API, q.PrefillHas}, {r.source.Decode.API, q.DecodeHas}} {
			if warm.tokens == 0 {
				continue
			}
			if _, err := warm.at.Complete(ctx, api.CompletionRequest{Prompt: a.prompt(i)[:warm.tokens], Sampling: api.Sampling{MaxTokens: 1}}); err != nil {
				rt.Fatalf("warming up: %v", err)
			}
		}
	}
	stale := time.Now()
	if a.Trouble == leftovers {
		for range 2 {
			if _, err := r.source.Prefill.API.Complete(ctx, api.CompletionRequest{Prompt: "nobody comes for this", Sampling: api.Sampling{MaxTokens: 1, Ticket: handoff.NIXL.Ask}}); err != nil {
				rt.Fatalf("a ticket for nobody: %v", err)
			}
		}
	}
	w, err := handoff.Open(ctx, r.source)
	if err != nil {
		rt.Fatalf("%v", err)
	}
	leave := map[string]context.CancelFunc{}
	ctxs := make([]context.Context, len(a.Requests))
	for i, q := range a.Requests {
		ctxs[i] = ctx
		if q.Leaves {
			c, cancel := context.WithCancel(ctx)
			defer cancel()
			ctxs[i], leave[requestID(i)] = c, cancel
		}
	}
	a.gates(r, leave)
	next := make(chan int, len(a.Requests))
	for i := range a.Requests {
		next <- i
	}
	close(next)
	var lanes sync.WaitGroup
	for range a.Lanes {
		lanes.Go(func() {
			for i := range next {
				w.Observe(a.send(ctxs[i], r.entry, i, leave[requestID(i)]))
			}
		})
	}
	lanes.Wait()
	if a.Trouble == leftovers {
		time.Sleep(time.Until(stale.Add(a.Lease + 300*time.Millisecond))) // the leases have ended when the window closes
	}
	e, err := w.Close(ctx)
	if err != nil {
		rt.Fatalf("%v", err)
	}
	return e
}

// gates plants the delay between the legs, and the moments at which clients leave.
func (a axes) gates(r *rig, leave map[string]context.CancelFunc) {
	wait := func(ctx context.Context, d time.Duration) {
		select {
		case <-time.After(d):
		case <-ctx.Done():
		}
	}
	soon := func(id string) {
		if cancel := leave[id]; cancel != nil {
			time.AfterFunc(a.After, cancel)
		}
	}
	switch a.Trouble {
	case leavesPrefill:
		r.prefill.hold = func(_ context.Context, id string) { soon(id) }
	case leavesBetween:
		r.decode.hold = func(ctx context.Context, id string) {
			if cancel := leave[id]; cancel != nil {
				cancel()
				wait(ctx, refpd.Limit)
			}
		}
	case leavesWaiting:
		r.decode.hold = func(_ context.Context, id string) { soon(id) }
	case delayed, expires, reused:
		r.decode.hold = func(ctx context.Context, _ string) { wait(ctx, a.Delay) }
	}
}

func requestID(i int) string { return fmt.Sprintf("axis-%d", i) }

// prompt is a text that shares no run with another request's, unless the case says that all ask the same.
func (a axes) prompt(i int) string {
	if a.Same {
		i = 0
	}
	const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,"
	random := rand.New(rand.NewPCG(a.Seed, uint64(i)))
	var b strings.Builder
	for b.Len() < a.Requests[i].Tokens {
		b.WriteByte(letters[random.IntN(len(letters))])
	}
	return b.String()
}

// send makes one request of the case and says what its answer must be: the model repeats its prompt.
func (a axes) send(ctx context.Context, entry *api.Client, i int, leave context.CancelFunc) handoff.Observation {
	q, prompt := a.Requests[i], a.prompt(i)
	s := api.Sampling{MaxTokens: q.Out, N: q.N, Logprobs: q.Logprobs, RequestID: requestID(i)}
	if q.N > 1 {
		s.Temperature = 0.01 // several greedy answers are refused; the margins of this model are 60 times that
	}
	if q.MinTokens > 0 {
		s.Extra = map[string]any{"min_tokens": q.MinTokens}
	}
	each := func(api.Event) error {
		if a.Trouble == leavesDecoding && leave != nil {
			leave()
		}
		return nil
	}
	var t *api.Text
	var err error
	switch chat := (api.ChatRequest{Messages: []api.Message{{Role: "user", Text: prompt}}, Sampling: s}); {
	case q.Chat && q.Stream:
		t, err = entry.StreamChat(ctx, chat, each)
	case q.Chat:
		t, err = entry.Chat(ctx, chat)
	case q.Stream:
		t, err = entry.StreamComplete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: s}, each)
	default:
		t, err = entry.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: s})
	}
	o := handoff.Observed(t, err)
	o.RequestID, o.Prompt, o.Want, o.WantFrom = requestID(i), prompt, prompt[:min(q.Out, len(prompt))], "known answer"
	o.Limit = 3 * refpd.Limit
	return o
}
