package probe

import (
	"context"
	"maps"
	"math"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/omnitest/suite/omnitest/textcheck"
)

func TestCrossedTickets(t *testing.T) {
	t.Parallel()
	fixed := func(prompts ...string) Options {
		i := -1
		return Options{Output: 64, Prompt: func() api.CompletionRequest { i++; return api.CompletionRequest{Prompt: prompts[i%len(prompts)]} }}
	}
	three := fixed("the control of the experiment", "alpha says the sea is blue...", "bravo likes his tea without.")
	for _, c := range []struct {
		name     string
		plant    func(f *fakepd.Pair)
		options  Options
		want     string
		requests int
	}{
		{"consumed", func(*fakepd.Pair) {}, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			"proven: prompt b with the ticket of prompt a was answered with the text of a; prompt a with the ticket of prompt b was answered with the text of b", 9},
		{"nonces", func(*fakepd.Pair) {}, Options{},
			"proven: prompt b with the ticket of prompt a was answered with the text of a; prompt a with the ticket of prompt b was answered with the text of b", 9},
		{"fiction with perfect counters", func(f *fakepd.Pair) { f.IgnoreTicket, f.CountBytes = true, true }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			`refuted: prompt b with the ticket of prompt a was answered as if it had its own: "bravo likes his tea strong"; decode does not use what the ticket names`, 9},
		{"disturbed", func(f *fakepd.Pair) { f.Garble = func(own, lent string) string { return "\x00\x00#! ??? no sense" } }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			`proven: prompt b with the ticket of prompt a was disturbed: text diverges at byte 0: got "\x00\x00#! ??? no sense", want "bravo likes his tea strong"; ` +
				`prompt a with the ticket of prompt b was disturbed: text diverges at byte 0: got "\x00\x00#! ??? no sense", want "alpha says the sea is blue"`, 9},
		// As recorded on real vLLM: the foreign text leads for some tokens, then goes its own way.
		{"follows for a while", func(f *fakepd.Pair) { f.Garble = func(own, lent string) string { return lent[:12] + "~~~" } }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			"proven: prompt b with the ticket of prompt a follows the text of a in bytes 0 to 12; prompt a with the ticket of prompt b follows the text of b in bytes 0 to 12", 9},
		// An engine that pulls the blocks, uses some and writes the rest itself: all its counters are right.
		{"uses the first block alone", func(f *fakepd.Pair) { f.Garble = func(own, lent string) string { return lent[:4] + own[4:] } }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			"refuted: prompt b with the ticket of prompt a still gave 19 of 23 bytes of its own answer: decode uses only a part of what the ticket names", 9},
		{"uses the last block alone", func(f *fakepd.Pair) { f.Garble = func(own, lent string) string { return own[:16] + lent[16:] } }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			"refuted: prompt b with the ticket of prompt a still gave 14 of 23 bytes of its own answer: decode uses only a part of what the ticket names", 9},
		{"refused", func(f *fakepd.Pair) { f.Refuse = true }, Options{},
			"inconclusive: decode did not answer a crossed ticket: decode b with ticket a (decode): ", 9},
		{"numerics differ", func(f *fakepd.Pair) { f.Different = true }, fixed("the control of the experiment", "alpha says the sea is blue", "bravo likes his tea strong"),
			`inconclusive: decode differs from prefill alone even with the right ticket: text diverges at byte 0: got "THE CONTROL OF THE EXPERIMENT", want "the control of the experiment"`, 7},
		{"unequal lengths are never crossed", func(*fakepd.Pair) {}, three,
			"inconclusive: the prompts are not alike (29 and 28 tokens, 2 and 2 blocks): crossing their tickets could kill decode, nothing was crossed", 6},
		{"prompt in the answer", func(f *fakepd.Pair) { f.PromptFirst = true }, Options{Tokens: 300},
			"inconclusive: prompt own: an answer of one token has 301 bytes, ", 6},
		{"same answers", func(*fakepd.Pair) {}, fixed("one and the same"),
			`inconclusive: both prompts have the same answer "one and the same": an exchange would not show`, 6},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fakepd.New(t)
			c.plant(f)
			r, err := CrossedTickets(t.Context(), sourceOf(f), c.options)
			require.NoError(t, err)
			if c.name == "prompt in the answer" {
				assert.Contains(t, r.Verdict.String(), c.want)
				assert.Contains(t, r.Verdict.String(), "text of the prompt is in the answers, whatever KV they were made from")
			} else if c.name == "refused" {
				assert.Contains(t, r.Verdict.String(), c.want)
				assert.Contains(t, r.Verdict.String(), "ticket is not for this prompt")
			} else {
				assert.Equal(t, c.want, r.Verdict.String())
			}
			assert.Equal(t, c.requests, r.Requests)
			assert.Len(t, r.Answers, c.requests, "every answer is kept")
		})
	}
	t.Run("no tickets", func(t *testing.T) {
		s := sourceOf(fakepd.New(t))
		s.Dialect = &handoff.Example
		r, err := CrossedTickets(t.Context(), s, Options{})
		require.NoError(t, err)
		assert.Equal(t, "inconclusive: connector example has no tickets to cross", r.Verdict.String())
	})
	t.Run("dead decode", func(t *testing.T) {
		f := fakepd.New(t)
		f.Decode.Srv.Close()
		r, err := CrossedTickets(t.Context(), sourceOf(f), Options{})
		assert.ErrorContains(t, err, "crossed tickets: decode own with its own ticket (decode): ")
		assert.Error(t, r.Verdict.Err())
	})
	t.Run("no ticket from prefill", func(t *testing.T) {
		f := fakepd.New(t)
		s := sourceOf(f)
		d := handoff.NIXL
		d.Ask = []byte(`{}`) // prefill does not understand the request
		s.Dialect = &d
		_, err := CrossedTickets(t.Context(), s, Options{})
		assert.EqualError(t, err, "crossed tickets: prefill own: no ticket")
		_, err = WithheldTicket(t.Context(), s, Options{})
		assert.EqualError(t, err, "withheld ticket: prefill with: no ticket")
	})
	t.Run("no client", func(t *testing.T) {
		_, err := CrossedTickets(t.Context(), handoff.Source{}, Options{})
		assert.EqualError(t, err, "probe: it talks to prefill and decode directly, and one of them has no API client")
	})
}

