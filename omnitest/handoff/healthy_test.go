package handoff

import (
	"encoding/json"
	"fmt"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// ticketOf is a ticket as real vLLM 0.32 gives it.
func ticketOf(id string, tokens int) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,3]],"remote_engine_id":"engine-p",`+
		`"remote_request_id":"cmpl-%s-0-b9354d93","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1,"remote_num_tokens":%d}`, id, tokens))
}

// record is a request that went the right way.
func record(id string, tokens int) flow.Record {
	t := ticketOf(id, tokens)
	return flow.Record{RequestID: id, Route: "/v1/completions", Status: 200, Outcome: "ok", EndMS: 40, Hops: []flow.Hop{
		{Stage: "prefill", EndMS: 12, Status: 200, TicketOut: t},
		{Stage: "decode", StartMS: 13, EndMS: 40, Status: 200, TicketIn: t},
	}}
}

func counters(d *Dialect, all []Series, values map[string]float64) map[string]Counter {
	m := map[string]Counter{}
	for _, x := range all {
		v, ok := values[x.String()]
		m[x.String()] = Counter{prom.Present, v}
		if !ok && x.Optional {
			m[x.String()] = Counter{State: prom.Absent}
		}
	}
	return m
}

// healthy is the evidence of requests of 512 tokens each, 16 output tokens, block size 16, 1024 bytes per token.
func healthy(ids ...string) *Evidence {
	n := float64(len(ids))
	d := &NIXL
	e := &Evidence{Schema: Schema, Dialect: d.Name, BlockSize: 16, BytesPerToken: 1024, Flow: Flow{Kept: true}}
	e.Decode.Counters = counters(d, d.decodeSeries(), map[string]float64{
		d.PromptTokens.String(): 512 * n, d.Generated.String(): 16 * n, d.External.String(): 512 * n,
		d.Iteration.String(): 16 * n, d.Bytes.String(): 512 * 1024 * n, d.Transfers.String(): n, d.Finished.String(): n,
	})
	e.Prefill.Counters = counters(d, d.prefillSeries(), map[string]float64{
		d.PromptTokens.String(): 512 * n, d.LocalCompute.String(): 512 * n, d.Generated.String(): n, d.Iteration.String(): 513 * n, d.Finished.String(): n,
	})
	for _, id := range ids {
		e.Flow.Records = append(e.Flow.Records, record(id, 512))
		text := "the answer to " + id + ", which has a certain length"
		e.Observations = append(e.Observations, Observation{RequestID: id, Prompt: text, PromptTokens: 512, Got: text, Want: text, WantFrom: "known answer"})
	}
	return e
}

func (e *Evidence) set(s *Stage, x Series, v float64) {
	s.Counters[x.String()] = Counter{prom.Present, v}
}
func (e *Evidence) held(s *Stage, before, after float64) {
	s.UsageBefore, s.UsageAfter = &before, &after
}
func (e *Evidence) on(s *Stage, x Series, st prom.State) {
	s.Counters[x.String()] = Counter{State: st}
}

// recompute turns decode's counters into those of an engine that prefilled everything itself.
func (e *Evidence) recompute() {
	n := float64(len(e.Observations))
	d := e.d()
	e.set(&e.Decode, d.External, 0)
	e.set(&e.Decode, d.LocalCompute, 512*n)
	e.set(&e.Decode, d.Iteration, 528*n)
	e.set(&e.Decode, d.Bytes, 0)
	e.set(&e.Decode, d.Transfers, 0)
}
