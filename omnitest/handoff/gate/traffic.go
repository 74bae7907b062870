package gate

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/probe"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// Texts makes the window that most passive assertions judge: fresh prompts through the entry, one after the other (streamed and
// whole), one of which shares half of its prompt with the first, two of three times that length and two chats (whole and streamed:
// an engine may compute these for itself and pull the others), then four at once. Each one's control is asked of prefill alone
// before the window opens; what prefill refuses to answer, a length beyond its context or a chat without a template, is left out.
// requests counts all, controls included. An error says why there is no window: a stage that is gone, or
// is never idle.
func Texts(ctx context.Context, s handoff.Source, o probe.Options) (e *handoff.Evidence, requests int, err error) {
	t, err := newTraffic(s, o)
	if err != nil {
		return nil, 0, err
	}
	draw := drawn(o)
	asks := make([]api.CompletionRequest, 10)
	for i := range asks {
		asks[i] = draw()
	}
	asks[2] = behind(asks[0], asks[2]) // decode has half of it already: the rest must come from the middle of the ticket
	for i := 8; i < 10; i++ {
		for range 2 {
			more := draw()
			asks[i].Prompt, asks[i].PromptIDs = asks[i].Prompt+more.Prompt, slices.Concat(asks[i].PromptIDs, more.PromptIDs)
		}
	}
	for i := range asks {
		asks[i].MaxTokens, asks[i].RequestID = o.Output, fmt.Sprintf("gate-%d-%s", i, strings.ToLower(letters(6)))
		if o.Output <= 0 {
			asks[i].MaxTokens = min(256, max(32, len(asks[i].PromptIDs), len(asks[i].Prompt)))
		}
	}
	wants := t.controls(ctx, asks)
	chats := make([]api.ChatRequest, 2)
	answers := make([]control, len(chats))
	for i := range chats {
		chats[i] = api.ChatRequest{Messages: []api.Message{{Role: "user", Text: letters(max(o.Tokens, 192))}}, Sampling: api.Sampling{MaxTokens: max(o.Output, 64)}}
		answers[i] = t.chatControl(ctx, chats[i])
		chats[i].RequestID = fmt.Sprintf("gate-chat-%d-%s", i, letters(6))
	}
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return nil, t.sent, err
	}
	const alone = 4 // then the others at once
	for i := range alone {
		t.send(ctx, w, asks[i], wants[i], i%2 == 0)
	}
	for i := 8; i < len(asks); i++ {
		if wants[i].text != nil {
			t.send(ctx, w, asks[i], wants[i], i%2 == 0)
		}
	}
	for i, q := range chats {
		if answers[i].text != nil {
			t.chat(ctx, w, q, answers[i], i%2 == 0)
		}
	}
	var wg sync.WaitGroup
	for i := alone; i < 8; i++ {
		wg.Go(func() { t.send(ctx, w, asks[i], wants[i], i%2 == 0) })
	}
	wg.Wait()
	e, err = w.Close(ctx)
	return e, t.sent, err
}

// Crowd sends as many fresh prompts at once through the entry as the highest Concurrency (nil: 32) says, in a window of their own,
// and judges by decode's counters whether each was handed over: an engine that is full may prefer to compute what it is given a
// ticket for, with the right text. What is answered is not compared.
func Crowd(ctx context.Context, s handoff.Source, o probe.Options) (r probe.Result, err error) {
	t, err := newTraffic(s, o)
	if err != nil {
		return r, err
	}
	n := 32
	if len(o.Concurrency) > 0 {
		n = max(1, slices.Max(o.Concurrency))
	}
	draw := drawn(o)
	asks := make([]api.CompletionRequest, n)
	for i := range asks {
		asks[i] = draw()
		asks[i].MaxTokens, asks[i].RequestID = 32, fmt.Sprintf("gate-crowd-%d-%s", i, letters(6))
	}
	r.Began = time.Now()
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return r, err
	}
	var wg sync.WaitGroup
	for _, q := range asks {
		wg.Go(func() { t.send(ctx, w, q, control{}, false) })
	}
	wg.Wait()
	e, err := w.Close(ctx)
	r.Requests = t.sent
	if err != nil {
		return r, err
	}
	r.Verdict = handoff.NoSilentFallback(e)
	for i := range r.Verdict.Reasons {
		r.Verdict.Reasons[i].Text = fmt.Sprintf("%d at once: %s", n, r.Verdict.Reasons[i].Text)
	}
	return r, nil
}

// Pictures makes a window of two small pictures, for the handoff from decode to the DiT.
func Pictures(ctx context.Context, s handoff.Source, o probe.Options) (e *handoff.Evidence, requests int, err error) {
	t, err := newTraffic(s, o)
	if err != nil {
		return nil, 0, err
	}
	w, err := handoff.Open(ctx, s)
	if err != nil {
		return nil, 0, err
	}
	for range 2 {
		t.picture(ctx, w)
	}
	e, err = w.Close(ctx)
	return e, t.sent, err
}

