package api_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
)

// received is what one way of reading saw of one answer: when each event came, on the clock of the stamps.
type received struct {
	id    string
	at    []int64
	reads int // that brought events
}

// reader is a way to receive n streams of so many tokens at once.
type reader func(ctx context.Context, url string, streams, tokens int) ([]received, error)

// bare reads the sockets and counts "data: ": what no client can do without. It is the measure of the others.
func bare(ctx context.Context, url string, streams, tokens int) ([]received, error) {
	out := make([]received, streams)
	errs := make([]error, streams)
	var all sync.WaitGroup
	for i := range out {
		all.Go(func() { errs[i] = bareStream(ctx, strings.TrimPrefix(url, "http://"), tokens, i, &out[i]) })
	}
	all.Wait()
	return out, firstError(errs)
}

func bareStream(ctx context.Context, addr string, tokens, i int, r *received) error {
	r.id = fmt.Sprint("r", i)
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	body := fmt.Sprintf(`{"prompt":[1,2,3],"max_tokens":%d,"stream":true}`, tokens)
	if _, err := fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", r.id, len(body), body); err != nil {
		return err
	}
	buf := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buf)
		at := stamped.At(time.Now())
		if k := bytes.Count(buf[:n], []byte("data: ")); k > 0 {
			r.reads++
			for range k {
				r.at = append(r.at, at)
			}
		}
		if err != nil {
			return nil
		}
	}
}

// client reads with the client of this package.
func client(lean bool) reader {
	return func(ctx context.Context, url string, streams, tokens int) ([]received, error) {
		c := &api.Client{BaseURL: url, Lean: lean}
		if _, err := c.Connect(ctx, streams); err != nil {
			return nil, err
		}
		defer c.CloseIdle()
		out := make([]received, streams)
		errs := make([]error, streams)
		texts := make([]*api.Text, streams)
		var all sync.WaitGroup
		for i := range out {
			all.Go(func() {
				out[i].id = fmt.Sprint("r", i)
				texts[i], errs[i] = c.StreamComplete(ctx, api.CompletionRequest{PromptIDs: []int{1, 2, 3},
					Sampling: api.Sampling{MaxTokens: tokens, RequestID: out[i].id}}, nil)
			})
		}
		all.Wait()
		for i, t := range texts {
			last := -1
			for _, ev := range t.Events {
				out[i].at = append(out[i].at, stamped.At(t.Start.Add(ev.At)))
				if ev.Read != last {
					out[i].reads++
				}
				last = ev.Read
			}
		}
		return out, firstError(errs)
	}
}

func firstError(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// onOneCore binds this process to core 1 and the server to core 0, where the system can do it.
func onOneCore(b *testing.B, o stamped.Options) *stamped.Child {
	if runtime.GOOS == "linux" && runtime.NumCPU() > 1 {
		o.CPUs = []int{0}
		require.NoError(b, stamped.Pin(1))
	}
	server, err := stamped.Spawn(b.Context(), o)
	require.NoError(b, err)
	b.Cleanup(server.Stop)
	procs := runtime.GOMAXPROCS(1)
	b.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	return server
}

// peak samples memory until stopped and gives the most that heap and stacks took beyond the beginning.
func peak() (stop func() uint64) {
	used := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	runtime.GC()
	debug.FreeOSMemory()
	begin, end, most := used(), make(chan struct{}), uint64(0)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			most = max(most, used())
			select {
			case <-end:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	})
	return func() uint64 {
		close(end)
		done.Wait()
		return most - min(most, begin)
	}
}

