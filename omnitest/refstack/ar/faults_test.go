package ar

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ab is a healthy pair but for what is planted.
func ab(t *testing.T, p, d Faults) (pi, di *instance) {
	t.Helper()
	return serve(t, Config{Faults: p}), serve(t, Config{Faults: d})
}

// TestFaults shows of each fault what is seen of it from outside. The maps are by stage and name: a name may occur on both sides.
func TestFaults(t *testing.T) {
	tested := map[string]func(*testing.T){}
	maps.Copy(tested, plainFaults)
	maps.Copy(tested, prefillFieldFaults)
	maps.Copy(tested, decodeFieldFaults)
	maps.Copy(tested, selectiveFaults)
	fields := reflect.TypeFor[Faults]()
	for n := range fields.NumField() {
		tag := fields.Field(n).Tag
		name := tag.Get("stage") + "." + tag.Get("fault")
		require.Contains(t, tested, name, "a fault without a test")
		t.Run(name, tested[name])
	}
}

var plainFaults = map[string]func(t *testing.T){
	"prefill.zero-blocks": func(t *testing.T) {
		p, d := ab(t, Faults{ZeroBlocks: true}, Faults{})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.NotContains(t, text, textA[:8])
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"], "the transfer looks well")
		text, _ = p.decodeText(textA, nil)
		assert.Equal(t, textA[:64], text, "P's own cache is whole")
	},
	"prefill.lost-head": func(t *testing.T) {
		p, d := ab(t, Faults{LostHead: true}, Faults{})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text, "three of four slices still name the right token")
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
		block := make([]byte, d.s.pool.blockBytes)
		n := d.s.pool.blockSize * rowBytes
		lost := 0
		for b := 1; b < 8; b++ {
			copy(block, d.s.pool.block(int32(b)))
			if bytes.Count(block[n:2*n], []byte{0}) == n {
				lost++
			}
		}
		assert.Positive(t, lost, "the values of the first head did not arrive")
	},
	"prefill.foreign-blocks": func(t *testing.T) {
		p, d := ab(t, Faults{ForeignBlocks: true}, Faults{})
		text, _ := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text, "the first request gets its own")
		text, got := d.decodeText(textB, p.prefillLeg(textB))
		assert.Equal(t, textA[:64], text, "the second gets the first one's")
		assert.Equal(t, 7*16*1024.0, got["nixl_bytes_transferred_sum"])
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
	},
	"prefill.leak-on-abort": func(t *testing.T) {
		p := serve(t, Config{Lease: time.Millisecond, Faults: Faults{LeakOnAbort: true}})
		p.prefillLeg(textA)
		time.Sleep(50 * time.Millisecond)
		m := p.scrape()
		assert.InDelta(t, 7.0/2047, m["kv_cache_usage_perc"], 1e-9, "the lease is over, the blocks are not free")
		assert.Zero(t, m["nixl_num_kv_expired_reqs_total"])
		d := serve(t, Config{})
		d.decodeText(textA, p.prefillLeg(textA))
		p.eventually("a ticket that is pulled is freed all the same", func() bool {
			return p.scrape()["kv_cache_usage_perc"] < 8.0/2047
		})
	},
	"decode.silent-recompute": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{SilentRecompute: true})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="local_compute"}`])
		assert.NotContains(t, got, "nixl_bytes_transferred_sum")
		assert.NotContains(t, got, "external_prefix_cache_hits_total")
		assert.NotZero(t, p.scrape()["kv_cache_usage_perc"], "nobody tells P")
	},
	"decode.transfer-fails": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{TransferFails: "fail"})
		status, _ := d.post("/v1/completions", body{"prompt": textA, "kv_transfer_params": p.prefillLeg(textA)})
		assert.Equal(t, 500, status)
		assert.Equal(t, 1.0, d.scrape()["nixl_num_failed_transfers_total"])
		d = serve(t, Config{LoadFailure: "fail", Faults: Faults{TransferFails: "recompute"}})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 1.0, got["nixl_num_failed_transfers_total"])
		assert.Equal(t, 99.0+64, got["iteration_tokens_total_sum"])
	},
	"decode.claim-hit-without-bytes": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{ClaimHitWithoutBytes: true})
		text, got := d.decodeText(textA, p.prefillLeg(textA))
		assert.Equal(t, textA[:64], text)
		assert.Equal(t, 99.0, got[`prompt_tokens_by_source_total{source="external_kv_transfer"}`])
		assert.Equal(t, 99.0, got["external_prefix_cache_hits_total"])
		assert.NotContains(t, got, "nixl_bytes_transferred_sum")
		assert.Equal(t, 99.0+64, got["iteration_tokens_total_sum"], "what it computed betrays it")
		p.idle()
	},
	"decode.missing-series": func(t *testing.T) {
		d := serve(t, Config{Faults: Faults{MissingSeries: true}})
		m := d.scrape()
		for k := range m {
			assert.NotContains(t, k, "nixl")
			assert.NotContains(t, k, "external")
		}
		assert.Contains(t, m, "prompt_tokens_total", "the rest is there")
	},
	"decode.counter-reset": func(t *testing.T) {
		d := serve(t, Config{Faults: Faults{CounterReset: true}})
		for range 3 {
			before := d.scrape()
			assert.Equal(t, before["prompt_tokens_total"], d.scrape()["prompt_tokens_total"], "stable while nothing happens")
			d.complete(body{"prompt": textA})
			after := d.scrape()
			assert.Less(t, after["prompt_tokens_total"], before["prompt_tokens_total"])
			assert.Less(t, after["nixl_bytes_transferred_sum"], before["nixl_bytes_transferred_sum"])
			assert.GreaterOrEqual(t, after["kv_cache_usage_perc"], 0.0)
		}
	},
	"decode.truncate-stream": func(t *testing.T) {
		d := serve(t, Config{Faults: Faults{TruncateStream: true}})
		status, got := d.post("/v1/completions", body{"prompt": textA, "max_tokens": 20, "temperature": 0, "stream": true})
		assert.Equal(t, 200, status)
		list := events(got)
		assert.Len(t, list, 10)
		assert.NotContains(t, got, "[DONE]")
		assert.NotContains(t, got, `"finish_reason":"`)
		resp, err := http.Post(d.url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"abcdef"}`))
		require.NoError(t, err)
		defer resp.Body.Close()
		part, err := io.ReadAll(resp.Body)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "shorter than its Content-Length")
		assert.False(t, json.Valid(part))
		d.idle()
	},
	"decode.drift": func(t *testing.T) {
		p, d := ab(t, Faults{}, Faults{Drift: "32"})
		prompt := someText(150, 9)
		text, got := d.decodeText(prompt, p.prefillLeg(prompt)) // 64 tokens
		at := parts(text, prompt)
		assert.Greater(t, at, 32)
		assert.LessOrEqual(t, at, 48)
		assert.Equal(t, 10*16*1024.0, got["nixl_bytes_transferred_sum"], "the transfer is perfect")
		assert.Zero(t, got["nixl_num_failed_transfers_total"])
	},
	"decode.error-in-200": func(t *testing.T) {
		d := serve(t, Config{Faults: Faults{ErrorIn200: true}})
		for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
			b := body{"prompt": textA, "messages": []body{{"role": "user", "content": "x"}}}
			status, got := d.post(path, b)
			assert.Equal(t, 200, status)
			assert.JSONEq(t, `{"error":{"message":"Internal server error","type":"InternalServerError","param":null,"code":500}}`, got)
			b["stream"] = true
			status, got = d.post(path, b)
			assert.Equal(t, 200, status)
			assert.Equal(t, sseError(errInternal)+"data: [DONE]\n\n", got)
		}
	},
}

// Faults and Timing travel to a child process as JSON; nothing may be lost.
func TestConfigTravels(t *testing.T) {
	var every Faults
	for i := range reflect.TypeFor[Faults]().NumField() {
		switch f := reflect.ValueOf(&every).Elem().Field(i); f.Kind() {
		case reflect.Bool:
			f.SetBool(true)
		default:
			f.SetString("fail")
		}
	}
	c := Config{Model: "m", EngineID: "e", Listen: "l", Side: "s", BlockSize: 1, Blocks: 2, MaxModelLen: 3, MaxSeqs: 4, MaxBatch: 5,
		Lease: 6, LoadFailure: "recompute", Faults: every, Timing: Timing{1, 2, 3, .5, 4, 5}}
	data, err := json.Marshal(c)
	require.NoError(t, err)
	var got Config
	require.NoError(t, json.NewDecoder(bytes.NewReader(data)).Decode(&got))
	assert.Equal(t, c, got)
}

func TestNewRefuses(t *testing.T) {
	for want, c := range map[string]Config{
		"max model len 8192 is larger than the 1008 tokens that the KV cache holds (64 blocks of 16, one unused)": {Blocks: 64, MaxModelLen: 8192},
		`load failure policy "retry": want fail or recompute`:                                                     {LoadFailure: "retry"},
		`fault transfer-fails "yes": want fail or recompute`:                                                      {Faults: Faults{TransferFails: "yes"}},
		"jitter 2: want 0 to 1":  {Timing: Timing{Jitter: 2}},
		"sizes must be positive": {BlockSize: -1},
	} {
		_, err := New(c)
		assert.ErrorContains(t, err, want)
	}
	s, err := New(Config{Blocks: 64})
	require.NoError(t, err)
	assert.Equal(t, 1008, s.config.MaxModelLen, "a small pool makes a short context")
}

// Planted latencies are lower bounds that the clock must show.
func TestTiming(t *testing.T) {
	p := serve(t, Config{Timing: Timing{PrefillPerToken: time.Millisecond}})
	began := time.Now()
	ticket := p.prefillLeg(textA)
	assert.GreaterOrEqual(t, time.Since(began), 99*time.Millisecond)
	d := serve(t, Config{Timing: Timing{TransferPerBlock: 10 * time.Millisecond, DecodePerStep: 5 * time.Millisecond}})
	began = time.Now()
	d.decodeText(textA, ticket)
	assert.GreaterOrEqual(t, time.Since(began), 7*10*time.Millisecond+63*5*time.Millisecond)
	m := d.scrape()
	assert.GreaterOrEqual(t, m["nixl_xfer_time_seconds_sum"], 0.07)
	assert.GreaterOrEqual(t, m["request_decode_time_seconds_sum"], 63*0.005)
	assert.GreaterOrEqual(t, m["request_queue_time_seconds_sum"], 0.07, "loading is queueing, as recorded")

	s := &Server{config: Config{Timing: Timing{Jitter: .5}}}
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		j := s.jitter(time.Second)
		low, high = min(low, j), max(high, j)
	}
	assert.InDelta(t, .5, low.Seconds(), .02)
	assert.InDelta(t, 1.5, high.Seconds(), .02)

	// Not the heap or the resident size: what other tests leave behind is freed meanwhile, so neither is a fixed sum.
	g := serve(t, Config{Timing: Timing{GrowPerRequest: 1 << 20}})
	for range 3 {
		g.complete(body{"prompt": "x"})
	}
	g.stop()
	require.NoError(t, <-g.done)
	g.done <- nil // for the cleanup
	require.Len(t, g.s.grown, 3)
	for _, kept := range g.s.grown {
		require.Len(t, kept, 1<<20)
		assert.EqualValues(t, 1, kept[len(kept)-4096], "written, so resident and not only reserved")
	}
}
