// Package proxy is the P/D/DiT proxy: it speaks the real two-leg protocol of vLLM and then the hop to the DiT.
//
// A text request goes to prefill with max_tokens=1, prefill's ticket (kv_transfer_params) goes with the client's own
// request to decode, and decode's answer goes to the client as it arrives. A picture request takes the same two legs; the
// text that decode generates is the plan, which replaces the prompt of the request to the DiT.
//
// Three rules make it a proxy to test with. It never falls back in silence: without a ticket decode is not called, unless
// AllowFallback, and then the answer says so. It forwards bytes, not a re-reading of them: unknown fields, the spelling of
// numbers and the ticket stay as they were. And it keeps a ledger (package flow) of what was really sent.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// Config is one proxy. Prefill and Decode (both or neither) and DiT may be any server that speaks vLLM's or vLLM-Omni's
// HTTP; a missing stage makes the routes that need it answer 503 naming the stage.
type Config struct {
	Listen        string        `json:",omitempty"` // "": 127.0.0.1:0
	Prefill       string        `json:",omitempty"` // base URL, without /v1
	Decode        string        `json:",omitempty"`
	DiT           string        `json:",omitempty"`
	Speech        string        `json:",omitempty"` // who answers /v1/audio/speech; "": the DiT
	Model         string        `json:",omitempty"` // AR model name put into AR legs made for pictures; "": asked from decode's /v1/models
	DiTModel      string        `json:",omitempty"` // model name sent to the DiT; "": left out
	PlanTokens    int           `json:",omitempty"` // max_tokens of the AR leg of a picture; 0: 4096; never more than decode's max_model_len
	AllowFallback bool          `json:",omitempty"` // decode may run without a ticket; the answer then says so (X-Omnitest-Fallback)
	PrefillLimit  time.Duration `json:",omitempty"` // deadline of a prefill leg; 0: 60 s
	DecodeLimit   time.Duration `json:",omitempty"` // 0: 300 s
	DiTLimit      time.Duration `json:",omitempty"` // 0: 600 s; of a speech too
	LedgerFile    string        `json:",omitempty"` // finished records are appended as JSON lines; "": memory only
	Faults        Faults
}

const (
	bodyLimit    = 256 << 20        // one client request: an edit with several large pictures fits
	answerLimit  = 64 << 20         // one answer of prefill or of decode's plan; token ids of a long prompt fit
	uploadLimit  = 2 * time.Minute  // reading the client's body
	healthLimit  = 2 * time.Second  // all stages together
	modelsLimit  = 10 * time.Second // GET /v1/models
	drainLimit   = 5 * time.Second  // requests in flight when Serve is told to end
	idleUpstream = 3 * time.Second  // see newTransport
	lastWrite    = time.Second      // how much longer than its leg a client may take to read
)

// Proxy is an http.Handler. It is safe for concurrent use.
type Proxy struct {
	c       Config
	http    *http.Client
	ledger  *ledger
	metrics *metrics
	model   arModel

	crossing sync.Mutex // Faults.CrossTickets, CrossPlans
	previous ticket
	lastPlan string

	answers sync.Map // Faults.CacheAnswers: request body -> answer body
}

