package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
)

// patience bounds every wait of these tests; nothing is expected to take that long.
const patience = 20 * time.Second

// stage is a fake engine that keeps what it was sent.
type stage struct {
	*httptest.Server
	answer func(w http.ResponseWriter, r *http.Request, body []byte)

	mu  sync.Mutex
	got []sent
}

type sent struct {
	path   string
	header http.Header
	body   []byte
}

// fields of a JSON body; numbers keep their spelling.
func (s sent) fields(t testing.TB) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(s.body, &m), "%s", s.body)
	return m
}

func newStage(t testing.TB, answer func(w http.ResponseWriter, r *http.Request, body []byte)) *stage {
	s := &stage{answer: answer}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if r.Method == http.MethodPost {
			s.mu.Lock()
			s.got = append(s.got, sent{r.URL.Path, r.Header.Clone(), body})
			s.mu.Unlock()
		}
		s.answer(w, r, body)
	}))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

func (s *stage) calls() []sent {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]sent(nil), s.got...)
}

func (s *stage) only(t testing.TB) sent {
	t.Helper()
	got := s.calls()
	require.Len(t, got, 1)
	return got[0]
}

func recording(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	require.NoError(t, err)
	return b
}

// says answers every POST with a fixed body, by the file's kind, and GET as a healthy engine does.
func says(status int, kind string, body []byte) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, _ []byte) {
		if r.Method == http.MethodGet {
			if r.URL.Path == "/v1/models" {
				w.Header().Set("Content-Type", "application/json")
				io.WriteString(w, `{"object":"list","data":[{"id":"tiny","object":"model"}]}`)
			}
			return
		}
		w.Header().Set("Content-Type", kind)
		w.WriteHeader(status)
		w.Write(body)
	}
}

func saysJSON(body string) func(http.ResponseWriter, *http.Request, []byte) {
	return says(200, "application/json", []byte(body))
}

// completion is an engine's answer, chat or not as the path says.
func completion(text string) func(http.ResponseWriter, *http.Request, []byte) {
	return func(w http.ResponseWriter, r *http.Request, b []byte) {
		choice := map[string]any{"index": 0, "text": text, "finish_reason": "stop"}
		if strings.Contains(r.URL.Path, "chat") {
			choice = map[string]any{"index": 0, "message": map[string]any{"role": "assistant", "content": text}, "finish_reason": "stop"}
		}
		body, _ := json.Marshal(map[string]any{"id": "cmpl-d", "object": "text_completion", "model": "tiny", "choices": []any{choice}, "kv_transfer_params": nil})
		says(200, "application/json", body)(w, r, b)
	}
}

// recordedTicket is the ticket inside the recorded prefill answer, byte for byte.
func recordedTicket(t testing.TB) string {
	var a struct {
		T json.RawMessage `json:"kv_transfer_params"`
	}
	require.NoError(t, json.Unmarshal(recording(t, "vllm-0.32.0-prefill.json"), &a))
	return string(a.T)
}

// rig is a proxy in front of fake stages.
type rig struct {
	t       testing.TB
	proxy   *Proxy
	url     string
	p, d, x *stage // prefill, decode, dit
}

// newRig starts healthy stages: prefill and decode answer what real vLLM was recorded to answer, the DiT a small JSON.
// change may edit the config (the URLs are in it) and the stages' answers before anything is sent.
func newRig(t testing.TB, change func(*rig, *Config)) *rig {
	r := &rig{
		t: t,
		p: newStage(t, says(200, "application/json", recording(t, "vllm-0.32.0-prefill.json"))),
		d: newStage(t, says(200, "text/event-stream; charset=utf-8", recording(t, "vllm-0.32.0-decode.sse"))),
		x: newStage(t, saysJSON(`{"created":1,"data":[{"b64_json":"aGk="}],"output_format":"png","size":"64x64"}`)),
	}
	c := Config{Prefill: r.p.URL, Decode: r.d.URL, DiT: r.x.URL}
	if change != nil {
		change(r, &c)
	}
	var err error
	r.proxy, err = New(c)
	require.NoError(t, err)
	front := httptest.NewServer(r.proxy)
	t.Cleanup(func() {
		front.CloseClientConnections()
		front.Close()
		r.proxy.Close()
	})
	r.url = front.URL
	return r
}

// post sends and reads the whole answer.
func (r *rig) post(path, body string, header ...string) (*http.Response, string) {
	r.t.Helper()
	resp, b, err := r.try(path, body, header...)
	require.NoError(r.t, err)
	return resp, b
}

func (r *rig) try(path, body string, header ...string) (*http.Response, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, r.url+path, strings.NewReader(body))
	require.NoError(r.t, err)
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp, string(b), err
}

func (r *rig) get(path string) (*http.Response, string) {
	r.t.Helper()
	resp, err := http.Get(r.url + path)
	require.NoError(r.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp, string(b)
}

// ledger reads the ledger as a test of somebody else would: over HTTP.
func (r *rig) ledger() []flow.Record {
	r.t.Helper()
	_, body := r.get(flow.Path + "?since=0")
	var page flow.Page
	require.NoError(r.t, json.Unmarshal([]byte(body), &page), body)
	return page.Records
}

// last waits until no request is in flight and returns the newest record.
func (r *rig) last() *flow.Record {
	r.t.Helper()
	var rec flow.Record
	r.eventually(func() bool {
		all := r.ledger()
		if len(all) == 0 {
			return false
		}
		rec = all[len(all)-1]
		return rec.Outcome != "in-flight"
	}, "the record is finished")
	return &rec
}

func (r *rig) eventually(ok func() bool, what string) {
	r.t.Helper()
	require.Eventually(r.t, ok, patience, 2*time.Millisecond, what)
}

func errorText(t testing.TB, body string) string {
	t.Helper()
	var e struct {
		Error struct {
			Message string
			Type    string
			Code    int
		}
	}
	d := json.NewDecoder(bytes.NewReader([]byte(body)))
	require.NoError(t, d.Decode(&e), body)
	require.NotZero(t, e.Error.Code, body)
	require.NotEmpty(t, e.Error.Type, body)
	return e.Error.Message
}
