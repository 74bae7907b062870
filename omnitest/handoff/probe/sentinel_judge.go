package probe

import (
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// judge weighs the phases of a run.
func (x *Sentinels) judge(phases []sentinelPhase) handoff.Verdict {
	v := handoff.Verdict{Claim: sentinelClaim, Numbers: map[string]float64{}}
	say := func(s handoff.State, rule, format string, args ...any) handoff.Verdict {
		v.State, v.Reasons = s, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}
		return v
	}
	changed := func(c sentinelCheck) bool { return c.sure() || c.moved() }
	untold := func(c sentinelCheck) bool { return c.untold() }
	all, ties, equal, told := 0, 0, 0, false
	for _, phase := range phases {
		bad := 0
		for _, c := range phase.checks {
			all++
			equal += c.equal
			told = told || c.move >= 0 || c.nats >= 0
			if c.tie() {
				ties++
			}
			if changed(c) {
				bad++
			}
		}
		v.Numbers[phase.name+".changed"], v.Numbers[phase.name+".answers"] = float64(bad), float64(len(phase.checks))
	}
	if !told && all > 0 {
		v.Notes = append(v.Notes, "the engines tell no log probabilities: KV that is wrong in part while the text is right was not looked for")
	}
	if c, phase := firstCheck(phases, changed); c != nil {
		return say(handoff.StateRefuted, "sentinel-changed", "answers changed: %s; first %s, %s: %s", sentinelRates(phases, changed), c.name, phase, c.change())
	}
	if c, phase := firstCheck(phases, untold); c != nil {
		return say(handoff.StateInconclusive, "margins-not-told", "answers changed: %s; first %s, %s: %s", sentinelRates(phases, untold), c.name, phase, c.change())
	}
	switch {
	case all == 0 || equal == 0:
		return say(handoff.StateInconclusive, "nothing-compared", "no token could be compared")
	case len(x.kept) > 1 && !slices.ContainsFunc(x.kept, func(s sentinel) bool { return s.first.String() != x.kept[0].first.String() }):
		return say(handoff.StateInconclusive, "same-answers", "all %d sentinels have the same answer %s: wrong KV would not show", len(x.kept), textcheck.Quote(x.kept[0].first.String()))
	case 2*ties > all:
		return say(handoff.StateInconclusive, "near-ties", "%d of %d answers part at near ties: too few were compared to their end", ties, all)
	}
	text := fmt.Sprintf("answers as before: changed %s; %d tokens agree", sentinelRates(phases, changed), equal)
	if ties > 0 {
		text += fmt.Sprintf(", %d part at near ties", ties)
	}
	return say(handoff.StateProven, "unchanged", "%s", text)
}

// change tells what is different, for a report.
func (c parting) change() string {
	if c.same || c.moved() && !c.sure() {
		return fmt.Sprintf("the text is right, but step %d wins by %.1f nats, before %.1f: part of the KV is missing or wrong", c.moveAt, c.to, c.from)
	}
	text := fmt.Sprintf("from %s %d on %s, before %s", c.unit, c.at, textcheck.Quote(c.got), textcheck.Quote(c.want))
	if c.untold() {
		return text + ", how sure it was is not told"
	}
	return text + fmt.Sprintf(", sure by %.1f nats", c.nats)
}

// firstCheck finds the first answer of a kind, and its phase.
func firstCheck(phases []sentinelPhase, is func(sentinelCheck) bool) (*sentinelCheck, string) {
	for _, phase := range phases {
		if i := slices.IndexFunc(phase.checks, is); i >= 0 {
			return &phase.checks[i], phase.name
		}
	}
	return nil, ""
}

// sentinelRates lists the phases: "0 of 8 before, 3 of 24 during load, 0 of 8 after".
func sentinelRates(phases []sentinelPhase, is func(sentinelCheck) bool) string {
	var words []string
	for _, phase := range phases {
		n := 0
		for _, c := range phase.checks {
			if is(c) {
				n++
			}
		}
		words = append(words, fmt.Sprintf("%d of %d %s", n, len(phase.checks), phase.name))
	}
	return strings.Join(words, ", ")
}
