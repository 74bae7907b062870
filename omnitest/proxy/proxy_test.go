package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
)

func TestNewRefuses(t *testing.T) {
	const p = "http://127.0.0.1:1"
	for want, c := range map[string]Config{
		"proxy: Prefill is set and Decode is not: nobody would use the tickets; set both or neither": {Prefill: p},
		"proxy: Decode is set and Prefill is not: nobody would make tickets; set both or neither":    {Decode: p, DiT: p},
		"proxy: no stage at all: set Prefill and Decode, or DiT, or all three":                       {},
		`proxy: DiT "127.0.0.1:8091": want a base URL like http://127.0.0.1:8000`:                    {DiT: "127.0.0.1:8091"},
		`proxy: Decode "http://h:1/v1": want the base URL without /v1`:                               {Prefill: p, Decode: "http://h:1/v1/"},
		"proxy: negative limit -1s": {DiT: p, DiTLimit: -time.Second},
	} {
		_, err := New(c)
		assert.EqualError(t, err, want)
	}
	_, err := New(Config{DiT: p, LedgerFile: filepath.Join(t.TempDir(), "no", "such", "dir")})
	assert.ErrorContains(t, err, "proxy: ledger: open ")
}

func TestBadBodiesReachNobody(t *testing.T) {
	r := newRig(t, nil)
	for _, path := range []string{"/v1/completions", "/v1/chat/completions", "/v1/images/generations"} {
		for body, want := range map[string]string{
			``:                      "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}",
			`{"model": "tiny", "me`: "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.21', 'msg': 'JSON decode error', 'ctx': {'error': 'unexpected end of JSON input'}}",
			`[1]`:                   "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a JSON object'}",
			`{"prompt":NaN}`:        "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.11', 'msg': 'JSON decode error', 'ctx': {'error': 'invalid character 'N' looking for beginning of value'}}",
		} {
			resp, got := r.post(path, body)
			assert.Equal(t, 400, resp.StatusCode)
			assert.Equal(t, want, errorText(t, got))
			var shape struct{ Error map[string]any }
			require.NoError(t, json.Unmarshal([]byte(got), &shape))
			assert.Equal(t, "Bad Request", shape.Error["type"])
			assert.Contains(t, shape.Error["param"], "body")
			assert.Equal(t, "failed", r.last().Outcome)
			assert.Empty(t, r.last().Hops)
		}
	}
	_, got := r.post("/v1/images/generations", `{"size":"256x256"}`)
	assert.JSONEq(t, `{"error":{"message":"1 validation error:\n  {'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required'}","type":"Bad Request","param":"body.prompt","code":400}}`, got)
	resp, _ := r.post("/v1/images/generations", `{"prompt":7}`)
	assert.Equal(t, 400, resp.StatusCode)
	assert.Empty(t, r.p.calls())
	assert.Empty(t, r.d.calls())
	assert.Empty(t, r.x.calls())
}

func TestUnknownPathsAndMethods(t *testing.T) {
	r := newRig(t, nil)
	resp, body := r.post("/v1/nope", `{}`)
	assert.Equal(t, 404, resp.StatusCode)
	assert.Equal(t, `{"detail":"Not Found"}`, body)
	resp, body = r.get("/v1/completions")
	assert.Equal(t, 405, resp.StatusCode)
	assert.Equal(t, `{"detail":"Method Not Allowed"}`, body)
	assert.Equal(t, "POST", resp.Header.Get("Allow"))
	resp, _ = r.post("/v1/models", `{}`)
	assert.Equal(t, 405, resp.StatusCode)
	assert.Equal(t, "GET", resp.Header.Get("Allow"))
}

