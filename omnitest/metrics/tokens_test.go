package metrics_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

type letters struct {
	asked []string
	fail  error
}

func (l *letters) CountTokens(_ context.Context, text string) (int, error) {
	l.asked = append(l.asked, text)
	return len(text), l.fail
}

func TestRetokenize(t *testing.T) {
	failed := stream(1, -1, 5)
	failed.Err = errors.New("reset")
	samples := []metrics.Sample{stream(1, 4, 5, 6), stream(1, -1, 5, 6, 7), failed, picture(time.Second), stream(1, 0, 5, 6)}
	tok := &letters{}
	require.NoError(t, metrics.Retokenize(t.Context(), tok, samples))
	assert.Equal(t, []string{"aaa", "aa"}, tok.asked, "only successes whose tokens nobody told")
	sum := metrics.Summarize(metrics.VLLM, samples[:2], time.Second)
	assert.Equal(t, 7.0, get(t, sum.OutputTokens))
	assert.Equal(t, 2, sum.TPOT.N)
	require.NoError(t, metrics.Retokenize(t.Context(), tok, samples))
	assert.Len(t, tok.asked, 2, "once is enough")

	tok.fail = errors.New("404")
	assert.EqualError(t, metrics.Retokenize(t.Context(), tok, []metrics.Sample{stream(1, -1, 5)}), "metrics: tokens of answer 1 of 1: 404")
}

func TestTokensAgree(t *testing.T) {
	assert.NoError(t, metrics.TokensAgree("output", metrics.Of(480), 480))
	assert.EqualError(t, metrics.TokensAgree("output", metrics.Of(480), 496),
		"metrics: output tokens: the client counted 480, the server 496: 16 more, for answers that the client did not get or somebody else's")
	assert.EqualError(t, metrics.TokensAgree("prompt", metrics.Of(480), 479), "metrics: prompt tokens: the client counted 480, the server 479: 1 fewer")
	assert.EqualError(t, metrics.TokensAgree("output", metrics.Absent("no usage"), 1), "metrics: output tokens: the client has no count: no usage")
}

// Four lanes of 0.5 s requests for 10 s, a counter that is read every 100 ms: the law holds. With a fifth request in flight that
// never completes it does not.
func TestLittleGap(t *testing.T) {
	var samples []metrics.Sample
	for lane := range 4 {
		for i := range 20 {
			s := at(500*i, stream(1, 2, 100, 500))
			s.Exchange.End = 500 * time.Millisecond
			samples = append(samples, s)
			_ = lane
		}
	}
	sum := metrics.Summarize(metrics.VLLM, samples, 10*time.Second)
	var times []time.Duration
	var four, five []float64
	for i := range 101 {
		times = append(times, time.Duration(i)*100*time.Millisecond)
		four, five = append(four, 4), append(five, 5)
	}
	assert.InDelta(t, 0, get(t, sum.LittleGap(metrics.MeanInFlight(times, four))), 1e-12)
	assert.InDelta(t, 0.2, get(t, sum.LittleGap(metrics.MeanInFlight(times, five))), 1e-12)
	assert.InDelta(t, 4.5, get(t, metrics.MeanInFlight([]time.Duration{0, time.Second, 4 * time.Second}, []float64{3, 5, 99})), 1e-12)

	absent := metrics.Absent("not sampled")
	assert.Equal(t, "not sampled", metrics.LittleGap(absent, metrics.Of(1), metrics.Of(1)).Reason())
	assert.Equal(t, "not sampled", metrics.LittleGap(metrics.Of(1), absent, metrics.Of(1)).Reason())
	assert.Equal(t, "not sampled", metrics.LittleGap(metrics.Of(1), metrics.Of(1), absent).Reason())
	assert.Equal(t, "nothing was in flight", metrics.LittleGap(metrics.Of(0), metrics.Of(1), metrics.Of(1)).Reason())
	assert.Equal(t, "fewer than 2 readings of the requests in flight", metrics.MeanInFlight(times[:1], four[:1]).Reason())
	assert.Equal(t, "all readings of the requests in flight are of one moment", metrics.MeanInFlight([]time.Duration{5, 5}, []float64{1, 2}).Reason())
}
