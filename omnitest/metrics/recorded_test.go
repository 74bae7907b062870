package metrics_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
)

// TestPrintedTablesOfVLLMBench: the table that `vllm bench serve` printed at the end of each recorded run, and the summary
// of the same details, agree to the digits that were printed.
func TestPrintedTablesOfVLLMBench(t *testing.T) {
	row := regexp.MustCompile(`(?m)^(Mean|Median) (TTFT|TPOT|ITL|E2EL) \(ms\):\s+([\d.]+)`)
	files, err := filepath.Glob("../../testdata/recordings/vllm-0.32.0/bench/*.txt")
	require.NoError(t, err)
	require.Len(t, files, 4)
	for _, file := range files {
		page, err := os.ReadFile(file)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(file), ".txt")
		b := readBench(t, name+".json")
		sum := metrics.Summarize(metrics.VLLM, b.samples(name[0] == 'g'), seconds(b.Duration))
		dists := map[string]metrics.Dist{"TTFT": sum.TTFT, "TPOT": sum.TPOT, "ITL": sum.ITL, "E2EL": sum.E2EL}
		rows := row.FindAllStringSubmatch(string(page), -1)
		require.Len(t, rows, 8, name)
		for _, m := range rows {
			want, err := strconv.ParseFloat(m[3], 64)
			require.NoError(t, err)
			v := dists[m[2]].Mean
			if m[1] == "Median" {
				v = dists[m[2]].Median
			}
			got, ok := v.Get()
			require.True(t, ok, "%s: %s", name, m[0])
			assert.InDelta(t, want, got, 0.00501, "%s: %s", name, m[0])
		}
		for label, v := range map[string]metrics.Value{"Request throughput (req/s):": sum.RequestRate, "Output token throughput (tok/s):": sum.OutputTokenRate} {
			_, after, found := strings.Cut(string(page), label)
			require.True(t, found, name)
			want, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
			require.NoError(t, err)
			got, _ := v.Get()
			assert.InDelta(t, want, got, 0.00501, "%s: %s", name, label)
		}
	}
}
