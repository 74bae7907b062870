package replay

import (
	"bufio"
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// visits says which tests open which recordings. A recording that no test reads is no evidence for anything.
var visits = []struct {
	files   string // a pattern of path.Match under testdata/recordings
	readers string // "room.Test ...", each of which opens every one of these files; "": why tells why none does
	why     string
}{
	{"*/README.md wire/README.md", "", "for people"},
	{"vllm-0.32.0/single/*.json vllm-0.32.0/single/overload/*.json", "api.TestEveryRecordedExchange refstack/ar.TestConformance", ""},
	{"vllm-0.32.0/nixl/*/*.json", "api.TestEveryRecordedExchange handoff.TestRecordedTickets proxy.TestRecordedPairs refstack/ar.TestConformance", ""},
	{"vllm-0.32.0/example/*/*.json", "api.TestEveryRecordedExchange handoff.TestRecordedTickets proxy.TestRecordedPairs", ""},
	{"vllm-0.32.0/nixl/cases*.json vllm-0.32.0/example/cases.json", "internal/prom.TestRecordedDeltas", ""},
	{"vllm-0.32.0/nixl/cases*.json", "refstack/ar.TestMetricsAsRecorded", ""},
	{"vllm-0.32.0/single/err-*.json", "api.TestRecordedRefusals refstack/ar.TestErrorsAsRecorded", ""},
	{"vllm-0.32.0/single/metric-deltas.json", "refstack/ar.TestWhichSeriesMove", ""},
	{"vllm-0.32.0/metrics.tar.bz2", "internal/prom.TestEveryRecordedPage internal/prom.TestRecordedDeltas handoff.TestRecordedVerdicts handoff.TestRecordedVerdictsOfTheRest refstack/ar.TestConformance", ""},
	{"vllm-0.32.0/bench/*.json", "metrics.TestVLLMProfileAgreesWithVLLMBench metrics.TestPrintedTablesOfVLLMBench", ""},
	{"vllm-0.32.0/bench/*.txt", "metrics.TestPrintedTablesOfVLLMBench", ""},
	{"vllm-0.32.0/log-d*[0-9].txt vllm-0.32.0/log-d.txt vllm-0.32.0/log-p.txt", "refstack/ar.TestConformance", ""},
	{"vllm-0.32.0/log-[dp]x.txt", "", "ExampleConnector's log: the reference speaks NixlConnector's"},
	{"vllm-gpu-pd-0.26.0/http/*.json", "api.TestEveryRecordedExchange handoff.TestRecordedTickets proxy.TestRecordedPairs", ""},
	{"vllm-gpu-pd-0.26.0/session.json", "handoff.TestRecordedGPU", ""},
	{"vllm-gpu-pd-0.26.0/metrics.tar.bz2", "internal/prom.TestEveryRecordedPage", ""},
	{"vllm-omni-0.26.0/image-routes.json", "refstack/dit.TestRecordedExchanges", ""},
	{"wire/vllm-omni-0.26.0/errors.json", "api.TestRecordedOmniErrors", ""},
	{"wire/vllm-omni-0.26.0/t2i-256-whole.json", "api.TestRecordedPicture", ""},
}

const root = "../../../testdata/recordings"

// recordedFiles lists every file, by path under testdata/recordings.
func recordedFiles(t *testing.T) (files []string) {
	require.NoError(t, fs.WalkDir(recordings, ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, p)
		}
		return err
	}))
	return files
}

func matching(files []string, patterns string) (found []string) {
	for _, f := range files {
		if slices.ContainsFunc(strings.Fields(patterns), func(p string) bool { ok, _ := path.Match(p, f); return ok }) {
			found = append(found, f)
		}
	}
	return found
}

// unvisited lists the files that the table does not have, and the lines of the table without a file.
func unvisited(files []string) (missing []string) {
	for _, f := range files {
		if !slices.ContainsFunc(visits, func(v struct{ files, readers, why string }) bool { return len(matching([]string{f}, v.files)) > 0 }) {
			missing = append(missing, "no test reads "+f)
		}
	}
	for _, v := range visits {
		for _, p := range strings.Fields(v.files) {
			if len(matching(files, p)) == 0 {
				missing = append(missing, "no file "+p)
			}
		}
		if (v.readers == "") == (v.why == "") {
			missing = append(missing, "either a reader or a reason: "+v.files)
		}
	}
	return missing
}

