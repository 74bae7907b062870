package stamped

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seen is an event as a raw reader had it.
type seen struct {
	data string
	at   int64 // on the clock of the stamps
}

func start(t *testing.T, o Options) *Server {
	s, err := Start(o)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// post sends one request and reads the answer line by line, or whole where it is not streamed. err is that of the body.
func post(t *testing.T, url, path, body string) (status int, events []seen, whole string, err error) {
	resp, err := http.Post(url+path, "application/json", strings.NewReader(body))
	require.NoError(t, err)
	defer resp.Body.Close()
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		b, err := io.ReadAll(resp.Body)
		return resp.StatusCode, nil, string(b), err
	}
	r := bufio.NewReader(resp.Body)
	for {
		line, err := r.ReadString('\n')
		now := Now()
		if data, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "data: "); ok {
			events = append(events, seen{data, now})
		}
		if err == io.EOF {
			return resp.StatusCode, events, "", nil
		}
		if err != nil {
			return resp.StatusCode, events, "", err
		}
	}
}

const streamed = `{"prompt":"ab","max_tokens":8,"stream":true,"stream_options":{"include_usage":true}}`

// What a reader saw lies where the truth puts it: after the write that it belongs to and before the answer's next arrival.
// No duration is asserted, only orders, so a busy machine cannot break it.
func TestTruthAgreesWithAReader(t *testing.T) {
	s := start(t, Options{TTFT: 20 * time.Millisecond, Interval: 5 * time.Millisecond, Stamp: true})
	for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
		s.Reset()
		before := Now()
		_, events, _, err := post(t, s.URL, path, streamed)
		after := Now()
		require.NoError(t, err)
		truth := s.Truth()
		require.Len(t, truth.Requests, 1, "%+v", truth)
		r := truth.Requests[0]
		assert.Equal(t, StateDone, r.State)
		assert.Equal(t, 8, r.Asked)
		assert.Equal(t, 2, r.PromptTokens)
		assert.True(t, before < r.Arrived && r.Arrived <= r.Read && r.Ended < after, "%d %+v %d", before, r, after)
		stamps := 0
		for _, e := range events {
			st, ok := Parse([]byte(e.data))
			if !ok {
				continue
			}
			require.Equal(t, stamps, st.Index)
			assert.Equal(t, r.Due[st.Index], st.Due)
			assert.Equal(t, r.Written[st.Index], st.Written)
			assert.Equal(t, r.Arrived+int64(20*time.Millisecond)+int64(st.Index)*int64(5*time.Millisecond), st.Due, "the schedule is absolute")
			assert.GreaterOrEqual(t, st.Written, st.Due, "never early")
			assert.Greater(t, e.at, st.Written, "never read before it was written")
			stamps++
		}
		assert.Equal(t, 8, stamps)
		assert.Equal(t, 8, truth.Late.N)
		assert.Equal(t, 7, truth.ITL.N)
		assert.Equal(t, 1, truth.TTFT.N)
		assert.GreaterOrEqual(t, truth.TTFT.P50, 20.0)
		assert.Equal(t, 1, truth.InFlightPeak)
	}
}

func TestShapes(t *testing.T) {
	s := start(t, Options{Model: "tiny"})
	get := func(path, body string) []string {
		_, events, whole, err := post(t, s.URL, path, body)
		require.NoError(t, err)
		if events == nil {
			return []string{whole}
		}
		var out []string
		for _, e := range events {
			out = append(out, e.data)
		}
		return out
	}
	clean := func(lines []string) string { // what differs from run to run
		text := strings.Join(lines, "\n")
		var first struct {
			ID      string
			Created int64
		}
		require.NoError(t, json.Unmarshal([]byte(lines[0]), &first))
		return strings.NewReplacer(first.ID, "ID", fmt.Sprintf(`"created":%d`, first.Created), `"created":0`).Replace(text)
	}
	// From testdata/recordings/vllm-0.32.0/single, completion-stream-usage-continuous.json and chat-stream-usage.json, with other
	// texts, ids, counts and fingerprint.
	assert.Equal(t, `{"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":" a","logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"usage":{"prompt_tokens":3,"total_tokens":4,"completion_tokens":1}}
{"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":" a","logprobs":null,"finish_reason":"length","stop_reason":null,"prompt_token_ids":null,"token_ids":null}],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}
{"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[],"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":0}},"system_fingerprint":"stamped"}
[DONE]`, clean(get("/v1/completions", `{"prompt":[7,8,9],"max_tokens":2,"stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true}}`)))
	assert.Equal(t, `{"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}
{"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null,"token_ids":null}]}
{"id":"ID","object":"chat.completion.chunk","created":0,"model":"tiny","choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}],"system_fingerprint":"stamped"}
[DONE]`, clean(get("/v1/chat/completions", `{"messages":[{"role":"user","content":"hey"}],"max_completion_tokens":2,"stream":true}`)))
	assert.Equal(t, `{"id":"ID","object":"text_completion","created":0,"model":"tiny","choices":[{"index":0,"text":" a a a","logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}],"service_tier":null,"system_fingerprint":"stamped","usage":{"prompt_tokens":2,"total_tokens":5,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":0}},"kv_transfer_params":null}`,
		clean(get("/v1/completions", `{"prompt":"ab","max_tokens":3}`)))
	assert.Contains(t, get("/v1/chat/completions", `{"messages":[{"role":"user","content":[{"type":"text","text":"hey"}]}],"max_tokens":3}`)[0],
		`"message":{"role":"assistant","content":" a a a",`)
}

