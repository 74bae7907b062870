package ar

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// selectiveFaults hit some requests and leave the others alone.
var selectiveFaults = map[string]func(*testing.T){
	"decode.recompute": func(t *testing.T) {
		const local = `prompt_tokens_by_source_total{source="local_compute"}`
		p, d := ab(t, Faults{}, Faults{Recompute: "long"})
		_, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Zero(t, got[local], "a short prompt is handed over")
		long := strings.Repeat(textB, 3)
		_, got = d.decodeText(long, p.prefillLeg(long))
		assert.Equal(t, 3*99.0, got[local])

		chat := Faults{Recompute: "chat"}
		assert.True(t, chat.ignores(true, 1))
		assert.False(t, chat.ignores(false, 1000))
		assert.False(t, (&Faults{}).ignores(true, 1000))
	},
	"decode.leak-slowly": func(t *testing.T) {
		d := serve(t, Config{Faults: Faults{LeakSlowly: true}})
		usage := func() float64 { return d.scrape()["kv_cache_usage_perc"] }
		for range leakEvery - 1 {
			d.complete(body{"prompt": "x", "max_tokens": 1})
		}
		d.eventually("49 requests leave nothing", func() bool { return usage() == 0 })
		d.complete(body{"prompt": "x", "max_tokens": 1})
		d.eventually("the fiftieth leaves a block", func() bool { return usage() > 0.9/2047 && usage() < 1.1/2047 })
	},
}
