// Package handoff answers whether the KV cache that prefill computed was received and used by decode.
package handoff

import (
	"github.com/omnitest/suite/omnitest/api"
)

// Source is where evidence comes from.
type Source struct {
	Entry           *api.Client // the proxy: where requests are sent and the flow ledger is read
	Prefill, Decode Endpoint
	BlockSize       int // tokens per KV block; 0: read from cache_config_info, else 16
}

// Endpoint is one AR stage.
type Endpoint struct {
	API        *api.Client
	MetricsURL string
}
