package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/omnitest/suite/omnitest/api"
	recorded "github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	recordings = "../../testdata/recordings"
	wire       = recordings + "/wire"
)

// recording is one exchange of a real engine: the bytes of each socket read, and what the recorder's own HTTP client made
// of them, which serves as the independent reading.
type recording struct{ recorded.Exchange }

func load(t testing.TB, name string) recording {
	t.Helper()
	path := "single/" + name
	if rest, nixl := strings.CutPrefix(name, "nixl-"); nixl {
		at := strings.LastIndex(rest, "-")
		path = "nixl/" + rest[:at] + "/" + rest[at+1:]
	}
	e, err := recorded.Load(os.DirFS(recordings), "vllm-0.32.0/"+path+".json")
	require.NoError(t, err)
	return recording{e}
}

func (r *recording) status() string { return itoa(r.Status) }
func (r *recording) route() string  { return r.Path }
func (r *recording) pieces() (pieces []string) {
	for _, p := range r.Chunks {
		pieces = append(pieces, string(p.Data))
	}
	return pieces
}

// replay is a server that answers every connection's first request with these very bytes, one write each, then closes.
func replay(t testing.TB, pieces ...string) *api.Client {
	t.Helper()
	var e recorded.Exchange
	for _, p := range pieces {
		e.Chunks = append(e.Chunks, recorded.Chunk{Data: []byte(p)})
	}
	return play(t, recorded.Options{Any: true}, e)
}

// play serves recordings and gives a client for them.
func play(t testing.TB, o recorded.Options, list ...recorded.Exchange) *api.Client {
	t.Helper()
	s, err := recorded.Serve(o, list...)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return &api.Client{BaseURL: s.URL, Timeout: time.Minute}
}

// ask sends a request of the recording's route and shape.
func ask(c *api.Client, r recording, stream bool, each func(api.Event) error) (*api.Text, error) {
	ctx := context.Background()
	s := api.Sampling{}
	if strings.Contains(r.Name, "n2") || strings.Contains(r.Name, "two-prompts") {
		s.N = 2
	}
	chat := r.route() == "/v1/chat/completions"
	switch {
	case chat && stream:
		return c.StreamChat(ctx, api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "x"}}, Sampling: s}, each)
	case chat:
		return c.Chat(ctx, api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "x"}}, Sampling: s})
	case stream:
		return c.StreamComplete(ctx, api.CompletionRequest{Prompt: "x", Sampling: s}, each)
	}
	return c.Complete(ctx, api.CompletionRequest{Prompt: "x", Sampling: s})
}

// reference reads a recorded answer the slow way: encoding/json into maps. It is what the client is compared with.
type reference struct {
	Text, Finish map[int]string
	IDs          map[int][]int
	Logprobs     map[int]int
	Usage        *api.Usage
	Ticket       string
	ID           string
	Events       []string
}

func readReference(t testing.TB, body string, stream bool) reference {
	t.Helper()
	ref := reference{Text: map[int]string{}, Finish: map[int]string{}, IDs: map[int][]int{}, Logprobs: map[int]int{}}
	documents := []string{body}
	if stream {
		documents = nil
		for _, part := range strings.Split(strings.TrimSuffix(body, "\n\n"), "\n\n") {
			data := strings.TrimPrefix(part, "data: ")
			ref.Events = append(ref.Events, data)
			if data != "[DONE]" {
				documents = append(documents, data)
			}
		}
	}
	for _, doc := range documents {
		var m struct {
			ID      string
			Choices []struct {
				Index          int
				Text           string
				Message, Delta struct{ Content string }
				FinishReason   string `json:"finish_reason"`
				TokenIDs       []int  `json:"token_ids"`
				Logprobs       *struct {
					Tokens  []string
					Content []any
				}
			}
			Usage  map[string]any
			Ticket json.RawMessage `json:"kv_transfer_params"`
		}
		require.NoError(t, json.Unmarshal([]byte(doc), &m), doc)
		ref.ID = m.ID
		for _, c := range m.Choices {
			ref.Text[c.Index] += c.Text + c.Message.Content + c.Delta.Content
			ref.Finish[c.Index] += c.FinishReason
			ref.IDs[c.Index] = append(ref.IDs[c.Index], c.TokenIDs...)
			if c.Logprobs != nil {
				ref.Logprobs[c.Index] += len(c.Logprobs.Tokens) + len(c.Logprobs.Content)
			}
		}
		if m.Usage != nil {
			u := &api.Usage{CachedTokens: -1}
			u.PromptTokens = int(m.Usage["prompt_tokens"].(float64))
			u.CompletionTokens = int(m.Usage["completion_tokens"].(float64))
			u.TotalTokens = int(m.Usage["total_tokens"].(float64))
			if d, ok := m.Usage["prompt_tokens_details"].(map[string]any); ok {
				u.CachedTokens = int(d["cached_tokens"].(float64))
			}
			ref.Usage = u
		}
		if len(m.Ticket) > 0 && string(m.Ticket) != "null" {
			ref.Ticket = string(m.Ticket)
		}
	}
	return ref
}

