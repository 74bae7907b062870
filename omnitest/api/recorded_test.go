package api_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	recorded "github.com/omnitest/suite/omnitest/internal/replay"
)

// notOurs are recorded exchanges that no call of the client makes. Everything else is read through it.
var notOurs = map[string]string{
	"single/completion-head-health":         "HEAD",
	"single/err-wrong-method-delete-models": "DELETE",
	"single/tokenize":                       "a route the client does not have",
	"single/detokenize":                     "a route the client does not have",
}

// asSent makes the typed request out of a recorded body. What the client has no field for goes through Extra. exact says
// that the client can send these very values: it always sends a temperature, and with stream always include_usage.
func asSent(t testing.TB, e recorded.Exchange) (completion api.CompletionRequest, chat api.ChatRequest, stream, exact bool) {
	t.Helper()
	var body map[string]json.RawMessage
	if json.Unmarshal(e.RequestBody, &body) != nil {
		return completion, chat, false, false
	}
	s := api.Sampling{Extra: map[string]any{}, RequestID: e.RequestHeader.Get("X-Request-Id")}
	take := func(key string, into any) bool {
		raw, there := body[key]
		if there && json.Unmarshal(raw, into) == nil {
			delete(body, key)
			return true
		}
		return false
	}
	model := ""
	take("model", &model)
	take("stream", &stream)
	if !stream && bytes.Contains(e.RequestBody, []byte(`"stream"`)) {
		s.Extra["stream"] = false
	}
	exact = take("temperature", &s.Temperature)
	if stream {
		exact = exact && strings.Contains(strings.ReplaceAll(string(body["stream_options"]), " ", ""), `{"include_usage":true}`)
		delete(body, "stream_options")
	}
	take("max_tokens", &s.MaxTokens)
	take("seed", &s.Seed)
	take("n", &s.N)
	take("ignore_eos", &s.IgnoreEOS)
	take("return_token_ids", &s.TokenIDs)
	if strings.Contains(e.Path, "chat") {
		var asked bool
		if take("logprobs", &asked) {
			take("top_logprobs", &s.Logprobs)
		}
	} else {
		take("logprobs", &s.Logprobs)
	}
	if raw, there := body["kv_transfer_params"]; there && string(raw) != "null" {
		s.Ticket = raw
		delete(body, "kv_transfer_params")
	}
	if !take("prompt", &completion.Prompt) && !take("prompt", &completion.PromptIDs) {
		completion.Prompt, completion.PromptIDs = "x", nil // a list of prompts goes through Extra
	}
	var messages []struct{ Role, Content string }
	if take("messages", &messages) {
		for _, m := range messages {
			chat.Messages = append(chat.Messages, api.Message{Role: m.Role, Text: m.Content})
		}
	}
	if s.MaxTokens == 0 && bytes.Contains(e.RequestBody, []byte(`"max_tokens": 0`)) {
		s.Extra["max_tokens"] = 0
	}
	for k, v := range body {
		s.Extra[k] = v
	}
	completion.Model, chat.Model, completion.Sampling, chat.Sampling = model, model, s, s
	return completion, chat, stream, exact
}

// TestEveryRecordedExchange reads all recorded exchanges of real engines through the client. What each must come to follows
// from the recording itself, read a second time by encoding/json: an answer, a refusal, an error inside a 200, a broken end.
func TestEveryRecordedExchange(t *testing.T) {
	kinds := map[string]int{}
	exactly := 0
	for _, dir := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		list, paths, err := recorded.LoadAll(os.DirFS(recordings), dir)
		require.NoError(t, err)
		for i, e := range list {
			if notOurs[e.Name] != "" {
				kinds["not ours"]++
				continue
			}
			if len(e.Chunks) == 0 {
				_, err := play(t, recorded.Options{Any: true}, e).Complete(t.Context(), api.CompletionRequest{Prompt: "x"})
				assert.Equal(t, api.Transport, api.KindOf(err), "%s: %v", paths[i], err)
				kinds["no answer"]++
				continue
			}
			completion, chat, stream, exact := asSent(t, e)
			exact = exact && e.Method == "POST" && (e.Path == "/v1/completions" || e.Path == "/v1/chat/completions")
			o := recorded.Options{Any: !exact}
			if exact {
				exactly++
			}
			client := play(t, o, e)
			var text *api.Text
			switch {
			case e.Method == "GET" && e.Path == "/health", e.Path == "/ping":
				err = client.Health(t.Context())
			case e.Method == "GET":
				_, _, err = client.Get(t.Context(), e.Path)
			case e.Path == "/v1/chat/completions" && stream:
				text, err = client.StreamChat(t.Context(), chat, nil)
			case e.Path == "/v1/chat/completions":
				text, err = client.Chat(t.Context(), chat)
			case stream:
				text, err = client.StreamComplete(t.Context(), completion, nil)
			default:
				text, err = client.Complete(t.Context(), completion)
			}
			kinds[judge(t, paths[i], e, text, err)]++
		}
	}
	t.Log(kinds)
	total := 0
	for _, n := range kinds {
		total += n
	}
	assert.Equal(t, 294, total)
	assert.Equal(t, map[string]int{"whole answer": 169, "stream": 52, "refused": 21, "server": 6, "in-band": 6, "truncated": 3, "GET": 26, "no answer": 7, "not ours": 4}, kinds)
	t.Logf("%d requests sent as recorded", exactly)
	assert.Greater(t, exactly, 150, "requests that the client sent in the very values of the recorder, or the server would not have answered")
}

