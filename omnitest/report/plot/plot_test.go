package plot_test

import (
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/report/plot"
)

func sweep(t *testing.T) report.Result {
	t.Helper()
	r, err := report.Read(filepath.Join("..", "..", "..", "testdata", "report", "sweep.json"))
	require.NoError(t, err)
	return r
}

// Every chart with something to draw comes as both files, the others are named with their reason; no chart is lost.
func TestWrite(t *testing.T) {
	r := sweep(t)
	dir := filepath.Join(t.TempDir(), "new")
	paths, err := plot.Write(dir, r)
	require.NoError(t, err)
	charts := report.Charts(r)
	assert.Len(t, paths.Files, 2*(len(charts)-len(paths.Empty)))
	assert.Equal(t, []string{"in 512; in 2560: not measured at batch 1, 2, 4: dit attached by URL"}, paths.Empty["rss-batch"])
	for _, c := range charts {
		if len(c.Lines) == 0 {
			assert.NoFileExists(t, filepath.Join(dir, c.ID+".png"))
			continue
		}
		f, err := os.Open(filepath.Join(dir, c.ID+".png"))
		require.NoError(t, err)
		picture, err := png.Decode(f)
		require.NoError(t, f.Close())
		require.NoError(t, err, c.ID)
		assert.Greater(t, colored(picture), 40, "%s: a line leaves more pixels of colour than that", c.ID)
		svg, err := os.ReadFile(filepath.Join(dir, c.ID+".svg"))
		require.NoError(t, err)
		assert.Contains(t, string(svg), c.Y.Title(), c.ID)
		assert.Contains(t, string(svg), "reference stack (simulated)", c.ID)
	}
	svg, err := os.ReadFile(filepath.Join(dir, "throughput-concurrency.svg"))
	require.NoError(t, err)
	assert.Contains(t, string(svg), "INVALID-CLIENT: the client was late itself")
	assert.NotContains(t, readAll(t, filepath.Join(dir, "throughput-batch.svg")), "INVALID-CLIENT")
}

// A point that was not measured parts the line: no stroke joins its neighbours.
func TestGap(t *testing.T) {
	draw := func(middle metrics.Value) string {
		c := report.Chart{ID: "x", Title: "x", X: report.Axis{Name: "batch"}, Y: report.Axis{Name: "y"}, Lines: []report.Line{{Label: "a",
			Points: []report.Point{{X: 1, Y: metrics.Of(1)}, {X: 2, Y: metrics.Of(2)}, {X: 3, Y: middle}, {X: 4, Y: metrics.Of(2)}, {X: 5, Y: metrics.Of(1)}}}}}
		p, err := plot.Plot(c, report.Result{Target: "x"})
		require.NoError(t, err)
		file := filepath.Join(t.TempDir(), "x.svg")
		require.NoError(t, p.Save(300, 200, file))
		return readAll(t, file)
	}
	whole, parted := draw(metrics.Of(2)), draw(metrics.Absent("no NVML"))
	const line = "stroke:#0072B2"
	assert.Equal(t, 2, strings.Count(whole, line), "the line, and its piece in the legend")
	assert.Equal(t, 3, strings.Count(parted, line), "two parts, and the legend")
}

func TestNothingToDraw(t *testing.T) {
	_, err := plot.Plot(report.Chart{ID: "memory-batch"}, report.Result{})
	require.EqualError(t, err, "plot: memory-batch has nothing to draw")
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = plot.Write(filepath.Join(file, "x"), sweep(t))
	require.ErrorContains(t, err, "plot: mkdir")
}

func readAll(t *testing.T, file string) string {
	t.Helper()
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(raw)
}

// colored counts pixels that are neither black, white nor grey.
func colored(im image.Image) int {
	n := 0
	b := im.Bounds()
	for y := b.Min.Y; y < b.Max.Y; y++ {
		for x := b.Min.X; x < b.Max.X; x++ {
			c := color.NRGBAModel.Convert(im.At(x, y)).(color.NRGBA)
			if c.A > 200 && (max(c.R, c.G, c.B)-min(c.R, c.G, c.B)) > 90 {
				n++
			}
		}
	}
	return n
}
