package handoff

import (
	"fmt"
	"slices"
	"strings"
)

// State is the answer of a judgement. The zero State is StateInconclusive: nothing passes by accident.
type State int

const (
	StateInconclusive State = iota
	StateRefuted
	StateProven
)

var stateWords = [...]string{"inconclusive", "refuted", "proven"}

func (s State) String() string {
	if s < 0 || int(s) >= len(stateWords) {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateWords[s]
}

// MarshalText gives the word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the word.
func (s *State) UnmarshalText(text []byte) error {
	i := slices.Index(stateWords[:], string(text))
	if i < 0 {
		return fmt.Errorf("verdict state %q: want inconclusive, refuted or proven", text)
	}
	*s = State(i)
	return nil
}

// Verdict is a judgement with its reasons.
type Verdict struct {
	State   State    `json:"state"`
	Claim   string   `json:"claim"`             // what was to be shown
	Reasons []Reason `json:"reasons,omitempty"` // all that apply: what refutes first, root cause first
	Notes   []string `json:"notes,omitempty"`   // what was not looked at, and why that is no obstacle
	// Numbers that were measured, by name ("decode.computed_tokens"). What was not measured is missing, never 0.
	Numbers  map[string]float64 `json:"numbers,omitempty"`
	Evidence string             `json:"evidence,omitempty"` // file, if it was saved
}

// Reason is one finding of one rule.
type Reason struct {
	State   State  `json:"state"`
	Rule    string `json:"rule"`              // stable word: "computed-itself", "ticket-dropped"
	Request string `json:"request,omitempty"` // request id; "": the window as a whole
	Text    string `json:"text"`
}

// String is the report line: "refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0);
// ticket was sent by prefill at +12 ms, never forwarded by proxy". The same finding about many requests is told once.
func (v Verdict) String() string {
	parts := make([]string, 0, len(v.Reasons))
	for _, r := range v.grouped() {
		parts = append(parts, r.Text)
	}
	if len(parts) == 0 {
		parts = []string{"nothing was judged"}
	}
	return v.State.String() + ": " + strings.Join(parts, "; ")
}

// grouped gives each kind of reason once, with the number of those like it in its text.
func (v Verdict) grouped() []Reason {
	kinds := make([]Reason, 0, len(v.Reasons))
	counts := map[[2]string]int{}
	for _, r := range v.Reasons {
		counts[r.group()]++
	}
	for _, r := range v.Reasons {
		n, first := counts[r.group()]
		if !first {
			continue
		}
		delete(counts, r.group())
		if n > 1 {
			r.Text = fmt.Sprintf("%s (and %d more like it)", r.Text, n-1)
		}
		kinds = append(kinds, r)
	}
	return kinds
}

func (r Reason) group() [2]string {
	if r.Request == "" {
		return [2]string{r.Rule, r.Text}
	}
	return [2]string{r.Rule, ""}
}

// Err is nil only when the claim is proven. It is a *Unproven, so that a caller can tell refuted from inconclusive.
func (v Verdict) Err() error {
	if v.State == StateProven {
		return nil
	}
	return &Unproven{v}
}

// Has tells whether a rule spoke.
func (v Verdict) Has(rule string) bool {
	return slices.ContainsFunc(v.Reasons, func(r Reason) bool { return r.Rule == rule })
}

// Unproven is the error of a verdict that is not proven.
type Unproven struct{ Verdict Verdict }

func (u *Unproven) Error() string {
	text := u.Verdict.Claim + ": " + u.Verdict.String()
	if u.Verdict.Evidence != "" {
		text += " (evidence " + u.Verdict.Evidence + ")"
	}
	return text
}

// Proven judges whether the KV that prefill computed was received and used by decode, by all three ledgers: every request
// handed its own ticket on, the counters show the transfer and no recompute, and every answer is the one that was wanted.
func Proven(e *Evidence) Verdict {
	return judge(e, "decode used the KV cache that prefill computed", append(slices.Clone(movement), contentRules...))
}

// Moved judges the flow and the counters alone: KV moved from prefill to decode and decode computed nothing itself. It says
// nothing about what moved; garbage and a neighbour's blocks move as well.
func Moved(e *Evidence) Verdict {
	return judge(e, "KV cache moved from prefill to decode", movement)
}

// judge runs the rules in order of causes. Refutation outranks doubt: one witnessed failure cannot be unseen because another
// instrument was blind. Only when no rule objects and at least one attests is the claim proven.
func judge(e *Evidence, claim string, rules []rule) Verdict {
	v := Verdict{State: StateInconclusive, Claim: claim, Evidence: e.File}
	c := newCase(e)
	if len(c.requests) == 0 {
		c.doubt("no-request", "", "no request was made in the window")
	} else {
		for _, r := range rules {
			r(c)
		}
	}
	if len(c.reasons) == 0 {
		c.doubt("nothing-judged", "", "nothing was judged")
	}
	v.Notes, v.Numbers = c.notes, c.numbers
	rank := map[State]int{StateRefuted: 0, StateInconclusive: 1, StateProven: 2}
	slices.SortStableFunc(c.reasons, func(a, b Reason) int { return rank[a.State] - rank[b.State] })
	v.Reasons = c.reasons
	if len(v.Reasons) > 0 {
		v.State = v.Reasons[0].State
	}
	if v.State != StateProven { // what speaks for the claim does not belong under a verdict against it
		v.Reasons = slices.DeleteFunc(v.Reasons, func(r Reason) bool { return r.State == StateProven })
	}
	return v
}
