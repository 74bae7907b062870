package handoff

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Saved evidence is judged in the dialect that it was gathered in.
func TestDialectsAreReadBack(t *testing.T) {
	all := append([]*Dialect{Multi(&NIXL, &LMCacheMP), Omni("0", "1")}, known...)
	for _, d := range all {
		got := Known(d.Name)
		require.NotNil(t, got, d.Name)
		assert.Equal(t, d.Name, got.Name)
		assert.Equal(t, d.decodeSeries(), got.decodeSeries(), d.Name)
		assert.Equal(t, d.Ticket, got.Ticket, d.Name)
		e := &Evidence{Schema: Schema, Dialect: d.Name}
		file := filepath.Join(t.TempDir(), "e.json")
		require.NoError(t, e.WriteFile(file))
		back, err := ReadFile(file)
		require.NoError(t, err)
		assert.Equal(t, d.Lacks, back.d().Lacks)
		assert.Equal(t, d.PrefillLabels, back.d().PrefillLabels)
	}
	for _, name := range []string{"", "mystery", "multi(nixl+mystery)", "omni(0)", "multi(nixl"} {
		assert.Nil(t, Known(name), name)
	}
	e := healthy("r")
	e.Dialect = "mystery"
	assert.Equal(t, "inconclusive: the evidence was gathered in the dialect mystery, which this build does not know", Proven(e).String())
}

// spoken turns healthy evidence into that of another dialect.
func spoken(d *Dialect) *Evidence {
	e := healthy("r")
	e.Dialect, e.dialect = d.Name, nil
	for _, s := range []struct {
		*Stage
		all []Series
	}{{&e.Decode, d.decodeSeries()}, {&e.Prefill, d.prefillSeries()}} {
		kept := map[string]Counter{}
		for _, x := range s.all {
			kept[x.String()] = s.Counters[x.String()]
		}
		s.Counters = kept
	}
	for i := range e.Flow.Records[0].Hops {
		e.Flow.Records[0].Hops[i].TicketIn, e.Flow.Records[0].Hops[i].TicketOut = nil, nil
	}
	return e
}

// Where bytes are not counted a verdict rests on tokens and content, and says so; a recompute is refuted all the same.
func TestDialectsWithoutBytes(t *testing.T) {
	for _, d := range []*Dialect{&Example, &Mooncake, &P2PNCCL, &LMCache, &LMCacheMP, &Offloading, &NIXLPush, Multi(&LMCacheMP, &Offloading)} {
		e := spoken(d)
		v := Proven(e)
		assert.Equal(t, "proven: decode took 512 of 512 prompt tokens from prefill, computed 0 itself; 1 answer as wanted (known answer)", v.String(), d.Name)
		assert.Contains(t, v.Notes, d.Lacks, d.Name)

		e = spoken(d)
		e.set(&e.Decode, d.External, 0)
		e.set(&e.Decode, d.LocalCompute, 512)
		e.set(&e.Decode, d.Iteration, 528)
		assert.Equal(t, "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes not counted)", Proven(e).String(), d.Name)

		e = spoken(d)
		e.on(&e.Decode, d.External, prom.Absent)
		assert.Equal(t, StateInconclusive, Proven(e).State, d.Name)
	}
}

// A cache whose chunks are of unknown size may leave a part to decode: doubt, not refutation.
func TestDialectTailUnknown(t *testing.T) {
	e := spoken(&LMCache)
	e.set(&e.Decode, LMCache.External, 256)
	e.set(&e.Decode, LMCache.LocalCompute, 256)
	e.set(&e.Decode, LMCache.Iteration, 272)
	assert.Equal(t, "inconclusive: decode computed 256 of 512 prompt tokens itself (iteration_tokens +272, bytes not counted), and took 256: how many tokens lmcache moves together is not known", Proven(e).String())
}