func TestHealth(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	resp, body := r.get("/health")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Empty(t, body, "as vLLM's")

	r = newRig(t, func(r *rig, c *Config) {
		c.Decode = deadURL(t)
		r.x.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.WriteHeader(503)
			w.Write([]byte(`{"status":"unhealthy"}`))
		}
	})
	resp, body = r.get("/health")
	assert.Equal(t, 503, resp.StatusCode)
	assert.JSONEq(t, `{"status":"unhealthy","stages":{"prefill":"ok","decode":"dial tcp `+strings.TrimPrefix(r.proxy.c.Decode, "http://")+
		`: connect: connection refused","dit":"503 Service Unavailable: {\"status\":\"unhealthy\"}"}}`, body)

	// A stage that accepts and says nothing must not hold the answer back for longer than the 2 s.
	r = newRig(t, func(r *rig, _ *Config) {
		r.p.answer = func(_ http.ResponseWriter, q *http.Request, _ []byte) { <-q.Context().Done() }
	})
	resp, body = r.get("/health")
	assert.Equal(t, 503, resp.StatusCode)
	assert.JSONEq(t, `{"status":"unhealthy","stages":{"prefill":"limit of 2s reached","decode":"ok","dit":"ok"}}`, body)
}

func TestModels(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Config) {
		r.d.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
			if q.Header.Get("Authorization") != "Bearer k" {
				w.WriteHeader(401)
				w.Write([]byte(`{"error":"Unauthorized"}`))
				return
			}
			w.Write(recording(t, "vllm-0.32.0-models.json"))
		}
	})
	req, _ := http.NewRequest(http.MethodGet, r.url+"/v1/models", nil)
	req.Header.Set("Authorization", "Bearer k")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var b bytes.Buffer
	b.ReadFrom(resp.Body)
	assert.Equal(t, string(recording(t, "vllm-0.32.0-models.json")), b.String())

	resp, body := r.get("/v1/models")
	assert.Equal(t, 502, resp.StatusCode)
	assert.Equal(t, "decode: 401 Unauthorized: Unauthorized", errorText(t, body))
}

func TestFaultDropTicket(t *testing.T) {
	r := newRig(t, func(_ *rig, c *Config) { c.Faults.DropTicket = true })
	resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	assert.Empty(t, resp.Header.Get(FallbackHeader), "the fault says nothing")
	assert.NotContains(t, r.d.only(t).fields(t), "kv_transfer_params")
	rec := r.last()
	assert.JSONEq(t, recordedTicket(t), string(rec.Hop("prefill").TicketOut))
	assert.Nil(t, rec.Hop("decode").TicketIn, "the ledger tells what was sent")
	assert.False(t, rec.Fallback)
}

func TestFaultCrossTickets(t *testing.T) {
	n := 0
	r := newRig(t, func(r *rig, c *Config) {
		c.Faults.CrossTickets = true
		r.p.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			n++
			saysJSON(fmt.Sprintf(`{"id":"p%d","choices":[],"kv_transfer_params":{"remote_request_id":"r%d"}}`, n, n))(w, q, b)
		}
	})
	for i, want := range []string{"r1", "r1", "r2", "r3"} {
		r.post("/v1/completions", `{"prompt":"a"}`)
		assert.JSONEq(t, `{"remote_request_id":"`+want+`"}`, string(r.d.calls()[i].fields(t)["kv_transfer_params"]))
		assert.JSONEq(t, `{"remote_request_id":"`+want+`"}`, string(r.last().Hop("decode").TicketIn))
		assert.JSONEq(t, fmt.Sprintf(`{"remote_request_id":"r%d"}`, i+1), string(r.last().Hop("prefill").TicketOut))
	}
}

func TestLedgerPagesAndBounds(t *testing.T) {
	l, err := newLedger("", newMetrics())
	require.NoError(t, err)
	for i := range ledgerSize + 10 {
		e := l.begin("/v1/completions", fmt.Sprint(i))
		if i%2 == 0 {
			e.finish("ok", 200, "")
			e.finish("failed", 500, "only the first end counts")
			e.update(func(*flow.Record) { t.Error("a finished record was changed") })
		}
	}
	all := l.since(0).Records
	require.Len(t, all, ledgerSize)
	assert.EqualValues(t, 11, all[0].Seq, "the oldest ten are gone")
	assert.EqualValues(t, ledgerSize+10, all[len(all)-1].Seq)
	assert.Equal(t, "ok", all[0].Outcome)
	assert.Equal(t, "in-flight", all[1].Outcome)
	assert.Len(t, l.since(ledgerSize+8).Records, 2)
	assert.Empty(t, l.since(ledgerSize+10).Records)
	assert.Empty(t, l.since(1<<40).Records)
	assert.Len(t, l.since(-5).Records, ledgerSize)

	r := newRig(t, nil)
	resp, body := r.get(flow.Path + "?since=x")
	assert.Equal(t, 400, resp.StatusCode)
	assert.Equal(t, "since=x: want the seq of a record, like since=17", errorText(t, body))
	_, body = r.get(flow.Path)
	assert.JSONEq(t, `{"records":[],"last":0}`, body, "an empty list, not null")
}

