// Package ar is the autoregressive engine of the reference stack: prefill, decode or both.
//
// It is a small true instance of a vLLM engine, not a mock. A transformer with constructed weights (model.go) keeps a
// paged KV cache (pool.go), a scheduler batches requests continuously (scheduler.go), prefill hands its blocks to decode
// over a TCP side channel named by a ticket (transfer.go, side.go), and the HTTP surface, error bodies and metrics have
// the shapes of vLLM 0.32.0 (the tests compare them with recordings; testdata/conformance.md lists every difference).
//
// What it says is what it reads: a completion echoes its prompt from the first byte, a chat answer echoes the last user
// message, because step t attends to position start+t and emits the token whose value it finds in the KV cache there.
// Another request's blocks therefore give the other request's text, zeroed blocks give garbage, a recompute gives the
// right text.
package ar

import (
	"io"
	"time"
)

// Geometry of the constructed model. KV bytes per token = 2 x Layers x KVHeads x HeadDim x 2 (bf16) = 1024.
const (
	Layers        = 2
	KVHeads       = 2
	HeadDim       = 64
	BytesPerToken = 2 * Layers * KVHeads * HeadDim * 2
)

// Version is what GET /version answers: the vLLM whose wire format is followed, and that this is not it.
const Version = "0.32.0+reference"

// Config is one AR server. The zero value serves model "reference" alone on a free port with both legs.
type Config struct {
	Model       string        `json:",omitempty"` // "": "reference"
	EngineID    string        `json:",omitempty"` // "": random
	Listen      string        `json:",omitempty"` // "": 127.0.0.1:0
	Side        string        `json:",omitempty"` // address of the KV side channel; "": 127.0.0.1:0
	BlockSize   int           `json:",omitempty"` // tokens per KV block; 0: 16
	Blocks      int           `json:",omitempty"` // pool size; 0: 2048 (32,768 tokens, 32 MiB); block 0 is never used, as in vLLM
	MaxModelLen int           `json:",omitempty"` // 0: 8192, or what the pool holds if that is less
	MaxSeqs     int           `json:",omitempty"` // running requests at once; 0: 16
	MaxBatch    int           `json:",omitempty"` // tokens computed per iteration (chunked prefill); 0: 2048
	Lease       time.Duration `json:",omitempty"` // how long prefill holds an unpulled ticket's blocks; 0: 30 s as vLLM
	LoadFailure string        `json:",omitempty"` // kv_load_failure_policy: "fail" (also for ""), "recompute"
	Faults      Faults
	Timing      Timing
	Log         io.Writer `json:"-"` // engine log in vLLM's words; nil: none
}
