package load_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/load"
)

func TestTraces(t *testing.T) {
	const s = time.Second
	for _, c := range []struct {
		name, text string
		format     load.TraceFormat
		want       []time.Duration
	}{
		{"seconds", "0\n0.5\n\n# a remark\n 1e1 \n", load.TraceFormat{}, []time.Duration{0, s / 2, 10 * s}},
		{"milliseconds, twice as fast", "0\n500\n", load.TraceFormat{Unit: ms, Speed: 2}, []time.Duration{0, s / 4}},
		{"csv", "Timestamp,Model,Request tokens\n5,ChatGPT,472\n45,\"GPT, 4\",1087\n", load.TraceFormat{}, []time.Duration{5 * s, 45 * s}},
		{"csv of dates", "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n",
			load.TraceFormat{}, []time.Duration{0, 4314579000}},
		{"csv, another column", "a,arrival\n1,2\n", load.TraceFormat{Column: "arrival"}, []time.Duration{2 * s}},
		{"a header alone in its line", "\ufefftimestamp\n3\n", load.TraceFormat{}, []time.Duration{3 * s}},
		{"json lines", `{"timestamp": 27, "input_length": 6955, "hash_ids": [46]}` + "\n" + `{"timestamp": 30}`, load.TraceFormat{Unit: ms},
			[]time.Duration{27 * ms, 30 * ms}},
		{"json lines of dates", `{"timestamp": "2026-01-02T03:04:05Z"}` + "\n" + `{"timestamp": "2026-01-02T03:04:05.25Z"}`, load.TraceFormat{},
			[]time.Duration{0, s / 4}},
	} {
		got, err := load.ReadTrace(strings.NewReader(c.text), "f", c.format)
		require.NoError(t, err, c.name)
		assert.Equal(t, c.want, got.Due, c.name)
	}
}

func TestBadTraces(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"", "load: trace f holds no times"},
		{"# nothing\n\n", "load: trace f holds no times"},
		{"timestamp,x\n", "load: trace f holds no times"},
		{"1\n-2\n", "load: trace f line 2: -2s is before the start"},
		{"-1\n", "load: trace f line 1: -1s is before the start"},
		{"1\n\n3\n2\n", "load: trace f line 4: 2s after 3s: times must ascend"},
		{"1\nNaN\n", `load: trace f line 2: "NaN" is no time`},
		{"Inf\n", `load: trace f line 1: "Inf" is no time`},
		{"1e300\n", `load: trace f line 1: "1e300" is no time`},
		{"soon\n", `load: trace f line 1: "soon" is no time`},
		{"a,b\n1,2\n", `load: trace f line 1: no column "timestamp" in "a,b"`},
		{"x,timestamp\n1\n", `load: trace f line 2: 1 columns, the header has "timestamp" as number 2`},
		{"x,timestamp\n1,\"2\n", `load: trace f line 2: extraneous or missing " in quoted-field`},
		{`{"time": 1}`, `load: trace f line 1: no key "timestamp"`},
		{`{"timestamp": 1`, "load: trace f line 1: unexpected end of JSON input"},
		{`{"timestamp": null}`, `load: trace f line 1: "null" is no time`},
		{"2026-01-02T03:04:05Z\n2026-01-02T03:04:04Z\n", "load: trace f line 2: -1s is before the start"},
	} {
		got, err := load.ReadTrace(strings.NewReader(c.text), "f", load.TraceFormat{})
		assert.EqualError(t, err, c.want)
		assert.Empty(t, got.Due)
	}
	_, err := load.ReadTrace(strings.NewReader("1"), "f", load.TraceFormat{Speed: -1})
	assert.EqualError(t, err, "load: trace f: unit 0s and speed -1 must be above 0")
	_, err = load.OpenTrace(filepath.Join(t.TempDir(), "none"), load.TraceFormat{})
	assert.ErrorContains(t, err, "no such file")
}

// What is exported is read back to the nanosecond, and runs.
func TestExportIsReadBack(t *testing.T) {
	due := times(t, load.Gamma{Rate: 300, Burstiness: 0.3}, 1000, 1)
	path := filepath.Join(t.TempDir(), "arrivals.txt")
	f, err := os.Create(path)
	require.NoError(t, err)
	require.NoError(t, load.Export(f, due))
	require.NoError(t, f.Close())
	back, err := load.OpenTrace(path, load.TraceFormat{})
	require.NoError(t, err)
	assert.Equal(t, due, back.Due)
	assert.Equal(t, "trace("+path+", 1000 calls)", back.String())
	var b strings.Builder
	require.NoError(t, load.Export(&b, []time.Duration{0, 1, 61*time.Second + 5}))
	assert.Equal(t, "0.000000000\n0.000000001\n61.000000005\n", b.String())
}

func FuzzReadTrace(f *testing.F) {
	for _, s := range []string{"0\n1.5\n", "timestamp,x\n1,2\n", `{"timestamp":3}`, "2023-11-16 18:15:46.6805900\n", "\"", "a,timestamp\n\"1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		trace, err := load.ReadTrace(strings.NewReader(text), "f", load.TraceFormat{})
		if err != nil {
			return
		}
		last := time.Duration(0)
		for _, d := range trace.Due {
			if d < last {
				t.Fatalf("%v after %v", d, last)
			}
			last = d
		}
		if len(trace.Due) == 0 {
			t.Fatal("no times and no error")
		}
	})
}
