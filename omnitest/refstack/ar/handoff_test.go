package ar

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	textA = "A: the secret of the red fox is under the third stone, near the old well, and it is 4711! ......end"
	textB = "B: nobody knows what the blue whale sings about when the moon is over the bay at nine... really? no"
)

// with is a ticket with one field changed; value nil removes it.
func with(ticket map[string]any, field string, value any) map[string]any {
	changed := map[string]any{}
	for k, v := range ticket {
		changed[k] = v
	}
	changed[field] = value
	if value == nil {
		delete(changed, field)
	}
	return changed
}

func flat(ticket map[string]any) []any { return ticket["remote_block_ids"].([]any)[0].([]any) }

// decode runs the D leg to a text of 64 tokens and gives what it moved.
func (i *instance) decodeText(prompt string, ticket any) (string, map[string]float64) {
	i.t.Helper()
	var a answer
	got := i.delta(func() {
		a = i.complete(body{"prompt": prompt, "max_tokens": 64, "temperature": 0, "kv_transfer_params": ticket})
	})
	return a.text(), got
}

// The causal proof: what D says depends on which blocks it was given, and the counters do not tell.
func TestContentFollowsTheBlocks(t *testing.T) {
	require.Len(t, textA, 99)
	require.Len(t, textB, 99)
	p := serve(t, Config{})
	ta, tb := p.prefillLeg(textA), p.prefillLeg(textB)
	healthy := func(t *testing.T, got map[string]float64) {
		t.Helper()
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
		assert.Equal(t, 64.0, got["iteration_tokens_total_sum"])
		assert.Zero(t, got["nixl_num_failed_transfers_total"])
	}
	t.Run("its own ticket", func(t *testing.T) {
		text, got := serve(t, Config{}).decodeText(textA, ta)
		assert.Equal(t, textA[:64], text)
		healthy(t, got)
	})
	t.Run("another request's ticket gives exactly its text, and poisons the prefix cache", func(t *testing.T) {
		d := serve(t, Config{})
		text, got := d.decodeText(textB, ta)
		assert.Equal(t, textA[:64], text)
		healthy(t, got)
		text, _ = d.decodeText(textB, nil)
		assert.Equal(t, textA[:64], text, "recorded case 06: a plain request finds the wrong blocks in the prefix cache")
	})
	t.Run("permuted blocks give permuted text", func(t *testing.T) {
		ids := slices.Clone(flat(ta))
		ids[0], ids[1] = ids[1], ids[0]
		text, got := serve(t, Config{}).decodeText(textA, with(ta, "remote_block_ids", [][]any{ids}))
		assert.Equal(t, textA[16:32]+textA[:16]+textA[32:64], text)
		healthy(t, got)
	})
	t.Run("a flat list of ids, as older versions send", func(t *testing.T) {
		text, got := serve(t, Config{}).decodeText(textA, with(ta, "remote_block_ids", flat(ta)))
		assert.Equal(t, textA[:64], text)
		healthy(t, got)
	})
	t.Run("a ticket withheld: right text, everything computed here, nothing moved", func(t *testing.T) {
		text, got := serve(t, Config{}).decodeText(textB, nil)
		assert.Equal(t, textB[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="local_compute"}`])
		assert.Equal(t, 99.0+64, got["iteration_tokens_total_sum"])
		assert.NotContains(t, got, "nixl_bytes_transferred_sum")
	})
	t.Run("a replayed ticket of the same prompt", func(t *testing.T) {
		d := serve(t, Config{})
		d.decodeText(textB, tb)
		text, _ := serve(t, Config{}).decodeText(textB, tb)
		assert.Equal(t, textB[:64], text, "P's blocks were not reused yet")
	})
	t.Run("a prefix that is here is not moved", func(t *testing.T) {
		d := serve(t, Config{})
		d.decodeText(textA, nil)
		text, got := d.decodeText(textA[:70]+strings.Repeat("z", 29), p.prefillLeg(textA[:70]+strings.Repeat("z", 29)))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 64.0, got[`prompt_tokens_by_source_total{source="local_cache_hit"}`])
		assert.Equal(t, 35.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
		assert.Equal(t, 3*16*1024.0, got["nixl_bytes_transferred_sum"])
	})
}

// A chat is handed over like a completion: the answer is the last user message of the KV.
func TestChatHandoff(t *testing.T) {
	p, d := serve(t, Config{}), serve(t, Config{})
	chat := func(i *instance, content string, more body) answer {
		b := body{"messages": []body{{"role": "user", "content": content}}}
		for k, v := range more {
			b[k] = v
		}
		status, got := i.post("/v1/chat/completions", b)
		require.Equal(t, 200, status, got)
		return parse(t, got)
	}
	remote := body{"do_remote_decode": true, "do_remote_prefill": false}
	ta := chat(p, textA, body{"max_tokens": 1, "kv_transfer_params": remote}).Ticket
	a := chat(d, textA, body{"kv_transfer_params": ta})
	assert.Equal(t, textA, a.Choices[0].Message.Content)
	assert.Equal(t, "stop", a.Choices[0].FinishReason)
	tb := chat(p, textB, body{"max_tokens": 1, "kv_transfer_params": remote}).Ticket
	a = chat(serve(t, Config{}), textA, body{"kv_transfer_params": tb})
	assert.Equal(t, textB, a.Choices[0].Message.Content)
}

// What tickets do that are not right, as real vLLM 0.32.0 does (cases 20 to 31).
func TestTickets(t *testing.T) {
	fails := func(change func(map[string]any) map[string]any, failures float64, logged string) func(*testing.T) {
		return func(t *testing.T) {
			p, d := serve(t, Config{EngineID: "engine-p"}), serve(t, Config{EngineID: "engine-d"})
			ticket := change(p.prefillLeg(textA))
			got := d.delta(func() {
				status, text := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": ticket})
				assert.Equal(t, 500, status)
				assert.JSONEq(t, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, text)
				_, text = d.post("/v1/completions", body{"prompt": textB, "kv_transfer_params": ticket, "stream": true})
				assert.Equal(t, `data: {"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}`+
					"\n\ndata: [DONE]\n\n", text)
			})
			assert.Equal(t, 2*failures, got["nixl_num_failed_transfers_total"])
			assert.Equal(t, 2.0, got[`request_success_total{finished_reason="error"}`])
			assert.Equal(t, 198.0, got["external_prefix_cache_hits_total"], "still claimed, as recorded")
			assert.Equal(t, 198.0, got[`prompt_tokens_cached_by_source_total{source="p2p"}`])
			assert.NotContains(t, got, `prompt_tokens_by_source_total{source="external_kv_transfer"}`)
			assert.Contains(t, d.log.String(), logged)
			d.idle()
			text, _ := d.decodeText(textA, nil)
			assert.Equal(t, textA[:64], text, "the engine goes on, and its prefix cache is clean")
			text, _ = d.decodeText(textB, p.prefillLeg(textB))
			assert.Equal(t, textB[:64], text)
		}
	}
	t.Run("wrong engine id", fails(func(x map[string]any) map[string]any { return with(x, "remote_engine_id", "engine-x") }, 1,
		"NIXL transfer failure: handshake_failed: remote NIXL agent engine ID mismatch: expected engine-x, received engine-p"))
	t.Run("wrong port, unknown engine", fails(func(x map[string]any) map[string]any {
		return with(with(x, "remote_engine_id", "engine-y"), "remote_port", 1)
	}, 1, "NIXL transfer failure: handshake_failed: dial tcp 127.0.0.1:1"))
	t.Run("out of range", fails(func(x map[string]any) map[string]any {
		return with(x, "remote_block_ids", [][]int{{1000000, 1000001, 1000002, 1000003, 1000004, 1000005, 1000006}})
	}, 2, "NIXL transfer failure: transfer_setup_failed: NIXL_ERR_INVALID_PARAM"))
	t.Run("negative id", fails(func(x map[string]any) map[string]any {
		return with(x, "remote_block_ids", []int{-1, 1, 2, 3, 4, 5, 6})
	}, 2, "transfer_setup_failed"))
	t.Run("wrong request id still works", func(t *testing.T) {
		p, d := serve(t, Config{}), serve(t, Config{})
		text, _ := d.decodeText(textA, with(p.prefillLeg(textA), "remote_request_id", "cmpl-ffffffff"))
		assert.Equal(t, textA[:64], text)
		p.eventually("late notification", func() bool { return p.scrape()["nixl_num_notifications_after_expiry_total"] == 1 })
		assert.NotZero(t, p.scrape()["kv_cache_usage_perc"], "the true request keeps its blocks until the lease ends")
	})
	t.Run("policy recompute", func(t *testing.T) {
		p, d := serve(t, Config{}), serve(t, Config{LoadFailure: "recompute"})
		text, got := d.decodeText(textA, with(p.prefillLeg(textA), "remote_engine_id", "engine-x"))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="local_compute"}`])
		assert.Equal(t, 99.0+64, got["iteration_tokens_total_sum"])
		assert.Equal(t, 1.0, got["nixl_num_failed_transfers_total"])
	})
	for name, change := range map[string]func(map[string]any) map[string]any{
		"no blocks": func(x map[string]any) map[string]any { return with(x, "remote_block_ids", [][]int{{}}) },
		"null block ids": func(x map[string]any) map[string]any {
			x = with(x, "remote_block_ids", nil)
			x["remote_block_ids"] = nil
			return x
		},
		"one block too few": func(x map[string]any) map[string]any { return with(x, "remote_block_ids", flat(x)[:6]) },
	} {
		t.Run(name+" kills the engine", func(t *testing.T) {
			p, d := serve(t, Config{}), serve(t, Config{})
			ticket := change(p.prefillLeg(textA))
			_, text := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": ticket, "stream": true})
			assert.Equal(t, `data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", "type": "InternalServerError", "param": null, "code": 500}}`+
				"\n\ndata: [DONE]\n\n", text)
			select {
			case err := <-d.done:
				assert.ErrorContains(t, err, "AssertionError in _apply_prefix_caching: num_decode_blocks <= len(prefill_group)")
				assert.ErrorContains(t, err, "needs 7 blocks, its ticket names")
				d.done <- nil
			case <-time.After(patience):
				t.Fatal("Serve did not return")
			}
			_, err := http.Get(d.url + "/health")
			assert.ErrorContains(t, err, "refused", "the port is closed")
		})
	}
	for _, field := range []string{"remote_request_id", "remote_engine_id", "remote_host", "remote_port"} {
		t.Run("without "+field+" it never answers", func(t *testing.T) {
			p, d := serve(t, Config{}), serve(t, Config{})
			ticket := with(p.prefillLeg(textA), field, nil)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go func() {
				d.eventually("stuck", func() bool { return strings.Contains(d.log.String(), "Got invalid KVTransferParams") })
				m := d.scrape()
				assert.Equal(t, 1.0, m[`num_requests_waiting_by_reason{reason="deferred"}`])
				assert.NotZero(t, m["kv_cache_usage_perc"])
				cancel()
			}()
			_, err := send(ctx, d.url+"/v1/completions", body{"prompt": textA, "kv_transfer_params": ticket})
			assert.ErrorIs(t, err, context.Canceled)
			d.idle()
		})
	}
}

