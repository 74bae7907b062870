package imagecheck

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestNonInferior(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	arms := func(n int, worse, spread float64) (control, experiment []float64) {
		for range n {
			c := 0.9 + 0.05*r.NormFloat64() // prompts differ by more than arms: that is why pairs are judged
			control, experiment = append(control, c), append(experiment, c-worse+spread*r.NormFloat64())
		}
		return control, experiment
	}
	c, e := arms(40, 0, 0.01)
	assert.NoError(t, NonInferior(c, e, 0.02))
	c, e = arms(40, 0.05, 0.01)
	assert.ErrorContains(t, NonInferior(c, e, 0.02), "experiment is inferior: mean difference -0.0")
	c, e = arms(40, 0, 0.2)
	assert.ErrorContains(t, NonInferior(c, e, 0.02), "non-inferiority not shown: mean difference ")
	assert.EqualError(t, NonInferior(c[:29], e[:29], 0.02), "non-inferiority: 29 pairs, at least 30 are needed to say anything")
	assert.EqualError(t, NonInferior(c, e[1:], 0.02), "non-inferiority: 40 scores of the control, 39 of the experiment: they are no pairs")
	assert.EqualError(t, NonInferior(c, e, 0), "non-inferiority: margin 0, want more than 0")
	e[7] = math.NaN()
	assert.ErrorContains(t, NonInferior(c, e, 0.02), "pair 7 was not measured (control 0.")

	wrong := 0 // an arm that lies exactly at the margin passes in 5 of 100
	for range 2000 {
		if c, e := arms(30, 0.02, 0.02); NonInferior(c, e, 0.02) == nil {
			wrong++
		}
	}
	assert.InDelta(t, 0.05, float64(wrong)/2000, 0.02)
}
