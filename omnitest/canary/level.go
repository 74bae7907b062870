package canary

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Level is one load on a server whose times are known: what the client reported, held against the truth.
type Level struct {
	Streams int     `json:"streams,omitempty"` // held in flight; 0: an open loop
	Rate    float64 `json:"rate,omitempty"`    // requests/s, planned; 0: a closed loop
	Burst   bool    `json:"burst,omitempty"`   // all Calls = Streams at one moment, once
	Calls   int     `json:"calls"`
	Tokens  int     `json:"tokens"` // of each answer

	OK         int           `json:"ok"`
	Failure    string        `json:"failure,omitempty"` // the first one, of a call or of the level
	SentRate   metrics.Value `json:"sent_rate"`         // requests/s that arrived at the server, between the first and the last
	Peak       int           `json:"in_flight_peak"`    // as the server counted
	EventRate  metrics.Value `json:"event_rate"`        // tokens/s that the client read
	PlanEvents float64       `json:"event_rate_planned"`

	Late       metrics.Lateness `json:"late"`              // ms, read - written, of all events of the run
	TTFTError  metrics.Lateness `json:"ttft_error"`        // ms, |reported - planted|
	ITLMedian  metrics.Value    `json:"itl_median"`        // ms, as reported
	ITLError   metrics.Value    `json:"itl_error"`         // |median - planted| / planted
	ServerLate metrics.Lateness `json:"server_late"`       // ms, written - due: what the server itself was late, and no client could read earlier
	Blocked    int              `json:"blocked,omitempty"` // writes that the client's full buffers put off

	Client metrics.ClientError `json:"client"`
}

// The planted times of every level.
const (
	plantedTTFT = 50 * time.Millisecond
	plantedITL  = 20 * time.Millisecond
	callLimit   = 30 * time.Second
)

// planted are the options of the server that the levels are measured on.
func planted(cpus []int) stamped.Options {
	return stamped.Options{TTFT: plantedTTFT, Interval: plantedITL, Stamp: true, CPUs: cpus}
}

func (l Level) plan() load.Plan {
	p := load.Plan{Requests: l.Calls, Limit: callLimit, Seed: 1}
	switch {
	case l.Burst:
		p.Arrivals = load.Burst{}
	case l.Rate > 0:
		p.Arrivals = load.Poisson{Rate: l.Rate}
	default:
		p.Concurrency = l.Streams
	}
	return p
}

// connections that the level needs at once.
func (l Level) connections() int {
	return max(l.Streams, int(math.Ceil(l.Rate*l.length().Seconds()*1.5)))
}

// length of one answer.
func (l Level) length() time.Duration {
	return plantedTTFT + time.Duration(l.Tokens-1)*plantedITL
}

// measure runs the level, on connections that were opened before. An error means that the level was not
// measured at all; what went wrong with calls stands in the level.
func (l Level) measure(ctx context.Context, server *stamped.Child) (Level, error) {
	client := &api.Client{BaseURL: server.URL, Lean: true, Timeout: callLimit}
	defer client.CloseIdle()
	bird, err := Start(ctx, Options{Client: client})
	if err != nil {
		return l, err
	}
	fail := func(err error) (Level, error) {
		bird.Stop(load.Result{})
		return l, err
	}
	if _, err := client.Connect(ctx, l.connections()); err != nil {
		return fail(err)
	}
	ask := func(ctx context.Context, tokens int, id string) (*api.Text, error) {
		return client.StreamComplete(ctx, api.CompletionRequest{PromptIDs: []int{1, 2, 3}, Sampling: api.Sampling{MaxTokens: tokens, IgnoreEOS: true, RequestID: id}}, nil)
	}
	// What is done for the first time takes longer: a first burst of 512 had a median TTFT error of 18 ms, a second one of 0.1 ms.
	warm := load.Plan{Arrivals: load.Burst{}, Requests: l.connections(), Limit: callLimit}
	if _, err := load.Run(ctx, warm, func(ctx context.Context, i int) error { _, err := ask(ctx, 2, "warm-up"); return err }); err != nil {
		return fail(err)
	}
	if err := server.Reset(ctx); err != nil {
		return fail(err)
	}
	release := load.HoldGC(0)
	defer release()
	samples, run, err := load.Collect(ctx, l.plan(), func(ctx context.Context, i int) (metrics.Sample, error) {
		text, err := ask(ctx, l.Tokens, fmt.Sprintf("level-%d", i))
		return metrics.FromText(text, err), err
	})
	l.Client = bird.Stop(run, samples...)
	if err != nil {
		return l, err
	}
	truth, err := server.Truth(ctx, true)
	if err != nil {
		return l, err
	}
	l.judge(run, samples, truth)
	return l, server.Reset(ctx)
}

