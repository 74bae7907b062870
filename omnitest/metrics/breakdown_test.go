package metrics_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/metrics"
)

var ticket = json.RawMessage(`{"remote_block_ids":[1]}`)

// through is a streamed answer that the client had whole after 300 ms, sent 40 ms late: events every 20 ms from 180 to 280 ms.
func through() (metrics.Sample, flow.Record) {
	s := stream(512, 6, 180, 200, 220, 240, 260, 280)
	s.Exchange.RequestID, s.Exchange.End = "r1", 300*time.Millisecond
	s.Due = s.Start.Add(-40 * time.Millisecond)
	return s, flow.Record{RequestID: "r1", Outcome: "ok", Status: 200, EndMS: 290, Hops: []flow.Hop{
		{Stage: "prefill", StartMS: 2, EndMS: 102, Status: 200, TicketOut: ticket},
		{Stage: "decode", StartMS: 105, FirstByteMS: 175, EndMS: 288, Status: 200, TicketIn: ticket},
	}}
}

func parts(t *testing.T, b metrics.Breakdown) map[string]float64 {
	t.Helper()
	all := map[string]float64{}
	for part, v := range b.Parts {
		all[part] = get(t, v)
	}
	return all
}

func TestBreakDownOfAPlantedLedger(t *testing.T) {
	s, r := through()
	b, err := metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, 340.0, b.Total)
	assert.Equal(t, map[string]float64{"queue": 40, "client": 10, "prefill": 100, "kv_transfer": 50, "decode": 133}, parts(t, b))
	assert.Equal(t, 7.0, b.Residual, "2 + 3 + 2 ms of the proxy's own")
	assert.Empty(t, b.Notes)

	r.Hops[1].TicketIn = nil
	b, err = metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, 183.0, get(t, b.Parts["decode"]), "without a ticket nothing was transferred")
	assert.NotContains(t, b.Parts, "kv_transfer")
}

func TestBreakDownOfAPicture(t *testing.T) {
	s := picture(2*time.Second, api.Size{W: 64, H: 64})
	s.Exchange.RequestID = "p"
	s.Stages = map[string]float64{"Pipeline.text_encoder.forward": 0.03, "Pipeline.vae.encode": 0.02, "Pipeline.vae.decode": 0.1, "stage_0_gen_ms": 900}
	r := flow.Record{RequestID: "p", Outcome: "ok", EndMS: 1990, Hops: []flow.Hop{
		{Stage: "prefill", StartMS: 0, EndMS: 100}, {Stage: "decode", StartMS: 100, FirstByteMS: 980, EndMS: 980, TicketIn: ticket}, {Stage: "dit", StartMS: 980, EndMS: 1980},
	}}
	b, err := metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, "the answer of decode was not streamed in more than one event: its transfer is in decode", b.Parts["kv_transfer"].Reason())
	assert.Equal(t, 50.0, get(t, b.Parts["encode"]))
	assert.Equal(t, 950.0, get(t, b.Parts["dit"]))
	assert.Equal(t, 10.0, b.Residual)
	assert.Equal(t, 0.005, get(t, b.ResidualShare()))
}

// Nothing is clipped: time that two parts claim makes the residual negative, and the note says who.
func TestBreakDownSaysOverlaps(t *testing.T) {
	s, r := through()
	r.Hops[0].EndMS = 135
	b, err := metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, -26.0, b.Residual)
	assert.Equal(t, []string{"prefill and decode overlap by 30.00 ms"}, b.Notes)

	s, r = through()
	r.EndMS, r.Hops[1].FirstByteMS = 301.5, 120
	b, err = metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, -1.5, get(t, b.Parts["client"]))
	assert.Equal(t, -5.0, get(t, b.Parts["kv_transfer"]))
	assert.Equal(t, []string{"the proxy ended the request 1.50 ms after the client had its last byte",
		"decode's first event came 15.00 ms after its leg began, earlier than one step of 20.00 ms"}, b.Notes)

	s, r = through()
	s.Stages = map[string]float64{"text_encoder_ms": 90}
	r.Hops = append(r.Hops, flow.Hop{Stage: "dit", StartMS: 288, EndMS: 289}, flow.Hop{Stage: "judge", StartMS: 289, EndMS: 290})
	b, err = metrics.BreakDown(&s, &r)
	require.NoError(t, err)
	assert.Equal(t, []string{"the DiT claims 90.00 ms for its encoders in a leg of 1.00 ms", `a stage "judge" that is no part of the usual way`}, b.Notes)
}

func TestBreakDownRefuses(t *testing.T) {
	for want, change := range map[string]func(*flow.Record){
		`metrics: breakdown of request "r1" by the record of "r2"`:                                                                      func(r *flow.Record) { r.RequestID = "r2" },
		"metrics: breakdown of r1: its record is still in flight":                                                                       func(r *flow.Record) { r.Outcome = "in-flight" },
		"metrics: breakdown of r1: the leg to decode has no end":                                                                        func(r *flow.Record) { r.Hops[1].EndMS = 0 },
		"metrics: breakdown of r1: its record was put together from taps in front of the stages and does not hold the proxy's own time": func(r *flow.Record) { r.Taps = "stages" },
	} {
		s, r := through()
		change(&r)
		_, err := metrics.BreakDown(&s, &r)
		assert.EqualError(t, err, want)
	}
}

func TestBreakDownRun(t *testing.T) {
	s, r := through()
	other, second := through()
	other.Exchange.RequestID, second.RequestID = "r2", "r2"
	second.Hops[0].EndMS = 101
	failed := s
	failed.Err = errors.New("reset")
	run := metrics.BreakDownRun([]metrics.Sample{s, other, failed}, []flow.Record{r, second})
	assert.Equal(t, 2, run.Requests)
	assert.Equal(t, 340.0, get(t, run.Total))
	var names []string
	sum := get(t, run.Residual.Share)
	for _, p := range run.Parts {
		names = append(names, p.Part)
		sum += get(t, p.Share)
		assert.Equal(t, 2, p.Requests)
	}
	assert.Equal(t, []string{"queue", "client", "prefill", "kv_transfer", "decode"}, names)
	assert.InDelta(t, 1, sum, 1e-12, "shares add up")
	assert.Equal(t, 7.5, get(t, run.Residual.Mean))
	assert.Equal(t, 8.0/340, get(t, run.Worst))
	assert.EqualError(t, run.Err(0.02), "metrics: breakdown: nobody accounts for 2.2 % of the time (7.5 of 340 ms), limit 2.0 %")
	assert.NoError(t, run.Err(0.03))

	run = metrics.BreakDownRun([]metrics.Sample{s, other}, []flow.Record{r})
	assert.EqualError(t, run.Err(0.03), "metrics: breakdown: 1 requests were taken apart, not all: 1x no record of the request")
	none := metrics.BreakDownRun(nil, nil)
	assert.EqualError(t, none.Err(0.02), "metrics: breakdown: no request could be taken apart")
}
