package perf

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/workload"
)

// session is in the request ids of this process, so that a ledger which outlives it does not know two requests by one name.
var session = strings.ToLower(rand.Text()[:8])

func requestID(seed uint64, i int) string { return fmt.Sprintf("perf-%s-%d-%d", session, seed, i) }

// textTask is streamed completions.
type textTask struct {
	client *api.Client
	text   workload.Text
	known  bool // the reference model repeats its prompt: every answer is known
	cached bool // one prompt for all, so that it is in the prefix cache when the measured calls come: decode alone

	first    int
	requests func(i int) api.CompletionRequest
	answers  []textAnswer
}

type textAnswer struct {
	text *api.Text
	err  error
}

func (t *textTask) prepare(seed uint64, from, to int) error {
	requests, err := t.text.Requests(seed)
	if err != nil {
		return err
	}
	t.first, t.answers = from, make([]textAnswer, to-from)
	t.requests = workload.Ahead(func(i int) api.CompletionRequest {
		r := requests(i)
		if t.cached {
			r = requests(0)
		}
		r.RequestID = requestID(seed, i)
		return r
	}, from, to)
	return nil
}

func (t *textTask) call(ctx context.Context, i int) (metrics.Sample, error) {
	r := t.requests(i)
	text, err := t.client.StreamComplete(ctx, r, nil)
	t.answers[i-t.first] = textAnswer{text, err}
	s := metrics.FromText(text, err)
	s.PromptTokens = max(len(r.PromptIDs), len(r.Prompt)) // text is sent where one byte is one token
	return s, err
}

// want is the known answer; "": it is not known.
func (t *textTask) want(i int) string {
	if r := t.requests(i); t.known && r.MaxTokens <= len(r.Prompt) {
		return r.Prompt[:r.MaxTokens]
	}
	return ""
}

func (t *textTask) observe(i int) handoff.Observation {
	a := t.answers[i-t.first]
	o := handoff.Observed(a.text, a.err)
	if o.Prompt = t.requests(i).Prompt; o.RequestID == "" {
		o.RequestID = t.requests(i).RequestID
	}
	if o.Want = t.want(i); o.Want != "" {
		o.WantFrom = "known answer: the reference model repeats its prompt"
	}
	return o
}

func (t *textTask) judge(i int) error {
	a, r := t.answers[i-t.first].text, t.requests(i)
	if want := t.want(i); want != "" && a.String() != want {
		return fmt.Errorf("not the known answer: got %.40q, want %.40q", a.String(), want)
	}
	switch u := a.Usage; {
	case u == nil:
		// Without a count the end tells: where EOS is ignored there is nothing to stop at.
		if r.IgnoreEOS && len(a.Choices) > 0 && a.Choices[0].FinishReason == "stop" {
			return fmt.Errorf("the answer ended by itself (finish_reason stop), %d tokens were asked for with ignore_eos", r.MaxTokens)
		}
		return nil
	case len(r.PromptIDs) > 0 && u.PromptTokens > 0 && u.PromptTokens != len(r.PromptIDs) && u.PromptTokens != len(r.PromptIDs)+1:
		// One more is a BOS that the engine puts before them.
		return fmt.Errorf("the server counts %d prompt tokens, %d were sent as ids: it worked on another prompt", u.PromptTokens, len(r.PromptIDs))
	case u.CompletionTokens >= 0 && u.CompletionTokens != r.MaxTokens && r.IgnoreEOS:
		return fmt.Errorf("the answer has %d tokens, %d were asked for with ignore_eos", u.CompletionTokens, r.MaxTokens)
	case t.cached && t.known && u.CachedTokens == 0:
		return fmt.Errorf("no token of the prompt was in the prefix cache: not decode alone was measured")
	}
	return nil
}

func (t *textTask) settle() error { return nil }
func (t *textTask) done() error   { return nil }

func (t *textTask) tokens(from, to int) (n int, ok bool) {
	for i := from; i < to; i++ {
		a := t.answers[i-t.first].text
		if a == nil || a.Usage == nil || a.Usage.CompletionTokens < 0 {
			return 0, false
		}
		n += a.Usage.CompletionTokens
	}
	return n, true
}

// verdicts: without the answers there is no proof that what moved was the right thing.
func (t *textTask) verdicts(e *handoff.Evidence) []handoff.Verdict {
	for i := range t.answers {
		if t.want(t.first+i) == "" {
			return []handoff.Verdict{handoff.Moved(e)}
		}
	}
	return []handoff.Verdict{handoff.Proven(e)}
}

// Of an engine whose answers are not known, the counts and the end tell whether what was measured is what was asked for.
func TestJudgeOfText(t *testing.T) {
	task := &textTask{text: workload.Text{Input: workload.Fixed(100), Output: workload.Fixed(20)}}
	require.NoError(t, task.prepare(3, 0, 1))
	for _, c := range []struct {
		finish string
		usage  *api.Usage
		says   string
	}{
		{"length", &api.Usage{PromptTokens: 100, CompletionTokens: 20}, ""},
		{"length", &api.Usage{PromptTokens: 101, CompletionTokens: 20}, ""}, // with a BOS
		{"length", &api.Usage{PromptTokens: -1, CompletionTokens: -1}, ""},
		{"length", nil, ""},
		{"", nil, ""},
		{"stop", nil, "the answer ended by itself (finish_reason stop), 20 tokens were asked for with ignore_eos"},
		{"stop", &api.Usage{PromptTokens: 100, CompletionTokens: 3}, "the answer has 3 tokens, 20 were asked for with ignore_eos"},
		{"length", &api.Usage{PromptTokens: 100}, "the answer has 0 tokens, 20 were asked for with ignore_eos"},
		{"length", &api.Usage{PromptTokens: 64, CompletionTokens: 20}, "the server counts 64 prompt tokens, 100 were sent as ids: it worked on another prompt"},
		{"length", &api.Usage{PromptTokens: 1e18, CompletionTokens: 20}, "the server counts 1000000000000000000 prompt tokens, 100 were sent as ids: it worked on another prompt"},
	} {
		task.answers[0].text = &api.Text{Choices: []api.Choice{{Text: "a", FinishReason: c.finish}}, Usage: c.usage}
		if err := task.judge(0); c.says == "" {
			assert.NoError(t, err, "%s %v", c.finish, c.usage)
		} else {
			assert.EqualError(t, err, c.says)
		}
	}
}
