package omnitest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/stack"
)

func TestMain(m *testing.M) { Main(m) }

// recorder is a testing.TB that notes what a helper does to a test instead of doing it.
type recorder struct {
	testing.TB
	errors, fatals, skips []string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Error(args ...any)         { r.errors = append(r.errors, fmt.Sprint(args...)) }
func (r *recorder) Fatal(args ...any)         { r.end(&r.fatals, fmt.Sprint(args...)) }
func (r *recorder) Fatalf(f string, a ...any) { r.end(&r.fatals, fmt.Sprintf(f, a...)) }
func (r *recorder) Skipf(f string, a ...any)  { r.end(&r.skips, fmt.Sprintf(f, a...)) }

func (r *recorder) end(list *[]string, text string) {
	*list = append(*list, text)
	runtime.Goexit()
}

// record runs f as a test would run.
func record(t *testing.T, f func(tb testing.TB)) *recorder {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() { defer close(done); f(r) }()
	<-done
	return r
}

func TestCheckReportsAllFailures(t *testing.T) {
	odd := func(n int) error {
		if n%2 == 0 {
			return errors.New("even")
		}
		return nil
	}
	big := func(n int) error {
		if n < 10 {
			return errors.New("small")
		}
		return nil
	}
	require.Equal(t, []string{"even", "small"}, record(t, func(tb testing.TB) { Check(tb, 4, odd, big) }).errors)
	require.Empty(t, record(t, func(tb testing.TB) { Check(tb, 11, odd, big) }).errors)
}

func TestRequire(t *testing.T) {
	t.Setenv(EnvRequire, "gpu")
	skipped.tests, skipped.tested = nil, 0
	t.Cleanup(func() { skipped.tests = nil })

	r := record(t, func(tb testing.TB) { Require(tb, "ocr", false, "install tesseract") })
	require.Equal(t, []string{"no ocr: install tesseract (OMNITEST_REQUIRE=ocr makes this a failure)"}, r.skips)
	text, nothing := skipSummary()
	require.Equal(t, "omnitest: 1 skipped for lack of a capability: TestRequire (no ocr)\n"+
		"omnitest: that was every test with a stack: nothing was tested", text)
	require.True(t, nothing)
	skipped.tested = 1
	text, nothing = skipSummary()
	require.Equal(t, "omnitest: 1 skipped for lack of a capability: TestRequire (no ocr)", text)
	require.False(t, nothing)

	r = record(t, func(tb testing.TB) { Require(tb, "gpu", false, "run on a CUDA host") })
	require.Empty(t, r.skips)
	require.Equal(t, []string{"gpu is required (OMNITEST_REQUIRE) and missing: run on a CUDA host"}, r.fatals)

	r = record(t, func(tb testing.TB) { Require(tb, "gpu", true, "") })
	require.Empty(t, append(r.fatals, r.skips...))
}

func TestSpecFromEnvironment(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(file, []byte("name: lab\nstages: {dit: {}}\n"), 0o600))
	t.Setenv(EnvStack, file)
	t.Setenv(EnvFaults, "dit.blank")
	spec, err := Spec()
	require.NoError(t, err)
	require.Equal(t, "lab", spec.Name)
	require.Equal(t, "dit.blank", spec.FaultNames)

	t.Setenv(EnvFaults, "dit.blnak")
	_, err = Spec()
	require.ErrorContains(t, err, EnvFaults)
	require.ErrorContains(t, err, "dit.blank")

	t.Setenv(EnvFaults, "")
	t.Setenv(EnvStack, file+".gone")
	_, err = Spec()
	require.ErrorContains(t, err, EnvStack)
}

// The path is typed in the module's root, and the test runs in its package's folder.
func TestRelativeStackPath(t *testing.T) {
	t.Setenv(EnvStack, filepath.Join("fixtures", "stacks", "vllm-cpu-pd.yaml"))
	spec, err := Spec()
	require.NoError(t, err)
	require.Equal(t, "vllm-cpu-pd", spec.Name)
	t.Setenv(EnvStack, filepath.Join("no", "such.yaml"))
	_, err = Spec()
	require.ErrorContains(t, err, filepath.Join("no", "such.yaml"))
}

func TestOutDirMustBeAbsolute(t *testing.T) {
	t.Setenv(EnvOut, "out")
	out.Lock()
	kept := out.dir
	out.dir = ""
	out.Unlock()
	t.Cleanup(func() { out.dir = kept })
	r := record(t, func(tb testing.TB) { OutDir(tb) })
	require.Len(t, r.fatals, 1)
	require.Contains(t, r.fatals[0], "must be an absolute path")
	// The second test of such a run must fail as well, not wait for a lock that the first one took with it.
	for range 2 {
		r = record(t, func(tb testing.TB) { Start(tb, stack.Spec{}) })
		require.Len(t, r.fatals, 1)
	}
}

