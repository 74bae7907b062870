package api_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
)

// pictures starts the server of 10 MB pictures as a process of its own and gives its URL.
func pictures(b *testing.B) string {
	cmd := exec.CommandContext(b.Context(), os.Args[0], pictureRole)
	stdin, err := cmd.StdinPipe()
	require.NoError(b, err)
	out, err := cmd.StdoutPipe()
	require.NoError(b, err)
	require.NoError(b, cmd.Start())
	b.Cleanup(func() { stdin.Close(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(b, err)
	return strings.TrimSpace(line)
}

// BenchmarkPicturesBesideStreams: 64 streams of 50 events/s each, and beside them 50 requests/s for pictures of 10 MB, due on an
// absolute schedule. none has no pictures; discard reads their bytes and throws them away, which moves the streams by what the
// machine needs to carry 700 MB/s; decode is api.Client.Generate. What decoding costs the streams is decode against discard. The rate
// that was reached stands beside.
func BenchmarkPicturesBesideStreams(b *testing.B) {
	const streams, tokens, rate = 64, 200, 50
	server := onOneCore(b, stamped.Options{TTFT: 500 * time.Millisecond, Interval: 20 * time.Millisecond})
	url := pictures(b)
	c := &api.Client{BaseURL: url}
	var noneP99, discardP99 float64
	for _, how := range []struct {
		name string
		get  func(ctx context.Context) error
	}{
		{"none", nil},
		{"discard", func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/images/generations", strings.NewReader("{}"))
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, make([]byte, 64<<10))
			return err
		}},
		{"decode", func(ctx context.Context) error {
			im, err := c.Generate(ctx, api.ImageRequest{Prompt: "x"})
			if err == nil && len(im.Items[0].Raw) != 10_000_000 {
				err = fmt.Errorf("%d bytes", len(im.Items[0].Raw))
			}
			return err
		}},
	} {
		b.Run(how.name, func(b *testing.B) {
			for b.Loop() {
				require.NoError(b, server.Reset(b.Context()))
				ctx, cancel := context.WithCancel(b.Context())
				var got, flying atomic.Int64
				var all sync.WaitGroup
				begin := time.Now()
				if how.get != nil {
					all.Go(func() {
						for i := 0; ctx.Err() == nil; i++ {
							time.Sleep(time.Until(begin.Add(time.Duration(i) * time.Second / rate)))
							if flying.Load() >= 8 { // the machine cannot keep up: the rate reached says so
								continue
							}
							flying.Add(1)
							all.Go(func() {
								defer flying.Add(-1)
								if err := how.get(ctx); err == nil {
									got.Add(1)
								} else if ctx.Err() == nil {
									b.Error(err)
									cancel()
								}
							})
						}
					})
				}
				seen, err := client(true)(b.Context(), server.URL, streams, tokens)
				took := time.Since(begin)
				cancel()
				all.Wait()
				require.NoError(b, err)
				truth, err := server.Truth(b.Context(), true)
				require.NoError(b, err)
				l := compare(b, seen, truth, tokens)
				b.ReportMetric(l.late.P50*1e6, "p50-late-ns")
				b.ReportMetric(l.late.P99*1e6, "p99-late-ns")
				b.ReportMetric(float64(got.Load())/took.Seconds(), "pictures/s")
				b.ReportMetric(0, "ns/op")
				switch how.name {
				case "none":
					noneP99 = l.late.P99
				case "discard":
					discardP99 = l.late.P99
					b.ReportMetric(l.late.P99/noneP99, "late-p99-of-none")
				default:
					b.ReportMetric(l.late.P99/noneP99, "late-p99-of-none")
					b.ReportMetric(l.late.P99/discardP99, "late-p99-of-discard")
				}
			}
		})
	}
}
