package perf

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// The two plans are what stands for a list that was not given. small takes less than four minutes on two cores; design is the users'
// own: batch 1, 2, 4 x prompt 512, 2048, 2560 x input picture 1024x1024 x output 1376x768, and the sweeps.

// loop is how requests are spread over time: held at a concurrency (0: no bound), or with a rate by a schedule.
type loop struct {
	conc int
	rate float64
}

// textPoint is a row of text requests.
type textPoint struct {
	loop
	in, out int
}

func (s *settings) concurrencies() []int {
	if s.plan == "design" {
		return s.concurrency.or(1, 2, 4, 8, 16, 32)
	}
	return s.concurrency.or(1, 2, 4)
}

func (s *settings) requestRates() []float64 {
	if s.plan == "design" {
		return s.rates.or(0.5, 1, 2, 4, 8)
	}
	return s.rates.or(1, 4)
}

func (s *settings) outputs() []int { return s.outputLen.or(64) }

// inputs are the prompt lengths of what is swept over something else.
func (s *settings) inputs() []int {
	if s.plan == "design" {
		return s.inputLen.or(512, 2048, 2560)
	}
	return s.inputLen.or(512)
}

func (s *settings) batches() []int          { return s.batch.or(1, 2, 4) }
func (s *settings) input() api.Size         { return s.inputSize.or(api.Size{W: 1024, H: 1024})[0] }
func (s *settings) outputSizes() []api.Size { return s.outputSize.or(api.Size{W: 1376, H: 768}) }

// lengths are the prompt lengths of a row with so many in flight, or in a batch: the small plan sweeps them at one alone.
func (s *settings) lengths(inFlight int) []int {
	if s.plan == "small" && inFlight == 1 {
		return s.inputLen.or(512, 2048, 2560)
	}
	return s.inputs()
}

// textPoints are the rows of a closed loop.
func (s *settings) textPoints() []textPoint {
	var all []textPoint
	for _, conc := range s.concurrencies() {
		for _, in := range s.lengths(conc) {
			for _, out := range s.outputs() {
				all = append(all, textPoint{loop{conc: conc}, in, out})
			}
		}
	}
	return all
}

func sprint(v ...any) string { return fmt.Sprint(v...) }

func TestPlans(t *testing.T) {
	points := func(args ...string) string {
		s, err := parse(args...)
		require.NoError(t, err)
		var all []string
		for _, p := range s.textPoints() {
			all = append(all, fmt.Sprintf("%dx%d+%d", p.conc, p.in, p.out))
		}
		return sprint(all)
	}
	assert.Equal(t, "[1x512+64 1x2048+64 1x2560+64 2x512+64 4x512+64]", points())
	assert.Equal(t, "[1x512+64 1x2048+64 1x2560+64 8x512+64]", points("-max-concurrency=1,8"))
	assert.Equal(t, "[1x100+64 1x200+64 4x100+64 4x200+64]", points("-max-concurrency=1,4", "-random-input-len=100,200"), "lists that are given are all combined")
	s, err := parse("-plan=design")
	require.NoError(t, err)
	assert.Len(t, s.textPoints(), 6*3)
	assert.Equal(t, "[1 2 4] [512 2048 2560] 1024x1024 [1376x768]", fmt.Sprint(s.batches(), s.lengths(4), s.input(), s.outputSizes()))
	assert.Equal(t, 32, s.requests(8, 4))
	s, err = parse("-num-prompts=400")
	require.NoError(t, err)
	assert.Equal(t, 400, s.requests(8, 4))
}