func TestWithheldTicket(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		plant func(f *fakepd.Pair)
		want  string
	}{
		{"sees", func(*fakepd.Pair) {}, "proven: without a ticket decode computed 192 of 192 prompt tokens and moved 0 bytes, with one it computed 0 and moved 196608 bytes"},
		{"recompute", func(f *fakepd.Pair) { f.IgnoreTicket = true }, "refuted: with a ticket decode computed 192 prompt tokens itself, without one 192; 0 bytes moved"},
		{"moves without being asked", func(f *fakepd.Pair) { f.MoveUnasked = true }, "inconclusive: decode moved 4096 bytes for a prompt without a ticket"},
		{"moves nothing when asked", func(f *fakepd.Pair) { f.MoveNothing = true }, "refuted: with a ticket decode computed 0 prompt tokens and moved 0 bytes: nothing explains its answer"},
		{"preempted", func(f *fakepd.Pair) {
			f.Decode.Page = func(e *fakepd.Engine) (int, string) {
				page := maps.Clone(e.Counters)
				page[fakepd.Preemptions] = page[fakepd.Finished]
				return 200, e.Text(page)
			}
		}, "inconclusive: decode preempted 1 time: what it then computed again cannot be told from a missing handoff"},
		{"blind", func(f *fakepd.Pair) { f.Blind = true }, "inconclusive: instrument blind: without a ticket decode counts only 0 of 0 prompt tokens as computed"},
		{"blind to tokens", func(f *fakepd.Pair) {
			f.Decode.Page = func(e *fakepd.Engine) (int, string) {
				page := map[string]float64{}
				for k, v := range e.Counters {
					if k != fakepd.LocalCompute && k != fakepd.Iteration {
						page[k] = v
					}
				}
				return 200, e.Text(page)
			}
		}, "inconclusive: instrument blind: decode does not tell what it computed (vllm:iteration_tokens_total_sum absent)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fakepd.New(t)
			c.plant(f)
			r, err := WithheldTicket(t.Context(), sourceOf(f), Options{})
			require.NoError(t, err)
			assert.Equal(t, c.want, r.Verdict.String())
			assert.Equal(t, 3, r.Requests)
		})
	}
}

// How much is read by default: a model that repeats its prompt shows each part of its KV only when it comes to it.
func TestProbeOutput(t *testing.T) {
	ids := make([]int, 512)
	for _, c := range []struct {
		whole   bool
		options Options
		request api.CompletionRequest
		want    int
	}{
		{true, Options{}, api.CompletionRequest{Prompt: nonce(192)}, 192},
		{true, Options{}, api.CompletionRequest{PromptIDs: ids[:100]}, 100},
		{true, Options{}, api.CompletionRequest{PromptIDs: ids}, 256},
		{true, Options{}, api.CompletionRequest{Prompt: "short"}, 32},
		{true, Options{Output: 8}, api.CompletionRequest{PromptIDs: ids}, 8},
		{false, Options{}, api.CompletionRequest{PromptIDs: ids}, 32},
		{false, Options{Output: -1}, api.CompletionRequest{PromptIDs: ids}, 32},
	} {
		p, err := newProbe(sourceOf(fakepd.New(t)), c.options)
		require.NoError(t, err)
		p.whole = c.whole
		assert.Equal(t, c.want, p.output(c.request), "%+v", c.options)
	}
}

