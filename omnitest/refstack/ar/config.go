// Package ar is the autoregressive engine of the reference stack: prefill, decode or both.
package ar

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// Geometry of the constructed model. KV bytes per token = 2 x Layers x KVHeads x HeadDim x 2 (bf16) = 1024.
const (
	Layers        = 2
	KVHeads       = 2
	HeadDim       = 64
	BytesPerToken = 2 * Layers * KVHeads * HeadDim * 2
)

// Config is one AR server. The zero value serves model "reference" alone on a free port with both legs.
type Config struct {
	Model       string        `json:",omitempty"` // "": "reference"
	EngineID    string        `json:",omitempty"` // "": random
	Listen      string        `json:",omitempty"` // "": 127.0.0.1:0
	Side        string        `json:",omitempty"` // address of the KV side channel; "": 127.0.0.1:0
	BlockSize   int           `json:",omitempty"` // tokens per KV block; 0: 16
	Blocks      int           `json:",omitempty"` // pool size; 0: 2048 (32,768 tokens, 32 MiB)
	MaxModelLen int           `json:",omitempty"` // 0: 8192
	MaxSeqs     int           `json:",omitempty"` // running requests at once; 0: 16
	MaxBatch    int           `json:",omitempty"` // tokens computed per iteration (chunked prefill); 0: 2048
	Lease       time.Duration `json:",omitempty"` // how long prefill holds an unpulled ticket's blocks; 0: 30 s as vLLM
	LoadFailure string        `json:",omitempty"` // kv_load_failure_policy: "fail" (also for ""), "recompute"
	Faults      Faults
	Timing      Timing
}

// Server is a running AR engine with its HTTP surface, side channel and metrics.
type Server struct{}

// New builds the engine; nothing listens yet.
func New(c Config) (*Server, error) { return nil, errors.New("ar: not built yet") }

// Serve listens (HTTP and side channel) and runs until ctx ends; then it refuses new requests, finishes nothing, and
// returns nil. ready, if not nil, is called once with the real addresses. An engine death (the assertion of a ticket
// with too few blocks) is a returned error.
func (s *Server) Serve(ctx context.Context, ready func(httpAddr, sideAddr string)) error { return nil }

// Handler is the HTTP surface, for tests without a listener.
func (s *Server) Handler() http.Handler { return nil }

// Prompt is one in-process request (no HTTP): the offline entry.
type Prompt struct {
	Text      string
	MaxTokens int
}

// Output is what a Prompt gave.
type Output struct {
	Text                           string
	FinishReason                   string
	PromptTokens, CompletionTokens int
	FirstToken, End                time.Duration // since the batch was submitted
}

// Generate runs a batch in process, continuous batching and KV cache included. Run must be going.
func (s *Server) Generate(ctx context.Context, batch []Prompt) ([]Output, error) { return nil, nil }

// Run drives the scheduler without any listener, until ctx ends. Serve calls it itself.
func (s *Server) Run(ctx context.Context) error { return nil }
