// Package fakepd is a scripted prefill and decode pair with real vLLM's counters and two-leg proxy, for tests of evidence and
// probes: it can tell lies that no switch of the reference stack tells, because nothing in it really happens.
package fakepd

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
)

// Pair is a scripted prefill and decode with real vLLM's counters, and the echoing model of the reference stack: an
// answer repeats the prompt whose KV it was computed from. Its switches are the lies that an engine can tell.
type Pair struct {
	Prefill, Decode *Engine
	Proxy           *httptest.Server
	mu              sync.Mutex
	byTicket        map[string]string // remote_request_id -> prompt
	records         []flow.Record

	NoLedger     bool                          // a foreign proxy
	IgnoreTicket bool                          // decode recomputes silently
	CountBytes   bool                          // ... and claims the transfer, bytes included: all counters lie
	Blind        bool                          // decode's counters never move
	Refuse       bool                          // decode refuses tickets of other prompts
	Different    bool                          // decode never agrees with prefill
	DropTicket   bool                          // the proxy keeps tickets to itself
	Garble       func(own, lent string) string // decode's text when the ticket is another prompt's
	MoveUnasked  bool                          // decode moves bytes without a ticket
	MoveNothing  bool                          // decode claims tokens, counts no bytes
	PromptFirst  bool                          // answers begin with the prompt's text, as vLLM 0.32's do where a prompt ends inside a character
}

// Engine is one side. Lock it to touch its fields while it serves.
type Engine struct {
	sync.Mutex
	Srv      *httptest.Server
	Counters map[string]float64
	Page     func(e *Engine) (int, string) // instead of the usual metrics page
	Scrapes  int                           // so far
	Lag      int                           // scrapes that still show the old counters after each change
	shown    map[string]float64
	behind   int
}

// Block is the number of tokens in a KV block.
const Block = 16

// The series, as vLLM 0.32 with NIXL names them. Not taken from a dialect: a misspelt dialect must fail here.
const (
	PromptTokens  = "vllm:prompt_tokens_total"
	Generated     = "vllm:generation_tokens_total"
	External      = `vllm:prompt_tokens_by_source_total{source="external_kv_transfer"}`
	LocalCompute  = `vllm:prompt_tokens_by_source_total{source="local_compute"}`
	LocalHit      = `vllm:prompt_tokens_by_source_total{source="local_cache_hit"}`
	Iteration     = "vllm:iteration_tokens_total_sum"
	Bytes         = "vllm:nixl_bytes_transferred_sum"
	Transfers     = "vllm:nixl_bytes_transferred_count"
	Failed        = "vllm:nixl_num_failed_transfers_total"
	FailedNotices = "vllm:nixl_num_failed_notifications_total"
	Preemptions   = "vllm:num_preemptions_total"
	Finished      = "vllm:request_success_total"
	Expired       = "vllm:nixl_num_kv_expired_reqs_total"
)

// ask is what makes prefill answer with a ticket.
var ask = json.RawMessage(`{"do_remote_decode":true,"do_remote_prefill":false}`)

// New starts a pair that ends with the test.
func New(t *testing.T) *Pair {
	f := &Pair{byTicket: map[string]string{}}
	f.Prefill, f.Decode = newEngine(t, f.serve), newEngine(t, f.serve)
	f.Proxy = httptest.NewServer(http.HandlerFunc(f.proxyServe))
	t.Cleanup(f.Proxy.Close)
	return f
}

func newEngine(t *testing.T, complete func(e *Engine, w http.ResponseWriter, body map[string]any)) *Engine {
	e := &Engine{Counters: map[string]float64{"vllm:num_requests_running": 0, "vllm:num_requests_waiting": 0, "vllm:kv_cache_usage_perc": 0}}
	for _, name := range []string{PromptTokens, Generated, External, LocalCompute, LocalHit, Iteration, Bytes, Transfers, Failed,
		FailedNotices, Preemptions, Finished, Expired} {
		e.Counters[name] = 0
	}
	e.shown = maps.Clone(e.Counters)
	e.Srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			e.metrics(w)
		case "/v1/completions":
			var body map[string]any
			_ = json.NewDecoder(r.Body).Decode(&body)
			complete(e, w, body)
		}
	}))
	t.Cleanup(e.Srv.Close)
	return e
}

func (e *Engine) metrics(w http.ResponseWriter) {
	e.Lock()
	defer e.Unlock()
	e.Scrapes++
	if e.Page != nil {
		status, body := e.Page(e)
		w.WriteHeader(status)
		fmt.Fprint(w, body)
		return
	}
	if e.behind--; e.behind < 0 {
		e.shown = maps.Clone(e.Counters)
	}
	fmt.Fprint(w, e.Text(e.shown))
}

// Text is a metrics page. Histogram sums stand as plain counters: the reader cannot tell.
func (e *Engine) Text(values map[string]float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "vllm:cache_config_info{block_size=\"%d\"} 1\n", Block)
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(&b, "%s %g\n", name, values[name])
	}
	return b.String()
}

// Add moves counters.
func (e *Engine) Add(changes map[string]float64) {
	e.Lock()
	defer e.Unlock()
	for k, v := range changes {
		e.Counters[k] += v
	}
	e.behind = e.Lag
}

