package handoff

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/internal/replay"
)

// page is a recorded page with more lines.
func page(t *testing.T, name string, more ...string) *prom.Snapshot {
	t.Helper()
	pages, err := metricsPages()
	require.NoError(t, err)
	require.Contains(t, pages, name)
	s, err := prom.Parse([]byte(string(pages[name]) + strings.Join(more, "\n") + "\n"))
	require.NoError(t, err)
	return s
}

func TestDetect(t *testing.T) {
	const plain, nixl = "example/01-proper/d-after.prom", "nixl/01-proper/d-after.prom"
	mooncake := `{"do_remote_prefill":true,"transfer_id":"x","remote_bootstrap_addr":"http://h:8998","remote_engine_id":"e"}`
	for _, c := range []struct {
		name, base string
		lines      []string
		tickets    []string
		want, from string
		assumed    bool
	}{
		{name: "recorded NIXL", base: nixl, want: "nixl", from: "vllm:nixl_bytes_transferred_count on decode's page"},
		{name: "NIXL before its first transfer", base: "nixl/01-proper/d-before.prom", want: "nixl", from: "vllm:nixl_bytes_transferred_count on decode's page"},
		{name: "recorded Example leaves no sign", base: plain, want: "nixl", from: "assumed: neither a connector's series nor a ticket was seen", assumed: true},
		{name: "nothing but a NIXL ticket", base: plain, tickets: []string{"null", string(NIXL.Ask), string(ticketOf("r", 100))}, want: "nixl", from: "the key remote_block_ids of a ticket"},
		{name: "a ticket in push mode", base: plain, tickets: []string{`{"remote_block_ids":[[1]],"transfer_mode":"push"}`}, want: "nixl-push", from: "the key remote_block_ids of a ticket"},
		{name: "series of NIXL, ticket in push mode", base: nixl, tickets: []string{`{"remote_block_ids":[[1]],"transfer_mode":"push"}`}, want: "nixl-push", from: "the key remote_block_ids of a ticket"},
		{name: "a Mooncake ticket", base: plain, tickets: []string{mooncake}, want: "mooncake", from: "the key remote_bootstrap_addr of a ticket"},
		{name: "an offloading ticket", base: plain, tickets: []string{`{"remote_prefiller":{}}`}, want: "offloading", from: "the key remote_prefiller of a ticket"},
		{name: "LMCache", base: plain, lines: []string{"lmcache:anything_total 1"}, want: "lmcache", from: "lmcache:anything_total on decode's page"},
		{name: "LMCache beside NIXL", base: nixl, lines: []string{"lmcache_mp_anything 1"}, want: "multi(nixl+lmcache-mp)", from: "vllm:nixl_bytes_transferred_count on decode's page, lmcache_mp_anything on decode's page"},
		{name: "named by a config series", base: plain, lines: []string{`vllm:kv_transfer_config_info{kv_connector="MooncakeConnector"} 1`}, want: "mooncake", from: `kv_connector="MooncakeConnector" on decode's page`},
		{name: "Example named by a config series", base: plain, lines: []string{`x{kv_connector="SharedStorageConnector"} 1`}, want: "example", from: `kv_connector="SharedStorageConnector" on decode's page`},
		{name: "MultiConnector is told by its children", base: nixl, lines: []string{`x{kv_connector="MultiConnector"} 1`}, want: "nixl", from: "vllm:nixl_bytes_transferred_count on decode's page"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var tickets []json.RawMessage
			for _, x := range c.tickets {
				tickets = append(tickets, json.RawMessage(x))
			}
			d, from, assumed, err := detect(page(t, c.base), page(t, c.base, c.lines...), tickets)
			require.NoError(t, err)
			assert.Equal(t, c.want, d.Name)
			assert.Equal(t, c.from, from)
			assert.Equal(t, c.assumed, assumed)
		})
	}
}

