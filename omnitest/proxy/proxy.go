// Package proxy is the P/D/DiT proxy: it speaks the real two-leg protocol of vLLM and then the hop to the DiT.
package proxy

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Config is one proxy. Prefill and Decode (both or neither) and DiT may be any server that speaks vLLM's or vLLM-Omni's
// HTTP; a missing stage makes the routes that need it answer 503 naming the stage.
type Config struct {
	Listen        string        `json:",omitempty"` // "": 127.0.0.1:0
	Prefill       string        `json:",omitempty"` // base URL
	Decode        string        `json:",omitempty"`
	DiT           string        `json:",omitempty"`
	Model         string        `json:",omitempty"` // AR model name put into AR legs made for pictures; "": asked from decode's /v1/models
	DiTModel      string        `json:",omitempty"` // model name sent to the DiT; "": left out
	PlanTokens    int           `json:",omitempty"` // max_tokens of the AR leg of a picture; 0: 4096
	AllowFallback bool          `json:",omitempty"` // decode may run without a ticket; the answer then says so (X-Omnitest-Fallback)
	PrefillLimit  time.Duration `json:",omitempty"` // deadline of a prefill leg; 0: 60 s
	DecodeLimit   time.Duration `json:",omitempty"` // 0: 300 s
	DiTLimit      time.Duration `json:",omitempty"` // 0: 600 s
	LedgerFile    string        `json:",omitempty"` // finished records are appended as JSON lines; "": memory only
	Faults        Faults
}

// Proxy is an http.Handler. It is safe for concurrent use.
type Proxy struct{}

// New builds a proxy; it dials nothing yet.
func New(c Config) (*Proxy, error) { return nil, errors.New("proxy: not built yet") }

// ServeHTTP routes /v1/completions, /v1/chat/completions, /v1/images/generations, /v1/images/edits, /v1/models, /health,
// /metrics and flow.Path.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {}

// Serve listens until ctx ends. ready, if not nil, is called once with the real address.
func (p *Proxy) Serve(ctx context.Context, ready func(addr string)) error { return nil }
