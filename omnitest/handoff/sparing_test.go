package handoff

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

// A handoff can be proven with two scrapes of each engine and no request beyond the one that is judged.
func TestSparingScrapesTwice(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	s.Sparing = true
	e := window(t, s, 3)
	assert.Equal(t, StateProven, Proven(e).State, Proven(e))
	for _, x := range []*fakepd.Engine{f.Prefill, f.Decode} {
		x.Lock()
		assert.Equal(t, 2, x.Scrapes)
		x.Unlock()
	}
}

// What it then sees too early is doubt, never a pass and never an accusation.
func TestSparingDoubts(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	f.Decode.Lag = 5 // the page of Close still shows the counters of Open
	s := sourceOf(f)
	s.Sparing = true
	v := Proven(window(t, s, 1))
	assert.NotEqual(t, StateProven, v.State, v)

	busy := fakepd.New(t)
	busy.Decode.Set("vllm:num_requests_running", 1)
	s = sourceOf(busy)
	s.Sparing = true
	began := time.Now()
	_, err := Open(t.Context(), s)
	require.ErrorContains(t, err, "decode never got idle within 5ms: 1 running, 0 waiting")
	assert.Less(t, time.Since(began), s.idleWithin())
}