// New builds a proxy; it dials nothing yet. Close it, or let Serve do so.
func New(c Config) (*Proxy, error) {
	for _, stage := range []struct {
		name string
		base *string
	}{{"Prefill", &c.Prefill}, {"Decode", &c.Decode}, {"DiT", &c.DiT}, {"Speech", &c.Speech}} {
		if err := checkBase(stage.base); err != nil {
			return nil, fmt.Errorf("proxy: %s %w", stage.name, err)
		}
	}
	switch {
	case c.Prefill != "" && c.Decode == "":
		return nil, errors.New("proxy: Prefill is set and Decode is not: nobody would use the tickets; set both or neither")
	case c.Prefill == "" && c.Decode != "":
		return nil, errors.New("proxy: Decode is set and Prefill is not: nobody would make tickets; set both or neither")
	case c.Prefill == "" && c.DiT == "" && c.Speech == "":
		return nil, errors.New("proxy: no stage at all: set Prefill and Decode, or DiT, or all three")
	}
	for _, d := range []struct {
		limit *time.Duration
		zero  time.Duration
	}{{&c.PrefillLimit, 60 * time.Second}, {&c.DecodeLimit, 300 * time.Second}, {&c.DiTLimit, 600 * time.Second}} {
		if *d.limit < 0 {
			return nil, fmt.Errorf("proxy: negative limit %v", *d.limit)
		}
		if *d.limit == 0 {
			*d.limit = d.zero
		}
	}
	if c.PlanTokens == 0 {
		c.PlanTokens = 4096 // more than any plan; engines shorten it to the context that is left
	}
	m := newMetrics()
	l, err := newLedger(c.LedgerFile, m)
	if err != nil {
		return nil, fmt.Errorf("proxy: ledger: %w", err)
	}
	return &Proxy{
		c: c, ledger: l, metrics: m,
		model: arModel{lock: make(chan struct{}, 1)},
		http: &http.Client{
			Transport:     newTransport(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func checkBase(base *string) error {
	*base = strings.TrimRight(*base, "/")
	if *base == "" {
		return nil
	}
	u, err := url.Parse(*base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("%q: want a base URL like http://127.0.0.1:8000", *base)
	}
	if strings.HasSuffix(u.Path, "/v1") {
		return fmt.Errorf("%q: want the base URL without /v1", *base)
	}
	return nil
}

// newTransport differs from the default one where a proxy for inference must. Proxy settings of the environment are not
// read. Compression is not asked for: bytes pass as they are, and gzip would hold events back. uvicorn closes an idle
// connection after 5 s, and a POST sent into that moment fails with EOF and can't be repeated safely, so idle connections
// are given up earlier than that.
func newTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		DisableCompression:  true,
		MaxIdleConnsPerHost: 4096,
		IdleConnTimeout:     idleUpstream,
		TLSHandshakeTimeout: 10 * time.Second,
		WriteBufferSize:     64 << 10,
		ReadBufferSize:      32 << 10,
	}
}

// ServeHTTP routes /v1/completions, /v1/chat/completions, /v1/images/generations, /v1/images/edits, /v1/audio/speech,
// /v1/models, /health, /metrics and flow.Path. Anything else is 404 {"detail":"Not Found"}, a known path with another method 405, as vLLM.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	method, serve := http.MethodGet, http.HandlerFunc(nil)
	switch r.URL.Path {
	case "/v1/completions":
		method, serve = http.MethodPost, p.recorded((*call).completions)
	case "/v1/chat/completions":
		method, serve = http.MethodPost, p.recorded((*call).chat)
	case "/v1/images/generations":
		method, serve = http.MethodPost, p.recorded((*call).generations)
	case "/v1/images/edits":
		method, serve = http.MethodPost, p.recorded((*call).edits)
	case "/v1/audio/speech":
		method, serve = http.MethodPost, p.recorded((*call).speech)
	case "/v1/models":
		serve = p.models
	case "/health":
		serve = p.health
	case "/metrics":
		serve = p.metrics.handler.ServeHTTP
	case flow.Path:
		serve = p.ledger.serve
	default:
		writeDetail(w, http.StatusNotFound)
		return
	}
	if r.Method != method {
		w.Header().Set("Allow", method)
		writeDetail(w, http.StatusMethodNotAllowed)
		return
	}
	serve(w, r)
}

// Serve listens until ctx ends. ready, if not nil, is called once with the real address. Requests in flight then get 5 s to
// finish before their connections are cut. A ledger file that could not be written is an error here.
func (p *Proxy) Serve(ctx context.Context, ready func(addr string)) error {
	address := p.c.Listen
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return errors.Join(fmt.Errorf("proxy: %w", err), p.Close())
	}
	server := &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if ready != nil {
		ready(l.Addr().String())
	}
	select {
	case err = <-served:
		err = fmt.Errorf("proxy: %w", err)
	case <-ctx.Done():
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainLimit)
		if server.Shutdown(drain) != nil {
			server.Close()
		}
		cancel()
		err = nil
	}
	return errors.Join(err, p.Close())
}

// Close gives up idle connections and the ledger file. It returns the first failure to write that file, if there was one.
func (p *Proxy) Close() error {
	p.http.CloseIdleConnections()
	return p.ledger.close()
}
