package stamped

import (
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// drain sends one request on a connection of its own and reads the answer without looking at it.
func drain(url string, tokens int) error {
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	body := fmt.Sprintf(`{"prompt":[1,2,3],"max_tokens":%d,"stream":true}`, tokens)
	if _, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		return err
	}
	_, err = io.Copy(struct{ io.Writer }{io.Discard}, conn)
	return err
}

// BenchmarkServer is the server's own ceiling: a process on core 0 under more and more streams, read by this process on
// core 1. events/s/core is what one whole core of the server would do, from the CPU time that the events cost; it holds on a
// busy machine too. late is what the schedule suffered, which needs a quiet one.
func BenchmarkServer(b *testing.B) {
	const interval, seconds = 20 * time.Millisecond, 3
	for _, streams := range []int{64, 512, 1200, 2400} {
		b.Run(fmt.Sprintf("streams=%d", streams), func(b *testing.B) {
			o := Options{TTFT: 500 * time.Millisecond, Interval: interval, Stamp: true}
			if runtime.GOOS == "linux" && runtime.NumCPU() > 1 {
				o.CPUs = []int{0}
			}
			for b.Loop() {
				c, err := Spawn(b.Context(), o)
				require.NoError(b, err)
				defer c.Stop()
				tokens := int(seconds * time.Second / interval)
				var wg sync.WaitGroup
				began := time.Now()
				for range streams {
					wg.Go(func() {
						if err := drain(c.URL, tokens); err != nil {
							b.Error(err)
						}
					})
				}
				wg.Wait()
				took := time.Since(began)
				truth, err := c.Truth(b.Context(), false)
				require.NoError(b, err)
				require.Equal(b, streams*tokens, truth.Late.N)
				c.Stop()
				used := c.cmd.ProcessState.UserTime() + c.cmd.ProcessState.SystemTime()
				b.ReportMetric(float64(truth.Late.N)/took.Seconds(), "events/s")
				b.ReportMetric(float64(truth.Late.N)/used.Seconds(), "events/s/core")
				b.ReportMetric(truth.Late.P50*1e6, "p50-late-ns")
				b.ReportMetric(truth.Late.P99*1e6, "p99-late-ns")
				b.ReportMetric(truth.TTFT.P50*1e6, "p50-ttft-ns")
				b.ReportMetric(truth.ITL.P50*1e6, "p50-itl-ns")
			}
		})
	}
}
