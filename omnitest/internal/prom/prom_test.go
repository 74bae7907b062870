package prom

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func parse(t *testing.T, page string) *Snapshot {
	t.Helper()
	s, err := Parse([]byte(page))
	require.NoError(t, err)
	return s
}

// recorded is a page of a real engine.
func recorded(t testing.TB, name string) *Snapshot {
	t.Helper()
	s, err := Parse(pages(t, "vllm-0.32.0")["nixl/"+name])
	require.NoError(t, err)
	return s
}

func TestSumTellsAbsentFromZero(t *testing.T) {
	s := parse(t, `# TYPE vllm:prompt_tokens_by_source_total counter
vllm:prompt_tokens_by_source_total{engine="0",source="local_compute"} 7
vllm:prompt_tokens_by_source_total{engine="1",source="local_compute"} 5
vllm:prompt_tokens_by_source_total{engine="0",source="local_cache_hit"} 0
# TYPE vllm:broken gauge
vllm:broken NaN
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{le="+Inf"} 2
vllm:iteration_tokens_total_sum 116
vllm:iteration_tokens_total_count 2
`)
	for _, c := range []struct {
		name    string
		labels  Labels
		sum     float64
		present bool
	}{
		{"vllm:prompt_tokens_by_source_total", Labels{"source": "local_compute"}, 12, true},
		{"vllm:prompt_tokens_by_source_total", Labels{"source": "local_compute", "engine": "1"}, 5, true},
		{"vllm:prompt_tokens_by_source_total", Labels{"source": "local_cache_hit"}, 0, true},
		{"vllm:prompt_tokens_by_source_total", Labels{"source": "external_kv_transfer"}, 0, false},
		{"vllm:prompt_tokens_by_source", Labels{"source": "local_compute"}, 12, true}, // name without its ending
		{"vllm:nixl_bytes_transferred_sum", nil, 0, false},
		{"vllm:broken", nil, 0, false}, // NaN was not measured
		{"vllm:iteration_tokens_total_sum", nil, 116, true},
		{"vllm:iteration_tokens_total_count", nil, 2, true},
	} {
		sum, present := s.Sum(c.name, c.labels)
		assert.Equal(t, c.sum, sum, "%s%v", c.name, c.labels)
		assert.Equal(t, c.present, present, "%s%v", c.name, c.labels)
	}
}

// llm-d's simulator and OpenMetrics pages write counters without, vLLM with the ending _total.
func TestTotalEndingEitherWay(t *testing.T) {
	s := parse(t, "# TYPE vllm:prefix_cache_hits counter\nvllm:prefix_cache_hits 3\n")
	sum, present := s.Sum("vllm:prefix_cache_hits_total", nil)
	assert.True(t, present)
	assert.Equal(t, 3.0, sum)

	s = parse(t, "# TYPE x counter\nx_total 4\nx_created 1.7e9\n# EOF\n")
	sum, present = s.Sum("x_total", nil)
	assert.True(t, present)
	assert.Equal(t, 4.0, sum)
	assert.Len(t, Resets(s, parse(t, "# TYPE x counter\nx_total 1\n# EOF\n")), 1, "an OpenMetrics counter is a counter")
}

func TestDelta(t *testing.T) {
	before := parse(t, `# TYPE c counter
c{engine="0"} 10
c{engine="1"} 10
# TYPE gone counter
gone 5
# TYPE fell counter
fell 5
`)
	after := parse(t, `# TYPE c counter
c{engine="0"} 100
c{engine="1"} 3
# TYPE born counter
born 8
# TYPE fell counter
fell 2
`)
	type result struct {
		Value float64
		State State
	}
	got := map[string]result{}
	for name, labels := range map[string]Labels{"c": nil, "c0": {"engine": "0"}, "gone": nil, "fell": nil, "born": nil} {
		v, s := Delta(before, after, strings.TrimSuffix(name, "0"), labels)
		got[name] = result{v, s}
	}
	want := map[string]result{
		"c":    {83, Reset}, // the sum rose, but engine 1 restarted
		"c0":   {90, Present},
		"gone": {0, Absent},
		"fell": {-3, Reset},
		"born": {8, Present},
	}
	assert.Empty(t, cmp.Diff(want, got))

	falls := Resets(before, after)
	require.Len(t, falls, 2)
	assert.Equal(t, `c{engine="1"} fell from 10 to 3`, falls[0].String())
	assert.Equal(t, `fell fell from 5 to 2`, falls[1].String())
	assert.Empty(t, Resets(before, before))
}

// A restart whose counters have grown past the old ones is seen by the start time alone.
func TestResetByStartTime(t *testing.T) {
	before := parse(t, "process_start_time_seconds 100\n# TYPE c counter\nc 1\n")
	after := parse(t, "process_start_time_seconds 160\n# TYPE c counter\nc 5\n")
	falls := Resets(before, after)
	require.Len(t, falls, 1)
	assert.Equal(t, "the process started anew (process_start_time_seconds went from 100 to 160)", falls[0].String())
}