// A peer that accepts and says nothing must not hold a request longer than the pull's deadline.
func TestPullHasADeadline(t *testing.T) {
	silent := listenSilently(t)
	d := serve(t, Config{})
	d.s.pullTimeout = 50 * time.Millisecond
	ticket := body{"do_remote_prefill": true, "remote_block_ids": []int{1, 2, 3, 4, 5, 6, 7}, "remote_engine_id": "silent",
		"remote_request_id": "x", "remote_host": "127.0.0.1", "remote_port": silent}
	status, _ := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": ticket})
	assert.Equal(t, 500, status)
	assert.Contains(t, d.log.String(), "handshake_failed: no handshake from 127.0.0.1")
	d.idle()
}

// P restarts under its engine id on another port: one request fails, fast, and the next ones work.
func TestPrefillRestarts(t *testing.T) {
	d := serve(t, Config{})
	p := serve(t, Config{EngineID: "engine-p"})
	text, _ := d.decodeText(textA, p.prefillLeg(textA))
	require.Equal(t, textA[:64], text)
	p.stop()
	<-p.done
	p.done <- nil
	p = serve(t, Config{EngineID: "engine-p"})
	status, _ := d.post("/v1/completions", body{"prompt": textB, "kv_transfer_params": p.prefillLeg(textB)})
	assert.Equal(t, 500, status, "the remembered address is stale")
	text, got := d.decodeText(textB, p.prefillLeg(textB))
	assert.Equal(t, textB[:64], text)
	assert.NotZero(t, got["nixl_bytes_transferred_sum"])
}