func asReference(text *api.Text) reference {
	ref := reference{Text: map[int]string{}, Finish: map[int]string{}, IDs: map[int][]int{}, Logprobs: map[int]int{},
		Usage: text.Usage, Ticket: string(text.Ticket), ID: text.ID}
	for _, c := range text.Choices {
		ref.Text[c.Index], ref.Finish[c.Index], ref.IDs[c.Index] = c.Text, c.FinishReason, c.TokenIDs
		if c.Logprobs != nil {
			ref.Logprobs[c.Index] = len(c.Logprobs)
		}
	}
	for _, e := range text.Events {
		ref.Events = append(ref.Events, string(e.Data))
	}
	return ref
}

func TestRecordedAnswers(t *testing.T) {
	for _, name := range []string{
		"completion", "completion-again-prefix-hit", "completion-n2-sampled-seed", "completion-two-prompts", "completion-echo",
		"completion-logprobs", "completion-token-ids", "chat", "chat-logprobs", "chat-token-ids", "chat-x-request-id",
		"err-bad-role", "err-prompt-plus-max-tokens-too-long", "nixl-01-proper-p", "nixl-16-chat-p",
		"completion-stream", "completion-stream-logprobs", "completion-stream-token-ids", "completion-stream-usage-continuous",
		"chat-stream", "chat-stream-logprobs", "chat-stream-usage", "chat-stream-token-ids", "chat-stream-cjk-ignore-eos-sampled",
		"nixl-01-proper-d", "nixl-16-chat-d",
	} {
		t.Run(name, func(t *testing.T) {
			r := load(t, name)
			stream := strings.HasPrefix(string(r.Body), "data:")
			want := readReference(t, string(r.Body), stream)
			for how, pieces := range map[string][]string{
				"as recorded": r.pieces(),
				"at once":     {strings.Join(r.pieces(), "")},
			} {
				var seen []string
				text, err := ask(replay(t, pieces...), r, stream, func(e api.Event) error {
					seen = append(seen, string(e.Data))
					return nil
				})
				require.NoError(t, err, how)
				if diff := cmp.Diff(want, asReference(text), cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("%s: the client reads it differently from encoding/json (-encoding/json +client):\n%s", how, diff)
				}
				assert.Equal(t, 200, text.Status)
				assert.EqualValues(t, len(r.Body), text.BodyBytes, how)
				if stream {
					assert.Equal(t, want.Events, seen, "each must see every event, [DONE] included")
					last := text.FirstByte
					joined := ""
					for i, e := range text.Events {
						assert.GreaterOrEqual(t, e.At, last, "event %d", i)
						last = e.At
						joined += e.Text
					}
					assert.Equal(t, text.End, last)
					assert.Equal(t, text.String(), joined, "the events' texts make up the text of choice 0")
				}
			}
		})
	}
}

