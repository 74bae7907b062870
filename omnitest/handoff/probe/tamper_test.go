package probe_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// outcomes is the table of a Result.
func outcomes(r probe.Result) map[string]probe.Outcome {
	m := map[string]probe.Outcome{}
	for _, x := range r.Tampered {
		m[x.Name] = x.Outcome
	}
	return m
}

// What the reference stack does with each ticket is what vLLM 0.32 did where it was recorded.
var recordedOutcomes = map[string]probe.Outcome{
	"unknown engine":                    probe.OutcomeRefused,     // case 26
	"unknown engine at a dead port":     probe.OutcomeRefused,     // 27
	"wrong port":                        probe.OutcomeTransferred, // 28
	"wrong host":                        probe.OutcomeTransferred,
	"unknown request":                   probe.OutcomeTransferred, // 22
	"blocks out of range":               probe.OutcomeRefused,     // 30
	"do_remote_prefill=false":           probe.OutcomeRecomputed,
	"first and last block swapped":      probe.OutcomeGarbage, // 24
	"used before":                       probe.OutcomeTransferred,
	"of another prompt":                 probe.OutcomeForeign, // 05
	"of another prompt and used before": probe.OutcomeForeign, // 11
	"without remote_engine_id":          probe.OutcomeHung,
	"without remote_request_id":         probe.OutcomeHung, // 20
	"without remote_host":               probe.OutcomeHung,
	"without remote_port":               probe.OutcomeHung,
	"expired":                           probe.OutcomeTransferred, // 12
	"flat block ids":                    probe.OutcomeTransferred,
	"without remote_block_ids":          probe.OutcomeDied,
	"one block too few":                 probe.OutcomeDied, // 23
	"no blocks":                         probe.OutcomeDied, // 21
}

func TestTampering(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		options func(u *refpd.Running) probe.Options
		state   handoff.State
		says    string
		sent    int
		extra   int // requests beyond the 56
	}{
		{"as vLLM", func(*refpd.Running) probe.Options { return probe.Options{} }, handoff.StateProven,
			`^proven: 14 tampered tickets: .*; decode lives and takes the right ticket \(.* as vLLM 0.32 is known for, see the notes\)$`, 14, 0},
		{"strict", func(*refpd.Running) probe.Options { return probe.Options{Strict: true} }, handoff.StateRefuted,
			`^refuted: ticket "first and last block swapped": garbage: text diverges at byte 0: .*; ticket "of another prompt": foreign: (bytes 0 to 191 are|answered with) the text of the other prompt: .*ticket "without remote_request_id": hung: no answer within 5s`, 14, 0},
		{"destructive", func(u *refpd.Running) probe.Options { return probe.Options{Destructive: true, Restart: u.Restart} }, handoff.StateProven,
			`^proven: 21 tampered tickets: 3 died, .*; decode lives and takes the right ticket \(3 died, `, 21, 21},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := running(t, refpd.Stack{Prefill: ar.Config{Lease: time.Second}})
			s.Lease = time.Second
			o := c.options(u)
			o.Limit = 5 * time.Second
			r, err := probe.Tampering(bounded(t), s, o)
			require.NoError(t, err)
			assert.Equal(t, c.state, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.Equal(t, 56+c.extra, r.Requests)
			got := outcomes(r)
			assert.Len(t, got, c.sent)
			assert.Contains(t, []probe.Outcome{probe.OutcomeForeign, probe.OutcomeGarbage, probe.OutcomeTransferred}, got["expired and written over"],
				"what is in the blocks then is the pool's secret")
			delete(got, "expired and written over")
			for name, o := range got {
				assert.Equal(t, recordedOutcomes[name], o, name)
			}
			for _, x := range r.Tampered {
				assert.Equal(t, !x.Outcome.Good(), x.Known, x)
				if x.Known && c.state == handoff.StateProven {
					assert.Contains(t, strings.Join(r.Verdict.Notes, "\n"), `"`+x.Name+`": `+string(x.Outcome), "the finding is visible")
				}
			}
		})
	}
}

// decodeLiar stands in front of decode and may answer in its place: lie gets decode's own answer.
func decodeLiar(t *testing.T, decode string, lie func(ticket map[string]any, status int, body []byte) (int, []byte)) *api.Client {
	t.Helper()
	to, err := url.Parse(decode)
	require.NoError(t, err)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ticket map[string]any
		if r.URL.Path == "/v1/completions" {
			raw, _ := io.ReadAll(r.Body)
			var body struct {
				Params map[string]any `json:"kv_transfer_params"`
			}
			assert.NoError(t, json.Unmarshal(raw, &body))
			ticket = body.Params
			r.Body = io.NopCloser(strings.NewReader(string(raw)))
		}
		pass := httputil.NewSingleHostReverseProxy(to)
		pass.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		}
		pass.ModifyResponse = func(resp *http.Response) error {
			if r.URL.Path != "/v1/completions" && r.URL.Path != "/health" {
				return nil
			}
			raw, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			status, raw := lie(ticket, resp.StatusCode, raw)
			resp.StatusCode, resp.ContentLength, resp.Body = status, int64(len(raw)), io.NopCloser(strings.NewReader(string(raw)))
			resp.Header.Set("Content-Length", "")
			resp.Header.Del("Content-Length")
			resp.Header.Set("Content-Type", "application/json")
			return nil
		}
		pass.ServeHTTP(w, r)
	}))
	t.Cleanup(srv.Close)
	return &api.Client{BaseURL: srv.URL}
}

