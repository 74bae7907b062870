package probe

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const parityClaim = "the stack answers as one engine alone would"

// Parity compares answers that were handed over with those of prefill alone, which involve no transfer. String equality
// would accuse healthy GPUs: equal KV, prefix miss against hit on one server, has been seen to diverge in 9 of 64 prompts and
// disaggregated answers in 0.125 to 0.203 of them (tpu-inference #3369). So each prompt has two controls of its own shape,
// prefill alone without and with its prefix cached, and what they do to each other is the measure:
//
//   - refuted: an answer parts from its control where that was sure (textcheck.NearTie), or reaches the same text with another
//     certainty (textcheck.MarginMove: KV that is wrong in part), while the controls agree; or it does so significantly
//     oftener than they (McNemar's exact test, 0.05)
//   - inconclusive: the controls do the same to each other, or too little could be compared
//
// Where the engine tells no log probabilities only the rates are left, and a note says so.
//
// Rounds (0: 8) prompts are as long as one block, Tokens in whole blocks, one token less and more, one block and one token,
// half of it; and two begin with the first half of the one before them, so that decode has that part itself. A recompute
// passes: that bytes moved is for Moved to say. A connector that moves nothing for a prompt within a block, or a caller's
// text whose tokens cannot be cut to measure, leaves fewer edges tested.
//
// It sends 4 requests per prompt (two controls, both legs), and with an Entry 3 more for a second prompt of the same shape
// that goes through it. It leaves the prompts in the prefix caches of both engines, right ones if the verdict is proven.
func Parity(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	p.whole = true
	block, _ := p.blockTokens(ctx)
	shapes := parityShapes(max(2, p.Tokens/block), block)
	arms := []*parityArm{{name: "legs"}}
	if s.Entry != nil {
		arms = append(arms, &parityArm{name: "entry", entry: true})
	}
	var pairs []parityPair
	for i := range p.times(len(shapes)) {
		for _, arm := range arms {
			pair, err := p.parityRound(ctx, arm, shapes[i%len(shapes)], fmt.Sprintf("%s %d", arm.name, i+1))
			if err != nil {
				return p.result, fmt.Errorf("parity: %w", err)
			}
			pairs = append(pairs, pair)
		}
	}
	p.result.Verdict = judgeParity(pairs)
	return p.result, nil
}

// parityShape is the length of a prompt, and how much of it an earlier one began with.
type parityShape struct{ tokens, behind int }

func parityShapes(k, block int) []parityShape {
	half := k / 2
	return []parityShape{
		{block, 0}, {k * block, 0}, {k * block, half * block}, {k*block - 1, 0}, {k*block + 1, 0}, {k*block + 1, half * block},
		{block + 1, 0}, {half*block - 1, 0},
	}
}

// parityArm is one way to the answer, with the prompt that went it last.
type parityArm struct {
	name  string
	entry bool
	last  *api.CompletionRequest
}

// parityPair is one prompt: what its controls do to each other, and what the handoff does.
type parityPair struct {
	route    string
	tokens   int // of the prompt
	control  string
	own, got parting
}

func (p *probe) parityRound(ctx context.Context, arm *parityArm, shape parityShape, name string) (parityPair, error) {
	var behind *api.CompletionRequest
	if shape.behind > 0 && arm.last != nil {
		first := firstTokens(*arm.last, shape.behind)
		behind = &first
	}
	r := p.sized(shape.tokens, behind)
	r.Logprobs = logprobsAsked
	arm.last = &r
	miss, err := p.alone(ctx, "control "+name, r)
	if err != nil {
		return parityPair{}, err
	}
	hit, err := p.alone(ctx, "control again "+name, r)
	if err != nil {
		return parityPair{}, err
	}
	got, err := p.through(ctx, arm.entry, name, r)
	if err != nil {
		return parityPair{}, err
	}
	return parityPair{arm.name, promptTokens(miss, shape.tokens), miss.String(), part(miss, hit), part(miss, got)}, nil
}

// significance is the chance below which a difference of rates counts.
const significance = 0.05

