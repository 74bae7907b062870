package measure

import (
	"encoding/json"
	"image"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMetric(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for _, c := range []struct {
		m          Metric
		ok, warned bool
		says       string
	}{
		{Metric{Name: "d", Value: 6, Bound: 6, Direction: AtMost}, true, false, "d 6, want <= 6"},
		{Metric{Name: "d", Value: 7, Bound: 6, Direction: AtMost, Note: "of 256"}, false, false, "d 7, want <= 6 (of 256)"},
		{Metric{Name: "d", Value: 5.25, Bound: 6, Direction: AtMost, Warn: 5}, true, true, "d 5.25, want <= 6, better <= 5"},
		{Metric{Name: "d", Value: 7, Bound: 6, Direction: AtMost, Warn: 5}, false, false, "d 7, want <= 6"},
		{Metric{Name: "p", Value: 28.41234, Bound: 27, Direction: AtLeast, Warn: 30, Note: "dB"}, true, true, "p 28.41, want >= 27, better >= 30 (dB)"},
		{Metric{Name: "p", Value: 30, Bound: 27, Direction: AtLeast, Warn: 30}, true, false, "p 30, want >= 27"},
		{Metric{Name: "p", Value: inf, Bound: 27, Direction: AtLeast, Warn: 30}, true, false, "p inf, want >= 27"},
		{Metric{Name: "p", Value: nan, Bound: 27, Direction: AtLeast, Warn: 30}, false, false, "p not measured, want >= 27"},
		{Metric{Name: "p", Value: nan, Bound: 27, Direction: AtMost}, false, false, "p not measured, want <= 27"},
		{Metric{Name: "n", Value: -inf, Note: "only told"}, true, false, "n -inf (only told)"},
		{Metric{Name: "n", Value: 1, Warn: 2}, true, false, "n 1"},
		{Metric{Name: "x", Value: 1, Bound: 2, Direction: "<"}, false, false, "x 1, want < 2"},
	} {
		assert.Equal(t, c.ok, c.m.OK(), "%+v", c.m)
		assert.Equal(t, c.warned, c.m.Warned(), "%+v", c.m)
		assert.Equal(t, c.says, c.m.String())
	}
	raw, err := json.Marshal([]Metric{{Name: "a", Value: nan, Bound: inf, Direction: AtLeast, Key: Default}, {Name: "b", Value: 4, Bound: 6, Direction: AtMost, Warn: 3}, {Name: "c", Value: 2}})
	require.NoError(t, err)
	assert.JSONEq(t, `[{"name":"a","value":"not measured","bound":"inf","direction":">=","key":"default","ok":false},
		{"name":"b","value":4,"bound":6,"direction":"<=","warn":3,"ok":true,"warned":true},{"name":"c","value":2,"ok":true}]`, string(raw))
}

func TestPath(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "out/picture/size",
		"a/b":                    "out/a/b/size",
		"../../etc/passwd":       "out/etc/passwd/size",
		"prompt: \"x\" 通义/..":    "out/prompt---x--通义/size",
		"/abs":                   "out/abs/size",
		strings.Repeat("n", 200): "out/" + strings.Repeat("n", 80) + "/size",
	} {
		assert.Equal(t, filepath.FromSlash(want), Path("out", name, "picture", "size"))
	}
}

// What can be written is, and what cannot is told.
func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	f, err := Open(dir)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(dir, "x.txt"), f.Write("x.txt", []byte("x")))
	assert.Equal(t, filepath.Join(dir, "p.png"), f.PNG("p.png", image.NewGray(image.Rect(0, 0, 4, 4))))
	assert.Empty(t, f.Script(" \n"))
	replay := f.Script("  curl x\n")
	script, err := os.ReadFile(replay)
	require.NoError(t, err)
	assert.Equal(t, "#!/bin/sh\ncurl x\n", string(script))
	info, err := os.Stat(replay)
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&0o100)
	f.Metrics(map[string]int{"n": 1})
	require.NoError(t, f.Err())
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	assert.Equal(t, []string{"metrics.json", "p.png", "repro.sh", "x.txt"}, names, "and no temporary file")
	assert.Equal(t, "got A   input B   replay D", Files{Dir: dir, Got: "A", Golden: "B", Replay: "D"}.Line("input"))

	assert.Empty(t, f.Write("no/such/folder", nil))
	assert.Empty(t, f.PNG("empty.png", image.NewGray(image.Rectangle{})))
	assert.Empty(t, f.Metrics(math.NaN()))
	assert.ErrorIs(t, f.Err(), os.ErrNotExist)
	assert.ErrorContains(t, f.Err(), "image size: 0x0")
	assert.ErrorContains(t, f.Err(), "unsupported value: NaN")
	_, err = Open(filepath.Join(dir, "x.txt", "below"))
	assert.Error(t, err)
}

func TestWarnings(t *testing.T) {
	var shown []string
	observe := Warnings(func(s string) { shown = append(shown, s) })
	observe("parity", []Metric{{Name: "PSNR", Value: 28, Bound: 27, Warn: 30, Direction: AtLeast}, {Name: "SSIM", Value: .99, Bound: .94, Warn: .97, Direction: AtLeast}})
	observe("parity", []Metric{{Name: "PSNR", Value: 26, Bound: 27, Warn: 30, Direction: AtLeast}})
	assert.Equal(t, []string{"parity: PSNR 28, want >= 27, better >= 30"}, shown, "what fails is told by the failure")
}