func TestOtherRoutes(t *testing.T) {
	s := start(t, Options{})
	ask := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	_, _, _, err := post(t, s.URL, "/v1/completions", streamed)
	require.NoError(t, err)
	for _, c := range []struct {
		method, path, body string
		status             int
		holds              string
	}{
		{"GET", "/health", "", 200, ""},
		{"GET", "/v1/models", "", 200, `"id":"stamped"`},
		{"POST", "/tokenize", `{"prompt":"abc"}`, 200, `"count":3`},
		{"POST", "/detokenize", `{"tokens":[1,2]}`, 200, `{"prompt":" a a"}`},
		{"GET", "/metrics", "", 200, `vllm:generation_tokens_total{model_name="stamped"} 8`},
		{"GET", "/truth?events=0", "", 200, `"late":{"n":8,`},
		{"DELETE", "/truth", "", 200, "{}"},
		{"GET", "/truth", "", 200, `"requests":[]`},
		{"GET", "/metrics", "", 200, `vllm:prompt_tokens_total{model_name="stamped"} 2`}, // counters are not reset
		{"GET", "/nowhere", "", 404, `{"detail":"Not Found"}`},
		{"POST", "/v1/completions", `{"prompt":`, 400, "unexpected end of JSON input"},
		{"POST", "/v1/completions", `{"prompt":"a","max_tokens":0}`, 400, "max_tokens must be at least 1, got 0."},
		{"POST", "/v1/completions", `{"prompt":"a","fault":"rain"}`, 400, `unknown fault \"rain\"`},
	} {
		status, got := ask(c.method, c.path, c.body)
		assert.Equal(t, c.status, status, c.path)
		assert.Contains(t, got, c.holds, c.path)
	}
}

func TestEventBytesAndJitter(t *testing.T) {
	o := Options{TTFT: 5 * time.Millisecond, Interval: time.Millisecond, Jitter: 3 * time.Millisecond, Seed: 4, Stamp: true, EventBytes: 500}
	draw := func(seed uint64) (delays []int64) {
		o.Seed = seed
		s := start(t, o)
		_, events, _, err := post(t, s.URL, "/v1/completions", streamed)
		require.NoError(t, err)
		for _, e := range events[:8] {
			assert.Len(t, "data: "+e.data+"\n\n", 500)
			assert.True(t, json.Valid([]byte(e.data)), e.data)
		}
		r := s.Truth().Requests[0]
		for i, due := range r.Due {
			d := due - r.Arrived - int64(o.TTFT) - int64(i)*int64(o.Interval)
			assert.True(t, d >= 0 && d < int64(o.Jitter), d)
			delays = append(delays, d)
		}
		return delays
	}
	a, again, b := draw(4), draw(4), draw(5)
	assert.Equal(t, a, again, "the seed decides")
	assert.NotEqual(t, a, b)
	assert.Greater(t, len(slices.Compact(slices.Sorted(slices.Values(a)))), 1, "each event has a delay of its own")
}

func TestOptionsAreChecked(t *testing.T) {
	_, err := Start(Options{Fault: "rain"})
	assert.EqualError(t, err, `stamped: unknown fault "rain"`)
	_, err = Start(Options{Interval: -1})
	assert.ErrorContains(t, err, "stamped: negative option: ")
	_, err = Start(Options{Addr: "127.0.0.1:99999"})
	assert.ErrorContains(t, err, "stamped: listen tcp: address 99999: invalid port")
}

func TestPeakAndSpread(t *testing.T) {
	assert.Equal(t, 2, peak([]Request{{Arrived: 0, Ended: 10}, {Arrived: 5, Ended: 20}, {Arrived: 10, Ended: 12}}), "an end comes before a beginning")
	assert.Equal(t, 3, peak([]Request{{Arrived: 0, Ended: 10}, {Arrived: 5, Ended: 20}, {Arrived: 9, Ended: 12}}))
	assert.Equal(t, Spread{}, NewSpread(nil))
	// numpy.percentile([4, 1, 3, 2], [50, 99]) = 2.5, 3.97
	sp := NewSpread([]int64{4e6, 1e6, 3e6, 2e6})
	assert.Equal(t, 4, sp.N)
	assert.InDelta(t, 2.5, sp.P50, 1e-12)
	assert.InDelta(t, 3.97, sp.P99, 1e-12)
	assert.Equal(t, 4.0, sp.Max)
}
