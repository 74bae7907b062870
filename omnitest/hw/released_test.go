package hw

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var idle2 = &Baseline{GPUs: []Idle{{Index: 0, UUID: "GPU-0", Memory: of(2 * gib), Power: of(70)}}}

func TestReleasedWaitsForTheDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(at time.Duration) ([]GPU, error) {
			if at < 900*time.Millisecond {
				return []GPU{gpu(0, 40, 100)}, nil
			}
			return []GPU{gpu(0, 2.05, 100)}, nil
		}}
		held, err := Released(t.Context(), Release{GPU: s, Baseline: idle2})
		require.NoError(t, err)
		assert.Greater(t, held.AfterS, 0.9)
		assert.Less(t, held.AfterS, 1.5)
		over, _ := held.GPUs[0].Get()
		assert.InDelta(t, 0.05*gib, over, 1, "what is left is told, within the tolerance or not")
	})
}

func TestMemoryThatIsNotReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &script{reading: func(time.Duration) ([]GPU, error) {
			return []GPU{gpu(0, 6.5, 100, holds(77, 4), holds(78, 0.5))}, nil
		}}
		_, err := Released(t.Context(), Release{GPU: s, Baseline: idle2, PIDs: map[string]int{"decode": os.Getpid(), "dit": 0}, Within: 3 * time.Second})
		assert.EqualError(t, err, "3.0 s after the stop still running: decode (pid "+pid()+"); GPU 0 holds 4.50 GiB more than when idle "+
			"(tolerance 0.06 GiB), held by pid 77 4.00 GiB, pid 78 0.50 GiB")
		s.reading = func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 3, 100)}, nil }
		_, err = Released(t.Context(), Release{GPU: s, Baseline: idle2, Within: time.Second})
		assert.EqualError(t, err, "1.0 s after the stop GPU 0 holds 1.00 GiB more than when idle (tolerance 0.06 GiB), held by no process that the driver shows")
		_, err = Released(t.Context(), Release{GPU: s, Baseline: idle2, Tolerance: gib})
		assert.NoError(t, err, "the caller's tolerance")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = Released(ctx, Release{GPU: s, Baseline: idle2})
		assert.ErrorIs(t, err, context.DeadlineExceeded)
	})
}

// What cannot be measured is not released.
func TestReleaseThatCannotBeMeasured(t *testing.T) {
	lostGPU := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{LostGPU(0, "GPU-0", "", "GPU is lost")}, nil }}
	more := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(0, 1, 1), gpu(1, 1, 1)}, nil }}
	other := &script{reading: func(time.Duration) ([]GPU, error) { return []GPU{gpu(1, 1, 1)}, nil }}
	for want, r := range map[string]Release{
		"hw: nothing to check: neither processes nor a GPU source":                              {},
		"hw: GPU memory after a stop cannot be judged without the baseline of before the start": {GPU: lostGPU},
		"GPUs are not measured: no driver":                                                      {GPU: Unavailable("no driver"), Baseline: idle2},
		"GPUs are not measured: GPU 0: GPU is lost":                                             {GPU: lostGPU, Baseline: idle2},
		"GPUs are not measured: GPU 0 of the idle baseline is no longer shown":                  {GPU: other, Baseline: idle2},
		"GPUs are not measured: GPU 1: not in the idle baseline":                                {GPU: more, Baseline: idle2},
		"GPUs are not measured: idle baseline: GPUs are not measured: no driver":                {GPU: lostGPU, Baseline: &Baseline{Absent: "GPUs are not measured: no driver"}},
	} {
		_, err := Released(t.Context(), r)
		assert.EqualError(t, err, want)
	}
	_, err := Released(t.Context(), Release{GPU: &script{reading: func(time.Duration) ([]GPU, error) { return nil, errors.New("HTTP 503") }}, Baseline: idle2, Within: time.Millisecond})
	assert.ErrorContains(t, err, "s after the stop HTTP 503")
}

func TestReleasedProcesses(t *testing.T) {
	_, err := Released(t.Context(), Release{PIDs: map[string]int{"decode": os.Getpid()}, Within: time.Millisecond})
	assert.ErrorContains(t, err, "still running: decode (pid "+pid()+")")
	_, err = Released(t.Context(), Release{PIDs: map[string]int{"decode": 1 << 30, "dit": 0}})
	assert.NoError(t, err, "there is no such process")
}