// lastByte calls full before the last byte of a body of the announced length is written.
type lastByte struct {
	*httptest.ResponseRecorder
	full func()
}

func (w lastByte) Write(b []byte) (int, error) {
	if strconv.Itoa(w.Body.Len()+len(b)) == w.Header().Get("Content-Length") {
		w.full()
	}
	return w.ResponseRecorder.Write(b)
}

// Who has read an answer to its end finds its record ended: the record ends before the last byte of a body of known length
// goes out, and the end mark of a stream goes out when the handler has returned.
func TestTheRecordEndsBeforeTheAnswerDoes(t *testing.T) {
	long := []byte(`{"data":[{"b64_json":"` + strings.Repeat("A", 300_000) + `"}]}`)
	r := newRig(t, func(r *rig, _ *Config) {
		r.d.answer = completion("a plan")
		r.x.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(long)))
			says(200, "application/json", long)(w, q, b)
		}
	})
	called := false
	w := lastByte{httptest.NewRecorder(), func() {
		called = true
		newest := r.proxy.ledger.since(0).Records
		require.Len(t, newest, 1)
		assert.Equal(t, "ok", newest[0].Outcome)
		assert.EqualValues(t, len(long), newest[0].Hop("dit").Bytes)
	}}
	r.proxy.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v1/images/generations", strings.NewReader(`{"prompt":"a"}`)))
	assert.True(t, called)

	r.d.answer = says(200, "text/event-stream", recording(t, "vllm-0.32.0-decode.sse"))
	for i := range 20 {
		r.post("/v1/completions", `{"prompt":"a"}`)
		newest := r.proxy.ledger.since(int64(i + 1)).Records
		require.Len(t, newest, 1)
		require.Equal(t, "ok", newest[0].Outcome, "request %d", i)
	}
}

// A client that stops reading must not hold an engine for ever: the write has a deadline too.
func TestAClientThatDoesNotRead(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	r := newRig(t, func(r *rig, c *Config) {
		c.DecodeLimit = time.Second // long enough to fill every socket buffer on the way
		r.d.answer = func(w http.ResponseWriter, q *http.Request, _ []byte) {
			defer close(left)
			w.Header().Set("Content-Type", "text/event-stream")
			for line := bytes.Repeat([]byte("data: {}\n\n"), 10_000); q.Context().Err() == nil; {
				if _, err := w.Write(line); err != nil {
					return
				}
			}
		}
	})
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"prompt\":\"a\"}")
	wait(t, left, "decode is released")
	assert.NotEqual(t, "ok", r.last().Outcome)
}

func TestLedgerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.jsonl")
	r := newRig(t, func(_ *rig, c *Config) { c.LedgerFile = path })
	var wait sync.WaitGroup
	for range 20 {
		wait.Go(func() { r.post("/v1/completions", `{"prompt":"a"}`) })
	}
	wait.Wait()
	require.NoError(t, r.proxy.Close())
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	require.Len(t, lines, 20)
	seen := map[int64]bool{}
	for _, line := range lines {
		var rec flow.Record
		require.NoError(t, json.Unmarshal([]byte(line), &rec))
		assert.Equal(t, "ok", rec.Outcome)
		assert.Len(t, rec.Hops, 2)
		seen[rec.Seq] = true
	}
	assert.Len(t, seen, 20)

	// The file can't be written any more: requests go on, the proxy says so.
	resp, _ := r.post("/v1/completions", `{"prompt":"a"}`)
	assert.Equal(t, 200, resp.StatusCode)
	_, metrics := r.get("/metrics")
	assert.Contains(t, metrics, "omnitest_proxy_ledger_file_broken 1\n")
	assert.ErrorContains(t, r.proxy.Close(), "ledger file ends before seq 21: ")
}