func answerOf(text string) []byte {
	raw, _ := json.Marshal(map[string]any{"id": "cmpl-x", "object": "text_completion", "model": "m",
		"choices": []any{map[string]any{"index": 0, "text": text, "finish_reason": "length"}}})
	return raw
}

// What no healthy vLLM does refutes without being strict.
func TestTamperingCatches(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lie  func() func(ticket map[string]any, status int, body []byte) (int, []byte)
		says string
	}{
		// F2: a receive that failed is answered with what lay in the blocks.
		{"garbage for a failed pull", func() func(map[string]any, int, []byte) (int, []byte) {
			return func(_ map[string]any, status int, body []byte) (int, []byte) {
				if status == http.StatusInternalServerError {
					return 200, answerOf(strings.Repeat("!", 192))
				}
				return status, body
			}
		}, `^refuted: ticket "unknown engine": garbage: .*ticket "blocks out of range": garbage: `},
		// F3: the answer of an earlier prompt, for a ticket that names nobody's blocks.
		{"an earlier answer for a failed pull", func() func(map[string]any, int, []byte) (int, []byte) {
			var last atomic.Value
			return func(_ map[string]any, status int, body []byte) (int, []byte) {
				if status == http.StatusInternalServerError {
					return 200, last.Load().([]byte)
				}
				if status == 200 && len(body) > 0 {
					last.Store(body)
				}
				return status, body
			}
		}, `^refuted: ticket "unknown engine": foreign: bytes 0 to 192 are the text of "before": `},
		{"dies of an unknown engine", func() func(map[string]any, int, []byte) (int, []byte) {
			var dead atomic.Bool
			return func(ticket map[string]any, status int, body []byte) (int, []byte) {
				if ticket["remote_engine_id"] == "nobody" {
					dead.Store(true)
				}
				if dead.Load() {
					return 503, []byte(`{"error":{"message":"EngineCore encountered an issue","type":"InternalServerError","param":null,"code":503}}`)
				}
				return status, body
			}
		}, `^refuted: ticket "unknown engine": died: decode is not healthy: `},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s, u := running(t, refpd.Stack{Prefill: ar.Config{Lease: time.Second}})
			s.Lease, s.Entry = time.Second, nil
			s.Decode.API = decodeLiar(t, u.Decode, c.lie())
			r, err := probe.Tampering(bounded(t), s, probe.Options{Limit: 5 * time.Second})
			require.NoError(t, err)
			assert.Equal(t, handoff.StateRefuted, r.Verdict.State, r.Verdict)
			assert.Regexp(t, c.says, r.Verdict.String())
			assert.Len(t, r.Tampered, 14, "what was not sent is told too")
		})
	}
}

// A decode that waits for ever on a pull that fails hangs on tickets that are whole: that is no known habit of vLLM's (F12).
func TestTamperingHang(t *testing.T) {
	t.Parallel()
	s, _ := running(t, refpd.Stack{Prefill: ar.Config{Lease: time.Second}, Decode: ar.Config{Faults: ar.Faults{WaitForever: true}}})
	s.Lease = time.Second
	r, err := probe.Tampering(bounded(t), s, probe.Options{Limit: 2 * time.Second})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: ticket "unknown engine": hung: no answer within 2s; ticket "unknown engine at a dead port": hung: no answer within 2s; .*ticket "blocks out of range": hung`, r.Verdict.String())
}

// A stack whose right tickets do not work is not asked about wrong ones.
func TestTamperingNotWell(t *testing.T) {
	t.Parallel()
	s, _ := running(t, refpd.Stack{Decode: ar.Config{Faults: ar.Faults{WrongLayout: true}}})
	r, err := probe.Tampering(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Contains(t, r.Verdict.String(), "inconclusive: the handoff was not well before any ticket was tampered with: text diverges at byte ")
	assert.Empty(t, r.Tampered)

	r, err = probe.Tampering(bounded(t), s, probe.Options{Destructive: true})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: destructive tickets need somebody who can restart decode: Options.Restart is not given; nothing was sent", r.Verdict.String())
	assert.Zero(t, r.Requests)

	s.Dialect = &handoff.Example
	r, err = probe.Tampering(bounded(t), s, probe.Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: connector example has no tickets to tamper with", r.Verdict.String())

	s.Dialect, s.Decode.API = nil, &api.Client{BaseURL: fakepd.Hanging(t), Timeout: 2 * time.Second}
	_, err = probe.Tampering(bounded(t), s, probe.Options{})
	assert.ErrorContains(t, err, "tampering: decode before with its own ticket (decode): ")
	assert.ErrorContains(t, err, "timeout: ")
}
