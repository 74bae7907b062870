package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

const cannedAnswer = `{"id":"cmpl-1","object":"text_completion","created":1,"model":"tiny","choices":[{"index":0,"text":"red fox",` +
	`"logprobs":{"text_offset":[0,3],"token_logprobs":[-0.5,-0.25],"tokens":["red"," fox"],"top_logprobs":[{},{}]},"finish_reason":"length"}],` +
	`"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}}`

// TestOpenAIComparisonCanFail plants one fault in an otherwise right server and expects the comparison to name it.
func TestOpenAIComparisonCanFail(t *testing.T) {
	swap := func(old, new string) string {
		if !strings.Contains(cannedAnswer, old) {
			t.Fatalf("the canned answer has no %q", old)
		}
		return strings.Replace(cannedAnswer, old, new, 1)
	}
	for _, c := range []struct {
		name   string
		answer string // what the second client gets
		stream bool
		says   string // "": must pass
	}{
		{name: "healthy", answer: cannedAnswer},
		{name: "logprobs within the tolerance", answer: swap("-0.25", "-0.26")},
		{name: "healthy stream", stream: true, answer: "data: " + cannedAnswer + "\n\ndata: [DONE]\n\n"},
		{name: "other text", answer: swap("red fox", "red dog"), says: `"red dog"`},
		{name: "other finish_reason", answer: swap(`"length"`, `"stop"`), says: `"stop"`},
		{name: "other usage", answer: swap(`"prompt_tokens":3,"total_tokens":5`, `"prompt_tokens":4,"total_tokens":6`), says: "Prompt: "},
		{name: "no usage", answer: swap(`"usage"`, `"use"`), says: "-1"},
		{name: "other logprob", answer: swap("-0.25", "-0.35"), says: "-0.35"},
		{name: "other token", answer: swap(`"red"," fox"`, `"red f","ox"`), says: `"ox"`},
		{name: "no choices", answer: swap(`"choices"`, `"choice"`), says: "Texts"},
		{name: "error inside a 200 stream", stream: true, says: "received error while streaming: ",
			answer: "data: {\"error\":{\"message\":\"Internal server error\",\"type\":\"InternalServerError\",\"param\":null,\"code\":500}}\n\ndata: [DONE]\n\n"},
		{name: "stream cut before finish_reason", stream: true, says: `"length"`,
			answer: "data: " + swap(`"finish_reason":"length"`, `"finish_reason":null`) + "\n\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := canned(t, 200, cannedAnswer, c.answer)
			r := api.CompletionRequest{Prompt: "The quick", Sampling: api.Sampling{MaxTokens: 2, Logprobs: 1}}
			whole, err := e.ours.Complete(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.completion(t.Context(), r, c.stream)
			if err == nil {
				err = sameAnswer(ours(whole), got)
			}
			expect(t, err, c.says)
		})
	}
}

// TestOpenAIAnswerRules: two clients that agree about a wrong answer must not pass.
func TestOpenAIAnswerRules(t *testing.T) {
	right := answer{Texts: []string{"red fox"}, Finish: []string{"stop"}, Prompt: 3, Completion: 2, Total: 5}
	for _, c := range []struct {
		change func(*answer)
		says   string
	}{
		{func(*answer) {}, ""},
		{func(a *answer) { a.Prompt = -1 }, "no usage in the answer"},
		{func(a *answer) { a.Total = 6 }, "usage does not add up: 3 prompt + 2 completion tokens, total 6"},
		{func(a *answer) { a.Texts[0] = "" }, "the answer is empty"},
		{func(a *answer) { a.Finish[0] = "error" }, `choice 0 has finish_reason "error", want stop or length`},
	} {
		a := right
		a.Texts, a.Finish = []string{"red fox"}, []string{"stop"}
		c.change(&a)
		expect(t, sameAnswer(a, a), c.says)
	}
}

// TestOpenAIErrorComparisonCanFail does the same for errors.
func TestOpenAIErrorComparisonCanFail(t *testing.T) {
	body := func(typ, param, code string) string {
		return fmt.Sprintf(`{"error":{"message":"no such model","type":%q,"param":%s,"code":%s}}`, typ, param, code)
	}
	for _, c := range []struct {
		name   string
		status int
		body   string
		says   string
	}{
		{"as vLLM", 404, body("NotFoundError", `"model"`, "404"), ""},
		{"other status", 400, body("NotFoundError", `"model"`, "404"), "status is 400, want 404"},
		{"other code", 404, body("NotFoundError", `"model"`, "40"), `code is "40", want 404 as the status`},
		{"other type", 404, body("BadRequestError", `"model"`, "404"), `type is "BadRequestError", want "NotFoundError"`},
		{"no param", 404, body("NotFoundError", "null", "404"), `param is "", want "model"`},
		{"other message", 404, strings.Replace(body("NotFoundError", `"model"`, "404"), "no such model", "oops", 1), `message does not say "no such"`},
		{"no error object", 404, `{"detail":"Not Found"}`, `type is "", want "NotFoundError"`},
		{"no error at all", 200, cannedAnswer, "got <nil> (<nil>), want an *openai.Error with status 404"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := canned(t, c.status, c.body)
			_, err := e.completion(t.Context(), api.CompletionRequest{Prompt: "x"}, false)
			expect(t, sameError(err, 404, "NotFoundError", "model", "no such"), c.says)
		})
	}
}

func expect(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case says == "" && err != nil:
		t.Errorf("failed without a fault: %v", err)
	case says != "" && err == nil:
		t.Errorf("passed with a fault planted, want a failure that says %q", says)
	case says != "" && !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), says): // go-cmp mixes in non-breaking spaces
		t.Errorf("the failure does not say %q: %v", says, err)
	}
}

// canned is an endpoint that gives these answers in turn, the last one for ever.
func canned(t *testing.T, status int, answers ...string) endpoint {
	t.Helper()
	turn := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		text := answers[min(turn, len(answers)-1)]
		turn++
		w.Header().Set("Content-Type", "application/json")
		if strings.HasPrefix(text, "data: ") {
			w.Header().Set("Content-Type", "text/event-stream")
		}
		w.WriteHeader(status)
		io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	return peer(t, "canned", &api.Client{BaseURL: server.URL, Model: "tiny", Timeout: 30 * time.Second})
}