// judgeParity weighs the handoff against what the controls do to each other.
func judgeParity(pairs []parityPair) handoff.Verdict {
	v := handoff.Verdict{Claim: parityClaim, Numbers: parityNumbers(pairs)}
	say := func(s handoff.State, rule, format string, args ...any) handoff.Verdict {
		v.State, v.Reasons = s, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}
		return v
	}
	n := len(pairs)
	parted := func(c parting) bool { return !c.same }
	rates := fmt.Sprintf("control against itself diverged in %d of %d, handoff in %d of %d",
		ownCount(pairs, parted), n, gotCount(pairs, parted), n)
	told := slices.ContainsFunc(pairs, func(x parityPair) bool { return !math.IsNaN(x.got.move) || x.got.sure() || x.got.tie() })
	if !told {
		v.Notes = append(v.Notes, "the engines tell no log probabilities: KV that is wrong in part while the text is right was not looked for")
	}

	if i := slices.IndexFunc(pairs, func(x parityPair) bool { return x.got.spelled != "" }); i >= 0 {
		return say(handoff.StateRefuted, "logprobs-of-another-text", "the log probabilities of a prompt of %d tokens (%s) are of the text %s, its answer is %s: another request's?",
			pairs[i].tokens, pairs[i].route, textcheck.Quote(pairs[i].got.spelled), textcheck.Quote(pairs[i].got.text))
	}
	for _, finding := range []struct {
		rule  string
		is    func(parting) bool
		text  func(x parityPair) string
		doubt string
	}{
		{"diverges-where-sure", parting.sure, func(x parityPair) string {
			return fmt.Sprintf("%s, first at %s where the control was sure by %.1f nats: got %s, control %s",
				rates, x.where(), x.got.nats, textcheck.Quote(x.got.got), textcheck.Quote(x.got.want))
		}, "the controls themselves part where they were sure"},
		{"margin-moved", parting.moved, func(x parityPair) string {
			return fmt.Sprintf("%s, but the certainty moved in %d of %d, of the controls in %d: step %d of a prompt of %d tokens (%s) wins by %.1f nats, control %.1f: part of the KV is missing or wrong",
				rates, gotCount(pairs, parting.moved), n, ownCount(pairs, parting.moved), x.got.moveAt, x.tokens, x.route, x.got.to, x.got.from)
		}, "the certainty of the controls moves as well"},
	} {
		i := slices.IndexFunc(pairs, func(x parityPair) bool { return finding.is(x.got) })
		if i < 0 {
			continue
		}
		if chance := parityChance(pairs, finding.is); ownCount(pairs, finding.is) == 0 || chance <= significance {
			return say(handoff.StateRefuted, finding.rule, "%s", finding.text(pairs[i]))
		}
		return say(handoff.StateInconclusive, "unsteady-control", "%s: %s (%d of %d): nothing follows", rates, finding.doubt, ownCount(pairs, finding.is), n)
	}

	chance := parityChance(pairs, parted)
	i := slices.IndexFunc(pairs, func(x parityPair) bool { return x.got.untold() })
	compared, whole := 0, 0
	for _, x := range pairs {
		compared += x.got.equal
		if x.got.same {
			whole++
		}
	}
	switch {
	case i >= 0 && chance <= significance:
		return say(handoff.StateRefuted, "diverges-oftener", "%s (chance %.3f), first at %s: got %s, control %s; how sure it was is not told",
			rates, chance, pairs[i].where(), textcheck.Quote(pairs[i].got.got), textcheck.Quote(pairs[i].got.want))
	case i >= 0:
		return say(handoff.StateInconclusive, "margins-not-told", "%s, first at %s: got %s, control %s; how sure it was is not told",
			rates, pairs[i].where(), textcheck.Quote(pairs[i].got.got), textcheck.Quote(pairs[i].got.want))
	case chance <= significance:
		return say(handoff.StateInconclusive, "near-ties-oftener", "%s (chance %.3f), each time at a near tie: decode computes otherwise than prefill, or its KV is slightly off", rates, chance)
	case compared == 0:
		return say(handoff.StateInconclusive, "nothing-compared", "%s: no token could be compared", rates)
	case n > 1 && !slices.ContainsFunc(pairs, func(x parityPair) bool { return x.control != pairs[0].control }):
		return say(handoff.StateInconclusive, "same-answers", "all %d prompts have the same answer %s: wrong KV would not show", n, textcheck.Quote(pairs[0].control))
	case 2*whole < n:
		return say(handoff.StateInconclusive, "near-ties", "%s, each time at a near tie: only %d of %d answers were compared to their end", rates, whole, n)
	}
	if !told && slices.ContainsFunc(pairs, func(x parityPair) bool { return !math.IsNaN(x.own.move) }) {
		return say(handoff.StateInconclusive, "margins-withheld", "%s, but prefill tells log probabilities and the handoff's answers have none: KV that is wrong in part would not show", rates)
	}
	text := fmt.Sprintf("%s; %d tokens agree over prompts of %s tokens", rates, compared, parityLengths(pairs))
	if told {
		text += fmt.Sprintf(", margins within %.2f nats (controls %.2f)", worstMove(pairs, func(x parityPair) parting { return x.got }),
			worstMove(pairs, func(x parityPair) parting { return x.own }))
	}
	return say(handoff.StateProven, "parity", "%s", text)
}

// where names the place of a parting for a report.
func (x parityPair) where() string {
	return fmt.Sprintf("%s %d of a prompt of %d tokens (%s)", x.got.unit, x.got.at, x.tokens, x.route)
}

func ownCount(pairs []parityPair, is func(parting) bool) (n int) {
	for _, x := range pairs {
		if is(x.own) {
			n++
		}
	}
	return n
}

func gotCount(pairs []parityPair, is func(parting) bool) (n int) {
	for _, x := range pairs {
		if is(x.got) {
			n++
		}
	}
	return n
}

// parityChance is how likely the handoff would fail oftener than its controls by this much if both were alike.
func parityChance(pairs []parityPair, is func(parting) bool) float64 {
	handoffOnly, controlOnly := 0, 0
	for _, x := range pairs {
		switch got, own := is(x.got), is(x.own); {
		case got && !own:
			handoffOnly++
		case own && !got:
			controlOnly++
		}
	}
	return oftener(handoffOnly, controlOnly)
}

func worstMove(pairs []parityPair, of func(parityPair) parting) (worst float64) {
	for _, x := range pairs {
		if m := of(x).move; m > worst {
			worst = m
		}
	}
	return worst
}

func parityNumbers(pairs []parityPair) map[string]float64 {
	m := map[string]float64{"prompts": float64(len(pairs))}
	for name, is := range map[string]func(parting) bool{
		"diverged": func(c parting) bool { return !c.same }, "diverged_sure": parting.sure, "diverged_tie": parting.tie, "margin_moved": parting.moved,
	} {
		m["control."+name], m["handoff."+name] = float64(ownCount(pairs, is)), float64(gotCount(pairs, is))
	}
	return m
}

// parityLengths lists the prompt lengths, each once.
func parityLengths(pairs []parityPair) string {
	var all []int
	for _, x := range pairs {
		all = append(all, x.tokens)
	}
	slices.Sort(all)
	var words []string
	for _, n := range slices.Compact(all) {
		words = append(words, fmt.Sprint(n))
	}
	return strings.Join(words, ", ")
}
