package hw

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/metrics"
)

func TestCoresOfAShortWindowAreNotMeasured(t *testing.T) {
	assert.Equal(t, metrics.Absent("a window of 0.03 s is too short: CPU is counted in ticks of 10 ms"), cores(0, 0.03))
	assert.Equal(t, metrics.Of(0), cores(0, 5), "an idle stage in a long window: measured, and 0")
	assert.Equal(t, metrics.Of(0.5), cores(1, 2))
}