// judge holds the samples against the truth.
func (l *Level) judge(run load.Result, samples []metrics.Sample, truth stamped.Truth) {
	byID := make(map[string]*stamped.Request, len(truth.Requests))
	for i := range truth.Requests {
		byID[truth.Requests[i].ID] = &truth.Requests[i]
	}
	var late, ttft, itl, server []float64
	var arrived []int64
	var flights []flight
	events := 0
	for i := range samples {
		s := &samples[i]
		if s.Err != nil {
			if l.Failure == "" {
				l.Failure = s.Err.Error()
			}
			continue
		}
		r := byID[s.Exchange.RequestID]
		if r == nil {
			l.Failure = fmt.Sprintf("the server does not know request %q", s.Exchange.RequestID)
			continue
		}
		l.OK++
		l.Blocked += r.Blocked
		arrived = append(arrived, r.Arrived)
		flights = append(flights, flight{r.Arrived, r.Ended})
		for k := range min(len(r.Written), len(r.Due)) {
			server = append(server, float64(r.Written[k]-r.Due[k])/1e6)
		}
		start := stamped.At(s.Exchange.Start)
		k, last := 0, time.Duration(0)
		for _, ev := range s.Exchange.Events {
			if ev.Has&content == 0 {
				continue
			}
			if k < len(r.Written) {
				late = append(late, float64(start+int64(ev.At)-r.Written[k])/1e6)
			}
			if k == 0 {
				ttft = append(ttft, math.Abs(ms(ev.At-plantedTTFT)))
			} else {
				itl = append(itl, ms(ev.At-last))
			}
			last = ev.At
			k++
		}
		events += k
		if k != len(r.Written) && l.Failure == "" {
			l.Failure = fmt.Sprintf("request %s: the client read %d tokens, the server wrote %d", r.ID, k, len(r.Written))
		}
	}
	none := "no call succeeded"
	l.Late, l.TTFTError, l.ServerLate = describe(late, none), describe(ttft, none), describe(server, none)
	l.Peak = peak(flights)
	l.ITLMedian, l.ITLError, l.EventRate, l.SentRate = metrics.Absent(none), metrics.Absent(none), metrics.Absent(none), metrics.Absent(none)
	if len(itl) > 0 {
		slices.Sort(itl)
		median := metrics.Percentile(itl, 50)
		l.ITLMedian, l.ITLError = metrics.Of(median), metrics.Of(math.Abs(median-ms(plantedITL))/ms(plantedITL))
	}
	if run.Wall > 0 {
		l.EventRate = metrics.Of(float64(events) / run.Wall.Seconds())
	}
	if len(arrived) > 1 {
		slices.Sort(arrived)
		l.SentRate = metrics.Of(float64(len(arrived)-1) / (float64(arrived[len(arrived)-1]-arrived[0]) / 1e9))
	}
	if l.Rate > 0 {
		l.PlanEvents = l.Rate * float64(l.Tokens)
	} else {
		l.PlanEvents = float64(l.Streams*l.Tokens) / l.length().Seconds()
	}
}

// flight is one request in the server, in ns.
type flight struct{ arrived, ended int64 }

// peak is the most that were in the server at once.
func peak(flights []flight) int {
	type edge struct {
		at   int64
		step int
	}
	edges := make([]edge, 0, 2*len(flights))
	for _, f := range flights {
		edges = append(edges, edge{f.arrived, 1}, edge{f.ended, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(max(-1, min(1, a.at-b.at)))
		}
		return a.step - b.step // who leaves makes room
	})
	now, most := 0, 0
	for _, e := range edges {
		now += e.step
		most = max(most, now)
	}
	return most
}