// traffic counts what it sends.
type traffic struct {
	source handoff.Source
	limit  time.Duration
	mu     sync.Mutex
	sent   int
}

func newTraffic(s handoff.Source, o probe.Options) (*traffic, error) {
	if s.Entry == nil {
		return nil, errors.New("no entry given: there is no proxy to send requests to")
	}
	if o.Limit <= 0 {
		o.Limit = time.Minute
	}
	return &traffic{source: s, limit: o.Limit}, nil
}

func (t *traffic) count() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sent++
}

// control is what prefill alone makes of a prompt; a nil text: it could not be asked, and the answer is compared with nothing.
type control struct{ text *api.Text }

func (t *traffic) controls(ctx context.Context, asks []api.CompletionRequest) []control {
	all := make([]control, len(asks))
	if t.source.Prefill.API == nil {
		return all
	}
	for i, r := range asks {
		r.RequestID, r.Logprobs = "", 2
		ctx, cancel := context.WithTimeout(ctx, t.limit)
		all[i].text, _ = t.source.Prefill.API.Complete(ctx, r)
		cancel()
		t.count()
	}
	return all
}

// send makes one request and shows it to the window with the time it took.
func (t *traffic) send(ctx context.Context, w *handoff.Window, r api.CompletionRequest, want control, stream bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limit, fmt.Errorf("no answer within %v", t.limit))
	defer cancel()
	var answer *api.Text
	var err error
	began := time.Now()
	if stream {
		answer, err = t.source.Entry.StreamComplete(ctx, r, nil)
	} else {
		answer, err = t.source.Entry.Complete(ctx, r)
	}
	t.count()
	prompt := r.Prompt
	if len(r.PromptIDs) > 0 {
		prompt = fmt.Sprint(r.PromptIDs)
	}
	t.observe(w, answer, err, r.RequestID, prompt, time.Since(began), want)
}

// chatControl is what prefill alone answers to a chat.
func (t *traffic) chatControl(ctx context.Context, r api.ChatRequest) (c control) {
	if t.source.Prefill.API == nil {
		return c
	}
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	r.Logprobs = 2
	c.text, _ = t.source.Prefill.API.Chat(ctx, r)
	t.count()
	return c
}

// chat is send for a chat.
func (t *traffic) chat(ctx context.Context, w *handoff.Window, r api.ChatRequest, want control, stream bool) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limit, fmt.Errorf("no answer within %v", t.limit))
	defer cancel()
	var answer *api.Text
	var err error
	began := time.Now()
	if stream {
		answer, err = t.source.Entry.StreamChat(ctx, r, nil)
	} else {
		answer, err = t.source.Entry.Chat(ctx, r)
	}
	t.count()
	t.observe(w, answer, err, r.RequestID, r.Messages[0].Text, time.Since(began), want)
}

// observe shows an answer to the window.
func (t *traffic) observe(w *handoff.Window, answer *api.Text, err error, id, prompt string, took time.Duration, want control) {
	o := handoff.Observed(answer, err)
	o.RequestID, o.Prompt, o.Took, o.Limit = id, prompt, took, t.limit
	if want.text != nil {
		o.Want, o.WantFrom, o.Margins = want.text.String(), "control: prefill alone", textcheck.MarginsOf(want.text)
	}
	w.Observe(o)
}

// picture is the smallest picture there is; its plan stands in the ledger and is judged as an answer.
func (t *traffic) picture(ctx context.Context, w *handoff.Window) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.limit, fmt.Errorf("no answer within %v", t.limit))
	defer cancel()
	r := api.ImageRequest{Prompt: "a red cube " + letters(12), RequestID: "gate-picture-" + letters(6), ImageParams: api.ImageParams{Size: api.Size{W: 64, H: 64}, Steps: 1, Seed: 1}}
	began := time.Now()
	_, err := t.source.Entry.Generate(ctx, r)
	t.count()
	w.Observe(handoff.Observation{RequestID: r.RequestID, Prompt: r.Prompt, Err: err, Took: time.Since(began), Limit: t.limit})
}

// behind makes a prompt whose first half is another's.
func behind(first, r api.CompletionRequest) api.CompletionRequest {
	if n := len(first.PromptIDs) / 2; n > 0 && len(r.PromptIDs) > n {
		r.PromptIDs = append(append([]int{}, first.PromptIDs[:n]...), r.PromptIDs[n:]...)
	}
	if n := len(first.Prompt) / 2; n > 0 && len(r.Prompt) > n {
		r.Prompt = first.Prompt[:n] + r.Prompt[n:]
	}
	return r
}

// letters are n random lower-case letters: nothing that any prefix cache has seen.
func letters(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, says crypto/rand
	for i := range b {
		b[i] = 'a' + b[i]%26
	}
	return string(b)
}
