package ar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// instance is a Server that listens.
type instance struct {
	t    testing.TB
	url  string
	s    *Server
	log  *syncBuffer
	done chan error // Serve's result
	stop context.CancelFunc
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const patience = 60 * time.Second // the machine may be busy; a hang still ends

func serve(t testing.TB, c Config) *instance {
	t.Helper()
	log := &syncBuffer{}
	c.Log = log
	s, err := New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan string, 1)
	i := &instance{t: t, s: s, log: log, done: make(chan error, 1), stop: cancel}
	go func() { i.done <- s.Serve(ctx, func(http, side string) { ready <- http }) }()
	select {
	case addr := <-ready:
		i.url = "http://" + addr
	case err := <-i.done:
		t.Fatalf("Serve: %v", err)
	}
	t.Cleanup(func() {
		cancel()
		select {
		case <-i.done:
		case <-time.After(patience):
			t.Error("Serve did not return")
		}
	})
	return i
}

type body = map[string]any

// post sends a request and gives status and body.
func (i *instance) post(path string, b any) (int, string) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	data, err := json.Marshal(b)
	require.NoError(i.t, err)
	req, _ := http.NewRequestWithContext(ctx, "POST", i.url+path, bytes.NewReader(data))
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(i.t, err)
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	require.NoError(i.t, err)
	return resp.StatusCode, string(got)
}

// send posts and reads a whole answer; the error is the transport's.
func send(ctx context.Context, url string, b any) (string, error) {
	data, err := json.Marshal(b)
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, "POST", url, bytes.NewReader(data))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func parse(t testing.TB, s string) (a answer) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(s), &a), s)
	return a
}

// listenSilently accepts connections and never answers; it gives the port.
func listenSilently(t *testing.T) int {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { conn.Close() })
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// complete is a completion that must succeed.
func (i *instance) complete(b body) answer {
	i.t.Helper()
	status, got := i.post("/v1/completions", b)
	require.Equal(i.t, 200, status, got)
	var a answer
	require.NoError(i.t, json.Unmarshal([]byte(got), &a))
	return a
}

type answer struct {
	ID      string `json:"id"`
	Choices []struct {
		Text    string `json:"text"`
		Message struct {
			Content string `json:"content"`
		} `json:"message"`
		FinishReason string  `json:"finish_reason"`
		TokenIDs     []int32 `json:"token_ids"`
	} `json:"choices"`
	Usage struct {
		Prompt     int `json:"prompt_tokens"`
		Completion int `json:"completion_tokens"`
		Details    struct {
			Cached int `json:"cached_tokens"`
		} `json:"prompt_tokens_details"`
	} `json:"usage"`
	Ticket map[string]any `json:"kv_transfer_params"`
}

func (a answer) text() string { return a.Choices[0].Text }

// prefillLeg sends what a proxy sends to prefill, and gives the ticket.
func (i *instance) prefillLeg(prompt any) map[string]any {
	i.t.Helper()
	a := i.complete(body{"prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": false,
		"kv_transfer_params": body{"do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": nil,
			"remote_block_ids": nil, "remote_host": nil, "remote_port": nil}})
	require.NotNil(i.t, a.Ticket, "prefill answered without a ticket")
	return a.Ticket
}

// scrape reads all series: name{label="value"} without engine and model_name.
func (i *instance) scrape() map[string]float64 {
	i.t.Helper()
	resp, err := http.Get(i.url + "/metrics")
	require.NoError(i.t, err)
	defer resp.Body.Close()
	parser := expfmt.NewTextParser(prommodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(resp.Body)
	require.NoError(i.t, err)
	got := map[string]float64{}
	for name, f := range families {
		name = strings.TrimPrefix(name, "vllm:")
		for _, m := range f.Metric {
			key := name
			for _, l := range m.Label {
				if n := l.GetName(); n != "engine" && n != "model_name" && name != "cache_config_info" {
					key += fmt.Sprintf("{%s=%q}", n, l.GetValue())
				}
			}
			switch {
			case m.Counter != nil:
				got[key] = m.Counter.GetValue()
			case m.Gauge != nil:
				got[key] = m.Gauge.GetValue()
			case m.Histogram != nil:
				got[key+"_sum"], got[key+"_count"] = m.Histogram.GetSampleSum(), float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return got
}

// delta gives the counters that moved while f ran.
func (i *instance) delta(f func()) map[string]float64 {
	i.t.Helper()
	before := i.scrape()
	f()
	after := i.scrape()
	maps.DeleteFunc(after, func(k string, v float64) bool { return v == before[k] })
	for k := range after {
		after[k] -= before[k]
	}
	return after
}

// eventually waits for a condition that the other side's goroutines bring about.
func (i *instance) eventually(what string, ok func() bool) {
	i.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			i.t.Fatalf("not within %s: %s\n%s", patience, what, i.log)
		}
	}
}

func (i *instance) idle() {
	i.t.Helper()
	i.eventually("idle, with no blocks in use", func() bool {
		m := i.scrape()
		return m["num_requests_running"] == 0 && m["num_requests_waiting"] == 0 && m["kv_cache_usage_perc"] == 0
	})
}

const prompt100 = "The quick brown fox jumps over the lazy dog while 12 cats sit on 34 m. 请描述一张红苹果🍎!"

func TestEcho(t *testing.T) {
	require.Len(t, prompt100, 100, "the name says its length")
	i := serve(t, Config{})
	a := i.complete(body{"prompt": prompt100, "max_tokens": 200, "temperature": 0})
	require.Equal(t, prompt100, a.text())
	require.Equal(t, "stop", a.Choices[0].FinishReason)
	require.Equal(t, len(prompt100)+1, a.Usage.Completion, "the end token counts, as in vLLM")
	a = i.complete(body{"prompt": prompt100, "max_tokens": 9, "temperature": 0})
	require.Equal(t, "The quick", a.text())
	require.Equal(t, "length", a.Choices[0].FinishReason)
	_, got := i.post("/v1/chat/completions", body{"messages": []body{{"role": "system", "content": "You are a poet."}, {"role": "user", "content": prompt100}}})
	require.Equal(t, prompt100, parse(t, got).Choices[0].Message.Content)
}

// Ids: the client's in the answer, and the engine's own with a random tail, so that P and D never agree.
func TestRequestIDs(t *testing.T) {
	i := serve(t, Config{})
	for path, want := range map[string][2]string{
		"/v1/completions":      {"cmpl-req-1", `^cmpl-req-1-0-[0-9a-f]{8}$`},
		"/v1/chat/completions": {"chatcmpl-req-1", `^chatcmpl-req-1-[0-9a-f]{8}$`},
	} {
		_, got := i.replay(replay.Exchange{Method: "POST", Path: path, RequestHeader: http.Header{"X-Request-Id": {"req-1"}, "Content-Type": {"application/json"}},
			RequestBody: []byte(`{"prompt":"x","messages":[{"role":"user","content":"x"}],"max_tokens":1,"kv_transfer_params":{"do_remote_decode":true}}`)})
		a := parse(t, got)
		require.Equal(t, want[0], a.ID)
		require.Regexp(t, want[1], a.Ticket["remote_request_id"])
	}
}