// Set sets one.
func (e *Engine) Set(name string, v float64) {
	e.Lock()
	defer e.Unlock()
	e.Counters[name] = v
}

// serve is one completion on either engine.
func (f *Pair) serve(e *Engine, w http.ResponseWriter, body map[string]any) {
	prompt, _ := body["prompt"].(string)
	n, out := float64(len(prompt)), 16.0
	text := prompt
	params, _ := body["kv_transfer_params"].(map[string]any)
	counts := map[string]float64{PromptTokens: n, Finished: 1}
	var ticket any
	own := true
	switch {
	case params["do_remote_decode"] == true:
		out = 1
		f.mu.Lock()
		id := fmt.Sprintf("cmpl-%d-0-b9354d93", len(f.byTicket))
		f.byTicket[id] = prompt
		f.mu.Unlock()
		blocks := make([]int, (len(prompt)+Block-1)/Block)
		ticket = map[string]any{"do_remote_prefill": true, "do_remote_decode": false, "remote_block_ids": [][]int{blocks},
			"remote_engine_id": "p", "remote_request_id": id, "remote_host": "127.0.0.1", "remote_port": 5600, "remote_num_tokens": len(prompt)}
		text = prompt[:1]
	case params["do_remote_prefill"] == true && (!f.IgnoreTicket || f.CountBytes):
		own = false
		counts[External] = n
		counts[Bytes] = float64((len(prompt)+Block-1)/Block*Block) * 1024
		counts[Transfers] = 1
		if !f.IgnoreTicket {
			f.mu.Lock()
			text = f.byTicket[params["remote_request_id"].(string)]
			f.mu.Unlock()
			if f.Garble != nil && text != prompt {
				text = f.Garble(prompt, text)
			}
			if f.Refuse && text != prompt {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(http.StatusBadRequest)
				fmt.Fprint(w, `{"error":{"message":"ticket is not for this prompt","type":"BadRequestError","param":null,"code":400}}`)
				return
			}
		}
	}
	if own {
		counts[LocalCompute] = n
	}
	if f.MoveUnasked && e == f.Decode {
		counts[Bytes] = 4096
	}
	if f.MoveNothing {
		counts[Bytes] = 0
	}
	if f.Different && e == f.Decode {
		text = strings.ToUpper(text)
	}
	if limit, _ := body["max_tokens"].(float64); float64(len(text)) > limit {
		text = text[:int(limit)]
	}
	if f.PromptFirst {
		text = prompt + text
	}
	counts[Generated] = out
	counts[Iteration] = out + counts[LocalCompute]
	if !f.Blind || e == f.Prefill {
		e.Add(counts)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"id": "cmpl-1", "object": "text_completion", "model": "fake", "kv_transfer_params": ticket,
		"choices": []any{map[string]any{"index": 0, "text": text, "finish_reason": "length"}},
		"usage":   map[string]any{"prompt_tokens": int(n), "completion_tokens": int(out), "total_tokens": int(n + out)},
	})
}

// proxyServe is a two-leg proxy with a ledger.
func (f *Pair) proxyServe(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == flow.Path {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.NoLedger {
			http.NotFound(w, r)
			return
		}
		var since int64
		fmt.Sscan(r.URL.Query().Get("since"), &since)
		page := flow.Page{Records: []flow.Record{}}
		for _, rec := range f.records {
			page.Last = max(page.Last, rec.Seq)
			if rec.Seq > since {
				page.Records = append(page.Records, rec)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(page)
		return
	}
	var req api.CompletionRequest
	var body map[string]any
	_ = json.NewDecoder(r.Body).Decode(&body)
	req.Prompt, _ = body["prompt"].(string)
	limit, _ := body["max_tokens"].(float64)
	req.MaxTokens = 1
	req.Ticket = ask
	p, err := (&api.Client{BaseURL: f.Prefill.Srv.URL}).Complete(r.Context(), req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	sent := p.Ticket
	if f.DropTicket {
		sent = nil
	}
	req.MaxTokens, req.Ticket = int(limit), sent
	d, err := (&api.Client{BaseURL: f.Decode.Srv.URL}).Complete(r.Context(), req)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	f.mu.Lock()
	f.records = append(f.records, flow.Record{Seq: int64(len(f.records) + 1), RequestID: r.Header.Get("X-Request-Id"), Status: 200, Outcome: "ok",
		Hops: []flow.Hop{{Stage: "prefill", Status: 200, EndMS: 12, TicketOut: p.Ticket}, {Stage: "decode", Status: 200, TicketIn: sent}}})
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"id": "cmpl-1", "object": "text_completion", "model": "fake",
		"choices": []any{map[string]any{"index": 0, "text": d.String(), "finish_reason": "stop"}},
		"usage":   map[string]any{"prompt_tokens": d.Usage.PromptTokens, "completion_tokens": d.Usage.CompletionTokens}})
}

// Hanging is a server that accepts and never answers.
func Hanging(t *testing.T) string {
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(func() { close(release); srv.Close() })
	return srv.URL
}
