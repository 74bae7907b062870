package audiocheck

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// planted is one defect for a check.
type planted struct {
	check Check
	bad   Sound
	says  string // the summary; {n} stands for a number that only the measurement tells
	pair  bool   // it compares with another sound
}

func plantedDefects(t *testing.T) map[string]planted {
	good := voiceOf(t, hello, "alto")
	square := changed(t, good, func(i int, _ float64) float64 { return float64(1 - 2*(i/60%2)) })
	other := voiceOf(t, "hello world, this is a text of speech", "alto")
	deaf := TranscriberFunc(func(context.Context, []byte) (string, error) { return "yellow", nil })
	approve := Store{Dir: t.TempDir(), Update: true}
	require.NoError(t, approve.Check("hello", Key{Engine: "e"})(good))
	hiss := changed(t, good, func(i int, _ float64) float64 { return float64((i*i*7919+i*104729)%2001-1000) / 4000 })
	return map[string]planted{
		"Is":          {Is(voiceFormat), with(t, good, Format{16000, 1, 16, false}), "wrong audio format: 16000 Hz, 1 channel, 16 bit, want 24000 Hz, 1 channel, 16 bit", false},
		"Finite":      {Finite(), changed(t, good, func(i int, v float64) float64 { return map[bool]float64{true: math.NaN(), false: v}[i == 48000] }), "sound holds what is no number: 1 of 69840 samples are NaN or infinite, the first at 2.000 s", false},
		"Duration":    {Duration(2 * good.Duration()), good, "wrong duration: 2.91 s, want 5.82 s within 0.29 s", false},
		"Samples":     {Samples(69841), good, "wrong number of samples: 69840 of each channel, want 69841 (-1)", false},
		"Pace":        {Pace("abcdef", 5, 30), good, "speech is too long or too short for its text: 6 characters in 2.91 s, characters a second 2.062, at least 5", false},
		"NotSilent":   {NotSilent(), changed(t, good, func(int, float64) float64 { return 0 }), "sound is silent: RMS -120, at least -50 (dBFS); and 2 more", false},
		"NotClipped":  {NotClipped(), square, "sound is clipped: share of samples at full scale 1, limit 0.001 (in runs of 3 and more)", false},
		"Centred":     {Centred(), changed(t, good, func(int, float64) float64 { return 0.25 }), "sound has a DC offset: mean 0.25, limit 0.01 (of full scale)", false},
		"Voiced":      {Voiced(), hiss, "sound is no voice: harmonics to noise {n}, at least 1 (dB)", false},
		"NotNoise":    {NotNoise(), hiss, "sound is noise: spectral flatness {n}, limit 0.35 (median, 1 is flat)", false},
		"Quiet":       {Quiet(), square, "sound has a loud noise floor: loud frames over pauses 0, at least 20 (dB)", false},
		"Same":        {Same(good), changed(t, good, func(i int, v float64) float64 { return v + map[bool]float64{true: .5}[i == 24000] }), "sound differs from the other one: 1 of 69840 samples, from 1.000 s on, by at most 0.5 of full scale", true},
		"Like":        {Like(good), other, "sound differs from the other one: log-mel distance at {n} s {n}, limit 1.5 (dB, worst 60 ms)", true},
		"Transcript":  {Transcript(t.Context(), deaf, hello), good, `speech does not say the text: heard "yellow", want "hello world, this is a test of speech", likeness {n}, at least 0.9`, false},
		"Store.Check": {Store{Dir: approve.Dir}.Check("hello", Key{Engine: "e"}), other, "sound differs from golden: log-mel distance at {n} s {n}, limit 1.5 (dB, worst 60 ms)", true},
	}
}

// Every exported check has a defect here that trips it, with its words, with a key on each bound, and with all of its evidence.
func TestEveryCheckIsPlanted(t *testing.T) {
	all := plantedDefects(t)
	assert.Equal(t, exportedChecks(t), slices.Sorted(maps.Keys(all)), "a check without a planted defect is a test that nobody has seen fail")
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			observed := 0
			bad := c.bad.For(Case{Name: "planted", Dir: t.TempDir(), Repro: "curl x", Observe: func(_ string, ms []Metric) {
				for _, m := range ms {
					if observed++; m.Direction != "" {
						assert.Equal(t, "default", m.Key, m.Name)
					}
				}
			}})
			err := c.check(bad)
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.Regexp(t, "^"+strings.ReplaceAll(regexp.QuoteMeta(c.says), `\{n\}`, `-?[0-9.]+`)+"(; and [0-9] more)?$", e.Summary)
			want := []string{"actual.wav", "metrics.json", "repro.sh", "spectrogram.png"}
			if c.pair {
				want = []string{"actual.wav", "expected.wav", "heatmap.png", "metrics.json", "repro.sh", "side-by-side.png", "spectrogram.png"}
			}
			assert.Equal(t, want, listed(t, e.Files.Dir))
			assert.Equal(t, filepath.Join(e.Files.Dir, "actual.wav"), e.Files.Got)
			if name != "Is" {
				assert.Positive(t, observed, "a check that measures shows it")
			}
		})
	}
}

func listed(t *testing.T, dir string) (names []string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// exportedChecks are the exported functions and methods of this room that return a Check, sorted.
func exportedChecks(t *testing.T) (names []string) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, is := d.(*ast.FuncDecl)
			if !is || !fn.Name.IsExported() || fn.Type.Results == nil || len(fn.Type.Results.List) != 1 {
				continue
			}
			if id, is := fn.Type.Results.List[0].Type.(*ast.Ident); !is || id.Name != "Check" {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				name = fn.Recv.List[0].Type.(*ast.Ident).Name + "." + name
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
