package perf

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/workload"
)

// tally pools the load runs of one benchmark: with a longer -benchtime a point is run more than once.
type tally struct {
	point   *point
	name    string
	profile *metrics.Profile // nil: that of -profile

	samples   []metrics.Sample // those of a later run moved to the end of the one before: the pauses between are nobody's
	began     time.Time        // of the first run
	wall      time.Duration
	peak      int
	inFlight  float64 // mean, weighted by time
	connected time.Duration
	clients   []metrics.ClientError
	handoff   []report.Verdict
	windows   []report.Window
	records   []flow.Record
	tokens    []tokenCount
}

// tokenCount is one run's output tokens by both counts.
type tokenCount struct{ client, server float64 }

func (t *tally) row() *report.Row { return &t.point.row }

// says keeps what went wrong with the run itself, once.
func (t *tally) says(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(t.row().Errors, text) {
		t.row().Errors = append(t.row().Errors, text)
	}
}

func (t *tally) add(samples []metrics.Sample, run load.Result) {
	if t.began.IsZero() {
		t.began = run.Began
	}
	move := t.began.Add(t.wall).Sub(run.Began)
	for i := range samples {
		s := &samples[i]
		if !s.Start.IsZero() {
			s.Start = s.Start.Add(move)
		}
		if !s.Due.IsZero() {
			s.Due = s.Due.Add(move)
		}
	}
	t.samples = append(t.samples, samples...)
	t.inFlight += run.MeanInFlight * run.Wall.Seconds()
	t.wall += run.Wall
	t.peak = max(t.peak, run.Peak)
}

// client keeps the client's error of a run.
func (t *tally) client(e metrics.ClientError) { t.clients = append(t.clients, e) }

// worstClient is the error of the run in which the client did worst.
func (t *tally) worstClient() metrics.ClientError {
	rank := map[string]int{metrics.ClientValid: 1, metrics.ClientUnknown: 2, metrics.ClientInvalid: 3}
	var worst metrics.ClientError
	for _, e := range t.clients {
		if rank[e.Verdict] > rank[worst.Verdict] {
			worst = e
		}
	}
	return worst
}

// worst keeps of each claim the worst verdict of all runs: refuted, else inconclusive, else proven.
func (t *tally) worst(v handoff.Verdict) {
	rank := map[string]int{"proven": 0, "inconclusive": 1, "refuted": 2}
	told := report.Verdict{Name: v.Claim, Verdict: v.State.String()}
	for _, r := range v.Reasons {
		told.Reasons = append(told.Reasons, r.Text)
	}
	i := slices.IndexFunc(t.handoff, func(o report.Verdict) bool { return o.Name == told.Name })
	switch {
	case i < 0:
		t.handoff = append(t.handoff, told)
	case rank[told.Verdict] > rank[t.handoff[i].Verdict]:
		t.handoff[i] = told
	}
}

// finish makes the row of what was pooled and keeps it. A failed request fails the benchmark: rates over the rest would look like
// success.
func (t *tally) finish(b *testing.B) {
	b.Helper()
	row, profile := t.row(), set.definition
	if t.profile != nil {
		profile = *t.profile
	}
	row.Name = t.name
	row.Summary = t.options().Summarize(profile, t.samples, t.wall)
	row.Requests, row.PeakInFlight, row.Verdicts = len(t.samples), t.peak, t.handoff
	// How many tokens a prompt has only the engine's own count tells.
	if tokens, told := row.Summary.InputTokens.Get(); told && row.Summary.OK > 0 {
		row.PromptTokens = int(tokens) / row.Summary.OK
	}
	if t.wall > 0 {
		row.MeanInFlight = t.inFlight / t.wall.Seconds()
	}
	if len(t.clients) > 0 {
		row.ConnectS = metrics.Of(t.connected.Seconds())
		row.Client = t.worstClient()
	}
	if n, all := unstreamed(t.samples); n > 0 {
		text := fmt.Sprintf("%d of %d answers of several tokens came in one read: nothing was streamed there, their TTFT is the time of the whole answer and their TPOT of 0 is nobody's", n, all)
		t.says("%s", text)
		b.Log(text)
	}
	if text := early(&row.Summary); text != "" {
		t.says("%s", text)
		b.Log(text)
	}
	row.Detail(profile, t.samples, t.wall)
	if len(t.records) > 0 {
		row.Breakdown(metrics.BreakDownRun(t.samples, t.records))
	}
	t.keep(b)
	if row.Client.Verdict == metrics.ClientInvalid {
		text := metrics.ClientInvalid + ": " + strings.Join(row.Client.Reasons, "; ")
		results.spoilt(b.Name(), text)
		if set.strictClient {
			b.Error(text)
		} else {
			b.Log(text)
		}
	}
	if row.Summary.Failed > 0 {
		b.Errorf("%d of %d requests failed: %s", row.Summary.Failed, row.Summary.Requests, strings.Join(row.Summary.Failures, "; "))
	}
}

// unstreamed counts the streams that brought their tokens in one read, of all that had two or more. A profile's TPOT of such an answer
// is 0, as vllm bench serve has it too, and meets every objective.
func unstreamed(samples []metrics.Sample) (n, all int) {
	for i := range samples {
		s := &samples[i]
		if s.Err != nil || s.Abandoned {
			continue
		}
		var first, last time.Duration
		content := 0
		for _, e := range s.Exchange.Events {
			if e.Has&api.HasText == 0 {
				continue
			}
			if content++; content == 1 {
				first = e.At
			}
			last = e.At
		}
		if content == 0 || content < 2 && s.OutputTokens < 2 {
			continue
		}
		if all++; first == last {
			n++
		}
	}
	return n, all
}

