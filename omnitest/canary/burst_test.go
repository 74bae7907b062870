package canary

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/metrics"
)

// BenchmarkBurst512 sends 512 requests at one moment from one core to a mock on another, which answers after 50 ms with a token
// each 20 ms. What the client reports is held against that. Wanted of a quiet machine: ttft-err p50 <= 1 ms, p99 <= 20 ms, peak
// and events of plan within 1 %. mock-late is the mock's own lateness in the same run: where it is not small, the machine is busy.
func BenchmarkBurst512(b *testing.B) {
	onOneCore(b, Level{Streams: 512, Burst: true, Calls: 512, Tokens: 200})
}

// BenchmarkEvents24k reads 25,400 events/s on one core. Wanted: late p99 <= 5 ms, itl-err <= 1 %.
func BenchmarkEvents24k(b *testing.B) {
	onOneCore(b, Level{Streams: 512, Calls: 1024, Tokens: 200})
}

func onOneCore(b *testing.B, l Level) {
	if runtime.GOOS != "linux" || runtime.NumCPU() < 2 {
		b.Skip("binds client and mock to a core each: needs Linux and two cores")
	}
	for b.Loop() {
		server, err := stamped.Spawn(b.Context(), planted([]int{0}))
		require.NoError(b, err)
		var got Level
		measurement{URL: server.URL, Level: &l, CPU: 1, Length: callLimit}.run(b, nil, &got)
		server.Stop()
		require.Empty(b, got.Failure)
		require.Equal(b, l.Calls, got.OK)
		report := func(v metrics.Value, scale float64, unit string) {
			if x, ok := v.Get(); ok {
				b.ReportMetric(x*scale, unit)
			}
		}
		report(got.TTFTError.P50, 1e6, "p50-ttft-err-ns")
		report(got.TTFTError.P99, 1e6, "p99-ttft-err-ns")
		report(got.ITLError, 1, "itl-err-frac")
		report(got.Late.P50, 1e6, "p50-late-ns")
		report(got.Late.P99, 1e6, "p99-late-ns")
		report(got.Client.Event.P99, 1e6, "p99-canary-ns")
		report(got.ServerLate.P99, 1e6, "p99-mock-late-ns")
		report(got.EventRate, 1, "events/s")
		report(got.EventRate, 1/got.PlanEvents, "events-of-plan")
		b.ReportMetric(float64(got.Peak)/float64(l.Streams), "peak-of-plan")
		report(got.Client.CPU, 1, "cpu-cores")
	}
}
