package canary

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Every event that was due is accounted for, none twice, over several streams on one connection.
func TestEveryEventIsAccountedFor(t *testing.T) {
	c, err := Start(t.Context(), Options{Cadence: time.Millisecond})
	require.NoError(t, err)
	time.Sleep(1200 * time.Millisecond) // more than two streams
	e := c.Stop(load.Result{})
	require.Empty(t, c.errs)
	require.Greater(t, e.Event.N, 1100)
	assert.Equal(t, int(c.end/time.Millisecond), e.Event.N)
	for i, ev := range c.events {
		assert.Equal(t, time.Duration(i+1)*time.Millisecond, ev.due)
		assert.LessOrEqual(t, ev.due, ev.written, "never early")
		assert.Less(t, ev.written, ev.read)
	}
	assert.True(t, e.CPU.OK())
	assert.True(t, e.Sched.OK())
	assert.True(t, e.GCs.OK())
	again := c.Stop(load.Result{})
	assert.Equal(t, e.Event, again.Event)
}

// Only what was due while the run lasted counts.
func TestOnlyTheRunCounts(t *testing.T) {
	c := &Canary{options: Options{Cadence: 10 * time.Millisecond}, ended: time.Second}
	at := func(k int, late time.Duration) {
		due := time.Duration(k) * 10 * time.Millisecond
		c.events = append(c.events, event{due, due + late/2, due + late})
	}
	at(1, time.Millisecond)
	at(2, 2*time.Millisecond)
	at(3, 4*time.Millisecond)
	at(4, 8*time.Millisecond)
	late, floor := c.lateness(20*time.Millisecond, 30*time.Millisecond)
	assert.Equal(t, []float64{2, 4}, late)
	assert.Equal(t, []float64{1, 2}, floor)

	// Three events were due and never read: they are as late as the moment at which that was clear.
	late, floor = c.lateness(30*time.Millisecond, 71*time.Millisecond)
	assert.Equal(t, []float64{4, 8, 950, 940, 930}, late)
	assert.Equal(t, []float64{2, 4}, floor)

	// One got lost between two others.
	c.events = append(c.events[:2], c.events[3:]...)
	late, _ = c.lateness(0, 40*time.Millisecond)
	assert.Equal(t, []float64{1, 2, 18, 8}, late)
}

func TestStartFails(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Cadence: -1}, "canary: negative number in the options {Cadence:-1ns Bytes:0 Client:<nil>}"},
		{Options{Cadence: time.Microsecond}, "canary: cadence 1µs is under 1ms: the canary would be a load of its own"},
	} {
		_, err := Start(t.Context(), c.o)
		assert.EqualError(t, err, c.want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Start(ctx, Options{})
	assert.EqualError(t, err, "canary: ended before its first event")

	// A client that cannot reach the loopback measures nothing, and says why.
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = Start(ctx, Options{Client: &api.Client{HTTP: &http.Client{Transport: nowhere{}}}})
	assert.ErrorContains(t, err, "no loopback in this sandbox")
	assert.ErrorContains(t, err, "canary: ended before its first event")
}

type nowhere struct{}

func (nowhere) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("no loopback in this sandbox")
}

// A stream that breaks is taken up again; what was due meanwhile is late, and the break is not hidden.
func TestBrokenStream(t *testing.T) {
	c, err := Start(t.Context(), Options{Cadence: 2 * time.Millisecond})
	require.NoError(t, err)
	time.Sleep(20 * time.Millisecond)
	c.server.mu.Lock()
	for conn := range c.server.conn {
		conn.Close()
	}
	c.server.mu.Unlock()
	for began := time.Now(); len(c.broken()) == 0 && time.Since(began) < 10*time.Second; {
		time.Sleep(time.Millisecond)
	}
	time.Sleep(20 * time.Millisecond)
	e := c.Stop(load.Result{})
	require.NotEmpty(t, c.broken())
	assert.ErrorContains(t, c.broken()[0], "missing finish_reason of choice 0 and [DONE]")
	assert.Equal(t, int(c.end/(2*time.Millisecond)), e.Event.N, "every event that was due is in the account")
}

// A canary whose context ended early does not count the rest of the run as late.
func TestEndOfContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := Start(ctx, Options{})
	require.NoError(t, err)
	cancel()
	<-c.done
	time.Sleep(50 * time.Millisecond)
	e := c.Stop(load.Result{Began: c.server.base(), Wall: time.Hour})
	assert.LessOrEqual(t, e.Event.N, int(c.ended/c.options.Cadence))
	assert.Equal(t, "not measured", e.Verdict)
}

// The events have the size on the wire that was asked for.
func TestEventSize(t *testing.T) {
	assert.Len(t, frame(7, 220), 220)
	assert.Len(t, frame(123456, 220), 220)
	assert.Len(t, frame(7, 1000), 1000)
}

// BenchmarkCost is what the canary costs: its share of one core, in a process that does nothing else. Wanted: core-% < 1. bare-% is
// what waking up so often costs alone, in the same run: on a busy machine both are more.
func BenchmarkCost(b *testing.B) {
	for b.Loop() {
		bell, err := newAlarm()
		require.NoError(b, err)
		before, began := readUsage(), time.Now()
		for k := range 400 {
			require.NoError(b, bell.wait(began.Add(time.Duration(k+1)*10*time.Millisecond)))
		}
		bell.close()
		var bare metrics.ClientError
		readUsage().since(before, &bare)
		cpu, _ := bare.CPU.Get()
		b.ReportMetric(100*cpu, "bare-%")

		c, err := Start(b.Context(), Options{})
		require.NoError(b, err)
		time.Sleep(4 * time.Second)
		e := c.Stop(load.Result{})
		cpu, _ = e.CPU.Get()
		b.ReportMetric(100*cpu, "core-%")
		for name, v := range map[string]interface{ Get() (float64, bool) }{
			"late-p50-ns": e.Event.P50, "late-p99-ns": e.Event.P99, "late-max-ns": e.Event.Max, "read-p50-ns": e.Read.P50, "read-p99-ns": e.Read.P99,
		} {
			x, _ := v.Get()
			b.ReportMetric(x*1e6, name)
		}
		b.ReportMetric(float64(e.Event.N), "events")
	}
}