// judge compares what the client made of an answer with the recording, and names the kind.
func judge(t *testing.T, path string, e recorded.Exchange, text *api.Text, err error) string {
	t.Helper()
	var failure *api.Error
	errors.As(err, &failure)
	kind := string(api.KindOf(err))
	switch {
	case e.Status != 200:
		require.NotNil(t, failure, "%s: status %d", path, e.Status)
		assert.Equal(t, e.Status, failure.Status, path)
		if len(e.Body) == 0 { // /health of an engine whose core died
			assert.Equal(t, "empty body", failure.Message, path)
		} else {
			assert.Equal(t, refusal(t, e.Body), [4]string{failure.Message, failure.Type, failure.Param, failure.Code}, path)
		}
		assert.Equal(t, map[bool]string{true: "server", false: "refused"}[e.Status >= 500], kind, path)
	case e.Unfinished():
		assert.Equal(t, api.Truncated, failure.Kind, path)
	case e.Streamed() && bytes.Contains(e.Body, []byte(`data: {"error":`)):
		_, after, _ := strings.Cut(string(e.Body), `data: {"error":`)
		event, _, _ := strings.Cut(after, "\n")
		require.NotNil(t, failure, path)
		assert.Equal(t, api.InBand, failure.Kind, path)
		assert.Equal(t, refusal(t, []byte(`{"error":`+event)), [4]string{failure.Message, failure.Type, failure.Param, failure.Code}, path)
	case e.Method == "GET":
		require.NoError(t, err, path)
		return "GET"
	default:
		require.NoError(t, err, path)
		want := readReference(t, string(e.Body), e.Streamed())
		if diff := cmp.Diff(want, asReference(text), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: the client reads it differently from encoding/json (-encoding/json +client):\n%s", path, diff)
		}
		assert.EqualValues(t, len(e.Body), text.BodyBytes, path)
		if e.Streamed() {
			return "stream"
		}
		return "whole answer"
	}
	return kind
}

// TestEventTimesAsRecorded: with the recorded pauses, no event may have an earlier time than the read that brought its last
// byte, and at least one comes close to it. A client that stamps events when it parses them, or all when the body ends,
// fails the second; one that stamps them before they are whole fails the first.
func TestEventTimesAsRecorded(t *testing.T) {
	for _, name := range []string{"nixl-01-proper-d", "chat-stream-cjk-ignore-eos-sampled"} {
		r := load(t, name)
		client := play(t, recorded.Options{Any: true, Scale: 1}, r.Exchange)
		text, err := ask(client, r, true, nil)
		require.NoError(t, err, name)
		raw := r.Raw()
		at := 0
		var arrivals, late []time.Duration
		for _, ev := range text.Events {
			i := bytes.Index(raw[at:], ev.Data)
			require.GreaterOrEqual(t, i, 0, "%s: chunk framing inside an event", name)
			at += i + len(ev.Data)
			end := at
			for _, c := range r.Chunks {
				if end -= len(c.Data); end <= 0 {
					arrivals = append(arrivals, c.At)
					break
				}
			}
			arrival := arrivals[len(arrivals)-1]
			assert.GreaterOrEqual(t, ev.At, arrival, "%s: %s before it had come", name, ev.Data)
			late = append(late, ev.At-arrival)
		}
		require.Len(t, arrivals, len(text.Events))
		assert.Less(t, slices.Min(late), 100*time.Millisecond, name)
		distinct := map[time.Duration]bool{}
		for _, a := range arrivals {
			distinct[a] = true
		}
		assert.Greater(t, len(slices.Collect(maps.Keys(distinct))), 5, "%s: the recording must spread over several reads", name)
		assert.Greater(t, text.Events[len(text.Events)-1].At-text.Events[0].At, (arrivals[len(arrivals)-1]-arrivals[0])/2, name)
	}
}

// TestAnEngineThatHangs: 20 was recorded with a client that gave up after 25 s. The client's own timeout names it.
func TestAnEngineThatHangs(t *testing.T) {
	r := load(t, "nixl-20-missing-remote_request_id-d")
	client := play(t, recorded.Options{Any: true, Hang: true}, r.Exchange)
	client.Timeout = 300 * time.Millisecond
	_, err := ask(client, r, true, nil)
	assert.Equal(t, api.Timeout, api.KindOf(err))
	assert.ErrorContains(t, err, "the client's timeout of 300ms ran out")
}
