package proxy

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

const benchEvents = 256

// benchRig has a decode that streams events as fast as it can, one flush each, as an engine does.
func benchRig(b *testing.B) *rig {
	event := []byte(`data: {"id":"cmpl-1","object":"text_completion","created":1795506932,"model":"tiny","choices":[{"index":0,"text":" word","logprobs":null,"finish_reason":null,"stop_reason":null}]}` + "\n\n")
	return newRig(b, func(r *rig, _ *Config) {
		r.d.answer = func(w http.ResponseWriter, q *http.Request, body []byte) {
			w.Header().Set("Content-Type", "text/event-stream")
			n := 1
			if bytes.Contains(body, []byte(`"stream": true`)) {
				n = benchEvents
			}
			for range n {
				w.Write(event)
				w.(http.Flusher).Flush()
			}
			io.WriteString(w, "data: [DONE]\n\n")
		}
	})
}

func exchange(b *testing.B, url, body string) {
	resp, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != 200 {
		b.Fatal(resp.Status, err)
	}
}

// BenchmarkStream compares one streamed answer of 256 events through the proxy with the same two legs sent to the stages
// directly, in turn within one run. x-direct is the ratio; µs/event and µs/request what the proxy adds.
func BenchmarkStream(b *testing.B) {
	for _, c := range []struct{ name, body, per string }{
		{"event", `{"prompt":"a","stream": true}`, "added-µs/event"},
		{"request", `{"prompt":"a"}`, "added-µs/request"},
	} {
		b.Run(c.name, func(b *testing.B) {
			r := benchRig(b)
			both := func() (direct, through time.Duration) {
				start := time.Now()
				exchange(b, r.p.URL, c.body)
				exchange(b, r.d.URL, c.body)
				direct = time.Since(start)
				start = time.Now()
				exchange(b, r.url, c.body)
				return direct, time.Since(start)
			}
			both()
			var direct, through time.Duration
			for b.Loop() {
				d, t := both()
				direct, through = direct+d, through+t
				r.p.got, r.d.got = r.p.got[:0], r.d.got[:0]
			}
			n := float64(b.N)
			if c.name == "event" {
				n *= benchEvents
			}
			b.ReportMetric(float64(through)/float64(direct), "x-direct")
			b.ReportMetric(float64((through-direct).Microseconds())/n, c.per)
		})
	}
}

// BenchmarkEditForm is the re-writing of a form with 8 MiB of pictures: bytes looked at, none copied.
func BenchmarkEditForm(b *testing.B) {
	body, kind := editForm(b, [][2]string{{"prompt", "make it blue"}}, map[string][]byte{"image": noise(8 << 20)})
	boundary := strings.TrimPrefix(kind, "multipart/form-data; boundary=")
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		f, err := parseForm(body, boundary)
		if err != nil {
			b.Fatal(err)
		}
		f.set("prompt", []byte("a plan"))
		f.pieces()
	}
}

// BenchmarkChatWithPicture is the top level of a body with a picture of 8 MiB.
func BenchmarkChatWithPicture(b *testing.B) {
	body := []byte(`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + strings.Repeat("A", 8<<20) + `"}}]}],"size":"64x64"}`)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		o, err := parseObject(body)
		if err != nil {
			b.Fatal(err)
		}
		o.set("model", []byte(`"x"`)).pieces()
	}
}