// Clients that go away at any point leave no blocks behind, on either side.
func TestAbortFreesBlocks(t *testing.T) {
	slow := Timing{PrefillPerToken: 10 * time.Millisecond, DecodePerStep: 10 * time.Millisecond}
	abort := func(t *testing.T, i *instance, b body, when func() bool) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() {
			_, err := send(ctx, i.url+"/v1/completions", b)
			done <- err
		}()
		i.eventually("the moment to abort", when)
		cancel()
		assert.ErrorIs(t, <-done, context.Canceled)
		i.idle()
		assert.Zero(t, i.scrape()[`request_success_total{finished_reason="abort"}`], "as recorded")
	}
	t.Run("running", func(t *testing.T) {
		i := serve(t, Config{Timing: slow})
		abort(t, i, body{"prompt": "abc", "max_tokens": 8000, "ignore_eos": true}, func() bool { return i.scrape()["generation_tokens_total"] > 1 })
	})
	t.Run("waiting", func(t *testing.T) {
		i := serve(t, Config{MaxSeqs: 1, Timing: slow})
		ctx, cancel := context.WithCancel(context.Background())
		go send(ctx, i.url+"/v1/completions", body{"prompt": "abc", "max_tokens": 8000, "ignore_eos": true})
		i.eventually("the first runs", func() bool { return i.scrape()["num_requests_running"] == 1 })
		ctx2, cancel2 := context.WithCancel(context.Background())
		go send(ctx2, i.url+"/v1/completions", body{"prompt": "abc"})
		i.eventually("the second waits", func() bool { return i.scrape()[`num_requests_waiting_by_reason{reason="capacity"}`] == 1 })
		cancel2()
		i.eventually("the second is gone", func() bool { return i.scrape()["num_requests_waiting"] == 0 })
		cancel()
		i.idle()
	})
	t.Run("loading: prefill is told", func(t *testing.T) {
		p, d := serve(t, Config{}), serve(t, Config{Timing: Timing{TransferPerBlock: 200 * time.Millisecond}})
		ticket := p.prefillLeg(textA)
		require.NotZero(t, p.scrape()["kv_cache_usage_perc"])
		abort(t, d, body{"prompt": textA, "kv_transfer_params": ticket}, func() bool {
			return d.scrape()[`num_requests_kv_fetch_by_stage{stage="in_progress"}`] == 1
		})
		p.idle()
	})
	t.Run("prefill leg: no ticket, free at once", func(t *testing.T) {
		i := serve(t, Config{Timing: slow})
		abort(t, i, body{"prompt": textA, "max_tokens": 1, "kv_transfer_params": body{"do_remote_decode": true}}, func() bool {
			return i.scrape()["num_requests_running"] == 1
		})
	})
}

// Recorded case 17: a prefill leg that streams holds its blocks but tells nobody; with max_tokens 4 it has more tokens.
func TestPrefillLegVariants(t *testing.T) {
	p := serve(t, Config{})
	remote := body{"do_remote_decode": true, "do_remote_prefill": false}
	_, text := p.post("/v1/completions", body{"prompt": textA, "max_tokens": 1, "stream": true, "kv_transfer_params": remote})
	assert.NotContains(t, text, "kv_transfer_params")
	assert.NotZero(t, p.scrape()["kv_cache_usage_perc"])
	four := p.complete(body{"prompt": textB, "max_tokens": 4, "kv_transfer_params": remote}).Ticket
	assert.Equal(t, 102.0, four["remote_num_tokens"])
	assert.NotContains(t, four, "remote_prefill_cached_tokens")
	stop := p.complete(body{"prompt": "x", "max_tokens": 4, "kv_transfer_params": remote})
	assert.Equal(t, "stop", stop.Choices[0].FinishReason)
	assert.NotNil(t, stop.Ticket, "an output that ends by itself has a ticket too")
	again := p.prefillLeg(textB)
	assert.Equal(t, 96.0, again["remote_prefill_cached_tokens"])
}