// What is not known is an error with what was found; it is never taken for something that is known.
func TestDetectUnknown(t *testing.T) {
	const plain, nixl = "example/01-proper/d-after.prom", "nixl/01-proper/d-after.prom"
	const list = "; known dialects are nixl, nixl-push, example, mooncake, p2p-nccl, lmcache, lmcache-mp, offloading"
	sglang, err := prom.Parse([]byte("sglang:a 1\nsglang:b 1\nsglang:c 1\nsglang:d 1\nsglang:e 1\nsglang:f 1\nsglang:g 1\nsglang:h 1\n"))
	require.NoError(t, err)
	for _, c := range []struct {
		name         string
		p, d         *prom.Snapshot
		ticket, want string
	}{
		{"another engine", page(t, plain), sglang, "", "decode's metrics page has no series of vLLM: found sglang:a, sglang:b, sglang:c, sglang:d, sglang:e, sglang:f and 2 more" + list},
		{"another connector", page(t, plain), page(t, plain, `x{kv_connector="FlexConnector"} 1`), "", `no dialect for this connector: found kv_connector="FlexConnector" on decode's page` + list},
		{"a ticket of MoRI-IO", page(t, plain), page(t, plain), `{"remote_block_ids":[[1]],"remote_notify_port":1}`, "no dialect for a ticket of MoRI-IO: found its key remote_notify_port" + list},
		{"a ticket of SGLang", page(t, plain), page(t, plain), `{"bootstrap_room":1}`, "no dialect for a ticket of SGLang: found its key bootstrap_room" + list},
		{"a ticket of nobody", page(t, plain), page(t, plain), `{"z":1,"a":2}`, "no dialect for this ticket: found a, z" + list},
		{"page and ticket disagree", page(t, nixl), page(t, nixl), `{"remote_bootstrap_addr":"http://h:1"}`,
			"pages and tickets speak of different connectors: found vllm:nixl_bytes_transferred_count on decode's page, the key remote_bootstrap_addr of a ticket" + list},
		{"three stages", page(t, plain), page(t, plain, `vllm:prompt_tokens_total{stage="0"} 1`, `vllm:prompt_tokens_total{stage="1"} 1`, `vllm:prompt_tokens_total{stage="2"} 1`), "",
			"an orchestrator's page must tell which stage is prefill and which decode, and has not two of them: found stages 0, 1, 2" + list},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, _, err := detect(c.p, c.d, []json.RawMessage{json.RawMessage(c.ticket)})
			var unknown *Unknown
			require.ErrorAs(t, err, &unknown)
			assert.EqualError(t, err, c.want)
		})
	}
}

// TestDetectRecordedPages: every page that real vLLM with NIXL served is NIXL's, and none of ExampleConnector's is anybody's.
func TestDetectRecordedPages(t *testing.T) {
	pages, err := metricsPages()
	require.NoError(t, err)
	gpu, err := replay.Pages(recordings, "vllm-gpu-pd-0.26.0/metrics.tar.bz2")
	require.NoError(t, err)
	n := map[string]int{}
	for name, text := range pages {
		if !strings.Contains(name, "01-proper") && !strings.Contains(name, "killed") && !strings.Contains(name, "04-") {
			continue // the others are of the same engines
		}
		s, err := prom.Parse(text)
		require.NoError(t, err, name)
		d, _, assumed, err := detect(s, s, nil)
		require.NoError(t, err, name)
		assert.Equal(t, "nixl", d.Name, name)
		assert.Equal(t, strings.HasPrefix(name, "example/"), assumed, name)
		n[strings.Split(name, "/")[0]]++
	}
	assert.Positive(t, n["nixl"])
	assert.Positive(t, n["example"])
	for name, text := range gpu {
		s, err := prom.Parse(text)
		require.NoError(t, err, name)
		d, _, assumed, err := detect(s, s, nil)
		require.NoError(t, err, name)
		assert.Equal(t, "nixl", d.Name, name)
		assert.False(t, assumed, name)
	}
}

func TestDetectSource(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	d, from, err := Detect(t.Context(), sourceOf(f))
	require.NoError(t, err)
	assert.Same(t, &NIXL, d)
	assert.Equal(t, "vllm:nixl_bytes_transferred_count on decode's page", from)

	e := window(t, sourceOf(f), 1)
	assert.Equal(t, from, e.DialectFrom)
	s := sourceOf(f)
	s.Dialect = &NIXL
	assert.Equal(t, "given", window(t, s, 1).DialectFrom)

	f.Decode.Srv.Close()
	_, _, err = Detect(t.Context(), sourceOf(f))
	assert.ErrorContains(t, err, "detect dialect: decode: scrape ")
}