func TestMulti(t *testing.T) {
	m := Multi(&NIXL, &LMCacheMP)
	assert.Equal(t, "multi(nixl+lmcache-mp)", m.Name)
	assert.Empty(t, m.Bytes.Name, "LMCache loads past NIXL's counter")
	assert.Equal(t, NIXL.FailedTransfers, m.FailedTransfers)
	assert.Equal(t, NIXL.Expired, m.Expired)
	assert.JSONEq(t, string(NIXL.Ask), string(m.Ask))
	assert.NoError(t, CheckTicket(m, ticketOf("r", 100)))
	assert.EqualError(t, CheckTicket(m, json.RawMessage(`{"remote_host":"h"}`)), "ticket lacks remote_engine_id, remote_request_id, remote_port, remote_block_ids")
	both := Multi(&NIXL, &Offloading)
	assert.NoError(t, CheckTicket(both, ticketOf("r", 100)), "the other child's keys are the proxy's to make")
	assert.ErrorContains(t, CheckTicket(both, json.RawMessage(`{"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":[[1]],
		"remote_prefiller":{"remote_port":0}}`)), "remote_prefiller.remote_port is 0, want a port from 1 to 65535")
	assert.Equal(t, NIXL.Bytes, Multi(&NIXL).Bytes)

	// Bytes of 0 beside transferred tokens would refute a dialect that counts bytes.
	e := spoken(m)
	e.Flow = Flow{Note: "no ledger"}
	assert.Equal(t, StateProven, Proven(e).State, Proven(e).String())
	e.set(&e.Decode, m.FailedTransfers, 1)
	assert.Equal(t, "refuted: decode counted 1 failed transfer", Proven(e).String())
}

// Old vLLM counted the last token of a cached prompt twice, and named blocks in a flat list.
func TestOldEpoch(t *testing.T) {
	e := healthy("r")
	e.Flow.Records[0].Hops[0].TicketOut = flatTicket(512)
	e.Flow.Records[0].Hops[1].TicketIn = flatTicket(512)
	e.set(&e.Decode, NIXL.LocalCompute, 1)
	e.set(&e.Decode, NIXL.Recomputed, 1)
	e.held(&e.Decode, 0, 0)
	e.held(&e.Prefill, 0, 0)
	e.set(&e.Decode, NIXL.Iteration, 17)
	assert.Equal(t, StateProven, Proven(e).State, Proven(e).String())
	assert.Equal(t, StateProven, Sane(e).State, Sane(e).String())
	assert.Equal(t, StateProven, TicketsWellFormed(e).State, TicketsWellFormed(e).String())

	// Before about 0.16 nothing told tokens by source: not measured, never 0.
	for _, x := range []Series{NIXL.External, NIXL.LocalCompute, NIXL.LocalHit} {
		e.on(&e.Decode, x, prom.Absent)
	}
	assert.Equal(t, StateInconclusive, Proven(e).State, Proven(e).String())
}

// flatTicket is a ticket of older vLLM: flat ids, no token count.
func flatTicket(tokens int) json.RawMessage {
	ids, _ := json.Marshal(sequence(ceilDiv(tokens, 16)))
	return json.RawMessage(fmt.Sprintf(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":%s,"remote_engine_id":"engine-p",`+
		`"remote_request_id":"cmpl-r-0-b9354d93","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1}`, ids))
}

func sequence(n int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = i + 1
	}
	return ids
}

// Two stages of one orchestrator share a page; each is read by its own label, and the window finds that out itself.
func TestOmniStagesOnOnePage(t *testing.T) {
	t.Parallel()
	var done atomic.Bool
	page := func() (text string) {
		n := 0.0
		if done.Load() {
			n = 1
		}
		line := func(stage, name, labels string, v float64) {
			text += fmt.Sprintf("%s{stage=%q,replica=\"0\",model_name=\"m\"%s} %g\n", name, stage, labels, v)
		}
		for _, s := range []struct {
			stage               string
			external, local, it float64
		}{{"0", 0, 100, 101}, {"1", 100, 0, 16}} {
			out := s.it - s.local
			line(s.stage, "vllm:prompt_tokens_total", "", 100*n)
			line(s.stage, "vllm:generation_tokens_total", "", out*n)
			line(s.stage, "vllm:prompt_tokens_by_source_total", `,source="external_kv_transfer"`, s.external*n)
			line(s.stage, "vllm:prompt_tokens_by_source_total", `,source="local_compute"`, s.local*n)
			line(s.stage, "vllm:prompt_tokens_by_source_total", `,source="local_cache_hit"`, 0)
			line(s.stage, "vllm:iteration_tokens_total_sum", "", s.it*n)
			line(s.stage, "vllm:num_preemptions_total", "", 0)
			line(s.stage, "vllm:request_success_total", "", n)
			line(s.stage, "vllm:num_requests_running", "", 0)
			line(s.stage, "vllm:num_requests_waiting", "", 0)
			line(s.stage, "vllm:kv_cache_usage_perc", "", 0)
		}
		return text
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, page()) }))
	defer srv.Close()
	at := Endpoint{MetricsURL: srv.URL + "/metrics"}
	s := Source{Prefill: at, Decode: at, BlockSize: 16, Settle: 5 * time.Millisecond}
	w, err := Open(t.Context(), s)
	require.NoError(t, err)
	done.Store(true)
	w.Observe(Observation{Prompt: "p", PromptTokens: 100, OutputTokens: 16, Got: "x", Want: "x", WantFrom: "known answer"})
	e, err := w.Close(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "omni(0>1)", e.Dialect)
	assert.Equal(t, "stages 0 and 1 on decode's page", e.DialectFrom)
	assert.Equal(t, "proven: decode took 100 of 100 prompt tokens from prefill, computed 0 itself; 1 answer as wanted (known answer)", Proven(e).String())
	assert.Equal(t, "proven: decode counted 100 prompt tokens of 1 request, every way the same (1 engine of m); prefill counted 100 prompt tokens of 1 request, every way the same (1 engine of m)", Sane(e).String())
}

