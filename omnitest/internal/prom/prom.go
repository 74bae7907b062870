// Package prom reads one /metrics page into a flat snapshot and compares two of them.
//
// It exists because the difference between "0" and "not there" decides verdicts: a NIXL series appears only after the
// connector is configured, and a counter that is lower than before means a restart, not a negative amount.
package prom

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// maxBody bounds one page. Real vLLM's is about 60 KB for each engine behind it, so 16 MiB hold more than 250 of them. Parsed, a
// page of 15 MiB allocates 173 MiB (measured in TestPageOf100MB): the bound is one of memory.
const maxBody = 16 << 20

// Labels are the label values that a series must have; labels that are not named are summed over (engine, model_name).
type Labels map[string]string

// Snapshot is one scrape, flattened: a histogram h gives h_sum and h_count (buckets are left out).
type Snapshot struct {
	At     time.Time // when the scrape was asked for; carries a monotonic reading
	series map[string][]sample
}

type sample struct {
	labels  []*dto.LabelPair
	value   float64
	counter bool // may only rise
	void    bool // NaN or infinite: it is there and says nothing
}

// Scrape reads a metrics page. ctx is the only deadline. client nil means http.DefaultClient.
func Scrape(ctx context.Context, client *http.Client, url string) (*Snapshot, error) {
	if client == nil {
		client = http.DefaultClient
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", url, err)
	}
	// The classic text form: expfmt has no OpenMetrics parser, and engines offer both.
	req.Header.Set("Accept", "text/plain;version=0.0.4")
	at := time.Now()
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", url, unwrapURL(err))
	}
	defer resp.Body.Close()
	if resp.ContentLength > maxBody {
		return nil, fmt.Errorf("scrape %s: %d MiB: not a metrics page", url, resp.ContentLength>>20)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1)) // what a page unzips to counts, not what it was sent as
	switch {
	case err != nil:
		return nil, fmt.Errorf("scrape %s: body broke off after %d bytes: %w", url, len(body), err)
	case len(body) > maxBody:
		return nil, fmt.Errorf("scrape %s: more than %d MiB: not a metrics page", url, maxBody>>20)
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("scrape %s: HTTP %d: %s", url, resp.StatusCode, excerpt(body))
	}
	s, err := Parse(body)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", url, err)
	}
	s.At = at
	return s, nil
}

// Parse reads the text exposition format. A page without a single sample is an error: an empty body is what a wrong path
// behind a friendly proxy looks like.
func Parse(body []byte) (*Snapshot, error) {
	if head := bytes.TrimLeft(body, " \t\r\n"); bytes.HasPrefix(head, []byte("<")) {
		return nil, fmt.Errorf("answered HTML, not metrics: %s", excerpt(head))
	} else if bytes.HasPrefix(head, []byte("{")) {
		return nil, fmt.Errorf("answered JSON, not metrics: %s", excerpt(head))
	}
	p := expfmt.NewTextParser(model.UTF8Validation)
	families, err := p.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("not a metrics page: %w", err)
	}
	s := &Snapshot{At: time.Now(), series: make(map[string][]sample, 2*len(families))}
	for name, f := range families {
		for _, m := range f.Metric {
			s.add(name, m)
		}
	}
	if len(s.series) == 0 {
		return nil, fmt.Errorf("metrics page without a single sample (%d bytes)", len(body))
	}
	return s, nil
}

func (s *Snapshot) add(name string, m *dto.Metric) {
	put := func(name string, v float64, counter bool) {
		s.series[name] = append(s.series[name], sample{m.Label, v, counter, math.IsNaN(v) || math.IsInf(v, 0)})
	}
	switch {
	case m.Counter != nil:
		put(name, m.Counter.GetValue(), true)
	case m.Gauge != nil:
		put(name, m.Gauge.GetValue(), false)
	case m.Histogram != nil:
		put(name+"_sum", m.Histogram.GetSampleSum(), false) // a sum may fall when samples are negative
		put(name+"_count", float64(m.Histogram.GetSampleCount()), true)
	case m.Summary != nil:
		put(name+"_sum", m.Summary.GetSampleSum(), false)
		put(name+"_count", float64(m.Summary.GetSampleCount()), true)
	case m.Untyped != nil:
		// An OpenMetrics page read as plain text loses the type of its counters: TYPE x, sample x_total.
		put(name, m.Untyped.GetValue(), strings.HasSuffix(name, "_total"))
	}
}

// Sum adds up every series of this name that has these labels. present is false where there is none: never read that as 0. It
// is false too where one of them is NaN or infinite, because a sum with a hole was not measured.
// A name is found with or without its _total ending (OpenMetrics and llm-d's simulator disagree with vLLM about it).
func (s *Snapshot) Sum(name string, labels Labels) (sum float64, present bool) {
	for _, x := range s.lookup(name) {
		if x.matches(labels) {
			if x.void {
				return 0, false
			}
			sum, present = sum+x.value, true
		}
	}
	return sum, present
}

// Label gives the value of one label of the first series of this name, as cache_config_info{block_size="16"}.
func (s *Snapshot) Label(name, label string) (string, bool) {
	for _, x := range s.lookup(name) {
		if v, ok := x.label(label); ok {
			return v, true
		}
	}
	return "", false
}

func (s *Snapshot) lookup(name string) []sample {
	if x, ok := s.series[name]; ok {
		return x
	}
	if short, ok := strings.CutSuffix(name, "_total"); ok {
		return s.series[short]
	}
	return s.series[name+"_total"]
}

func (x *sample) label(name string) (string, bool) {
	for _, l := range x.labels {
		if l.GetName() == name {
			return l.GetValue(), true
		}
	}
	return "", false
}

func (x *sample) matches(want Labels) bool {
	for name, value := range want {
		if got, ok := x.label(name); !ok || got != value {
			return false
		}
	}
	return true
}

// unwrapURL drops net/http's "Get \"url\":", because the caller's text names the url already.
func unwrapURL(err error) error {
	if u := errors.Unwrap(err); u != nil {
		return u
	}
	return err
}

func excerpt(body []byte) string {
	const most = 120
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body[:min(len(body), 4*most)]), "?")), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "..."
	}
	if text == "" {
		return "empty body"
	}
	return fmt.Sprintf("%q", text)
}
