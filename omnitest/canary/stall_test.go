//go:build unix

package canary

import (
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/metrics"
)

// slowModel has tokens every 60 ms, so that events may be 3 ms late. On a virtual machine of two cores that did nothing else the p99
// of the canary was 0.3 to 1.8 ms in 20 runs: the limit of a model with 20 ms, 1 ms, is inside that noise, and 3 of the 20 were
// INVALID-CLIENT, rightly.
var slowModel = stamped.Options{TTFT: 150 * time.Millisecond, Interval: 60 * time.Millisecond}

// freeze stops the client for 50 ms in each half second, every thread of it.
func freeze(p *os.Process, done <-chan struct{}) {
	for {
		select {
		case <-done:
			return
		case <-time.After(450 * time.Millisecond):
		}
		_ = p.Signal(syscall.SIGSTOP)
		time.Sleep(50 * time.Millisecond)
		_ = p.Signal(syscall.SIGCONT)
	}
}

// What a stalled client measures must be called invalid, always, whichever way it stalls.
func TestStallsFlipTheVerdict(t *testing.T) {
	server, err := stamped.Spawn(t.Context(), slowModel)
	require.NoError(t, err)
	defer server.Stop()
	m := measurement{URL: server.URL, Streams: 8, Length: 2 * time.Second, Cadence: 4 * time.Millisecond}
	n := 3
	if *trials > 0 {
		m.Length, m.Cadence, n = 4500*time.Millisecond, 0, *trials
	}
	stopped := func() metrics.ClientError { return m.start(t, freeze) }
	burning := m
	burning.Burn = true
	for _, c := range []struct {
		name string
		run  func() metrics.ClientError
	}{{"stopped", stopped}, {"burning", func() metrics.ClientError { return burning.start(t, nil) }}} {
		t.Run(c.name, func(t *testing.T) {
			flipped := 0
			for range n {
				e := c.run()
				t.Logf("%s %q: events p50 %v p99 %v max %v ms, read - written p99 %v ms, CPU %v", e.Verdict, e.Reasons, e.Event.P50, e.Event.P99, e.Event.Max, e.Read.P99, e.CPUShare)
				if e.Verdict == metrics.ClientInvalid {
					flipped++
				}
				reason := ""
				for _, r := range e.Reasons {
					if len(r) > 7 && r[:7] == "events:" {
						reason = r
					}
				}
				assert.Regexp(t, `^events: p99 \d+(\.\d+)? ms, limit \S+ ms \(5 % of the median ITL \S+ ms\)$`, reason)
			}
			t.Logf("%s: %d of %d runs are %s", c.name, flipped, n, metrics.ClientInvalid)
			assert.Equal(t, n, flipped)
		})
	}
}

// The schedule is what sees a process that stood still: by the stamps alone its events were read in time.
func TestStampsAloneAreBlind(t *testing.T) {
	server, err := stamped.Spawn(t.Context(), slowModel)
	require.NoError(t, err)
	defer server.Stop()
	m := measurement{URL: server.URL, Streams: 1, Length: 2 * time.Second, Cadence: 4 * time.Millisecond}
	var stops atomic.Int64
	e := m.start(t, func(p *os.Process, done <-chan struct{}) {
		for {
			select {
			case <-done:
				return
			case <-time.After(400 * time.Millisecond):
			}
			_ = p.Signal(syscall.SIGSTOP)
			time.Sleep(200 * time.Millisecond) // 50 of 150 events
			_ = p.Signal(syscall.SIGCONT)
			stops.Add(1)
		}
	})
	require.GreaterOrEqual(t, stops.Load(), int64(1))
	late, _ := e.Event.P99.Get()
	read, _ := e.Read.P50.Get()
	assert.Greater(t, late, 100.0, "ms: a stop lasts 200")
	assert.Less(t, read, late/10, "read - written knows nothing of it")
}

// TestQuiet is the other half, for a machine that does nothing else: -canary=20.
func TestQuiet(t *testing.T) {
	if *trials == 0 {
		t.Skip("needs a machine that does nothing else: go test ./omnitest/canary -run 'Quiet|Stalls' -canary=20 -v")
	}
	server, err := stamped.Spawn(t.Context(), slowModel)
	require.NoError(t, err)
	defer server.Stop()
	flipped := 0
	for range *trials {
		e := measurement{URL: server.URL, Streams: 8, Length: 4500 * time.Millisecond}.start(t, nil)
		t.Logf("%s %q: dispatch p99 %v, events p50 %v p99 %v max %v ms, read - written p99 %v ms, CPU %v, steal %v", e.Verdict, e.Reasons,
			e.Dispatch.P99, e.Event.P50, e.Event.P99, e.Event.Max, e.Read.P99, e.CPUShare, e.Steal)
		if e.Verdict != metrics.ClientValid {
			flipped++
		}
	}
	t.Logf("quiet: %d of %d runs are not %s", flipped, *trials, metrics.ClientValid)
	assert.Zero(t, flipped)
}