func TestRecordedTokenCounts(t *testing.T) {
	r := load(t, "completion-stream-token-ids")
	text, err := ask(replay(t, r.pieces()...), r, true, nil)
	require.NoError(t, err)
	sum, told := 0, 0
	for _, e := range text.Events {
		if e.Tokens >= 0 {
			sum += e.Tokens
			told++
		}
	}
	assert.Equal(t, len(text.Choices[0].TokenIDs), sum)
	assert.Equal(t, -1, text.Events[len(text.Events)-1].Tokens, "[DONE] tells nothing about tokens")

	r = load(t, "completion-stream")
	text, err = ask(replay(t, r.pieces()...), r, true, nil)
	require.NoError(t, err)
	for _, e := range text.Events {
		assert.Equal(t, -1, e.Tokens, "token_ids: null is not told, and not 0")
	}
	assert.Nil(t, text.Usage, "recorded without include_usage")
}

func TestRecordedLogprobs(t *testing.T) {
	for _, name := range []string{"completion-logprobs", "completion-stream-logprobs", "chat-logprobs", "chat-stream-logprobs"} {
		r := load(t, name)
		text, err := ask(replay(t, r.pieces()...), r, strings.Contains(name, "stream"), nil)
		require.NoError(t, err, name)
		got := text.Choices[0].Logprobs
		require.NotEmpty(t, got, name)
		for _, l := range got {
			require.NotEmpty(t, l.Top, name) // 3 were asked for; two bytes that are no character have the same name ""
			require.LessOrEqual(t, len(l.Top), 3, name)
			assert.True(t, sort.SliceIsSorted(l.Top, func(i, j int) bool { return l.Top[i].Logprob > l.Top[j].Logprob }), name)
			assert.Equal(t, l.Token, l.Top[0].Token, "%s: greedy, so the token is the best of the top", name)
			assert.InDelta(t, l.Top[0].Logprob, l.Logprob, 1e-9, name)
			assert.Less(t, l.Logprob, 0.0, name)
		}
	}
	r := load(t, "completion-logprobs")
	text, err := ask(replay(t, r.pieces()...), r, false, nil)
	require.NoError(t, err)
	assert.Equal(t, api.Logprob{Token: "eh", Logprob: -0.5196449756622314, Top: []api.TopLogprob{
		{"eh", -0.5196449756622314}, {"B", -1.3138668537139893}, {"romp", -3.112470865249634}}}, text.Choices[0].Logprobs[0])
}

// The ticket must leave the client exactly as it came: bytes, not meaning.
func TestTicketGoesThroughByteForByte(t *testing.T) {
	r := load(t, "nixl-01-proper-p")
	text, err := ask(replay(t, r.pieces()...), r, false, nil)
	require.NoError(t, err)
	const ticket = `{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1,2,3,4]],"remote_engine_id":"engine-p","remote_request_id":"cmpl-acfa3433bae41fb3-0-b9354d93","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1,"dcp_size":1,"pp_size":1,"remote_num_tokens":100,"remote_blocks_expiry_time":null,"transfer_mode":"pull","remote_prefill_cached_tokens":0}`
	assert.Equal(t, ticket, string(text.Ticket))

	r = load(t, "completion")
	text, err = ask(replay(t, r.pieces()...), r, false, nil)
	require.NoError(t, err)
	assert.Nil(t, text.Ticket, "null is no ticket")
}

func TestRecordedRefusals(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(recordings, "vllm-0.32.0/single/err-*.json"))
	require.NoError(t, err)
	n := 0
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".json")
		r := load(t, name)
		if r.status() == "200" || r.Method == "DELETE" {
			continue
		}
		n++
		t.Run(name, func(t *testing.T) {
			want := refusal(t, r.Body)
			for _, stream := range []bool{false, true} {
				_, err := ask(replay(t, r.pieces()...), r, stream, nil)
				var e *api.Error
				require.ErrorAs(t, err, &e)
				assert.Equal(t, api.Refused, e.Kind)
				assert.Equal(t, r.status(), itoa(e.Status))
				assert.Equal(t, want, [4]string{e.Message, e.Type, e.Param, e.Code})
				assert.Equal(t, string(r.Body), string(e.Body))
			}
		})
	}
	assert.GreaterOrEqual(t, n, 18, "recorded refusals")
}

