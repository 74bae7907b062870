package gate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/omnitest/suite/omnitest/handoff"
)

// judge is the gate's own state. What could not be asked counts for nothing; if nothing could be asked, that is no pass.
func (r *Report) judge() handoff.State {
	state, asked := handoff.StateProven, 0
	for _, o := range r.Outcomes {
		if o.excused() {
			continue
		}
		asked++
		if rank(o.Verdict.State) < rank(state) {
			state = o.Verdict.State
		}
	}
	if asked == 0 {
		return handoff.StateInconclusive
	}
	return state
}

// excused is an outcome that the gate does not rest on.
func (o Outcome) excused() bool { return o.Advisory || o.NotAsked != "" && !o.Required }

// Err is nil only when every assertion that could be asked was proven, the advisory ones aside. Otherwise it names each that
// was not, the refuted first.
func (r *Report) Err() error {
	var refuted, doubtful []error
	for _, o := range r.Outcomes {
		if o.excused() || o.Verdict.State == handoff.StateProven {
			continue
		}
		err := fmt.Errorf("%d %s: %w", o.ID, o.Name, o.Verdict.Err())
		if o.Verdict.State == handoff.StateRefuted {
			refuted = append(refuted, err)
		} else {
			doubtful = append(doubtful, err)
		}
	}
	if err := errors.Join(append(refuted, doubtful...)...); err != nil {
		return err
	}
	if r.State != handoff.StateProven {
		return errors.New("gate: nothing could be asked of this stack")
	}
	return nil
}

// Outcome finds an assertion's outcome by its name; nil if it was not run.
func (r *Report) Outcome(name string) *Outcome {
	for i := range r.Outcomes {
		if r.Outcomes[i].Name == name {
			return &r.Outcomes[i]
		}
	}
	return nil
}

// String is a line per assertion in the order in which they were asked: number, name, state and reasons. The first line says what
// was not asked: of that, "proven" says nothing.
func (r *Report) String() string {
	var b strings.Builder
	var missing []string
	requests, took := r.Requests, 0.0
	for _, o := range r.Outcomes {
		requests, took = requests+o.Requests, took+o.Seconds
		if o.NotAsked != "" {
			missing = append(missing, o.Name)
		}
	}
	fmt.Fprintf(&b, "gate: %s, %d of %d asked", r.State, len(r.Outcomes)-len(missing), len(r.Outcomes))
	if len(missing) > 0 {
		fmt.Fprintf(&b, " (not asked: %s)", strings.Join(missing, ", "))
	}
	fmt.Fprintf(&b, ", %d requests in %.0f s\n", requests, took)
	for _, o := range r.Outcomes {
		state := o.Verdict.State.String()
		if o.NotAsked != "" {
			state = "not asked"
		}
		_, why, _ := strings.Cut(o.Verdict.String(), ": ")
		fmt.Fprintf(&b, "%3d  %-20s %-12s %s\n", o.ID, o.Name, state, why)
		for _, note := range o.Verdict.Notes {
			fmt.Fprintf(&b, "     %-33s note: %s\n", "", note)
		}
	}
	return b.String()
}

// WriteFile saves the report as JSON.
func (r *Report) WriteFile(path string) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o777)
	}
	if err == nil {
		err = os.WriteFile(path, append(data, '\n'), 0o666)
	}
	if err != nil {
		return fmt.Errorf("save gate report: %w", err)
	}
	return nil
}
