package ar

import (
	"encoding/json"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// recordedDeltas are the counter changes of real vLLM 0.32.0 (CPU, NixlConnector, block size 32, 4,096 KV bytes per token, 4
// layers) around each recorded case. Sums of seconds and the usage gauge are left out.
func recordedDeltas(t *testing.T) map[string]struct{ P, D any } {
	files, err := fs.Glob(recordings, "vllm-0.32.0/nixl/cases*.json")
	require.NoError(t, err)
	require.Len(t, files, 4)
	cases := map[string]struct{ P, D any }{}
	for _, file := range files {
		data, err := fs.ReadFile(recordings, file)
		require.NoError(t, err)
		var some map[string]struct {
			P any `json:"delta_P"`
			D any `json:"delta_D"`
		}
		require.NoError(t, json.Unmarshal(data, &some))
		for name, c := range some {
			cases[name] = struct{ P, D any }{recordedSeries(c.P), recordedSeries(c.D)}
		}
	}
	return cases
}

// recordedSeries takes the prefix off the names; a dead engine has text in place of its series.
func recordedSeries(delta any) any {
	m, ok := delta.(map[string]any)
	if !ok {
		return delta
	}
	short := map[string]any{}
	for k, v := range m {
		if !strings.HasSuffix(k, "_seconds_sum") && k != "vllm:kv_cache_usage_perc" {
			short[strings.TrimPrefix(k, "vllm:")] = v
		}
	}
	return short
}

// scaled turns a recorded delta into what our geometry must give.
func scaled(recorded any) map[string]float64 {
	want := map[string]float64{}
	m, _ := recorded.(map[string]any)
	for k, v := range m {
		x := v.(float64)
		switch k {
		case "nixl_bytes_transferred_sum":
			x *= BytesPerToken / 4096.0
		case "nixl_num_descriptors_sum":
			x *= Layers / 4.0
		}
		want[k] = x
	}
	return want
}

// measured keeps of our delta what was recorded.
func measured(delta map[string]float64) map[string]float64 {
	maps.DeleteFunc(delta, func(k string, _ float64) bool {
		return strings.HasSuffix(k, "_seconds_sum") || strings.HasPrefix(k, "process_") || k == "kv_cache_usage_perc"
	})
	return delta
}

var promptCount uint64

// newPrompt gives n token ids that no other prompt begins with.
func newPrompt(n int) []int32 {
	promptCount++
	return randomTokens(n, promptCount<<20)
}

// pair is P and D with the recorded servers' block size.
type pair struct{ p, d *instance }

func newPair(t *testing.T) pair {
	return pair{serve(t, Config{Model: "tiny", BlockSize: 32, EngineID: "engine-p"}), serve(t, Config{Model: "tiny", BlockSize: 32, EngineID: "engine-d"})}
}

func (x pair) decodeLeg(prompt []int32, ticket map[string]any) (int, string) {
	b := body{"prompt": prompt, "max_tokens": 16, "temperature": 0, "ignore_eos": true}
	if ticket != nil {
		b["kv_transfer_params"] = ticket
	}
	return x.d.post("/v1/completions", b)
}

func (x pair) proper(prompt []int32) { x.decodeLeg(prompt, x.p.prefillLeg(prompt)) }

// next is the healthy pair request that the recorded cases 20 to 30 contain.
func (x pair) next() { x.proper(newPrompt(70)) }

// tampered sends the D leg with a changed ticket and then the next pair.
func tampered(change func(map[string]any)) func(pair) {
	return func(x pair) {
		prompt := newPrompt(100)
		ticket := x.p.prefillLeg(prompt)
		change(ticket)
		x.decodeLeg(prompt, ticket)
		x.next()
	}
}

func TestMetricsAsRecorded(t *testing.T) {
	recorded := recordedDeltas(t)
	first := newPrompt(100)
	a, b := newPrompt(100), newPrompt(100)
	type step struct {
		name string
		run  func(pair)
		skip []string // series that depend on what happened before in the recorded session
	}
	warm := func(x pair) { x.next() } // D has met P's engine id
	desc := "nixl_num_descriptors_sum"
	groups := map[string][]step{
		"01": {
			{"01-proper", func(x pair) { x.proper(first) }, nil},
			{"02-proper-again-full-local-hit", func(x pair) { x.proper(first) }, nil},
			{"03-withheld-ticket", func(x pair) {
				p := newPrompt(100)
				x.p.prefillLeg(p)
				x.decodeLeg(p, nil)
			}, nil},
			{"04-decode-only-no-prefill", func(x pair) { x.decodeLeg(newPrompt(100), nil) }, nil},
		},
		"05": {
			{"05-crossed", func(x pair) {
				ta, tb := x.p.prefillLeg(a), x.p.prefillLeg(b)
				x.decodeLeg(b, ta)
				x.decodeLeg(a, tb)
			}, nil},
			{"06-after-crossed-b-plain-poisoned-prefix", func(x pair) { x.decodeLeg(b, nil) }, []string{"nixl_num_kv_expired_reqs_total"}},
		},
		"11": {{"11-replayed-ticket", func(x pair) {
			p := newPrompt(100)
			ticket := x.p.prefillLeg(p)
			x.decodeLeg(p, ticket)
			x.decodeLeg(newPrompt(100), ticket)
		}, []string{"nixl_num_notifications_after_expiry_total"}}}, // logged 10 s late: it is in the delta of case 12
		"22": {{"", warm, nil}, {"22-wrong-request-id", tampered(func(t map[string]any) { t["remote_request_id"] = "cmpl-ffffffff" }), []string{desc}}},
		"24": {{"", warm, nil}, {"24-permuted-blocks", tampered(func(t map[string]any) {
			slices.Reverse(t["remote_block_ids"].([]any)[0].([]any))
		}), []string{desc}}},
		"26": {{"26-wrong-engine-id", tampered(func(t map[string]any) { t["remote_engine_id"] = "engine-x" }), []string{desc}}},
		"27": {{"27-wrong-port-new-engine", tampered(func(t map[string]any) { t["remote_engine_id"], t["remote_port"] = "engine-y", 1 }),
			[]string{desc, "nixl_num_kv_expired_reqs_total"}}},
		"28": {{"", warm, nil}, {"28-wrong-port-known-engine", tampered(func(t map[string]any) { t["remote_port"] = 1 }), []string{desc}}},
		"30": {{"30-out-of-range-blocks", tampered(func(t map[string]any) { t["remote_block_ids"] = [][]int{{1000000, 1000001, 1000002, 1000003}} }), []string{desc}}},
	}
	for _, n := range []string{"0016", "0031", "0032", "0033", "0064", "0065", "0128", "0256", "0512", "1024"} {
		groups["10"] = append(groups["10"], step{"10-len-" + n, func(x pair) {
			length := 0
			for _, c := range n {
				length = length*10 + int(c-'0')
			}
			x.proper(newPrompt(length))
		}, []string{desc}}) // the recorded pool was fragmented in two of them
	}
	for name, steps := range groups {
		t.Run(name, func(t *testing.T) {
			x := newPair(t)
			for _, s := range steps {
				var pd, dd map[string]float64
				pd = x.p.delta(func() {
					dd = x.d.delta(func() { s.run(x) })
					if name == "22" && s.name != "" { // the last notification is on its way
						x.p.eventually("a late notification", func() bool { return x.p.scrape()["nixl_num_notifications_after_expiry_total"] == 1 })
					}
				})
				if s.name == "" {
					continue
				}
				for who, got := range map[string]map[string]float64{"P": measured(pd), "D": measured(dd)} {
					want := scaled(map[string]any{"P": recorded[s.name].P, "D": recorded[s.name].D}[who])
					for _, k := range s.skip {
						delete(want, k)
						delete(got, k)
					}
					if d := cmp.Diff(want, got); d != "" {
						t.Errorf("%s, %s: counters (-recorded, scaled; +ours):\n%s", s.name, who, d)
					}
				}
			}
		})
	}
}

// Case 31: P is killed between the legs. The engine goes on.
func TestMetricsPrefillKilled(t *testing.T) {
	x := newPair(t)
	x.next()
	prompt := newPrompt(100)
	ticket := x.p.prefillLeg(prompt)
	x.p.stop()
	<-x.p.done
	x.p.done <- nil // for the clean-up
	got := x.d.delta(func() {
		status, text := x.decodeLeg(prompt, ticket)
		assert.Equal(t, 500, status)
		assert.JSONEq(t, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, text)
		x.decodeLeg(newPrompt(100), nil)
	})
	if d := cmp.Diff(scaled(recordedDeltas(t)["31-prefill-killed"].D), measured(got)); d != "" {
		t.Errorf("counters (-recorded; +ours):\n%s", d)
	}
}

// Cases 12 and 13: a lease that ends, and a pull that comes after it.
func TestLease(t *testing.T) {
	p, d := serve(t, Config{Lease: 50 * time.Millisecond}), serve(t, Config{})
	var ticket map[string]any
	got := p.delta(func() {
		ticket = p.prefillLeg(prompt100)
		p.eventually("lease expired", func() bool { return p.scrape()["nixl_num_kv_expired_reqs_total"] == 1 })
		p.idle()
	})
	assert.Equal(t, 1.0, got["nixl_num_kv_expired_reqs_total"])
	assert.Zero(t, got["nixl_num_notifications_after_expiry_total"])
	assert.Contains(t, p.log.String(), "Releasing expired KV blocks for request "+ticket["remote_request_id"].(string)+" which were retrieved by 0 remote worker(s) before lease expired.")
	// Nobody took the blocks since: a late pull still reads the right text, and P notices.
	a := d.complete(body{"prompt": prompt100, "max_tokens": 99, "kv_transfer_params": ticket})
	assert.Equal(t, prompt100[:96], a.text()[:96])
	p.eventually("late notification", func() bool { return p.scrape()["nixl_num_notifications_after_expiry_total"] == 1 })
	assert.Contains(t, p.log.String(), "Potentially invalid KV blocks for unrecognized request")
}

// Bytes per token as the transfer counts them equal the geometry, exactly, on block multiples.
func TestBytesPerToken(t *testing.T) {
	p, d := serve(t, Config{}), serve(t, Config{})
	for _, n := range []int{16, 128, 512, 2048} {
		prompt := randomTokens(n, uint64(n))
		ticket := p.prefillLeg(prompt)
		got := d.delta(func() { d.complete(body{"prompt": prompt, "max_tokens": 2, "kv_transfer_params": ticket}) })
		assert.Equal(t, float64(2*Layers*KVHeads*HeadDim*2), got["nixl_bytes_transferred_sum"]/float64(n), "%d tokens", n)
		assert.Equal(t, 2.0, got["iteration_tokens_total_sum"], "nothing but the output was computed")
	}
}
