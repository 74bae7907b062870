package probe

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const crossedClaim = "decode consumes the KV cache that a ticket names"

// CrossedTickets is the causal proof, independent of all metrics: two prompts of equal length go through prefill, and each is
// sent to decode with the other's ticket. If decode answers with the other's text, or is disturbed, it did consume what it
// was handed. If it answers its own prompt as if nothing had happened, the handoff is a fiction: refuted; and so it is if much
// of its own answer comes through, see ownShare. A third prompt with its own ticket goes first as the control of the
// experiment itself.
//
// It is the only judge of an engine that pulls the blocks, throws them away and counts as if it had not: all counters and the
// answers of such an engine are right. One that does so now and then may do the right thing while it is looked at.
//
// It sends 9 requests in the usual case, and one or two more before it accuses. It poisons decode's prefix cache for the two crossed prompts, as it does on real
// vLLM (recorded: the prompt stays wrong afterwards even without a ticket). Therefore the prompts are nonces that nobody
// sends again, and therefore this is never run against a production engine.
//
// An error means that the experiment could not be run (a stage failed); an experiment without result is inconclusive.
func CrossedTickets(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	if p.dialect().Ask == nil {
		return p.done(crossedClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets to cross", p.dialect().Name)
	}
	p.whole = true
	var subjects [3]*subject
	for i, name := range []string{"own", "a", "b"} {
		x, err := p.subject(ctx, name)
		if err == nil {
			err = p.prefill(ctx, x)
		}
		if err != nil {
			return p.result, fmt.Errorf("crossed tickets: %w", err)
		}
		subjects[i] = x
	}
	own, a, b := subjects[0], subjects[1], subjects[2]

	// A ticket with fewer blocks than the prompt needs kills vLLM's engine (recorded, 0.26 and 0.32): never send one.
	if na, nb := handoff.TicketBlocks(a.ticket), handoff.TicketBlocks(b.ticket); a.tokens != b.tokens || na != nb {
		return p.done(crossedClaim, handoff.StateInconclusive, "unequal-prompts",
			"the prompts are not alike (%d and %d tokens, %d and %d blocks): crossing their tickets could kill decode, nothing was crossed", a.tokens, b.tokens, na, nb)
	}
	for _, x := range subjects {
		if len(x.first) > longestToken {
			return p.done(crossedClaim, handoff.StateInconclusive, "prompt-in-answer",
				"prompt %s: an answer of one token has %d bytes, %s: text of the prompt is in the answers, whatever KV they were made from; end prompts with a whole character",
				x.name, len(x.first), textcheck.Quote(x.first))
		}
	}
	if a.tokens == 1 { // decode computes the last token of a prompt itself, always
		return p.done(crossedClaim, handoff.StateInconclusive, "nothing-to-lend", "the prompts have one token, which decode computes itself: nothing of a ticket could show; longer prompts are needed")
	}
	if a.control == b.control {
		return p.done(crossedClaim, handoff.StateInconclusive, "same-answers", "both prompts have the same answer %s: an exchange would not show", textcheck.Quote(a.control))
	}

	t, err := p.decode(ctx, "decode own with its own ticket", own, own.ticket)
	if err != nil {
		return p.result, fmt.Errorf("crossed tickets: %w", err)
	}
	valid, same := p.valid(t.String(), own)
	if !same {
		return p.done(crossedClaim, handoff.StateInconclusive, "control-differs",
			"decode differs from prefill alone even with the right ticket: %s", textcheck.Divergence(t.String(), own.control))
	}

	// Both tickets get used: one that is left over would expire inside somebody's later window.
	first, err1 := p.decode(ctx, "decode b with ticket a", b, a.ticket)
	second, err2 := p.decode(ctx, "decode a with ticket b", a, b.ticket)
	if err1 != nil || err2 != nil {
		if ctx.Err() != nil {
			return p.result, fmt.Errorf("crossed tickets: %w", context.Cause(ctx))
		}
		failed := err1
		if failed == nil {
			failed = err2
		}
		return p.done(crossedClaim, handoff.StateInconclusive, "refused", "decode did not answer a crossed ticket: %v", failed)
	}
	for _, x := range []*subject{a, b} {
		x.control = x.control[:min(valid, len(x.control))]
	}
	gotB, gotA := first.String(), second.String()
	return p.crossed(ctx, gotB[:min(valid, len(gotB))], gotA[:min(valid, len(gotA))], a, b)
}

// longestToken is more than any token's text. vLLM 0.32 gives 614 bytes for one token where a prompt of token ids ends inside
// a character: its detokenizer then begins with the prompt.
const longestToken = 256

// leastValid is how many bytes two right runs must have in common to be compared at all.
const leastValid = 32

// valid says up to which byte answers may be compared: all of them where decode with the right ticket says what prefill alone
// says. On a GPU two right runs may part at a near tie, and all that follows is another text; up to there the experiment
// stands. Not the same: they part where the control was sure, or at once.
func (p *probe) valid(got string, own *subject) (bytes int, same bool) {
	if got == own.control {
		return math.MaxInt, true
	}
	at := 0
	for at < len(got) && at < len(own.control) && got[at] == own.control[at] {
		at++
	}
	_, tie := textcheck.Undecided(own.margins, got, own.control)
	return at, at >= leastValid && (tie || own.margins == nil)
}

// ownShare is the part of its own answer that may come through with another prompt's ticket: a quarter of those bytes in which
// the two right answers differ. Of unrelated texts some few percent agree by chance (1 in 26 for letters at random; recorded
// on real vLLM: 3 of 48 and 0 of 44, on a GPU 2 of 79); an engine that uses one block of twelve and computes the rest itself
// gives nine tenths. Fewer than leastDiffer bytes say nothing.
const (
	ownShare    = 0.25
	leastDiffer = 16
)

// ownBytes counts in how many bytes the two right answers differ, and in how many of those got has the sender's own. A small
// model ends in a loop, whatever it was asked: the loop of its own answer is not counted.
func ownBytes(got, own, lent string) (kept, differ int) {
	for i := range min(beforeLoop(own), len(lent)) {
		if own[i] == lent[i] {
			continue
		}
		if differ++; i < len(got) && got[i] == own[i] {
			kept++
		}
	}
	return kept, differ
}

// beforeLoop is where a text begins to repeat its last 32 bytes or less, three times or more, to its end; its length if it does not.
func beforeLoop(s string) int {
	start := len(s)
	for period := 1; period <= 32 && 3*period <= len(s); period++ {
		i := len(s)
		for i > period && s[i-1] == s[i-1-period] {
			i--
		}
		if len(s)-i >= 2*period {
			start = min(start, i)
		}
	}
	return start
}

// crossed judges the two crossed answers. One undisturbed answer is enough to refute: luck does not repeat a whole text.
func (p *probe) crossed(ctx context.Context, gotB, gotA string, a, b *subject) (Result, error) {
	for _, x := range []struct {
		got        string
		sent, lent *subject
	}{{gotB, b, a}, {gotA, a, b}} {
		kept, differ := ownBytes(x.got, x.sent.control, x.lent.control)
		partly := differ >= leastDiffer && float64(kept) > ownShare*float64(differ)
		if d := p.dialect(); !partly && !d.TailBlock && !d.TailUnknown {
			if from, to := ownRun(x.got, x.sent.control, x.lent.control); to-from >= leastRun {
				return p.ownPart(x.got[from:to], from, x.sent, x.lent)
			}
		}
		if x.got == x.sent.control || partly {
			blind, err := p.insensitive(ctx, x.sent, x.lent)
			if err != nil {
				return p.result, fmt.Errorf("crossed tickets: %w", err)
			}
			if blind != "" {
				return p.done(crossedClaim, handoff.StateInconclusive, "insensitive-model", "%s", blind)
			}
		}
		if x.got == x.sent.control {
			return p.done(crossedClaim, handoff.StateRefuted, "ticket-ignored",
				"prompt %s with the ticket of prompt %s was answered as if it had its own: %s; decode does not use what the ticket names",
				x.sent.name, x.lent.name, textcheck.Quote(x.got))
		}
		if partly {
			return p.done(crossedClaim, handoff.StateRefuted, "ticket-partly-ignored",
				"prompt %s with the ticket of prompt %s still gave %d of %d bytes of its own answer: decode uses only a part of what the ticket names",
				x.sent.name, x.lent.name, kept, differ)
		}
	}
	text := func(got string, sent, lent *subject) string {
		if got == lent.control {
			return fmt.Sprintf("prompt %s with the ticket of prompt %s was answered with the text of %s", sent.name, lent.name, lent.name)
		}
		if from, to := textcheck.ForeignRun(got, lent.control, sent.control); to > from {
			return fmt.Sprintf("prompt %s with the ticket of prompt %s follows the text of %s in bytes %d to %d", sent.name, lent.name, lent.name, from, to)
		}
		return fmt.Sprintf("prompt %s with the ticket of prompt %s was disturbed: %s", sent.name, lent.name, textcheck.Divergence(got, sent.control))
	}
	return p.done(crossedClaim, handoff.StateProven, "ticket-consumed", "%s; %s", text(gotB, b, a), text(gotA, a, b))
}

// insensitive asks prefill alone what a decode that did consume the lent KV would answer: the lent prompt's context with the
// sender's last token, which every decode computes itself. Where that is the sender's own answer as well, an undisturbed
// answer accuses nobody: this model answers from its last tokens (seen with the tiny random model on real vLLM). "" if the
// model can tell, and where a prompt is text, whose tokens cannot be exchanged from here.
func (p *probe) insensitive(ctx context.Context, sent, lent *subject) (why string, err error) {
	from, last := lent.request.PromptIDs, sent.request.PromptIDs
	if len(from) == 0 || len(from) != len(last) {
		return "", nil
	}
	r := sent.request
	r.PromptIDs = append(append([]int{}, from[:len(from)-1]...), last[len(last)-1])
	t, err := p.ask(ctx, "prefill", p.Source.Prefill.API, "control: context of "+lent.name+", last token of "+sent.name, r)
	if err != nil {
		return "", err
	}
	kept, differ := ownBytes(t.String(), sent.control, lent.control)
	if t.String() == sent.control || differ >= leastDiffer && float64(kept) > ownShare*float64(differ) {
		return fmt.Sprintf("prefill alone, given the context of %s and the last token of %s, also gives %d of %d bytes of %s's own answer: "+
			"this model's answer does not tell its context", lent.name, sent.name, kept, differ, sent.name), nil
	}
	return "", nil
}

// leastRun is how many bytes in a row, at their own place, tell that a part of the prompt was computed by decode: the last block
// of twelve is a twelfth of the answer, far below ownShare, and 12 letters in a row agree by chance once in 26^12.
const leastRun = 12

// ownRun finds the longest stretch in which got says what the sender's own control says at the same place and the lent one does
// not. It is empty where chance gives as much: letters at random do not, but a small model has its favourite words (one token of
// the tiny model on real vLLM is " Wednesday", another reads as U+FFFD five times in a row). What chance gives, the same texts
// say: the longest stretch that they share when the control is shifted, over all shifts.
func ownRun(got, own, lent string) (from, to int) {
	own = own[:beforeLoop(own)]
	best, from, to := sharedRun(got, own, lent, 0)
	if best < leastRun {
		return 0, 0
	}
	for shift := 1; shift < len(own); shift++ {
		if chance, _, _ := sharedRun(got, own, lent, shift); chance >= best {
			return 0, 0
		}
	}
	return from, to
}

// sharedRun is the longest stretch in which got agrees with own, rotated by shift. A byte in which lent agrees too ends no
// stretch, and counts for none.
func sharedRun(got, own, lent string, shift int) (best, from, to int) {
	start, counted := 0, 0
	for i := range min(len(got), len(own), len(lent)) {
		o := own[(i+shift)%len(own)]
		switch {
		case got[i] != o:
			start, counted = i+1, 0
			continue
		case o != lent[i]:
			counted++
		}
		if counted > best {
			best, from, to = counted, start, i+1
		}
	}
	return best, from, to
}

// ownPart judges a stretch of the sender's own answer amid the lent one. A model that repeats its prompt cannot have it from
// elsewhere; another may come back to its own words.
func (p *probe) ownPart(run string, from int, sent, lent *subject) (Result, error) {
	state, rule := handoff.StateInconclusive, "maybe-own"
	if strings.HasPrefix(sent.request.Prompt, sent.control) {
		state, rule = handoff.StateRefuted, "part-not-consumed"
	}
	return p.done(crossedClaim, state, rule, "prompt %s with the ticket of prompt %s has its own text in bytes %d to %d, %s: part of the KV was not taken from the ticket",
		sent.name, lent.name, from, from+len(run), textcheck.Quote(run))
}
