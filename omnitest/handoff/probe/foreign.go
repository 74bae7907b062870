package probe

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const foreignClaim = "no answer holds another request's content"

// secretLetters is the length of a secret: one of 26^16 does not come up by chance.
const secretLetters = 16

// ForeignContent looks for another's content in answers that were made at once: blocks freed too early, crossed tickets and
// mixed-up batches all end there, with status 200 and healthy counters. In each of Rounds (0: 2) and at each Concurrency
// (nil: 1, 8, 32) as many fresh prompts go at once through the entry, by direct legs where there is none; half of them begin
// alike, half share nothing, and each that is text has a secret in it. Afterwards prefill alone answers each as its control,
// four at a time.
//
//   - refuted: an answer holds another's secret, or follows another's control where its own says something else, after it had
//     left its own control at a token of which that was sure
//   - inconclusive: answers that are neither their own nor a known neighbour's, and a model to which this cannot be done
//     because it answers all prompts alike
//
// Blocks are reused only when the pool is short: whether the requests exceed it is for the owner to see to (Tokens, Rounds and
// Concurrency against the blocks of prefill). All prompts of the run are held against each other, so an answer from a block
// that belonged to an earlier one is found as well.
//
// It sends 2 requests per prompt through an entry, 3 by direct legs; 82 prompts by default. It leaves them in the prefix
// caches. A request that fails is an error, unless the others refute.
func ForeignContent(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	p.whole = true
	levels := p.levels(1, 8, 32)
	var all []*neighbour
	var failed []error
	for round := range p.times(2) {
		for _, level := range levels {
			crowd := p.crowd(level, fmt.Sprintf("%d at %d", round+1, level))
			atOnce(level, level, func(i int) {
				crowd[i].got, crowd[i].err = p.through(ctx, s.Entry != nil, crowd[i].name, crowd[i].request)
			})
			atOnce(level, min(level, controlsAtOnce), func(i int) {
				if x := crowd[i]; x.err == nil {
					x.control, x.err = p.alone(ctx, "control "+x.name, x.request)
				}
			})
			for _, x := range crowd {
				if x.err != nil {
					failed = append(failed, x.err)
					continue
				}
				all = append(all, x)
			}
			if ctx.Err() != nil {
				return p.result, fmt.Errorf("foreign content: %w", errors.Join(context.Cause(ctx), failed[0]))
			}
		}
	}
	p.result.Verdict = judgeForeign(all, levels)
	if len(failed) > 0 && p.result.Verdict.State != handoff.StateRefuted {
		p.result.Verdict = handoff.Verdict{}
		return p.result, fmt.Errorf("foreign content: %d of %d requests failed: %w", len(failed), len(failed)+len(all), failed[0])
	}
	return p.result, nil
}

// controlsAtOnce bounds the load on prefill while it makes controls: they must be right.
const controlsAtOnce = 4

// levels are the numbers of requests at once, what the caller says before what is usual.
func (p *probe) levels(usual ...int) []int {
	if len(p.Concurrency) == 0 {
		return usual
	}
	levels := slices.Clone(p.Concurrency)
	for i := range levels {
		levels[i] = max(1, levels[i])
	}
	return levels
}

// neighbour is one of the prompts that are under way at once.
type neighbour struct {
	name         string
	request      api.CompletionRequest
	secret       string // "": none, the prompt is token ids
	got, control *api.Text
	err          error
}

// crowd makes n fresh prompts of one length; those of even number begin alike.
func (p *probe) crowd(n int, name string) []*neighbour {
	first := p.sized(p.Tokens/2, nil)
	crowd := make([]*neighbour, n)
	for i := range crowd {
		var behind *api.CompletionRequest
		if i%2 == 0 {
			behind = &first
		}
		x := &neighbour{name: fmt.Sprintf("%s #%d", name, i+1), request: p.sized(p.Tokens, behind)}
		if text := x.request.Prompt; text != "" {
			// The secret stands behind what is shared, and so early that an answer which repeats the prompt comes to it.
			head := firstBytes(text, min(len(text), len(first.Prompt), x.request.MaxTokens/2))
			x.secret = nonce(secretLetters)
			x.request.Prompt = head + x.secret + firstBytes(text[len(head):], max(0, len(text)-len(head)-secretLetters))
		}
		x.request.Logprobs = logprobsAsked
		crowd[i] = x
	}
	return crowd
}