// Two right runs may part at a near tie, and only there: up to it the experiment stands.
func TestProbeValid(t *testing.T) {
	want := nonce(64)
	sure := []textcheck.Margin{{End: 64, Nats: 5}}
	tie := []textcheck.Margin{{End: 40, Nats: 5}, {End: 64, Nats: 0.1}}
	for _, c := range []struct {
		got     string
		margins []textcheck.Margin
		bytes   int
		same    bool
	}{
		{want, sure, math.MaxInt, true},
		{want[:40] + "#" + want[41:], tie, 40, true},
		{want[:40] + "#" + want[41:], nil, 40, true}, // characters split over tokens: margins not told
		{want[:40] + "#" + want[41:], sure, 40, false},
		{want[:20] + "#" + want[21:], tie, 20, false},
		{"#" + want[1:], nil, 0, false},
	} {
		bytes, same := new(probe).valid(c.got, &subject{control: want, margins: c.margins})
		assert.Equal(t, c.same, same, "%q against %q", c.got, want)
		assert.Equal(t, c.bytes, bytes)
	}
}

// TestOwnBytes: the share of its own answer that a crossed prompt keeps, on real vLLM and for a liar.
func TestOwnBytes(t *testing.T) {
	text := func(name string) string {
		x, err := replay.Load(os.DirFS("../../../testdata/recordings"), name+".json")
		require.NoError(t, err)
		s, err := replay.Serve(replay.Options{Any: true}, x)
		require.NoError(t, err)
		defer s.Close()
		ask := (&api.Client{BaseURL: s.URL}).Complete
		if x.Streamed() {
			ask = func(ctx context.Context, r api.CompletionRequest) (*api.Text, error) {
				return (&api.Client{BaseURL: s.URL}).StreamComplete(ctx, r, nil)
			}
		}
		answer, err := ask(t.Context(), api.CompletionRequest{Prompt: "x"})
		require.NoError(t, err)
		return answer.String()
	}
	const cpu, gpu = "vllm-0.32.0/nixl/05-crossed/", "vllm-gpu-pd-0.26.0/http/"
	for _, c := range []struct {
		got, own, lent string
		kept, differ   int
	}{
		{text(cpu + "d-a-with-ticket-b"), text(cpu + "control-a"), text(cpu + "control-b"), 3, 48},
		{text(cpu + "d-b-with-ticket-a"), text(cpu + "control-b"), text(cpu + "control-a"), 0, 44},
		{text(gpu + "037-crossed-D"), text(gpu + "035-crossed-control"), text(gpu + "032-donor-control"), 2, 79},
		{"abcdefgh", "abcdefgh", "abcd....", 4, 4},
		{"abc", "abcdefgh", "........", 3, 8},
		// Both ended in the loop that this model always ends in.
		{"~~~~-duty-duty-duty-duty", "abcd-duty-duty-duty-duty", "efghyamlyamlyamlyamlyaml", 4, 8},
	} {
		kept, differ := ownBytes(c.got, c.own, c.lent)
		assert.Equal(t, [2]int{c.kept, c.differ}, [2]int{kept, differ}, "%q of %q", c.got, c.own)
	}
	assert.Equal(t, 3, beforeLoop("xyzzzzz"))
	assert.Equal(t, 0, beforeLoop(""))
	assert.Equal(t, 6, beforeLoop("no end"))
}

// vLLM 0.32 hangs on a ticket it does not understand: a probe ends all the same.
func TestProbeEnds(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s := sourceOf(f)
	hang := fakepd.Hanging(t)
	s.Decode.API = &api.Client{BaseURL: hang}
	s.Decode.MetricsURL = f.Decode.Srv.URL + "/metrics"
	_, err := CrossedTickets(ctx, s, Options{Limit: 100 * time.Millisecond})
	require.Error(t, err)
	assert.ErrorContains(t, err, "crossed tickets: decode own with its own ticket (decode): no answer within 100ms")
	assert.NoError(t, ctx.Err())
}

// sourceOf is a fake pair as a source of evidence.
func sourceOf(f *fakepd.Pair) handoff.Source {
	return handoff.Source{
		Entry:   &api.Client{BaseURL: f.Proxy.URL},
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: f.Prefill.Srv.URL}},
		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: f.Decode.Srv.URL}},
		Settle:  5 * time.Millisecond, BytesPerToken: 1024,
	}
}
