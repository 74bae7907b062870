// Package handoff answers whether the KV cache that prefill computed was received and used by decode.
//
// A recompute gives the same text, and green counters have been seen beside foreign content, so no single sign is
// believed. A Window brackets requests with scrapes of both engines' /metrics (the counter ledger), the proxy's own story
// (the flow ledger) and the answers (the content ledger); Proven asks that all of them agree, Moved leaves the content out.
// The probes go further and send requests of their own: a crossed ticket shows by its effect that decode consumes what it
// is handed, a withheld one that the counters would have noticed.
//
// What no window can see: an engine that pulls the blocks, throws them away, computes the prompt itself and counts none of it.
// CrossedTickets sees it, if it does so while it is looked at. And KV that is wrong in part while the best token still wins:
// SameMargins sees that.
package handoff

import (
	"context"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
)

// Source is where evidence comes from. While a Window is open nothing else may use the stack: counters have no names on them.
type Source struct {
	Entry           *api.Client // the proxy: where requests are sent and the flow ledger is read; nil: no flow ledger
	Prefill, Decode Endpoint
	DiT             *api.Client // the last stage, for the experiments about the plan's way into the picture; nil: none
	// Ledger is read instead of Entry's own flow ledger: for a proxy that keeps none, taps in front of its stages do
	// (package wiretap). nil: Entry's.
	Ledger    Ledger
	BlockSize int // tokens per KV block; 0: read from decode's cache_config_info, else 16

	Dialect *Dialect // how this connector counts and what its tickets look like; nil: a Window finds out (see Detect), all else takes NIXL
	// BytesPerToken of KV, from KVBytesPerToken or from BytesPerToken. 0: unknown, then only "more than 0" can be asked of a transfer.
	BytesPerToken float64
	Lease         time.Duration // how long prefill holds the blocks of a ticket that nobody pulls; 0: 30 s, vLLM's default
	// Settle is the least time between two scrapes that must agree before a stage counts as quiet. 0: 50 ms. It should
	// exceed the interval at which the engine publishes its gauges.
	Settle time.Duration
	// Sparing scrapes each stage twice in all: once at Open and once at Close, Settle after the last answer. A stage that is busy
	// then, or whose counters lag, leaves a doubt where waiting would have resolved it. For engines whose pages are costly, and
	// for windows that somebody else has made quiet.
	Sparing bool
	// IdleWithin is how long a stage may take to become idle, at Open and again at Close. 0: 30 s.
	IdleWithin time.Duration
}

// Ledger tells what a proxy did. since is the Seq of the last record that the reader knows; records that are still open are
// given as they stand, and again later.
type Ledger interface {
	Page(ctx context.Context, since int64) (flow.Page, error)
}

// Endpoint is one AR stage.
type Endpoint struct {
	API        *api.Client
	MetricsURL string // "": the API's base URL + /metrics
}

func (e Endpoint) metricsURL() string {
	if e.MetricsURL == "" && e.API != nil {
		return e.API.BaseURL + "/metrics"
	}
	return e.MetricsURL
}

func (s Source) dialect() *Dialect {
	if s.Dialect == nil {
		return &NIXL
	}
	return s.Dialect
}

func (s Source) settle() time.Duration {
	settle := s.Settle
	if settle <= 0 {
		settle = 50 * time.Millisecond
	}
	return max(settle, s.dialect().Settle)
}

func (s Source) idleWithin() time.Duration {
	if s.IdleWithin <= 0 {
		return 30 * time.Second
	}
	return s.IdleWithin
}
