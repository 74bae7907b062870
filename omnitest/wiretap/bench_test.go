package wiretap_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/wiretap"
)

const benchEvents = 256

// BenchmarkTap compares one answer through a tap with the same answer without, in turn within one run. x-direct is the ratio;
// added-µs what a tap adds per event of a stream, or per request of a short answer.
func BenchmarkTap(b *testing.B) {
	event := []byte(`data: {"id":"cmpl-1","object":"text_completion","created":1795506932,"model":"tiny","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null}]}` + "\n\n")
	for _, c := range []struct {
		name string
		n    int
		pace time.Duration // between events
	}{{"event", benchEvents, 0}, {"event-paced", 32, 2 * time.Millisecond}, {"request", 1, 0}} {
		b.Run(c.name, func(b *testing.B) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "text/event-stream")
				for range c.n {
					_, _ = w.Write(event)
					w.(http.Flusher).Flush()
					time.Sleep(c.pace)
				}
				_, _ = io.WriteString(w, "data: [DONE]\n\n")
			}))
			defer srv.Close()
			_, u := serve(b, wiretap.Config{Decode: srv.URL})
			ask := func(url string) time.Duration {
				start := time.Now()
				resp, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"a","stream":true,"max_tokens":256}`))
				if err != nil {
					b.Fatal(err)
				}
				_, err = io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
				if err != nil || resp.StatusCode != 200 {
					b.Fatal(resp.Status, err)
				}
				return time.Since(start)
			}
			ask(srv.URL)
			ask(u.Decode)
			var direct, through time.Duration
			for b.Loop() {
				direct += ask(srv.URL)
				through += ask(u.Decode)
			}
			b.ReportMetric(float64(through)/float64(direct), "x-direct")
			b.ReportMetric(float64((through-direct).Nanoseconds())/1e3/float64(b.N*c.n), "added-µs")
		})
	}
}