func TestMetrics(t *testing.T) {
	r := newRig(t, nil)
	r.post("/v1/completions", `{"prompt":"a"}`)
	r.post("/v1/completions", `nonsense`)
	_, body := r.get("/metrics")
	for _, want := range []string{
		`omnitest_proxy_requests_total{outcome="ok",route="/v1/completions"} 1`,
		`omnitest_proxy_requests_total{outcome="failed",route="/v1/completions"} 1`,
		`omnitest_proxy_hop_seconds_count{stage="prefill"} 1`,
		`omnitest_proxy_hop_seconds_count{stage="decode"} 1`,
		"omnitest_proxy_fallbacks_total 0",
		"omnitest_proxy_in_flight 0",
	} {
		assert.Contains(t, body, want+"\n")
	}
}

func TestServe(t *testing.T) {
	r := newRig(t, nil)
	reached, release := make(chan struct{}), make(chan struct{})
	slow := newStage(t, func(w http.ResponseWriter, q *http.Request, b []byte) {
		close(reached)
		<-release
		says(200, "text/event-stream", recording(t, "vllm-0.32.0-decode.sse"))(w, q, b)
	})
	p, err := New(Config{Prefill: r.p.URL, Decode: slow.URL})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- p.Serve(ctx, func(addr string) { ready <- addr }) }()
	r.url = "http://" + <-ready

	answered := make(chan int, 1)
	go func() {
		resp, _, err := r.try("/v1/completions", `{"prompt":"a"}`)
		if err != nil {
			answered <- 0
			return
		}
		answered <- resp.StatusCode
	}()
	wait(t, reached, "decode has the request")
	cancel()
	close(release)
	assert.Equal(t, 200, <-answered, "the request in flight is finished")
	assert.NoError(t, <-ended)

	taken, err := New(Config{Listen: "203.0.113.1:1", DiT: r.x.URL})
	require.NoError(t, err)
	assert.ErrorContains(t, taken.Serve(context.Background(), nil), "proxy: listen tcp 203.0.113.1:1: ")
}

// Many at once, with their own prompts: the right answer, the right ticket and the right record for each.
func TestConcurrentRequestsDoNotMix(t *testing.T) {
	r := newRig(t, func(r *rig, _ *Config) {
		r.p.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			var in struct{ Prompt string }
			json.Unmarshal(b, &in)
			saysJSON(fmt.Sprintf(`{"id":"p","choices":[],"kv_transfer_params":{"remote_request_id":%q}}`, in.Prompt))(w, q, b)
		}
		r.d.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			var in struct {
				Prompt string
				T      struct {
					R string `json:"remote_request_id"`
				} `json:"kv_transfer_params"`
			}
			json.Unmarshal(b, &in)
			completion(in.Prompt+" with "+in.T.R)(w, q, b)
		}
		r.x.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(b)
		}
	})
	const n = 64
	var wait, watch sync.WaitGroup
	stop := make(chan struct{})
	watch.Go(func() { // a reader sees records that are being written (the race detector watches)
		for {
			select {
			case <-stop:
				return
			default:
				_, _ = json.Marshal(r.proxy.ledger.since(0))
			}
		}
	})
	for i := range n {
		wait.Go(func() {
			word := fmt.Sprintf("w%d", i)
			_, body := r.post("/v1/images/generations", `{"prompt":"`+word+`"}`, "X-Request-Id", word)
			assert.JSONEq(t, `{"prompt":"`+word+` with `+word+`"}`, body)
		})
	}
	wait.Wait()
	close(stop)
	watch.Wait()
	records := r.ledger()
	require.Len(t, records, n)
	for i, rec := range records {
		assert.EqualValues(t, i+1, rec.Seq)
		assert.Equal(t, rec.RequestID+" with "+rec.RequestID, rec.Hop("dit").Plan)
		assert.JSONEq(t, `{"remote_request_id":"`+rec.RequestID+`"}`, string(rec.Hop("decode").TicketIn))
	}
}