func TestRecordedOmniErrors(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(wire, "vllm-omni-0.26.0", "errors.json"))
	require.NoError(t, err)
	var all []struct {
		Name, Path  string
		Status      int
		ContentType string `json:"content_type"`
		Body        json.RawMessage
	}
	require.NoError(t, json.Unmarshal(raw, &all))
	require.GreaterOrEqual(t, len(all), 40)
	for _, r := range all {
		t.Run(r.Name, func(t *testing.T) {
			want := refusal(t, r.Body)
			c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", r.ContentType)
				w.WriteHeader(r.Status)
				w.Write(r.Body)
			})
			_, err := c.Generate(t.Context(), api.ImageRequest{Prompt: "x"})
			var e *api.Error
			require.ErrorAs(t, err, &e)
			kind := api.Refused
			if r.Status >= 500 {
				kind = api.Server
			}
			assert.Equal(t, kind, e.Kind)
			assert.Equal(t, r.Status, e.Status)
			assert.Equal(t, want, [4]string{e.Message, e.Type, e.Param, e.Code})
			assert.Contains(t, err.Error(), itoa(r.Status)+" "+http.StatusText(r.Status))
		})
	}
}

// refusal reads an error body with encoding/json: message, type, param, code.
func refusal(t testing.TB, body []byte) [4]string {
	t.Helper()
	var m struct {
		Error *struct {
			Message, Type string
			Param         *string
			Code          json.Number
		}
		Detail string
	}
	require.NoError(t, json.Unmarshal(body, &m), "%s", body)
	if m.Error == nil {
		return [4]string{m.Detail}
	}
	out := [4]string{m.Error.Message, m.Error.Type, "", m.Error.Code.String()}
	if m.Error.Param != nil {
		out[2] = *m.Error.Param
	}
	return out
}

func TestRecordedFailuresInsideStreams(t *testing.T) {
	r := load(t, "nixl-26-wrong-engine-id-d")
	text, err := ask(replay(t, r.pieces()...), r, true, nil)
	assert.Equal(t, api.InBand, api.KindOf(err))
	assert.ErrorContains(t, err, "/v1/completions: error inside a 200 answer: Internal server error (InternalServerError, code 500)")
	assert.Empty(t, text.String())

	r = load(t, "nixl-23-one-block-too-few-d")
	_, err = ask(replay(t, r.pieces()...), r, true, nil)
	assert.Equal(t, api.InBand, api.KindOf(err))
	assert.ErrorContains(t, err, "EngineCore encountered an issue")

	// The recorder closed the socket in the middle: neither finish_reason nor [DONE].
	r = load(t, "disconnect-midstream")
	text, err = ask(replay(t, r.pieces()...), r, true, nil)
	assert.Equal(t, api.Truncated, api.KindOf(err))
	assert.ErrorContains(t, err, "missing finish_reason of choice 0 and [DONE]")
	assert.NotEmpty(t, text.String(), "what had arrived is kept")
	assert.NotEmpty(t, text.Events)

	// Ticket without remote_request_id: the engine sent headers and then nothing for ever.
	r = load(t, "nixl-20-missing-remote_request_id-d")
	_, err = ask(replay(t, r.pieces()...), r, true, nil)
	assert.Equal(t, api.Truncated, api.KindOf(err))
	assert.ErrorContains(t, err, "missing finish_reason of 1 choice (0 of 1 came) and [DONE]")
}

func TestRecordedModelsAndHealth(t *testing.T) {
	ids, err := replay(t, r("get-models", t)...).Models(t.Context())
	require.NoError(t, err)
	assert.Equal(t, []string{"tiny"}, ids)

	require.NoError(t, replay(t, r("get-health", t)...).Health(t.Context()), "200 with an empty body and no content type")

	var v struct{ Version string }
	require.NoError(t, replay(t, r("get-version", t)...).GetJSON(t.Context(), "/version", &v))
	assert.Equal(t, "0.32.0", v.Version)

	err = replay(t, r("get-server_info", t)...).GetJSON(t.Context(), "/server_info", &v)
	assert.Equal(t, api.Refused, api.KindOf(err))
	assert.ErrorContains(t, err, "404 Not Found: Not Found")
}

func r(name string, t testing.TB) []string {
	rec := load(t, name)
	return rec.pieces()
}
