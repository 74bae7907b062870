package canary

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// A level holds what the client says against what the server knows: here both are written by hand.
func TestLevelJudges(t *testing.T) {
	now := time.Now()
	at := func(ms float64) int64 { return stamped.At(now) + int64(ms*1e6) }
	const text = api.HasChoices | api.HasText
	event := func(ms float64, has api.Content) api.Event {
		return api.Event{At: time.Duration(ms * 1e6), Has: has}
	}
	sample := metrics.Sample{Exchange: api.Exchange{RequestID: "level-0", Start: now, Status: 200, Events: []api.Event{
		event(1, api.HasChoices), event(53, text), event(73, text), event(95, text), event(95.1, api.HasUsage), event(95.1, api.IsDone)}}}
	truth := func() stamped.Truth {
		return stamped.Truth{Requests: []stamped.Request{
			{ID: "warm-up"},
			{ID: "level-0", Arrived: at(1), Ended: at(91), Due: []int64{at(51), at(71), at(91)}, Written: []int64{at(51), at(71.5), at(91)}},
		}}
	}
	l := Level{Streams: 1, Calls: 1, Tokens: 3}
	l.judge(load.Result{Wall: time.Second}, []metrics.Sample{sample}, truth())
	assert.Equal(t, 1, l.OK)
	assert.Empty(t, l.Failure)
	assert.Equal(t, 1, l.Peak)
	assert.Equal(t, metrics.Of(3), l.EventRate)
	assert.InDelta(t, 3/.09, l.PlanEvents, 1e-9)
	for _, f := range []struct {
		name string
		got  metrics.Value
		want float64
	}{
		{"late p50", l.Late.P50, 2}, {"late max", l.Late.Max, 4}, // 53-51, 73-71.5, 95-91
		{"TTFT error", l.TTFTError.Max, 3}, {"ITL", l.ITLMedian, 21}, {"ITL error", l.ITLError, .05}, {"server", l.ServerLate.Max, .5},
	} {
		got, ok := f.got.Get()
		assert.True(t, ok, f.name)
		assert.InDelta(t, f.want, got, 1e-6, f.name)
	}

	lost := truth()
	lost.Requests[1].Written = append(lost.Requests[1].Written, at(111))
	l = Level{Streams: 1, Calls: 1, Tokens: 3}
	l.judge(load.Result{Wall: time.Second}, []metrics.Sample{sample}, lost)
	assert.Equal(t, "request level-0: the client read 3 tokens, the server wrote 4", l.Failure)

	l = Level{Streams: 1, Calls: 1, Tokens: 3}
	l.judge(load.Result{Wall: time.Second}, []metrics.Sample{sample}, stamped.Truth{})
	assert.Equal(t, `the server does not know request "level-0"`, l.Failure)
	assert.Equal(t, metrics.Absent("no call succeeded"), l.Late.P99)
	assert.Equal(t, metrics.Absent("no call succeeded"), l.ITLError)
}

func TestPeak(t *testing.T) {
	assert.Equal(t, 2, peak([]flight{{0, 10}, {5, 15}, {10, 20}}), "who leaves makes room")
	assert.Equal(t, 3, peak([]flight{{0, 11}, {5, 15}, {10, 20}}))
	assert.Zero(t, peak(nil))
}

func TestKneeIsTheLastValidLevel(t *testing.T) {
	valid, invalid := metrics.ClientError{Verdict: metrics.ClientValid}, metrics.ClientError{Verdict: metrics.ClientInvalid}
	c := Capacity{Levels: []Level{
		{Streams: 64, EventRate: metrics.Of(3000), Client: valid}, {Streams: 128, EventRate: metrics.Of(6000), Client: valid}, {Streams: 256, EventRate: metrics.Of(9000), Client: invalid},
		{Streams: 512, EventRate: metrics.Of(9), Client: valid, Failure: "HTTP 500"},
		{Rate: 100, Client: metrics.ClientError{Verdict: metrics.ClientUnknown}},
	}}
	c.find()
	assert.Equal(t, metrics.Of(128), c.Streams)
	assert.Equal(t, metrics.Of(6000), c.EventRate)
	assert.Equal(t, metrics.Absent("no level was valid"), c.RequestRate)

	assert.Empty(t, c.Exceeds(128, 6000, 0))
	assert.Equal(t, []string{"129 streams at once planned; the client was shown to be right up to 128", "6500 events/s planned; the client was shown to be right up to 6000",
		"10 requests/s planned; the client's own limit is not measured: no level was valid"}, c.Exceeds(129, 6500, 10))
}

func TestKnee(t *testing.T) {
	cache := t.TempDir()
	path, err := KneePath(cache)
	require.NoError(t, err)
	_, err = Knee(path)
	assert.EqualError(t, err, "canary: the client's own limits on this machine are not known: run omnitest selftest")
	require.ErrorIs(t, err, ErrNoKnee)

	c := Capacity{Schema: CapacitySchema, Machine: ThisMachine(), Streams: metrics.Of(256), EventRate: metrics.Of(12e3), RequestRate: metrics.Absent("no level was valid")}
	require.NoError(t, c.Write(path))
	got, err := Knee(path)
	require.NoError(t, err)
	assert.Equal(t, c, got)
	host, err := os.Hostname()
	require.NoError(t, err)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.NotContains(t, string(raw), `"`+host, "no host name")

	c.Machine.Go = "go1.0"
	require.NoError(t, c.Write(path))
	_, err = Knee(path)
	assert.ErrorIs(t, err, ErrNoKnee)
	assert.ErrorContains(t, err, "go1.0; this is ")

	require.NoError(t, os.WriteFile(path, []byte(`{"schema":"x"}`), 0o600))
	_, err = Knee(path)
	assert.EqualError(t, err, "canary: "+path+`: schema "x", want "omnitest.client/v1": run omnitest selftest anew`)
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".client-*"))
	require.NoError(t, err)
	assert.Empty(t, left)
}

// The whole of it, too short for a verdict on n: every call comes back, every token is found in the server's book.
func TestSelftest(t *testing.T) {
	var out bytes.Buffer
	c, err := Selftest(t.Context(), SelftestOptions{Streams: []int{4}, Rates: []float64{20}, Level: 500 * time.Millisecond, Limit: time.Minute, Progress: &out})
	require.NoError(t, err)
	require.Len(t, c.Levels, 2)
	for i, calls := range []int{8, 10} {
		l := c.Levels[i]
		assert.Empty(t, l.Failure)
		assert.Equal(t, calls, l.OK)
		assert.Equal(t, calls*l.Tokens, l.Late.N)
		assert.Equal(t, calls*l.Tokens, l.ServerLate.N)
		assert.NotEqual(t, metrics.ClientValid, l.Client.Verdict, "n is too small")
		early, _ := l.Late.P50.Get()
		assert.Greater(t, early, 0.0, "no event is read before it is written")
	}
	assert.GreaterOrEqual(t, c.Levels[0].Peak, 4)
	assert.Equal(t, metrics.Absent("no level was valid"), c.Streams)
	assert.Len(t, bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n")), 3)

	c, err = Selftest(t.Context(), SelftestOptions{Limit: time.Second})
	require.NoError(t, err)
	require.NotEmpty(t, c.Levels)
	assert.Equal(t, "not measured: 1s are left of the limit of 1s", c.Levels[0].Failure)
	assert.Equal(t, metrics.ClientUnknown, c.Levels[0].Client.Verdict)
}