// BenchmarkReceive: a server with planted times on one core, 220-byte events in a write each, and this process on the other.
// bare is the least that any client can do; the client's figures stand beside it as ratios, because both suffer the same machine.
//
//	events/s/core   what one whole core would read, from the CPU time of this process
//	late            socket read to stamp: event time - time of the server's write
//	itl-err-%       median gap between events against the median gap of the writes
//	coalesced-%     events that came with another one in the same read
func BenchmarkReceive(b *testing.B) {
	const interval, tokens = 20 * time.Millisecond, 150
	for _, streams := range []int{64, 480, 1200} {
		server := onOneCore(b, stamped.Options{TTFT: time.Second, Interval: interval})
		var bareRate, bareP99 float64
		for _, how := range []struct {
			name string
			read reader
		}{{"bare", bare}, {"client", client(false)}, {"lean", client(true)}} {
			b.Run(fmt.Sprintf("streams=%d/%s", streams, how.name), func(b *testing.B) {
				for b.Loop() {
					require.NoError(b, server.Reset(b.Context()))
					cpu := cpuTime()
					var before, after runtime.MemStats
					runtime.ReadMemStats(&before)
					got, err := how.read(b.Context(), server.URL, streams, tokens)
					runtime.ReadMemStats(&after)
					cpu = cpuTime() - cpu
					require.NoError(b, err)
					truth, err := server.Truth(b.Context(), true)
					require.NoError(b, err)
					l := compare(b, got, truth, tokens)
					rate := float64(l.events) / cpu.Seconds()
					b.ReportMetric(rate, "events/s/core")
					b.ReportMetric(l.late.P50*1e6, "p50-late-ns")
					b.ReportMetric(l.late.P99*1e6, "p99-late-ns")
					b.ReportMetric(l.itlError*100, "itl-err-%")
					b.ReportMetric(l.coalesced*100, "coalesced-%")
					b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(l.events), "allocs/event")
					b.ReportMetric(0, "ns/op")
					if how.name == "bare" {
						bareRate, bareP99 = rate, l.late.P99
					} else if bareRate > 0 {
						b.ReportMetric(rate/bareRate, "rate-of-bare")
						b.ReportMetric(l.late.P99/bareP99, "late-p99-of-bare")
					}
				}
			})
		}
		server.Stop()
	}
}

type lateness struct {
	events    int
	late      stamped.Spread
	itlError  float64 // share of the truth
	coalesced float64
}

// compare holds what was received against the server's own truth.
func compare(b *testing.B, got []received, truth stamped.Truth, tokens int) (l lateness) {
	byID := map[string]*stamped.Request{}
	for i := range truth.Requests {
		byID[truth.Requests[i].ID] = &truth.Requests[i]
	}
	var late, gaps, trueGaps []int64
	events, reads := 0, 0
	for _, r := range got {
		q := byID[r.id]
		require.NotNil(b, q, r.id)
		require.Len(b, q.Written, tokens)
		require.GreaterOrEqual(b, len(r.at), tokens)
		for i, w := range q.Written {
			late = append(late, r.at[i]-w)
			if i > 0 {
				gaps, trueGaps = append(gaps, r.at[i]-r.at[i-1]), append(trueGaps, w-q.Written[i-1])
			}
		}
		events, reads = events+len(r.at), reads+r.reads
	}
	median := func(ns []int64) float64 { slices.Sort(ns); return float64(ns[len(ns)/2]) }
	t := median(trueGaps)
	return lateness{events: events, late: stamped.NewSpread(late), itlError: math.Abs(median(gaps)-t) / t, coalesced: 1 - float64(reads)/float64(events)}
}

// BenchmarkManyStreams: ten thousand streams open at once, each with 50 tokens kept by the client. KB/stream is heap and stacks of
// this process at their peak, garbage included.
func BenchmarkManyStreams(b *testing.B) {
	const streams, tokens = 10_000, 50
	var files syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files) != nil || files.Cur < streams+100 {
		b.Skipf("needs %d open files, the limit is %d: ulimit -n 65536", streams+100, files.Cur)
	}
	for _, lean := range []bool{false, true} {
		b.Run(fmt.Sprintf("lean=%t", lean), func(b *testing.B) {
			server := onOneCore(b, stamped.Options{TTFT: 3 * time.Second, Interval: time.Second / 5})
			for b.Loop() {
				stop := peak()
				got, err := client(lean)(b.Context(), server.URL, streams, tokens)
				most := stop()
				require.NoError(b, err)
				require.Len(b, got, streams)
				b.ReportMetric(float64(most)/streams/1000, "KB/stream")
				b.ReportMetric(0, "ns/op")
			}
		})
	}
}