// atOnce calls do for 0 to n-1, as many at once as there are lanes.
func atOnce(n, lanes int, do func(i int)) {
	next := make(chan int)
	done := make(chan struct{})
	for range lanes {
		go func() {
			for i := range next {
				do(i)
			}
			done <- struct{}{}
		}()
	}
	for i := range n {
		next <- i
	}
	close(next)
	for range lanes {
		<-done
	}
}

// judgeForeign holds every answer against all prompts of the run.
func judgeForeign(all []*neighbour, levels []int) handoff.Verdict {
	v := handoff.Verdict{Claim: foreignClaim}
	var foreign, doubtful, garbled []string
	own, ties, secrets := 0, 0, 0
	for _, x := range all {
		if x.secret != "" {
			secrets++
		}
		found, certain := x.foreign(all)
		c := part(x.control, x.got)
		switch {
		case found != "" && certain:
			foreign = append(foreign, found)
		case found != "":
			doubtful = append(doubtful, found)
		case c.same:
			own++
		case c.tie():
			ties++
		default:
			garbled = append(garbled, fmt.Sprintf("%s: %s", x.name, textcheck.Divergence(x.got.String(), x.control.String())))
		}
	}
	v.Numbers = map[string]float64{"answers": float64(len(all)), "own": float64(own), "near_ties": float64(ties), "foreign": float64(len(foreign)), "garbled": float64(len(garbled))}
	if secrets < len(all) {
		v.Notes = append(v.Notes, fmt.Sprintf("%d of %d prompts are token ids: no secret could be planted in them, they were compared with their controls", len(all)-secrets, len(all)))
	}
	say := func(s handoff.State, rule, format string, args ...any) handoff.Verdict {
		v.State, v.Reasons = s, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}
		return v
	}
	at := strings.Trim(strings.ReplaceAll(fmt.Sprint(levels), " ", ", "), "[]")
	switch {
	case len(foreign) > 0:
		return say(handoff.StateRefuted, "foreign-content", "%d of %d answers hold another's content (%s at once): %s", len(foreign), len(all), at, foreign[0])
	case len(doubtful) > 0:
		return say(handoff.StateInconclusive, "maybe-foreign", "%d of %d answers look like another's (%s at once), but had left their own control where nobody knows that it was sure: %s",
			len(doubtful), len(all), at, doubtful[0])
	case len(garbled) > 0:
		return say(handoff.StateInconclusive, "garbled", "%d of %d answers are neither their own nor a known neighbour's (%s at once): %s", len(garbled), len(all), at, garbled[0])
	case len(all) > 1 && !slices.ContainsFunc(all, func(x *neighbour) bool { return x.control.String() != all[0].control.String() }):
		return say(handoff.StateInconclusive, "same-answers", "all %d prompts have the same answer %s: another's would not show", len(all), textcheck.Quote(all[0].control.String()))
	case 2*own < len(all) || own < 2:
		return say(handoff.StateInconclusive, "too-few", "only %d of %d answers were their own to the end, %d parted at near ties (%s at once)", own, len(all), ties, at)
	}
	return say(handoff.StateProven, "own-content", "%d answers hold nothing of each other (%s at once, half of the prompts begin alike): %d are their own to the last byte, %d part at near ties",
		len(all), at, own, ties)
}

// foreign says whose content an answer holds; "" for nobody's. It is certain with a secret, and where the answer had left its own
// control at a token of which that was sure, or which repeats the prompt and so is never undecided: two right runs that part
// at a near tie may well go on like a neighbour, above all into the loop that a small model ends in.
func (x *neighbour) foreign(all []*neighbour) (found string, certain bool) {
	got, own := x.got.String(), x.control.String()
	for _, y := range all {
		if y != x && y.secret != "" && strings.Contains(got, y.secret) && !strings.Contains(x.request.Prompt, y.secret) {
			return fmt.Sprintf("%s holds the secret %q of %s", x.name, y.secret, y.name), true
		}
	}
	if got == own {
		return "", true
	}
	from, to, of := 0, 0, ""
	for _, y := range all {
		if y == x {
			continue
		}
		other := y.control.String()
		if a, b := textcheck.ForeignRun(got, other[:beforeLoop(other)], own); b-a > to-from {
			from, to, of = a, b, y.name
		}
	}
	if to == from {
		return "", true
	}
	c := part(x.control, x.got)
	repeats := own != "" && strings.HasPrefix(x.request.Prompt, own)
	return fmt.Sprintf("bytes %d to %d of %s, %s, are those of %s", from, to, x.name, textcheck.Quote(got[from:to]), of), c.sure() || repeats
}
