package report_test

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/theory"
)

func at(v float64) *float64 { return &v }

// prediction has a denoise step of 0.1 s and 10 GB of weights.
func prediction() *theory.Prediction {
	return &theory.Prediction{GPU: "H200", Seconds: 1, Memory: theory.Memory{Weights: 10e9}, Assumptions: []string{"50 denoising steps <the default>"},
		Stages: []theory.Stage{{Name: theory.Denoise, Calls: 10, Bound: 0.04, Efficiency: 0.4, Each: 0.1, Seconds: 1}}}
}

func withTheory(t *report.Theory) report.Result {
	r := example()
	r.Rows = r.Rows[:1]
	r.Rows[0].Theory = t
	return r
}

// A measurement off by 30 % shows its reason, one within 20 % shows none, and foreign text is escaped.
func TestTheoryBesideMeasurement(t *testing.T) {
	p := prediction()
	lines := theory.Compare(p, []theory.Measured{{Stage: theory.Denoise, Value: at(0.13), Busy: at(0.42)}, {Stage: "total", Value: at(1.1)},
		{Stage: "memory", WhyNot: "no NVIDIA driver"}})
	r := withTheory(report.Beside("<b>mine</b>|model on H200", p, lines, ""))
	assert.Contains(t, report.Table(r), `
### Theory beside measurement

| row | figure | predicted | measured | measured / predicted | unit | why | source |
| --- | --- | ---: | ---: | ---: | --- | --- | --- |
| batch=1/prompt=512 | denoise | 0.1000 | 0.1300 | 1.300 | s | off by +30 %, the GPU was busy for 42 % of the time: the host did not launch work fast enough | &lt;b>mine&lt;/b>\|model on H200 |
| batch=1/prompt=512 | total | 1.000 | 1.100 | 1.100 | s |  | &lt;b>mine&lt;/b>\|model on H200 |
| batch=1/prompt=512 | memory | 10.00 | not measured | none | GB | not measured: no NVIDIA driver | &lt;b>mine&lt;/b>\|model on H200 |

- assumed: 50 denoising steps &lt;the default>
`)
	page := html(t, r)
	assert.Contains(t, page, "&lt;b&gt;mine&lt;/b&gt;|model on H200")
	assert.NotContains(t, page, "<b>mine")
	assert.Contains(t, page, `<td class="doubt">1.300</td><td class="word">s</td><td class="word long">off by &#43;30 %, the GPU was busy for 42 % of the time`)
	assert.Contains(t, page, `<td>1.100</td><td class="word">s</td><td class="word long"></td>`, "within 20 % no reason is due")
	assert.Contains(t, page, `<td class="none">not measured</td><td class="none">none</td>`)

	assert.NotContains(t, report.Table(withTheory(nil)), "Theory")
}

// Figures of the reference stack are put beside a GPU's without a ratio: there is nothing to compare.
func TestTheoryOfASimulatedRowHasNoRatio(t *testing.T) {
	p := prediction()
	lines := theory.Compare(p, []theory.Measured{{Stage: theory.Denoise, Value: at(0.3)}})
	require.True(t, lines[0].Off)
	r := withTheory(report.Beside("m on H200", p, lines, "simulated: no comparison"))
	assert.Contains(t, report.Table(r), "| denoise | 0.1000 | 0.3000 | none | s | simulated: no comparison | m on H200 |")
	r.Rows[0].Theory = &report.Theory{Source: "m on H200", Absent: "cannot estimate times because no size of the picture is given"}
	assert.Contains(t, report.Table(r), "| not predicted | not predicted | not predicted |  | cannot estimate times because no size of the picture is given | m on H200 |")
}

// A document keeps its theory, reasons and all.
func TestTheoryIsStored(t *testing.T) {
	p := prediction()
	want := withTheory(report.Beside("m on H200", p, theory.Compare(p, []theory.Measured{{Stage: theory.Denoise, Value: at(0.2)}, {Stage: "memory", WhyNot: "no driver"}}), ""))
	want.Rows[0].Energy = metrics.Of(12.5)
	paths, err := report.Write(t.TempDir(), want)
	require.NoError(t, err)
	back, err := report.Read(paths.JSON)
	require.NoError(t, err)
	assert.Equal(t, want.Rows[0].Theory, back.Rows[0].Theory)
	assert.Equal(t, want.Rows[0].Energy, back.Rows[0].Energy)
	raw, err := os.ReadFile(paths.JSON)
	require.NoError(t, err)
	assert.Contains(t, string(raw), `"ratio": "not measured: no driver"`)
}
