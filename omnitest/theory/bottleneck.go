package theory

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Station is one measured stage of a pipeline that serves a stream of requests.
type Station struct {
	Name    string
	Seconds float64 // service demand: busy seconds a request, without its queueing
	Servers int     // requests that it works on at the same time; 0: 1
	Limit   string  // what the prediction says sets its time; "": not known
}

// Load of one station under the stream.
type Load struct {
	Station
	Utilisation float64 // throughput x demand / servers
	Share       float64 // of one request's time from end to end
	Ceiling     float64 // requests a second at which it is busy all the time
	Doubled     float64 // gain of one request's latency if this stage were twice as fast (Amdahl)
	Gone        float64 // the same if it took no time at all: more cannot be won here
}

// Finding says where the time goes and what would help.
type Finding struct {
	Throughput, Seconds float64
	Loads               []Load // in the order of the flow
	Residual            float64
	Bottleneck          string // station with the highest utilisation: it limits throughput
	Longest             string // station, or "residual", with the largest share of a request: it limits latency
	Evidence            []string
}

// FindBottleneck applies the utilisation law (U = X S; Denning and Buzen 1978, https://doi.org/10.1145/356733.356735) to measured demands:
// throughput in requests a second, seconds of one request from end to end. Stages of one request run one after the other, so that the critical
// path is their sum, and what is left of the end-to-end time is the residual: queues, hops, whatever no stage has claimed. A utilisation above
// 1, or stages that take longer than the whole, is an error: then demands hold queueing, or are not from the same run.
func FindBottleneck(throughput, seconds float64, stations []Station) (*Finding, error) {
	if len(stations) == 0 || !(seconds > 0) || !(throughput > 0) {
		return nil, cannot("the bottleneck", "%d stages, %v requests a second and %v s a request are not all measured", len(stations), throughput, seconds)
	}
	f := &Finding{Throughput: throughput, Seconds: seconds, Residual: seconds}
	for _, s := range stations {
		if !(s.Seconds >= 0) || math.IsInf(s.Seconds, 0) || s.Servers < 0 {
			return nil, cannot("the bottleneck", "stage %s has a demand of %v s and %d servers", s.Name, s.Seconds, s.Servers)
		}
		s.Servers = max(s.Servers, 1)
		l := Load{Station: s, Utilisation: throughput * s.Seconds / float64(s.Servers), Share: s.Seconds / seconds, Ceiling: math.Inf(1)}
		if s.Seconds > 0 {
			l.Ceiling = float64(s.Servers) / s.Seconds
		}
		if l.Utilisation > 1.02 { // 2 %: clocks of two machines, ends of the window
			return nil, cannot("the bottleneck", "stage %s would be busy for %.0f %% of the time (%.4g/s x %.4g s / %d): its demand holds queueing, or it serves more at once than was said", s.Name, 100*l.Utilisation, throughput, s.Seconds, s.Servers)
		}
		f.Residual -= s.Seconds
		f.Loads = append(f.Loads, l)
	}
	if f.Residual < -0.02*seconds {
		return nil, cannot("the bottleneck", "the stages take %.4g s together and a request %.4g s: they overlap, or are not of the same run", seconds-f.Residual, seconds)
	}
	for i := range f.Loads {
		l := &f.Loads[i]
		share := min(l.Share, 1)
		l.Doubled, l.Gone = Speedup(share, 2), Speedup(share, math.Inf(1))
	}
	f.conclude()
	return f, nil
}

func (f *Finding) conclude() {
	busiest := slices.MaxFunc(f.Loads, func(a, b Load) int { return cmp.Compare(a.Utilisation, b.Utilisation) })
	longest := slices.MaxFunc(f.Loads, func(a, b Load) int { return cmp.Compare(a.Share, b.Share) })
	f.Bottleneck, f.Longest = busiest.Name, longest.Name
	f.Evidence = append(f.Evidence, fmt.Sprintf("%s is busy for %.0f %% of the time (%.4g requests/s x %.4g s / %d) and ends at %.4g requests/s",
		busiest.Name, 100*busiest.Utilisation, f.Throughput, busiest.Seconds, busiest.Servers, busiest.Ceiling))
	if f.Residual > longest.Seconds {
		f.Longest = "residual"
		f.Evidence = append(f.Evidence, fmt.Sprintf("%.4g s of a request's %.4g s belong to no stage: queues and hops, not computation", f.Residual, f.Seconds))
	} else {
		f.Evidence = append(f.Evidence, fmt.Sprintf("%s takes %.4g s of a request's %.4g s; twice as fast it would make requests %.2f times as fast, and %.2f times at most",
			longest.Name, longest.Seconds, f.Seconds, longest.Doubled, longest.Gone))
	}
	if busiest.Utilisation < 0.5 {
		f.Evidence = append(f.Evidence, fmt.Sprintf("no stage is busy for half of the time: the load of %.4g requests/s does not fill the stack", f.Throughput))
	}
	if help := helps[longest.Limit]; help != "" && f.Longest == longest.Name {
		f.Evidence = append(f.Evidence, longest.Name+" "+help)
	}
}

var helps = map[string]string{
	"compute": "is bound by operations: a larger batch gains nothing, fewer steps, no guidance, fp8 or more FLOPS do",
	"memory":  "is bound by reading memory: a larger batch shares the reading, smaller weights or a smaller cache shorten it",
	"host":    "is bound by the host that launches its kernels: compiling, CUDA graphs or a larger batch help, a faster GPU does not",
	"link":    "is bound by the link: fewer bytes (fp8 cache, prefixes kept) or a faster link help",
}

// String is the finding as lines.
func (f *Finding) String() string { return strings.Join(f.Evidence, "\n") }
