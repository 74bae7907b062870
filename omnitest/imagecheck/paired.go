package imagecheck

import (
	"fmt"
	"math"
)

// NonInferior judges two arms whose pixels cannot match (quantised, cached, another sampler) by scores of the same prompts
// in the same order: the lower end of the one-sided 95 % interval of the mean difference, experiment - control, must lie
// above -margin. 0.02 for [Accuracy] or [Recall], 0.3 for the O of a judge. Fewer than 30 pairs, or a score that was not
// measured, prove nothing and are errors.
//
// The interval is the normal one (1.645 standard errors), fair from 30 pairs on where no pair dominates.
func NonInferior(control, experiment []float64, margin float64) error {
	if len(control) != len(experiment) {
		return fmt.Errorf("non-inferiority: %d scores of the control, %d of the experiment: they are no pairs", len(control), len(experiment))
	}
	n := float64(len(control))
	if n < 30 {
		return fmt.Errorf("non-inferiority: %.0f pairs, at least 30 are needed to say anything", n)
	}
	if !(margin > 0) {
		return fmt.Errorf("non-inferiority: margin %v, want more than 0", margin)
	}
	var sum, squares float64
	for i := range control {
		d := experiment[i] - control[i]
		if math.IsNaN(d) || math.IsInf(d, 0) {
			return fmt.Errorf("non-inferiority: pair %d was not measured (control %s, experiment %s)", i, number(control[i]), number(experiment[i]))
		}
		sum, squares = sum+d, squares+d*d
	}
	mean := sum / n
	deviation := math.Sqrt(max(0, (squares-n*mean*mean)/(n-1)))
	low := mean - 1.645*deviation/math.Sqrt(n)
	switch {
	case low > -margin:
		return nil
	case mean > -margin:
		return fmt.Errorf("non-inferiority not shown: mean difference %+.4f over %.0f pairs, its lower 95 %% limit %+.4f is below -%s; more pairs may show it", mean, n, low, number(margin))
	}
	return fmt.Errorf("experiment is inferior: mean difference %+.4f over %.0f pairs (lower 95 %% limit %+.4f), margin %s", mean, n, low, number(margin))
}
