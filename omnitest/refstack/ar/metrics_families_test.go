package ar

import (
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/omnitest/suite/omnitest/internal/replay"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	prommodel "github.com/prometheus/common/model"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type family struct {
	Type   string
	Labels []string // name=value, but of engine and model_name the name alone
}

// familiesOf reads vLLM's own families from a page.
func familiesOf(t *testing.T, page io.Reader) (map[string]family, map[string]*dto.MetricFamily) {
	t.Helper()
	parser := expfmt.NewTextParser(prommodel.UTF8Validation)
	families, err := parser.TextToMetricFamilies(page)
	require.NoError(t, err)
	got := map[string]family{}
	for name, f := range families {
		if !strings.HasPrefix(name, "vllm:") || strings.HasSuffix(name, "_created") {
			continue
		}
		g := family{Type: strings.ToLower(f.GetType().String())}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				s := l.GetName()
				if s != "engine" && s != "model_name" {
					s += "=" + l.GetValue()
				}
				if name != "vllm:cache_config_info" && !slices.Contains(g.Labels, s) {
					g.Labels = append(g.Labels, s)
				}
			}
			if m.Histogram != nil && !slices.Contains(g.Labels, "le") {
				g.Labels = append(g.Labels, "le")
			}
		}
		slices.Sort(g.Labels)
		got[name] = g
	}
	return got, families
}

// Families, types and label values as in the recorded /metrics of D. What a reference engine has no truth for is left
// out, by name.
func TestMetricFamilies(t *testing.T) {
	leftOut := []string{
		"vllm:admission_rejections_total",    // no queue limit to reject by
		"vllm:estimated_flops_per_gpu_total", // no GPU
		"vllm:estimated_read_bytes_per_gpu_total",
		"vllm:estimated_write_bytes_per_gpu_total",
	}
	pages, err := replay.Pages(recordings, "vllm-0.32.0/metrics.tar.bz2")
	require.NoError(t, err)
	want, _ := familiesOf(t, bytes.NewReader(pages["nixl/01-proper/d-after.prom"]))
	for _, name := range leftOut {
		require.Contains(t, want, name)
		delete(want, name)
	}
	i := serve(t, Config{})
	i.complete(body{"prompt": "x"})
	resp, err := http.Get(i.url + "/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	got, families := familiesOf(t, resp.Body)
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("families (-recorded, +ours):\n%s", d)
	}
	info := families["vllm:cache_config_info"].Metric[0]
	labels := map[string]string{}
	for _, l := range info.Label {
		labels[l.GetName()] = l.GetValue()
	}
	assert.Equal(t, "16", labels["block_size"])
	assert.Equal(t, "2048", labels["num_gpu_blocks"])
}

// TestWhichSeriesMove: around each recorded request to a single server the same series move in the reference. By how much
// depends on the number of tokens, which bytes and words differ in; TestMetricsAsRecorded compares that for ids.
func TestWhichSeriesMove(t *testing.T) {
	data, err := fs.ReadFile(recordings, "vllm-0.32.0/single/metric-deltas.json")
	require.NoError(t, err)
	var deltas map[string]struct {
		Status int            `json:"status"`
		Delta  map[string]any `json:"delta"`
	}
	require.NoError(t, json.Unmarshal(data, &deltas))
	x := conform(t)
	i := serve(t, Config{Model: "tiny", MaxModelLen: 2048, BlockSize: 32})
	list, _, err := replay.LoadAll(recordings, "vllm-0.32.0/single")
	require.NoError(t, err)
	slices.SortStableFunc(list, func(a, b replay.Exchange) int { return a.Start.Compare(b.Start) })
	met := 0
	for _, e := range list {
		d, there := deltas[strings.TrimPrefix(e.Name, "single/")]
		if !there || x.skips(e) {
			continue
		}
		met++
		recorded := recordedSeries(d.Delta).(map[string]any)
		got := measured(i.delta(func() { x.send(i, e, nil) }))
		delete(got, "external_prefix_cache_queries_total") // the recorded server had no connector
		switch e.Name {
		case "single/completion-prompt-logprobs": // vLLM does not ask the prefix cache then; the reference makes none of them
			delete(got, "prefix_cache_queries_total")
		case "single/completion-two-prompts", "single/err-bad-role": // an echo ends where its prompt ends
			delete(got, `request_success_total{finished_reason="stop"}`)
			delete(recorded, `request_success_total{finished_reason="length"}`)
		}
		if d := cmp.Diff(slices.Sorted(maps.Keys(recorded)), slices.Sorted(maps.Keys(got))); d != "" {
			t.Errorf("%s: series that move (-recorded +ours):\n%s", e.Name, d)
		}
	}
	assert.Equal(t, 47, met, "all but the hang-up and the 96 at once")
}