func TestEveryRecordingIsRead(t *testing.T) {
	files := recordedFiles(t)
	assert.Empty(t, unvisited(files))
	assert.Equal(t, []string{"no test reads vllm-0.32.0/new.json"}, unvisited(append(files, "vllm-0.32.0/new.json")), "it must notice a new file")
	rest := slices.DeleteFunc(slices.Clone(files), func(f string) bool { return strings.HasSuffix(f, "session.json") })
	assert.Equal(t, []string{"no file vllm-gpu-pd-0.26.0/session.json"}, unvisited(rest), "and a line about nothing")
}

// TestReadersExist: a test of the table that was renamed or taken out reads nothing any more.
func TestReadersExist(t *testing.T) {
	source := map[string]string{}
	for _, v := range visits {
		for _, reader := range strings.Fields(v.readers) {
			room, test, _ := strings.Cut(reader, ".")
			if source[room] == "" {
				files, err := filepath.Glob("../../" + room + "/*_test.go")
				require.NoError(t, err)
				for _, file := range files {
					text, err := os.ReadFile(file)
					require.NoError(t, err)
					source[room] += string(text)
				}
			}
			assert.True(t, strings.Contains(source[room], "\nfunc "+test+"(t *testing.T) {\n"), "%s has no %s", room, test)
		}
	}
}

// TestReadersReallyOpenThem runs the named tests and looks at what they opened: package testing notes every file that a test
// opens, for the test cache. A test that stops reading a recording, or that is renamed away, fails here.
func TestReadersReallyOpenThem(t *testing.T) {
	if os.Getenv("OMNITEST_WALK") != "1" {
		t.Skip("builds and runs tests of seven rooms, half a minute or more: OMNITEST_WALK=1 does it")
	}
	files := recordedFiles(t)
	tests := map[string][]string{}
	for _, v := range visits {
		for _, reader := range strings.Fields(v.readers) {
			room, test, _ := strings.Cut(reader, ".")
			if !slices.Contains(tests[room], test) {
				tests[room] = append(tests[room], test)
			}
		}
	}
	base, err := filepath.Abs(root)
	require.NoError(t, err)
	for room, names := range tests {
		binary := filepath.Join(t.TempDir(), "test")
		out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-o", binary, "../../"+room).CombinedOutput()
		require.NoError(t, err, "%s", out)
		for _, name := range names {
			log := filepath.Join(t.TempDir(), "opened")
			cmd := exec.CommandContext(t.Context(), binary, "-test.run", "^"+name+"$", "-test.v", "-test.testlogfile", log)
			cmd.Dir = filepath.Join("../..", room)
			out, err := cmd.CombinedOutput()
			if err != nil { // its own room tells why; here it only counts what it opened
				t.Logf("%s.%s: %v", room, name, err)
			}
			require.Contains(t, string(out), "=== RUN   "+name+"\n", "%s has no such test", room)
			dir, err := filepath.Abs(cmd.Dir)
			require.NoError(t, err)
			opened := opens(t, log, dir)
			for _, v := range visits {
				if !slices.Contains(strings.Fields(v.readers), room+"."+name) {
					continue
				}
				for _, f := range matching(files, v.files) {
					assert.True(t, opened[filepath.Join(base, f)], "%s.%s does not open %s", room, name, f)
				}
			}
		}
	}
}

func opens(t *testing.T, log, dir string) map[string]bool {
	t.Helper()
	data, err := os.ReadFile(log)
	require.NoError(t, err)
	opened := map[string]bool{}
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		if name, ok := strings.CutPrefix(in.Text(), "open "); ok {
			if !filepath.IsAbs(name) {
				name = filepath.Join(dir, name)
			}
			opened[filepath.Clean(name)] = true
		}
	}
	return opened
}
