// Package refstack is the reference stack: a small true instance of disaggregated AR + DiT inference, in Go alone.
package refstack

import (
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// Faults are all switches of the reference stack. The zero value is healthy.
type Faults struct {
	Prefill ar.Faults    `json:",omitzero"`
	Decode  ar.Faults    `json:",omitzero"`
	DiT     dit.Faults   `json:",omitzero"`
	Proxy   proxy.Faults `json:",omitzero"`
}

// Timing plants latencies and memory growth. The zero value plants none.
type Timing struct {
	Prefill ar.Timing  `json:",omitzero" yaml:"prefill,omitempty"`
	Decode  ar.Timing  `json:",omitzero" yaml:"decode,omitempty"`
	DiT     dit.Timing `json:",omitzero" yaml:"dit,omitempty"`
}
