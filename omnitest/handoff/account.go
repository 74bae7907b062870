package handoff

// Account is the arithmetic of one window, for experiments that compare windows (package probe). What was not told is
// missing from it: each figure comes with its own ok.
type Account struct{ exam *exam }

// Account does the sums of the evidence.
func (e *Evidence) Account() Account { return Account{newCase(e)} }

// Computed is how many prompt tokens decode prefilled itself, by the instrument that says the most.
func (a Account) Computed() (tokens float64, ok bool) { return a.exam.computed() }

// Tail is how many of those are within the engine's rights: one per answer, or the last partial block.
func (a Account) Tail() float64 { return a.exam.tail() }

// Delta is the change of a series in the window; ok only for one that was there all the time and never fell.
func (s *Stage) Delta(x Series) (delta float64, ok bool) { return s.get(x) }

// Told prints the change of a series for a report: "+528", "absent", "reset".
func (s *Stage) Told(x Series) string { return s.signed(x) }

// Countable judges whether the counters of a window can be counted on at all: both stages were scraped and idle, nothing was
// preempted, and nobody else used the stack. It says nothing about a handoff.
func Countable(e *Evidence) Verdict {
	return judge(e, "the counters of this window belong to its requests", []rule{stageProblems, preempted, exclusive, attestCountable})
}

func attestCountable(c *exam) {
	c.attest("countable", "%d request%s, both stages idle before and after", len(c.requests), plural(float64(len(c.requests))))
}
