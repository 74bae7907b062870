package ar

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var slowTransfer = Timing{TransferPerBlock: 100 * time.Millisecond}

// decodeFieldFaults are the field failures at decode; prefill is healthy.
var decodeFieldFaults = map[string]func(t *testing.T){
	"decode.garbage-on-failure": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{GarbageOnFailure: true})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.NotContains(t, text, textA[:4])
		assert.Equal(t, 1.0, got["nixl_num_failed_transfers_total"])
		assert.NotContains(t, got, "nixl_bytes_transferred_sum")
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`], "credited by the match, not by what arrived")
		assert.Equal(t, 64.0, got["iteration_tokens_total_sum"])
		text, got = d.decodeText(textB, p.prefillLeg(textB))
		assert.Equal(t, textB[:64], text, "the second pull goes well")
		assert.Zero(t, got["nixl_num_failed_transfers_total"])
		third := someText(99, 3)
		text, _ = d.decodeText(third, p.prefillLeg(third))
		assert.NotEqual(t, third[:64], text)
		d.idle()
	},
	"decode.wrong-layout": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{WrongLayout: true})
		for _, prompt := range []string{textA, textB} {
			text, got := d.decodeText(prompt, p.prefillLeg(prompt))
			assert.NotEqual(t, prompt[0], text[0], "wrong from the first token on")
			assert.NotContains(t, text, prompt[:4])
			assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
			assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
			assert.Equal(t, 64.0, got["iteration_tokens_total_sum"])
			assert.Zero(t, got["nixl_num_failed_transfers_total"])
		}
		own := someText(99, 1)
		text, _ := d.decodeText(own, nil)
		assert.Equal(t, own[:64], text, "what it computes itself is right")
		p.idle()
	},
	"decode.leak-on-abort": func(t *testing.T) {
		p := serve(t, Config{})
		d := serve(t, Config{Faults: Faults{LeakAborted: true}, Timing: Timing{TransferPerBlock: 100 * time.Millisecond, DecodePerStep: 20 * time.Millisecond}})
		d.abort(body{"prompt": textA, "kv_transfer_params": p.prefillLeg(textA)}, "the pull runs", d.loading)
		leaked := func(blocks float64) func() bool {
			return func() bool {
				m := d.scrape()
				return m["num_requests_running"]+m["num_requests_waiting"] == 0 && m["kv_cache_usage_perc"]*2047 > blocks-.5
			}
		}
		d.eventually("7 blocks leak", leaked(7))
		p.idle()
		d.abort(body{"prompt": textB, "max_tokens": 400, "ignore_eos": true}, "it decodes", func() bool { return d.scrape()["num_requests_running"] == 1 })
		d.eventually("7 more leak", leaked(14))
		d.complete(body{"prompt": "short", "max_tokens": 2})
		assert.InDelta(t, 14.0/2047, d.scrape()["kv_cache_usage_perc"], 1.1/2047, "a request that ends is freed; the aborted one may have had a block more")
	},
	"decode.die-on-abort": func(t *testing.T) {
		p := serve(t, Config{})
		d := serve(t, Config{Faults: Faults{DieOnAbort: true}, Timing: slowTransfer})
		other := make(chan string, 1)
		d.abort(body{"prompt": textB, "max_tokens": 400, "ignore_eos": true}, "it decodes", func() bool { return d.scrape()["num_requests_running"] == 1 })
		d.idle()
		d.healthy() // an abort outside a transfer does no harm
		ticketA, ticketB := p.prefillLeg(textA), p.prefillLeg(textB+textB)
		go func() {
			got, _ := send(context.Background(), d.url+"/v1/completions", body{"prompt": textB + textB, "kv_transfer_params": ticketB})
			other <- got
		}()
		d.eventually("another one waits", d.loading)
		d.abort(body{"prompt": textA, "kv_transfer_params": ticketA}, "both wait", func() bool {
			return d.scrape()[`num_requests_kv_fetch_by_stage{stage="in_progress"}`] == 2
		})
		d.died("AssertionError in _update_from_kv_xfer_finished")
		select {
		case got := <-other:
			assert.Contains(t, got, "EngineCore encountered an issue", "everybody else gets the error of a dead engine")
		case <-time.After(patience):
			t.Fatal("the other request hangs")
		}
	},
	"decode.stale-peer": func(t *testing.T) {
		again := func(t *testing.T, p *instance, c Config) *instance {
			p.stop()
			<-p.done
			p.done <- nil
			return serve(t, c)
		}
		for name, second := range map[string]func(first *instance) Config{
			"another side channel": func(*instance) Config { return Config{EngineID: "engine-p"} },
			"another engine id":    func(*instance) Config { return Config{} },
			"everything the same": func(first *instance) Config {
				return Config{EngineID: "engine-p", Side: fmt.Sprintf("127.0.0.1:%d", first.s.sidePort)}
			},
		} {
			t.Run(name, func(t *testing.T) {
				p, d := serve(t, Config{EngineID: "engine-p"}), serve(t, Config{Faults: Faults{StalePeer: true}})
				wrong := with(p.prefillLeg("x"), "remote_engine_id", "engine-x")
				status, _ := d.post("/v1/completions", body{"prompt": "x", "kv_transfer_params": wrong})
				assert.Equal(t, 500, status, "an engine that was never there breaks nothing")
				for k := range 3 {
					prompt := someText(99, uint64(k))
					text, _ := d.decodeText(prompt, p.prefillLeg(prompt))
					require.Equal(t, prompt[:64], text)
				}
				p = again(t, p, second(p))
				for k := range 4 {
					prompt := someText(99, uint64(10+k))
					status, _ := d.post("/v1/completions", body{"prompt": prompt, "kv_transfer_params": p.prefillLeg(prompt)})
					assert.Equal(t, 500, status, "request %d after the restart", k)
				}
				assert.Equal(t, 5.0, d.scrape()["nixl_num_failed_transfers_total"])
				d.healthy()
				text, _ := d.decodeText(textB, nil)
				assert.Equal(t, textB[:64], text, "it works for whoever needs no transfer")
			})
		}
		for name, want := range map[string]int{"healthy": 200, "stale": 500} {
			t.Run("a transfer that broke, "+name, func(t *testing.T) {
				p, d := serve(t, Config{}), serve(t, Config{Faults: Faults{StalePeer: name == "stale"}})
				port, cut := fragile(t, fmt.Sprintf("127.0.0.1:%d", p.s.sidePort))
				pull := func(seed uint64) int {
					prompt := someText(99, seed)
					status, _ := d.post("/v1/completions", body{"prompt": prompt, "kv_transfer_params": with(p.prefillLeg(prompt), "remote_port", port)})
					return status
				}
				require.Equal(t, 200, pull(1))
				cut.Store(true)
				require.Equal(t, 500, pull(2))
				cut.Store(false)
				for k := range 3 {
					assert.Equal(t, want, pull(uint64(3+k)))
				}
				d.healthy()
			})
		}
	},
	"decode.handshake-mismatch": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{HandshakeMismatch: true})
		d.healthy()
		for range 2 {
			status, _ := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": p.prefillLeg(textA)})
			assert.Equal(t, 500, status)
		}
		assert.Equal(t, 2.0, d.scrape()["nixl_num_failed_transfers_total"])
		assert.Contains(t, d.log.String(), "handshake_failed: NIXL compatibility check failed")
		d = serve(t, Config{LoadFailure: "recompute", Faults: Faults{HandshakeMismatch: true}})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="local_compute"}`])
	},
	"decode.front-trim": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{FrontTrim: true})
		text, _ := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text, "no hit: right")
		text, _ = d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text, "all but the last block is here: right as far as one reads")
		prompt := textA[:32] + textB[32:]
		text, got := d.decodeText(prompt, p.prefillLeg(prompt))
		assert.Equal(t, prompt[:32]+prompt[:32], text, "two blocks are here; the third place got the first block")
		assert.Equal(t, 32.0, got[`prompt_tokens_by_source_total{source="local_cache_hit"}`])
		assert.Equal(t, 67.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
		assert.Equal(t, 5*16*1024.0, got["nixl_bytes_transferred_sum"])
		p.idle()
	},
	"decode.wait-forever": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{WaitForever: true})
		text, _ := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text)
		for name, ticket := range map[string]map[string]any{
			"unknown engine":      with(p.prefillLeg(textB), "remote_engine_id", "engine-x"),
			"blocks that are not": with(p.prefillLeg(textB), "remote_block_ids", [][]int{{9001, 9002, 9003, 9004, 9005, 9006, 9007}}),
		} {
			got := d.delta(func() {
				d.abort(body{"prompt": textB, "kv_transfer_params": ticket}, name, func() bool {
					return d.stuck() == 1
				})
			})
			assert.Zero(t, got["nixl_num_failed_transfers_total"])
			d.healthy()
			d.idle()
		}
		text, _ = d.decodeText(textB, p.prefillLeg(textB))
		assert.Equal(t, textB[:64], text)
		third := someText(99, 3)
		ticket := p.prefillLeg(third)
		p.stop()
		<-p.done
		p.done <- nil
		d.abort(body{"prompt": third, "kv_transfer_params": ticket}, "prefill died between the legs", func() bool { return d.stuck() == 1 })
		d.healthy()
		d.idle()
	},
	"decode.die-on-preemption": func(t *testing.T) {
		d := serve(t, Config{Blocks: 12, MaxModelLen: 160, Faults: Faults{DieOnPreemption: true}})
		assert.Equal(t, textA[:40], d.complete(body{"prompt": textA, "max_tokens": 40, "temperature": 0}).text(), "alone it has room")
		var wg sync.WaitGroup
		var mu sync.Mutex
		var answers []string
		for k := range 3 {
			wg.Go(func() {
				got, err := send(context.Background(), d.url+"/v1/completions", body{"prompt": someText(40, uint64(k)), "max_tokens": 110, "ignore_eos": true})
				mu.Lock()
				defer mu.Unlock()
				answers = append(answers, fmt.Sprint(got, err))
			})
		}
		wg.Wait()
		assert.True(t, slices.ContainsFunc(answers, func(a string) bool { return strings.Contains(a, "EngineCore encountered an issue") }), "%q", answers)
		d.died("Counters can only be incremented by non-negative amounts")
	},
	"decode.corrupt-under-load": func(t *testing.T) {
		p := serve(t, Config{})
		d := serve(t, Config{Faults: Faults{CorruptUnderLoad: true}, Timing: Timing{TransferPerBlock: 20 * time.Millisecond, DecodePerStep: time.Millisecond}})
		alone := func(seed uint64) {
			prompt := someText(99, seed)
			text, _ := d.decodeText(prompt, p.prefillLeg(prompt))
			assert.Equal(t, prompt[:64], text, "alone")
		}
		alone(1)
		right, wrong := under(t, p, d, 3, 100)
		assert.Equal(t, [2]int{3, 0}, [2]int{right, wrong}, "three at once are not load enough")
		right, wrong = under(t, p, d, 8, 200)
		assert.NotZero(t, right)
		assert.NotZero(t, wrong)
		alone(2)
		m := d.scrape()
		assert.Equal(t, m["nixl_bytes_transferred_count"]*7*16*1024, m["nixl_bytes_transferred_sum"])
		assert.Zero(t, m["nixl_num_failed_transfers_total"])
	},
}
