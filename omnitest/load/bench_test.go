package load_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/load"
)

// The sender's own cost per call, without a target.
func BenchmarkRun(b *testing.B) {
	const calls = 10_000
	for b.Loop() {
		if _, err := load.Run(b.Context(), load.Plan{Concurrency: 8, Requests: calls}, nil2); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/calls, "ns/call")
}

// BenchmarkDispatch prints how late calls are sent, beside two loops that do nothing else: the pacer alone, on the same
// schedule in the same run, and time.Sleep. On a machine that does other work read the ratio to the pacer alone; where that is late,
// nobody is on time. The share of late calls (over 500 us) and the achieved rate are those of the run.
//
//	go test -run '^$' -bench Dispatch -benchtime 1x -count 5 ./omnitest/load
func BenchmarkDispatch(b *testing.B) {
	for _, rate := range []float64{200, 1000, 5000} {
		b.Run(fmt.Sprintf("rate=%g", rate), func(b *testing.B) {
			var ours, bare, sleep []time.Duration
			var planned, sent float64
			var fit load.Fit
			for b.Loop() {
				plan := load.Plan{Arrivals: load.Poisson{Rate: rate}, Duration: 2 * time.Second, Seed: rand.Uint64()}
				r, err := load.Run(b.Context(), plan, nil2)
				if err != nil {
					b.Fatal(err)
				}
				var due []time.Duration
				for _, c := range r.Calls {
					ours, due = append(ours, c.Late()), append(due, c.Due)
				}
				planned, sent, _ = r.Rates()
				if fit, err = r.Fit(); err != nil {
					b.Fatal(err)
				}
				bare = append(bare, loop(due, load.Waiter)...)
				sleep = append(sleep, loop(due, load.Portable)...)
			}
			report := func(name string, late []time.Duration) (p99 time.Duration) {
				slices.Sort(late)
				p99 = late[len(late)*99/100]
				b.ReportMetric(float64(late[len(late)/2]), name+"-p50-ns")
				b.ReportMetric(float64(p99), name+"-p99-ns")
				return p99
			}
			b.ReportMetric(float64(report("late", ours))/float64(max(report("bare", bare), 1)), "p99-over-bare")
			report("sleep", sleep)
			over := 0
			for _, l := range ours {
				if l > 500*time.Microsecond {
					over++
				}
			}
			b.ReportMetric(float64(over)/float64(len(ours)), "late-frac")
			b.ReportMetric(100*(sent/planned-1), "rate-error-%")
			b.ReportMetric(fit.P, "ks-p")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// loop waits for the times of a schedule and does nothing.
func loop(due []time.Duration, waiter func(context.Context) func(time.Time)) []time.Duration {
	all := make(chan []time.Duration)
	go func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		until := waiter(context.Background())
		late := make([]time.Duration, 0, len(due))
		for began, i := time.Now(), 0; i < len(due); i++ {
			at := began.Add(due[i])
			until(at)
			late = append(late, time.Since(at))
		}
		all <- late
	}()
	return <-all
}

// BenchmarkBurst prints how long 512 calls take to be sent that are due at once.
func BenchmarkBurst(b *testing.B) {
	const n = 512
	var first, last []time.Duration
	for b.Loop() {
		r, err := load.Run(b.Context(), load.Plan{Arrivals: load.Burst{}, Requests: n}, func(ctx context.Context, _ int) error {
			return nap(ctx, 100*time.Millisecond)
		})
		if err != nil {
			b.Fatal(err)
		}
		at := make([]time.Duration, n)
		for i, c := range r.Calls {
			at[i] = c.Sent
		}
		first, last = append(first, slices.Min(at)), append(last, slices.Max(at))
	}
	slices.Sort(first)
	slices.Sort(last)
	b.ReportMetric(float64(first[len(first)/2]), "first-p50-ns")
	b.ReportMetric(float64(last[len(last)/2]), "last-p50-ns")
	b.ReportMetric(0, "ns/op")
}