// early tells that first events came well before first content: an engine that sends an empty chunk at once looks fast in a profile that
// counts any event. The 5 % and the millisecond are chosen.
func early(sum *metrics.Summary) string {
	ttft, ok := sum.TTFT.Mean.Get()
	content, told := sum.Plain.TTFTContent.Mean.Get()
	if !ok || !told || content < 1.05*ttft+1 {
		return ""
	}
	return fmt.Sprintf("the mean TTFT of %.1f ms is that of events without content, as profile %s counts it; first content came after %.1f ms", ttft, sum.Profile, content)
}

// steadyFrom is the length of a run from which on its steady state is worth a look.
const steadyFrom = 10 * time.Second

func (t *tally) options() metrics.Options {
	o := metrics.Options{SLOs: set.slos, Percentiles: set.asked}
	if p := t.point.plan; p.Arrivals == nil && p.Concurrency > 0 && t.wall >= steadyFrom && len(t.clients) == 1 {
		o.Steady = &metrics.SteadyWindow{Concurrency: p.Concurrency}
	}
	return o
}

func TestUnstreamed(t *testing.T) {
	stream := func(tokens int, at ...time.Duration) metrics.Sample {
		s := metrics.Sample{OutputTokens: tokens}
		for _, at := range at {
			s.Exchange.Events = append(s.Exchange.Events, api.Event{At: at, Has: api.HasChoices | api.HasText})
		}
		return s
	}
	failed := stream(4, 9)
	failed.Err = assert.AnError
	for _, c := range []struct {
		s      metrics.Sample
		n, all int
	}{
		{stream(4, 1, 2, 3, 4), 0, 1},
		{stream(4, 1, 3), 0, 1}, // two tokens an event
		{stream(4, 9), 1, 1},    // all in one event
		{stream(4, 9, 9, 9, 9), 1, 1},
		{stream(-1, 9, 9), 1, 1}, // no usage
		{stream(-1, 9), 0, 0},    // one token, for all that is known
		{stream(1, 9), 0, 0},
		{metrics.Sample{OutputTokens: -1}, 0, 0}, // a picture
		{failed, 0, 0},
	} {
		n, all := unstreamed([]metrics.Sample{c.s})
		assert.Equal(t, []int{c.n, c.all}, []int{n, all}, "%d tokens in %d events", c.s.OutputTokens, len(c.s.Exchange.Events))
	}
}

func TestEarlyEventsAreTold(t *testing.T) {
	stream := func(empty, first time.Duration) metrics.Sample {
		return metrics.Sample{OutputTokens: 2, Exchange: api.Exchange{Status: 200, End: 300 * time.Millisecond, Events: []api.Event{
			{At: empty, Has: api.HasChoices, Bytes: 40}, {At: first, Has: api.HasChoices | api.HasText, Bytes: 40}, {At: 250 * time.Millisecond, Has: api.HasChoices | api.HasText, Bytes: 40},
		}}}
	}
	for _, c := range []struct {
		empty time.Duration
		says  string
	}{
		{5 * time.Millisecond, "the mean TTFT of 5.0 ms is that of events without content, as profile vllm counts it; first content came after 200.0 ms"},
		{199 * time.Millisecond, ""},
	} {
		sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(c.empty, 200*time.Millisecond)}, time.Second)
		assert.Equal(t, 1, sum.OK, "%v", sum.Failures)
		assert.Equal(t, c.says, early(&sum))
	}
}

// What the stage itself counted is what its answers are held against: the wrong stage, a request of somebody else, or an answer that claims
// more than was generated, and the two differ.
func TestTokensAreCounted(t *testing.T) {
	nixl := handoff.Known("nixl")
	stage := func(c handoff.Counter) handoff.Stage {
		return handoff.Stage{Counters: map[string]handoff.Counter{nixl.Generated.String(): c}}
	}
	counted := func(n float64) handoff.Stage { return stage(handoff.Counter{State: "present", Delta: n}) }
	for _, c := range []struct {
		stage           engine.Stage
		prefill, decode handoff.Stage
		fails, says     string
	}{
		{engine.Decode, counted(0), counted(40), "", ""},
		{engine.Prefill, counted(40), counted(0), "", ""},
		{"", counted(0), counted(60), "metrics: output tokens: the client counted 40, the server 60: 20 more, for answers that the client did not get or somebody else's", ""},
		{engine.Prefill, counted(2), counted(40), "metrics: output tokens: the client counted 40, the server 2: 38 fewer", ""},
		{engine.Decode, counted(0), stage(handoff.Counter{State: "reset"}), "", "output tokens were not held against the server's: its counter is reset"},
		{engine.Decode, counted(0), handoff.Stage{}, "", "output tokens were not held against the server's: its counter is absent"},
	} {
		task := &textTask{text: workload.Text{Input: workload.Fixed(8), Output: workload.Fixed(20)}}
		require.NoError(t, task.prepare(3, 0, 2))
		for i := range task.answers {
			task.answers[i].text = &api.Text{Usage: &api.Usage{PromptTokens: 8, CompletionTokens: 20}}
		}
		all := &tally{point: &point{plan: load.Plan{Requests: 2}, stage: c.stage, task: task}}
		err := all.counted(&handoff.Evidence{Dialect: nixl.Name, Prefill: c.prefill, Decode: c.decode})
		if c.fails != "" {
			assert.EqualError(t, err, c.fails)
			assert.Equal(t, []string{c.fails}, all.row().Errors)
			continue
		}
		assert.NoError(t, err)
		if c.says != "" {
			assert.Equal(t, []string{c.says}, all.row().Errors)
		} else {
			assert.Equal(t, []tokenCount{{40, 40}}, all.tokens)
		}
	}
}
