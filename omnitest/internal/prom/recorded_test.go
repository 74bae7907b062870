package prom

import (
	"bufio"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/replay"
)

var recordings = os.DirFS("../../../testdata/recordings")

var unpacked sync.Map // engine to pages: unpacking takes a tenth of a second

// pages are all the recorded /metrics pages of one engine.
func pages(t testing.TB, engine string) map[string][]byte {
	t.Helper()
	if p, ok := unpacked.Load(engine); ok {
		return p.(map[string][]byte)
	}
	p, err := replay.Pages(recordings, engine+"/metrics.tar.bz2")
	require.NoError(t, err)
	unpacked.Store(engine, p)
	return p
}

var line = regexp.MustCompile(`^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$`)
var label = regexp.MustCompile(`([\w]+)="((?:[^"\\]|\\.)*)"`)

// TestEveryRecordedPage: all scrapes parse, and each sample has the value that its line says. The lines are read here by a
// regular expression, so the parser is not compared with itself.
func TestEveryRecordedPage(t *testing.T) {
	parsed, samples := 0, 0
	for _, engine := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		all := pages(t, engine)
		for _, name := range slices.Sorted(maps.Keys(all)) {
			page := all[name]
			s, err := Parse(page)
			require.NoError(t, err, name)
			parsed++
			if parsed%10 != 1 { // the pages of one engine differ in their values; every tenth is read line by line
				continue
			}
			sum := map[string]float64{}
			for in := bufio.NewScanner(strings.NewReader(string(page))); in.Scan(); {
				if in.Text() == "" || in.Text()[0] == '#' {
					continue
				}
				m := line.FindStringSubmatch(in.Text())
				require.NotNil(t, m, "%s: %s", name, in.Text())
				want, err := strconv.ParseFloat(m[3], 64)
				require.NoError(t, err)
				labels := Labels{}
				for _, l := range label.FindAllStringSubmatch(m[2], -1) {
					labels[l[1]] = strings.NewReplacer(`\\`, `\`, `\"`, `"`, `\n`, "\n").Replace(l[2])
				}
				if strings.HasSuffix(m[1], "_bucket") || strings.HasSuffix(m[1], "_created") {
					continue // no rule reads them and the parser drops them
				}
				got, ok := s.Sum(m[1], labels)
				require.True(t, ok, "%s: %s", name, in.Text())
				assert.Equal(t, want, got, "%s: %s", name, in.Text())
				sum[m[1]] += want
				samples++
			}
			for series, want := range sum {
				got, _ := s.Sum(series, nil)
				assert.InDelta(t, want, got, 1e-9*math.Abs(want), "%s: sum of %s", name, series)
			}
		}
	}
	assert.Equal(t, 173, parsed, "pages")
	assert.Greater(t, samples, 1500)
	t.Logf("%d pages parsed, %d samples compared with their lines", parsed, samples)
}

// TestRecordedDeltas: the recorder wrote down, with code of its own, how the counters moved in each case. Delta says the
// same of the same pages. Where a stage died the recorder wrote why, and there is no second page.
func TestRecordedDeltas(t *testing.T) {
	compared, dead, negative := 0, 0, 0
	files, err := fs.Glob(recordings, "vllm-0.32.0/*/cases*.json")
	require.NoError(t, err)
	require.Len(t, files, 5)
	all := pages(t, "vllm-0.32.0")
	for _, file := range files {
		data, err := fs.ReadFile(recordings, file)
		require.NoError(t, err)
		var cases map[string]map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(data, &cases))
		connector := strings.Split(file, "/")[1]
		for name, c := range cases {
			for stage, letter := range map[string]string{"delta_P": "p", "delta_D": "d"} {
				raw, told := c[stage]
				if !told {
					continue
				}
				folder := connector + "/" + name + "/" + letter
				var deltas map[string]float64
				if json.Unmarshal(raw, &deltas) != nil {
					assert.NotContains(t, all, folder+"-after.prom", "%s: %s", folder, raw)
					dead++
					continue
				}
				before, err := Parse(all[folder+"-before.prom"])
				require.NoError(t, err, folder)
				after, err := Parse(all[folder+"-after.prom"])
				require.NoError(t, err, folder)
				for series, want := range deltas {
					m := line.FindStringSubmatch(series + " 0")
					require.NotNil(t, m, series)
					labels := Labels{}
					for _, l := range label.FindAllStringSubmatch(m[2], -1) {
						labels[l[1]] = l[2]
					}
					got, state := Delta(before, after, m[1], labels)
					if strings.HasSuffix(m[1], "_perc") {
						continue // a gauge: it may fall, Delta is for counters
					}
					wantState := Present
					if want < 0 {
						// vLLM 0.32.0 adds a negative time to this sum, about minus an hour, when the load of a ticket's blocks
						// fails. A sum that fell is no restart for Resets, and no amount for Delta.
						require.Equal(t, "vllm:request_queue_time_seconds_sum", m[1], folder)
						wantState = Reset
						negative++
					}
					require.Equal(t, wantState, state, "%s: %s", folder, series)
					assert.InDelta(t, want, got, 1e-5*math.Max(1, math.Abs(want)), "%s: %s", folder, series)
					compared++
				}
				assert.Empty(t, Resets(before, after), "%s: nothing restarted inside a case", folder)
			}
		}
	}
	assert.Equal(t, 3, dead, "decode in 21 and 23, prefill in 31")
	assert.Equal(t, 4, negative, "negative queue times")
	assert.Greater(t, compared, 1500)
	t.Logf("%d deltas compared", compared)
}
