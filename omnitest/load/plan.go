package load

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Plan is what a run sends, and when. The zero value makes one call.
type Plan struct {
	// Arrivals set the times at which calls are due: an open loop. nil: a closed loop, held at Concurrency.
	Arrivals Arrivals
	// Concurrency is the most calls in flight. 0: 1 in a closed loop, no bound in an open one.
	Concurrency int
	// Requests is the number of measured calls, exactly. 0: as many as fall into Duration; without one, all times of a Trace,
	// else Concurrency (at least 1).
	Requests int
	// Duration ends the sending: no call is due after it. With Requests, whichever comes first. 0: no such end. Calls in flight
	// are waited for.
	Duration time.Duration
	// Warmup calls come first, at the same concurrency (all at once where there is no bound), and enter no figure. They get the
	// indices -Warmup to -1, so that an operation can give them prompts of their own: a warm-up with a measured prompt fills the
	// prefix cache for it.
	Warmup int
	Limit  time.Duration // deadline of one call, through its context; 0: 5 minutes
	Grace  time.Duration // how long a call may outlive the end of its context before it counts as stuck; 0: 5 s
	// Seed decides all that is drawn: due times, calls to abandon, think times. The same seed gives the same plan. 0 is a seed too.
	Seed   uint64
	Cancel Cancel
}

// Cancel makes users leave: each measured call is chosen with probability Rate, and its context is cancelled Delay after it was
// sent. What ends by that is Abandoned, which is no failure; a call that was faster is OK. Both are marked
// Call.Leaving, as latencies must leave out both. The choice depends on Seed and the call's index alone.
type Cancel struct {
	Rate  float64       // 0 to 1
	Delay time.Duration // after Call.Sent
}

// Streams of random numbers: what is drawn for one purpose does not move when another draws more.
const (
	streamArrivals = 1 + iota
	streamCancel
	streamThink
)

func (p Plan) rng(stream, of uint64) *rand.Rand {
	return rand.New(rand.NewPCG(p.Seed, stream<<56^of))
}

func (p Plan) abandons(index int) bool {
	return p.Cancel.Rate > 0 && index >= 0 && p.rng(streamCancel, uint64(index)).Float64() < p.Cancel.Rate
}

// filled gives the plan with its defaults, and the due times of an open loop.
func (p Plan) filled() (Plan, []time.Duration, error) {
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Concurrency", int64(p.Concurrency)}, {"Requests", int64(p.Requests)}, {"Warmup", int64(p.Warmup)},
		{"Duration", int64(p.Duration)}, {"Limit", int64(p.Limit)}, {"Grace", int64(p.Grace)}, {"Cancel.Delay", int64(p.Cancel.Delay)},
	} {
		if f.value < 0 {
			return p, nil, fmt.Errorf("load: Plan.%s is negative", f.name)
		}
	}
	if r := p.Cancel.Rate; math.IsNaN(r) || r < 0 || r > 1 {
		return p, nil, fmt.Errorf("load: Plan.Cancel.Rate %v: want a share from 0 to 1", r)
	}
	if p.Limit == 0 {
		p.Limit = 5 * time.Minute
	}
	if p.Grace == 0 {
		p.Grace = 5 * time.Second
	}
	if p.Arrivals != nil {
		due, err := p.schedule()
		if err == nil {
			p.Requests = len(due)
		}
		return p, due, err
	}
	if p.Concurrency == 0 {
		p.Concurrency = 1
	}
	if p.Requests == 0 && p.Duration == 0 {
		p.Requests = p.Concurrency
	}
	if p.Requests > 0 && p.Requests < p.Concurrency {
		// Run anyway, it would be reported as a concurrency that it never had.
		return p, nil, fmt.Errorf("load: concurrency %d cannot be held with %d requests: plan at least as many requests",
			p.Concurrency, p.Requests)
	}
	return p, nil, nil
}

// mostCalls bounds the search for a schedule that fills a Duration: 16 bytes of schedule and record each, and far more calls than
// one client makes.
const mostCalls = 1 << 24

// schedule draws the due times of an open loop.
func (p Plan) schedule() ([]time.Duration, error) {
	n, fixed := p.Requests, p.Requests > 0
	if t, ok := p.Arrivals.(interface{ Len() int }); ok && !fixed {
		n, fixed = t.Len(), true
	}
	if !fixed {
		n = max(p.Concurrency, 1)
	}
	for {
		due, err := p.Arrivals.Times(n, p.rng(streamArrivals, 0))
		if err != nil {
			return nil, err
		}
		if err := checkTimes(due, n); err != nil {
			return nil, fmt.Errorf("load: %v: %w", p.Arrivals, err)
		}
		if p.Duration == 0 {
			return due, nil
		}
		if !fixed && due[n-1] <= p.Duration { // not yet enough to fill it; the same seed begins the same way
			if n *= 2; n > mostCalls {
				return nil, fmt.Errorf("load: %v has more than %d calls in %v: set Plan.Requests", p.Arrivals, mostCalls, p.Duration)
			}
			continue
		}
		for n > 0 && due[n-1] > p.Duration {
			n--
		}
		if n == 0 {
			return nil, fmt.Errorf("load: %v: no call is due within %v", p.Arrivals, p.Duration)
		}
		return due[:n], nil
	}
}

// checkTimes holds processes of other packages to the contract too.
func checkTimes(due []time.Duration, n int) error {
	if len(due) != n || n == 0 {
		return fmt.Errorf("gave %d due times for %d calls", len(due), n)
	}
	last := time.Duration(0)
	for i, d := range due {
		if d < last {
			return fmt.Errorf("due time %d is %v, after %v: times must ascend from 0", i, d, last)
		}
		last = d
	}
	return nil
}
