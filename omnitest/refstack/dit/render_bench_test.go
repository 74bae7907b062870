package dit

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// Pixels per second of denoising are the figure to compare: the cost is linear in pixels and nearly so in steps.
func BenchmarkRender(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ w, h, steps int }{{1024, 1024, 20}, {1376, 768, 20}, {1376, 768, 4}, {512, 512, 20}} {
		b.Run(fmt.Sprintf("size=%dx%d/steps=%d", c.w, c.h, c.steps), func(b *testing.B) {
			j := Job{Prompt: `a poster by the sea that says "OPEN 24 HOURS" with a red circle`, W: c.w, H: c.h, Steps: c.steps}
			for b.Loop() {
				if _, err := s.Render(context.Background(), j); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(c.w*c.h)*float64(b.N)/1e6/b.Elapsed().Seconds(), "Mpx/s")
		})
	}
}

// BenchmarkAnswer is a whole request: what the wire format adds to Render is the figure to watch.
func BenchmarkAnswer(b *testing.B) {
	s, err := New(Config{})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		r := httptest.NewRequest(http.MethodPost, "/v1/images/generations", strings.NewReader(`{"prompt":"a poster by the sea that says \"OPEN 24 HOURS\" with a red circle","size":"1376x768","num_inference_steps":20,"seed":1}`))
		r.Header.Set("Content-Type", "application/json")
		w := &countingWriter{header: http.Header{}}
		s.Handler().ServeHTTP(w, r)
		if w.n < 4_000_000 {
			b.Fatal("short answer: ", w.n)
		}
		b.SetBytes(w.n)
	}
}

type countingWriter struct {
	header http.Header
	n      int64
}

func (w *countingWriter) Header() http.Header { return w.header }
func (w *countingWriter) WriteHeader(int)     {}
func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}
