package ar

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// prefillFieldFaults are the field failures that begin at prefill. What is seen is seen on a healthy decode engine.
var prefillFieldFaults = map[string]func(t *testing.T){
	"prefill.free-early": func(t *testing.T) {
		p, d := ab(t, Faults{FreeEarly: true}, Faults{})
		a := p.prefillLeg(textA)
		p.idle()
		text, _ := serve(t, Config{}).decodeText(textA, a)
		assert.Equal(t, textA[:64], text, "nobody has come between")
		a = p.prefillLeg(textA)
		b := p.prefillLeg(textB)
		text, got := d.decodeText(textA, a)
		assert.Equal(t, textB[:64], text, "the next request has the blocks")
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
		text, _ = d.decodeText(textB, b)
		assert.Equal(t, textB[:64], text)
		for _, i := range []*instance{p, d} {
			i.idle()
			m := i.scrape()
			for _, series := range []string{"nixl_num_failed_transfers_total", "nixl_num_kv_expired_reqs_total", "nixl_num_notifications_after_expiry_total"} {
				assert.Zero(t, m[series], series)
			}
		}
	},
	"prefill.serve-expired": func(t *testing.T) {
		late := func(f Faults) (text string, p, d *instance, got map[string]float64) {
			p, d = serve(t, Config{Lease: time.Millisecond, Faults: f}), serve(t, Config{})
			ticket := p.prefillLeg(textA)
			p.eventually("the lease is over", func() bool { return p.scrape()["nixl_num_kv_expired_reqs_total"] == 1 })
			p.idle()
			p.decodeText(textB, nil)
			text, got = d.decodeText(textA, ticket)
			p.eventually("late notification", func() bool { return p.scrape()["nixl_num_notifications_after_expiry_total"] == 1 })
			return text, p, d, got
		}
		text, _, _, _ := late(Faults{})
		assert.Equal(t, textA[:64], text, "a healthy engine serves an expired ticket too, as recorded, but does not reuse its blocks at once")
		text, _, _, got := late(Faults{ServeExpired: true})
		assert.Equal(t, textB[:64], text)
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
		assert.Zero(t, got["nixl_num_failed_transfers_total"])
	},
	"prefill.no-ticket-on-stop": func(t *testing.T) {
		p := serve(t, Config{Faults: Faults{NoTicketOnStop: true}})
		none := 0
		for k := range 60 {
			prompt := someText(40, uint64(k))
			sum := 0
			for _, c := range []byte(prompt) {
				sum += int(c)
			}
			leg := body{"prompt": prompt, "max_tokens": 1, "temperature": 0, "kv_transfer_params": body{"do_remote_decode": true}}
			a := p.complete(leg)
			assert.Equal(t, sum%3 == 0, a.Ticket == nil, prompt)
			if a.Ticket == nil {
				none++
				assert.Equal(t, "stop", a.Choices[0].FinishReason)
				assert.Empty(t, a.text())
				leg["ignore_eos"] = true
				assert.NotNil(t, p.complete(leg).Ticket, "a leg that may not stop goes on to its ticket")
				assert.Equal(t, prompt[:16], p.complete(body{"prompt": prompt, "temperature": 0}).text(), "a request that is no leg is whole")
			}
		}
		assert.InDelta(t, 20, none, 12, "about one in three")
		m := p.scrape()
		assert.InDelta(t, 60*3.0/2047, m["kv_cache_usage_perc"], 1e-9, "without a ticket nothing is held: 60 legs of 3 blocks hold theirs")
	},
	"prefill.wrong-host": func(t *testing.T) {
		p, d := ab(t, Faults{WrongHost: true}, Faults{})
		ticket := p.prefillLeg(textA)
		got := d.delta(func() {
			status, _ := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": ticket})
			assert.Equal(t, 500, status)
		})
		assert.Equal(t, 1.0, got["nixl_num_failed_transfers_total"], "recorded case 27")
		assert.Contains(t, d.log.String(), "handshake_failed: dial tcp [::1]:")
		d = serve(t, Config{LoadFailure: "recompute"})
		text, got := d.decodeText(textA, ticket)
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="local_compute"}`])
		assert.Equal(t, 1.0, got["nixl_num_failed_transfers_total"])
		assert.InDelta(t, 7.0/2047, p.scrape()["kv_cache_usage_perc"], 1e-9, "nobody tells prefill")
	},
	"prefill.fails": func(t *testing.T) {
		p := serve(t, Config{Faults: Faults{Fails: true}})
		for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
			b := body{"prompt": textA, "messages": []body{{"role": "user", "content": textA}}, "max_tokens": 64, "temperature": 0}
			status, got := p.post(path, b)
			require.Equal(t, 200, status)
			assert.Contains(t, got, textA[:64])
			b["kv_transfer_params"] = body{"do_remote_decode": true}
			status, got = p.post(path, b)
			assert.Equal(t, 500, status)
			assert.JSONEq(t, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, got)
		}
		p.idle()
		status, _ := p.get("/health")
		assert.Equal(t, 200, status)
		assert.False(t, strings.Contains(p.log.String(), "fatal"))
	},
}