func TestFaultHelp(t *testing.T) {
	require.Contains(t, faultHelp(), "decode.transfer-fails=fail|recompute")
	require.Contains(t, faultHelp(), "dit.blank")
}

func TestMisspeltRequirement(t *testing.T) {
	t.Setenv(EnvRequire, " dit , my-own")
	require.ErrorContains(t, unknownRequired(), `OMNITEST_REQUIRE names "my-own", which no test of this run asks for`)
	record(t, func(tb testing.TB) { Require(tb, "my-own", true, "") })
	require.NoError(t, unknownRequired())
}

// A stack that cannot be started is tried once, not by every test again.
func TestFailedStackIsRemembered(t *testing.T) {
	spec := stack.Spec{Name: "nobody", Stages: map[engine.Stage]stack.Stage{
		engine.DiT: {Engine: stack.EngineRemote, URL: "http://127.0.0.1:9", ReadyTimeout: 300 * time.Millisecond},
	}}
	r := record(t, func(tb testing.TB) { Shared(tb, spec) })
	require.Len(t, r.fatals, 1)
	began := time.Now()
	r = record(t, func(tb testing.TB) { Shared(tb, spec) })
	require.Contains(t, r.fatals[0], "could not be started before")
	require.Less(t, time.Since(began), 200*time.Millisecond)
}

func TestEvidenceOfAnEarlierRunIsRemoved(t *testing.T) {
	stale := filepath.Join(OutDir(t), cleanName(t.Name()), "actual.png")
	require.NoError(t, os.MkdirAll(filepath.Dir(stale), 0o755))
	require.NoError(t, os.WriteFile(stale, nil, 0o600))
	dir := TestDir(t)
	require.NoFileExists(t, stale)
	t.Run("below", func(t *testing.T) { require.NoError(t, os.WriteFile(filepath.Join(TestDir(t), "deep"), nil, 0o600)) })
	require.FileExists(t, filepath.Join(TestDir(t), "below", "deep"))
	kept := filepath.Join(dir, "kept")
	require.NoError(t, os.WriteFile(kept, nil, 0o600))
	require.Equal(t, dir, TestDir(t))
	require.FileExists(t, kept)
}

func TestBenchHint(t *testing.T) {
	for pattern, hint := range map[string]bool{"./perf/...": true, "../perf": true, "...": true, ".": false, "Online/conc=4": false, "": false} {
		require.Equal(t, hint, benchHint(pattern) != "", pattern)
	}
}

// A shared stack is started once; with a dead stage it is replaced, because every later test would fail for that reason.
func TestSharedStack(t *testing.T) {
	spec := stack.Spec{Name: "shared-" + t.Name(), Stages: map[engine.Stage]stack.Stage{engine.DiT: {}}}
	first := Shared(t, spec)
	require.Same(t, first, Shared(t, spec))
	require.NoError(t, first.Instance(engine.DiT).Kill())
	<-first.Instance(engine.DiT).Done()
	second := Shared(t, spec)
	require.NotSame(t, first, second)
	require.NoError(t, second.Health(t.Context()))
	require.Nil(t, second.Stage(engine.Prefill))
}

func TestAttach(t *testing.T) {
	s := Start(t, stack.Spec{Stages: map[engine.Stage]stack.Stage{engine.DiT: {}}})
	attached := Attach(t, s.BaseURL)
	require.Empty(t, attached.PIDs())
	require.False(t, attached.Simulated(), "an engine that is known by its URL only is not known to be simulated")
	_, err := attached.Generate(t.Context(), api.ImageRequest{Prompt: "a red cube", ImageParams: api.ImageParams{Size: api.Size{W: 64, H: 64}, Steps: 1}})
	require.NoError(t, err)
}

// A process that was started to be a stage must never start stacks itself.
func TestNoStackInsideARole(t *testing.T) {
	t.Setenv(engine.RoleEnv, "dit")
	r := record(t, func(tb testing.TB) { Start(tb, stack.Spec{}) })
	require.Len(t, r.fatals, 1)
	require.Contains(t, r.fatals[0], "call omnitest.Main")
}

// TestResultsAreNotCached asks the go command itself: a test that talked to an engine must run again, although nothing that
// go test knows of has changed.
func TestResultsAreNotCached(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs go test twice")
	}
	for range 2 {
		cmd := exec.CommandContext(t.Context(), "go", "test", "-run", "^TestFlowOfText$", "../e2e")
		cmd.Env = append(os.Environ(), EnvOut+"=")
		text, err := cmd.CombinedOutput()
		require.NoError(t, err, string(text))
		require.False(t, strings.Contains(string(text), "(cached)"), "go test answered from its cache: %s", text)
	}
}