// The two legs of a proxy's ticket must speak of one transfer.
func TestMooncakeTickets(t *testing.T) {
	ticket := func(id string) json.RawMessage {
		return json.RawMessage(`{"do_remote_prefill":true,"do_remote_decode":false,"transfer_id":"` + id + `","remote_bootstrap_addr":"http://10.0.0.11:8998","remote_engine_id":"e"}`)
	}
	with := func(p, d string) *Evidence {
		e := spoken(&Mooncake)
		e.Flow.Records[0].Hops = []flow.Hop{{Stage: "prefill", Status: 200, TicketIn: json.RawMessage(p)}, {Stage: "decode", Status: 200, TicketIn: json.RawMessage(d)}}
		return e
	}
	ask := `{"do_remote_decode":true,"do_remote_prefill":false,"transfer_id":"x1"}`
	assert.Equal(t, "proven: 1 ticket of mooncake, every key as it must be", TicketsWellFormed(with(ask, string(ticket("x1")))).String())
	assert.Equal(t, `refuted: prefill was sent transfer_id "x1", decode "x2"`, TicketsWellFormed(with(ask, string(ticket("x2")))).String())
	assert.Equal(t, `refuted: prefill was sent no transfer_id, decode "x1"`, TicketsWellFormed(with(`{"do_remote_decode":true}`, string(ticket("x1")))).String())
	assert.Equal(t, `refuted: what decode was sent: ticket lacks transfer_id, remote_engine_id`, TicketsWellFormed(with(ask, `{"remote_bootstrap_addr":"http://h:1","do_remote_prefill":true}`)).String())
	assert.Equal(t, `refuted: what decode was sent: remote_bootstrap_addr is "10.0.0.11:8998", want http://host:port`,
		TicketsWellFormed(with(ask, `{"transfer_id":"x1","remote_engine_id":"e","remote_bootstrap_addr":"10.0.0.11:8998","do_remote_prefill":true}`)).String())
}

func TestP2PRequestIDs(t *testing.T) {
	const good = "___prefill_addr_10.0.0.11:21001___decode_addr_10.0.0.12:22001_5ec0ffee-1"
	with := func(p, d string) *Evidence {
		e := spoken(&P2PNCCL)
		e.Flow.Records[0].Hops = []flow.Hop{{Stage: "prefill", Status: 200, RequestID: p}, {Stage: "decode", Status: 200, RequestID: d}}
		return e
	}
	assert.Equal(t, "proven: 1 request id of p2p-nccl, every key as it must be", TicketsWellFormed(with(good, good)).String())
	assert.Equal(t, fmt.Sprintf("refuted: prefill was sent request id %q, decode %q: they never meet", good, good+"9"), TicketsWellFormed(with(good, good+"9")).String())
	assert.Contains(t, TicketsWellFormed(with("r-1", "r-1")).String(), `refuted: prefill leg: request id "r-1" names no addresses`)
	bad := "___prefill_addr_10.0.0.11___decode_addr_10.0.0.12:22001_5ec0ffee"
	assert.Contains(t, TicketsWellFormed(with(bad, bad)).String(), `refuted: prefill leg: request id names "10.0.0.11" as prefill's address`)
}