// An engine that nobody knows stops the window before anything was sent.
func TestOpenUnknownEngine(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	f.Prefill.Page = func(*fakepd.Engine) (int, string) { return 200, "sglang:num_running_reqs 0\n" }
	_, err := Open(t.Context(), sourceOf(f))
	var unknown *Unknown
	require.ErrorAs(t, err, &unknown)
	assert.ErrorContains(t, err, "open handoff window: prefill's metrics page has no series of vLLM: found sglang:num_running_reqs; known dialects are nixl, ")
}

// Series that come with the first transfer are found at the end; without any the ticket tells, and what no dialect speaks is said.
func TestDialectFoundAtClose(t *testing.T) {
	t.Parallel()
	hidden := func(e *fakepd.Engine, always bool) func(*fakepd.Engine) (int, string) {
		return func(e *fakepd.Engine) (int, string) {
			values := map[string]float64{}
			for k, v := range e.Counters {
				if !strings.Contains(k, "nixl") || !always && e.Counters[fakepd.Finished] > 0 {
					values[k] = v
				}
			}
			return 200, e.Text(values)
		}
	}
	f := fakepd.New(t)
	f.Prefill.Page, f.Decode.Page = hidden(f.Prefill, false), hidden(f.Decode, false)
	e := window(t, sourceOf(f), 1)
	assert.Equal(t, "vllm:nixl_bytes_transferred_count on decode's page (at the end of the window)", e.DialectFrom)
	assert.Equal(t, StateProven, Proven(e).State, Proven(e).String())

	f = fakepd.New(t)
	f.Prefill.Page, f.Decode.Page = hidden(f.Prefill, true), hidden(f.Decode, true)
	e = window(t, sourceOf(f), 1)
	assert.Equal(t, "the key remote_block_ids of a ticket (at the end of the window)", e.DialectFrom)
	assert.Equal(t, "inconclusive: series absent: vllm:nixl_bytes_transferred_count of decode and 4 more", Proven(e).String())

	f.NoLedger = true
	e = window(t, sourceOf(f), 1)
	v := Proven(e)
	assert.Equal(t, StateInconclusive, v.State)
	assert.Contains(t, v.Notes, "dialect nixl assumed: neither a connector's series nor a ticket was seen")
}

// NIXL's series are there before the first ticket says that it pushes; a page and a ticket that disagree are told of.
func TestPushIsFoundAtClose(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	with := func(ticket string) Flow {
		return Flow{Kept: true, Records: []flow.Record{{Hops: []flow.Hop{{Stage: "decode", TicketIn: json.RawMessage(ticket)}}}}}
	}
	w, err := Open(t.Context(), sourceOf(f))
	require.NoError(t, err)
	w.reconsider(with(string(ticketOf("r", 100))))
	assert.Same(t, &NIXL, w.source.Dialect)
	assert.Equal(t, "vllm:nixl_bytes_transferred_count on decode's page", w.dialectFrom)
	w.reconsider(with(`{"bootstrap_room":1}`))
	assert.Same(t, &NIXL, w.source.Dialect)
	assert.Contains(t, w.dialectFrom, ", and then no dialect for a ticket of SGLang")
	w.reconsider(with(`{"remote_block_ids":[[1]],"transfer_mode":"push"}`))
	assert.Same(t, &NIXLPush, w.source.Dialect)
	assert.Equal(t, "the key remote_block_ids of a ticket (at the end of the window)", w.dialectFrom)

	s := sourceOf(f)
	s.Dialect = &NIXL
	w, err = Open(t.Context(), s)
	require.NoError(t, err)
	w.reconsider(with(`{"remote_block_ids":[[1]],"transfer_mode":"push"}`))
	assert.Same(t, &NIXL, w.source.Dialect, "the caller knows better")
}

func ExampleUnknown() {
	fmt.Println(&Unknown{"no dialect for this ticket", []string{"a", "z"}})
	// Output: no dialect for this ticket: found a, z; known dialects are nixl, nixl-push, example, mooncake, p2p-nccl, lmcache, lmcache-mp, offloading
}
