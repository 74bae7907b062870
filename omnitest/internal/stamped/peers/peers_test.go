package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) {
	stamped.Main()
	if len(os.Args) == 3 && os.Args[1] == oursArg {
		if err := ours(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func newBench(t *testing.T) *bench {
	s, err := stamped.Spawn(t.Context(), stamped.Options{TTFT: 5 * time.Millisecond, Interval: time.Millisecond, Model: model, Stamp: true})
	require.NoError(t, err)
	t.Cleanup(s.Stop)
	return &bench{cache: "/somewhere", work: t.TempDir(), server: s}
}

// Our own client goes the whole way; what it reports is never less than the truth, as it cannot read what was not written.
func TestOurs(t *testing.T) {
	b := newBench(t)
	for _, p := range []plan{{Name: "closed", Concurrency: 4, Requests: 8}, {Name: "open", Rate: 200, Requests: 10}} {
		r := b.measure(t.Context(), tools[0], p)
		require.NoError(t, r.Err)
		assert.Equal(t, p.Requests, r.Said.OK)
		assert.Equal(t, p.Requests, r.Truth.TTFT.N)
		assert.Equal(t, p.Requests*(tokens-1), r.Truth.ITL.N)
		assert.GreaterOrEqual(t, r.Said.TTFT50, 5.0)
		assert.Positive(t, r.Completed)
		assert.Positive(t, r.CPU)
		if p.Concurrency > 0 {
			assert.Equal(t, 4, r.Truth.InFlightPeak)
			assert.Equal(t, 4, r.Said.Peak)
		}
	}
}

// A client whose report does not fit what the server saw gets no row of figures.
func TestReportsThatCannotBe(t *testing.T) {
	b := newBench(t)
	p := plan{Name: "p", Concurrency: 1, Requests: 2}
	mock := func(argv []string, said reported, err error) tool {
		return tool{name: "mock", argv: func(*bench, plan) []string { return argv }, read: func(*bench, plan, string) (reported, error) { return said, err }}
	}
	real := oursArgv(b, p)
	for _, c := range []struct {
		tool tool
		want string
	}{
		{mock([]string{"sh", "-c", "echo no such option >&2; exit 2"}, reported{}, nil), "sh: exit status 2\nno such option\n"},
		{mock([]string{"true"}, reported{OK: 2}, nil), "the server had 0 requests and has 0 more under way; planned were 2"},
		{mock(real, reported{OK: 1}, nil), "it reports 1 of 2 requests as successes"},
		{mock(real, reported{}, errNoFile), "it left no result file"},
	} {
		assert.EqualError(t, b.measure(t.Context(), c.tool, p).Err, c.want)
	}
}

// The readers on the tools' own files, which lie in testdata/peers. Expected is what the files say, found with jq.
func TestReaders(t *testing.T) {
	root := filepath.Join("..", "..", "..", "..", "testdata", "peers")
	b := &bench{work: t.TempDir()}
	for _, tl := range tools[1:] {
		dir := filepath.Join(b.work, tl.name, plans[0].Name)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for _, name := range tl.files {
			text, err := os.ReadFile(filepath.Join(root, tl.name, name))
			require.NoError(t, err)
			for _, secret := range []string{"/home", "/root", "/tmp", "/Users"} {
				assert.NotContains(t, string(text), secret, "%s/%s", tl.name, name)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
		}
		r, err := tl.read(b, plans[0], "")
		require.NoError(t, err, tl.name)
		assert.Equal(t, plans[0].Requests, r.OK, tl.name)
		for what, v := range map[string]float64{"TTFT50": r.TTFT50, "TTFT99": r.TTFT99, "ITL50": r.ITL50, "Rate": r.Rate} {
			assert.Positive(t, v, "%s %s", tl.name, what)
		}
		assert.GreaterOrEqual(t, r.TTFT99, r.TTFT50)
		assert.Positive(t, r.Peak, tl.name)

		require.NoError(t, os.RemoveAll(dir))
		_, err = tl.read(b, plans[0], "")
		assert.ErrorIs(t, err, errNoFile, tl.name)
	}
}

func TestTrim(t *testing.T) {
	b := &bench{cache: "/home/me/.cache/omnitest", work: "/tmp/omnitest-peers-1", server: &stamped.Child{URL: "http://127.0.0.1:4711"}}
	request := func(i int) string { return fmt.Sprintf(`{"request_id": "r%d", "ttft": 1.50}`, i) }
	var all []string
	for i := range 5 {
		all = append(all, request(i))
	}
	got, err := b.trim("result.json", []byte(`{"platform": "Linux-6.1-x86_64", "model": "/home/me/.cache/omnitest/vllm-cpu/model", "path": "/tmp/omnitest-peers-1/x", "target": "http://127.0.0.1:4711",
"benchmarks": [{"type_": "generative_benchmark", "requests": {"successful": [`+strings.Join(all, ", ")+`]}}]}`))
	require.NoError(t, err)
	assert.Equal(t, `{"platform": "Linux", "model": "MODEL", "path": "RESULTS/x", "target": "http://127.0.0.1:8000",
"benchmarks": [{"type_": "generative_benchmark", "requests": {"successful": [`+strings.Join(all[:3], ", ")+`]}}]}`, string(got))
	assert.True(t, json.Valid(got))
	got, err = b.trim("x.jsonl", []byte("1\n2\n3\n4\n"))
	require.NoError(t, err)
	assert.Equal(t, "1\n2\n3\n", string(got))
	_, err = b.trim("result.json", []byte(`"generative_benchmark"{`))
	assert.Error(t, err)
}

func TestTable(t *testing.T) {
	rows := []row{
		{Plan: plans[1], Tool: "vllm", Said: reported{TTFT50: 60, TTFT99: 90, ITL50: 21, Rate: 40, Peak: 60}, Completed: 41, CPU: 9 * time.Second,
			Truth: stamped.Truth{InFlightPeak: 64, TTFT: stamped.Spread{P50: 50, P99: 51}, ITL: stamped.Spread{P50: 20}, Late: stamped.Spread{P99: .5}}},
		{Plan: plans[3], Tool: "ours", Said: reported{Dispatch50: .01, Dispatch99: .2}, Truth: stamped.Truth{ArrivalRate: 49.5}},
		{Plan: plans[0], Tool: "aiperf", Err: fmt.Errorf("it left no result file\nmore")},
	}
	page := render(rows, []string{"vllm 0.32.0"}, "0.10", "1.20", "Quiet.", true)
	for _, want := range []string{
		"| 64 at once | vllm | 384 | 60.0 (50.0) | 90.0 (51.0) | 21.00 (20.00) | 40.00 (41.00) |  | 64 (60) | 0.50 | 9.0 |\n",
		"| Poisson 50/s | ours | 400 | 0.0 (0.0) | 0.0 (0.0) | 0.00 (0.00) | 0.00 (0.00) | 49.50 | 0 | 0.00 | 0.0 |\n",
		"| 1 at once | aiperf | failed: it left no result file | | | | | | | | |\n",
		"Load average 0.10 before, 1.20 after. Server on core 0, client on core 1. Quiet. vllm 0.32.0; ours is",
		"Ours also says how late it sent the requests of the open loop: median 0.010 ms, p99 0.200 ms.",
	} {
		assert.Contains(t, page, want)
	}
	assert.Contains(t, render(nil, nil, "?", "?", "", false), "Server and client share all cores: no taskset, or one core. ")
}

func TestChoose(t *testing.T) {
	name := func(p plan) string { return p.Name }
	_, err := choose("plan", "c1,c2", plans, name)
	assert.EqualError(t, err, `no plan "c2"`)
	got, err := choose("plan", "rate50,c1", plans, name)
	require.NoError(t, err)
	assert.Equal(t, []plan{plans[3], plans[0]}, got)
}
