package report

import (
	"os"
	"runtime"
	"runtime/debug"
	"strings"
)

// Environment is the machine that the client ran on. It has no host or user name.
type Environment struct {
	Go       string `json:"go"`
	OS       string `json:"os"`
	Arch     string `json:"arch"`
	CPUs     int    `json:"cpus"`
	MaxProcs int    `json:"gomaxprocs"`
	CPU      string `json:"cpu,omitempty"`    // model, as the kernel names it; "": not known
	Kernel   string `json:"kernel,omitempty"` // release; "": not known
}

// Here is the environment of this process. Model and kernel are known on Linux.
func Here() Environment {
	e := Environment{Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, CPUs: runtime.NumCPU(), MaxProcs: runtime.GOMAXPROCS(0)}
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if key, model, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == "model name" {
				e.CPU = strings.Join(strings.Fields(model), " ")
				break
			}
		}
	}
	if raw, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		e.Kernel = strings.TrimSpace(string(raw))
	}
	return e
}

// Provenance says which program made the figures.
type Provenance struct {
	Tool     string   `json:"tool,omitempty"`     // "omnitest", or the tool whose file was imported
	Version  string   `json:"version,omitempty"`  // of the module; "(devel)": a checkout
	Revision string   `json:"revision,omitempty"` // of the checkout, where the build recorded it (go test does not)
	Modified bool     `json:"modified,omitempty"` // the checkout had changes
	Flags    []string `json:"flags,omitempty"`    // of the run, "-max-concurrency=1,4"; given by the caller, without paths and hosts
}

const modulePath = "github.com/omnitest/suite"

// filled adds what the build knows about itself to what the caller said.
func (p Provenance) filled() Provenance {
	if p.Tool != "" {
		return p
	}
	p.Tool = "omnitest"
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return p
	}
	main := info.Main
	for _, dep := range info.Deps {
		if dep.Path == modulePath {
			main = *dep // somebody else's test: the version that they import
		}
	}
	p.Version = main.Version
	if main.Path != modulePath {
		return p
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			p.Revision = s.Value
		case "vcs.modified":
			p.Modified = s.Value == "true"
		}
	}
	return p
}