func TestScrapeErrors(t *testing.T) {
	for _, c := range []struct {
		name, kind, body string
		status           int
		want             string
	}{
		{"html", "text/html", "<!doctype html>\n<title>It works</title>", 200, `answered HTML, not metrics: "<!doctype html> <title>It works</title>"`},
		{"json", "application/json", `{"detail":"Not Found"}`, 200, `answered JSON, not metrics: "{\"detail\":\"Not Found\"}"`},
		{"status", "application/json", `{"detail":"Not Found"}`, 404, `HTTP 404: "{\"detail\":\"Not Found\"}"`},
		{"empty", "text/plain", "", 200, "metrics page without a single sample (0 bytes)"},
		{"comments", "text/plain", "# hello\n", 200, "metrics page without a single sample (8 bytes)"},
		{"garbage", "text/plain", "once upon a time\n", 200, "not a metrics page: text format parsing error in line 1"},
		{"half", "text/plain", "a 1\nb ", 200, "not a metrics page: text format parsing error in line 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", c.kind)
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}))
			defer srv.Close()
			_, err := Scrape(t.Context(), srv.Client(), srv.URL+"/metrics")
			require.ErrorContains(t, err, "scrape "+srv.URL+"/metrics: "+c.want)
		})
	}
	t.Run("refused", func(t *testing.T) {
		srv := httptest.NewServer(nil)
		srv.Close()
		_, err := Scrape(t.Context(), srv.Client(), srv.URL)
		require.ErrorContains(t, err, "connection refused")
	})
	t.Run("broken off", func(t *testing.T) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "1000")
			fmt.Fprint(w, "a 1\n")
		}))
		defer srv.Close()
		_, err := Scrape(t.Context(), srv.Client(), srv.URL)
		require.ErrorContains(t, err, "body broke off after 4 bytes: unexpected EOF")
	})
}

// What decode of real vLLM 0.32.0 counted for a 100-token prompt: with its ticket, and without.
func TestRecordedPages(t *testing.T) {
	for _, c := range []struct {
		folder                               string
		external, local, iteration, moved, N float64
	}{
		{"01-proper", 100, 0, 16, 524288, 100},
		{"03-withheld-ticket", 0, 100, 116, 0, 100},
	} {
		before, after := recorded(t, c.folder+"/d-before.prom"), recorded(t, c.folder+"/d-after.prom")
		got := map[string]float64{}
		for name, labels := range map[string]Labels{
			"vllm:prompt_tokens_total":            nil,
			"vllm:iteration_tokens_total_sum":     nil,
			"vllm:nixl_bytes_transferred_sum":     nil,
			"vllm:prompt_tokens_by_source_total":  {"source": "external_kv_transfer"},
			"vllm:prompt_tokens_by_source_total ": {"source": "local_compute"},
		} {
			v, state := Delta(before, after, strings.TrimSpace(name), labels)
			require.Equal(t, Present, state, name)
			got[name] = v
		}
		assert.Empty(t, cmp.Diff(map[string]float64{
			"vllm:prompt_tokens_total": c.N, "vllm:iteration_tokens_total_sum": c.iteration,
			"vllm:nixl_bytes_transferred_sum":    c.moved,
			"vllm:prompt_tokens_by_source_total": c.external, "vllm:prompt_tokens_by_source_total ": c.local,
		}, got), c.folder)
		assert.Empty(t, Resets(before, after), "%s: nothing restarted", c.folder)
		size, ok := after.Label("vllm:cache_config_info", "block_size")
		assert.True(t, ok)
		assert.Equal(t, "32", size)
	}
}

// FuzzParse: no page may panic the parser, what parses has a sample, differs from itself in nothing, and what is odd is on it.
func FuzzParse(f *testing.F) {
	f.Add([]byte("a 1\n"))
	f.Add([]byte("# TYPE h histogram\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"))
	f.Add([]byte("a{b=\"c\"} NaN\n"))
	f.Fuzz(func(t *testing.T, page []byte) {
		s, err := Parse(page)
		if err == nil && len(s.series) == 0 {
			t.Error("no error and no sample")
		}
		if err != nil {
			return
		}
		for _, name := range s.Names() {
			if v, state := Delta(s, s, name, nil); v != 0 || state == Reset {
				t.Errorf("%s moved by %g (%s)", name, v, state)
			}
		}
		if falls := Resets(s, s); len(falls) > 0 || Alternates(s, s, s) {
			t.Errorf("fell against itself: %v", falls)
		}
		for _, o := range s.Oddities() {
			if !s.Has(o.Name(), nil) {
				t.Errorf("%s is not on the page", o)
			}
		}
	})
}

// BenchmarkWindow is what one scrape costs us beside the engine: parse a page, compare it with the one before.
func BenchmarkWindow(b *testing.B) {
	body := pages(b, "vllm-0.32.0")["nixl/01-proper/d-after.prom"]
	before, err := Parse(body)
	require.NoError(b, err)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		after, err := Parse(body)
		if err != nil {
			b.Fatal(err)
		}
		if len(Resets(before, after)) > 0 {
			b.Fatal("no counter fell")
		}
	}
}
