package canary

import (
	"math"
	"runtime"
	rtmetrics "runtime/metrics"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

const (
	schedLatencies = "/sched/latencies:seconds"
	gcPauses       = "/sched/pauses/total/gc:seconds"
	gcCycles       = "/gc/cycles/total:gc-cycles"
)

// usage is what the process, the runtime and the machine had spent at one moment.
type usage struct {
	at           time.Time
	cpu          time.Duration // user + system of this process
	cpuErr       error
	stolen, all  uint64 // of the machine, in ticks
	noSteal      string // why they are not known
	sched, pause *rtmetrics.Float64Histogram
	gcs          uint64
}

func readUsage() usage {
	u := usage{at: time.Now()}
	u.cpu, u.cpuErr = processCPU()
	u.stolen, u.all, u.noSteal = machineSteal()
	s := []rtmetrics.Sample{{Name: schedLatencies}, {Name: gcPauses}, {Name: gcCycles}}
	rtmetrics.Read(s)
	if s[0].Value.Kind() == rtmetrics.KindFloat64Histogram {
		u.sched = s[0].Value.Float64Histogram()
	}
	if s[1].Value.Kind() == rtmetrics.KindFloat64Histogram {
		u.pause = s[1].Value.Float64Histogram()
	}
	if s[2].Value.Kind() == rtmetrics.KindUint64 {
		u.gcs = s[2].Value.Uint64()
	}
	return u
}

// since fills in what was spent between before and u.
func (u usage) since(before usage, e *metrics.ClientError) {
	wall := u.at.Sub(before.at).Seconds()
	switch {
	case u.cpuErr != nil:
		e.CPU = metrics.Absent("getrusage: " + u.cpuErr.Error())
	case wall <= 0:
		e.CPU = metrics.Absent("no time passed")
	default:
		e.CPU = metrics.Of((u.cpu - before.cpu).Seconds() / wall)
	}
	e.CPUShare = e.CPU.Per(float64(runtime.GOMAXPROCS(0)))
	switch {
	case u.noSteal != "":
		e.Steal = metrics.Absent(u.noSteal)
	case u.all <= before.all:
		e.Steal = metrics.Absent("no tick of the machine passed")
	default:
		e.Steal = metrics.Of(float64(u.stolen-before.stolen) / float64(u.all-before.all))
	}
	e.GCs = metrics.Of(float64(u.gcs - before.gcs))
	e.GCPause = quantile(before.pause, u.pause, 0.99, "no collection stopped the world")
	e.Sched = quantile(before.sched, u.sched, 0.99, "no goroutine waited")
}

// quantile is the upper bound, in ms, of the histogram bucket that holds the q-th quantile of what came between two readings;
// of the last bucket, which is open, its lower bound.
func quantile(before, after *rtmetrics.Float64Histogram, q float64, none string) metrics.Value {
	if before == nil || after == nil || len(before.Counts) != len(after.Counts) {
		return metrics.Absent("this Go runtime does not tell it")
	}
	total := uint64(0)
	for i := range after.Counts {
		total += after.Counts[i] - before.Counts[i]
	}
	if total == 0 {
		return metrics.Absent(none)
	}
	want, sum := uint64(math.Ceil(q*float64(total))), uint64(0)
	for i := range after.Counts {
		if sum += after.Counts[i] - before.Counts[i]; sum >= want {
			bound := after.Buckets[i+1]
			if math.IsInf(bound, 1) {
				bound = after.Buckets[i]
			}
			return metrics.Of(bound * 1e3)
		}
	}
	return metrics.Absent(none)
}
