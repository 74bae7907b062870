package load_test

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/load"
)

var garbage []byte

func collections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range bytes >> 20 {
		garbage = make([]byte, 1<<20)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func TestHoldGC(t *testing.T) {
	percent, limit := debug.SetGCPercent(100), debug.SetMemoryLimit(-1)
	defer debug.SetGCPercent(percent)
	assert.NotZero(t, collections(256<<20), "without a hold")

	release := load.HoldGC(1 << 30)
	assert.Zero(t, collections(256<<20))
	second := load.HoldGC(0)
	second()
	second() // twice is once
	assert.Zero(t, collections(256<<20), "the first hold is still there")
	release()
	assert.Equal(t, limit, debug.SetMemoryLimit(-1))
	assert.Equal(t, 100, debug.SetGCPercent(100))
	assert.NotZero(t, collections(256<<20))

	release = load.HoldGC(64 << 20)
	defer release()
	assert.NotZero(t, collections(512<<20), "memory stays bounded")
}
