package omnitest

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/omnitest/suite/"

// arrows says which rooms of this module a room may import, in code that is not a test. A room that is missing here is an
// error, so a new room is drawn before it is entered. Rooms that end in a comma-free line of their own import nothing.
var arrows = map[string]string{
	"omnitest":                  "api engine flow handoff refstack stack internal/proc",
	"omnitest/stack":            "api engine flow proxy refstack refstack/ar refstack/dit",
	"omnitest/vllmcpu":          "internal/devlock",
	"omnitest/doctor":           "stack vllmcpu internal/ports internal/devlock",
	"omnitest/engine":           "internal/proc internal/ports internal/devlock",
	"omnitest/api":              "internal/sse",
	"omnitest/flow":             "",
	"omnitest/proxy":            "flow",
	"omnitest/refstack":         "proxy refstack/ar refstack/dit",
	"omnitest/refstack/ar":      "",
	"omnitest/refstack/dit":     "fixtures/fonts",
	"omnitest/textcheck":        "api measure",
	"omnitest/measure":          "", // a value with its bound, and the folder of evidence: for every kind of check
	"omnitest/audiocheck":       "measure",
	"omnitest/handoff":          "api flow textcheck internal/prom",
	"omnitest/handoff/probe":    "api flow handoff textcheck imagecheck internal/prom",
	"omnitest/handoff/gate":     "api handoff handoff/probe textcheck imagecheck",
	"omnitest/wiretap":          "flow",
	"omnitest/netfault":         "internal/ports",
	"omnitest/imagecheck":       "api measure fixtures/fonts",
	"omnitest/load":             "stats",
	"omnitest/stats":            "",
	"omnitest/theory":           "", // pure: the standard library, no files, no network
	"omnitest/workload":         "api",
	"omnitest/eventlog":         "api metrics",
	"omnitest/canary":           "api metrics load internal/stamped",
	"omnitest/internal/stamped": "", // a server with planted, stamped times: for the canary, selftest and tests
	"omnitest/metrics":          "api flow",
	"omnitest/hw":               "metrics", // for Value: not measured is never 0
	"omnitest/hw/nvml":          "hw metrics",
	"omnitest/hw/dcgm":          "hw metrics internal/prom",
	"omnitest/report":           "api metrics hw handoff theory", // theory: a prediction stands beside what was measured
	"omnitest/report/plot":      "report",
	"omnitest/report/progress":  "",
	"omnitest/offline":          "refstack refstack/ar internal/proc",
	"omnitest/internal/proc":    "",
	"omnitest/internal/ports":   "",
	"omnitest/internal/devlock": "",
	"omnitest/internal/sse":     "",
	"omnitest/internal/prom":    "",
	"omnitest/internal/replay":  "",
	"omnitest/internal/fakepd":  "api flow",                                // for tests
	"omnitest/internal/refpd":   "proxy refstack refstack/ar refstack/dit", // for tests
	"fixtures":                  "",
	"fixtures/fonts":            "",

	"omnitest/internal/stamped/peers": "api load metrics vllmcpu internal/stamped", // a program: make peers
}

// forTests are rooms that only test code may enter, and that therefore may know *testing.T.
var forTests = []string{"omnitest/internal/fakepd", "omnitest/internal/refpd"}

// dependencies says which room lets which module in, and why. Test code may also use testify, go-cmp and rapid.
var dependencies = []struct{ module, rooms, why string }{
	{"github.com/gofrs/flock", "omnitest/internal/ports omnitest/internal/devlock", "file locks that fall with the process, on every platform"},
	{"github.com/shirou/gopsutil/v4", "omnitest/hw", "CPU and memory of a process tree on Linux and darwin"},
	{"github.com/NVIDIA/go-nvml", "omnitest/hw/nvml", "NVML, opened at run time; the only cgo"},
	{"go.yaml.in/yaml/v3", "omnitest/stack", "stack.yaml, strictly"},
	{"github.com/prometheus/client_golang", "omnitest/refstack/ar omnitest/refstack/dit omnitest/proxy", "serves /metrics exactly as vLLM's own client library does"},
	{"github.com/prometheus/common", "omnitest/internal/prom omnitest/refstack/ar", "reads and writes the exposition format"},
	{"github.com/prometheus/client_model", "omnitest/internal/prom omnitest/refstack/ar", "the types of that parser"},
	{"github.com/corona10/goimagehash", "omnitest/imagecheck", "perceptual hashes; pinned at v1.1.0, see imagecheck/hash.go"},
	{"golang.org/x/sys", "omnitest/internal/stamped omnitest/load omnitest/canary", "sleeping to the microsecond and binding to cores, on Linux"},
	{"golang.org/x/image", "omnitest/api omnitest/imagecheck omnitest/audiocheck omnitest/refstack/dit fixtures/fonts", "WebP, scaling, fonts"},
	{"gonum.org/v1/gonum", "omnitest/load", "incomplete gamma and beta functions, for the test of the sent times"},
	{"gonum.org/v1/plot", "omnitest/report/plot", "PNG and SVG files; apart from report, whose page needs no drawing library"},
	{"github.com/vbauerster/mpb/v8", "omnitest/report/progress", "a bar that redraws itself and leaves the terminal as it was"},
	{"golang.org/x/term", "omnitest/report/progress", "is standard error a terminal"},
	{"github.com/alecthomas/kong", "omnitest/cmd/omnitest", "command lines as structs, with help that cannot lag behind"},
	{"github.com/google/go-cmp", "omnitest/handoff omnitest/imagecheck omnitest/report", "structural diffs in failure texts"},
}

type listed struct {
	ImportPath, Dir string
	Imports         []string
	GoFiles         []string
}

func packages(t *testing.T) map[string]listed {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-json=ImportPath,Dir,Imports,GoFiles", module+"omnitest/...", module+"fixtures/...")
	out, err := cmd.Output()
	require.NoError(t, err)
	all := map[string]listed{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p listed
		err := d.Decode(&p)
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
		all[strings.TrimPrefix(p.ImportPath, module)] = p
	}
	return all
}

func TestArrows(t *testing.T) {
	all := packages(t)
	for name, p := range all {
		allowed, known := arrows[name]
		command := strings.HasPrefix(name, "omnitest/cmd/") // may enter any room but the facade
		if !known && !command {
			t.Errorf("%s: a room that the table does not know; add it and its arrows", name)
			continue
		}
		for _, imp := range p.Imports {
			room, ours := strings.CutPrefix(imp, module)
			switch {
			case command && room == "omnitest":
				t.Errorf("%s imports the facade, which is for tests", name)
			case ours && slices.Contains(forTests, "omnitest/"+strings.TrimPrefix(room, "omnitest/")):
				t.Errorf("%s imports %s, which is for tests alone", name, room)
			case ours && !command && !slices.Contains(strings.Fields(allowed), strings.TrimPrefix(room, "omnitest/")):
				t.Errorf("%s imports %s, which is no arrow of the design", name, room)
			case imp == "testing" && name != "omnitest" && !slices.Contains(forTests, name):
				t.Errorf("%s imports testing; only the facade may, because programs use the other rooms", name)
			case strings.Contains(imp, ".") && !ours:
				checkDependency(t, name, imp)
			}
		}
	}
	for name := range arrows {
		if _, there := all[name]; !there {
			t.Errorf("%s is in the table but not in the module; take it out", name)
		}
	}
}

func checkDependency(t *testing.T, room, imp string) {
	t.Helper()
	for _, d := range dependencies {
		if imp == d.module || strings.HasPrefix(imp, d.module+"/") {
			if !slices.Contains(strings.Fields(d.rooms), room) {
				t.Errorf("%s imports %s, which may enter only %s (%s)", room, imp, d.rooms, d.why)
			}
			return
		}
	}
	t.Errorf("%s imports %s, a module without a reason in the table", room, imp)
}

// TestOnlyTheFacadeReadsTheEnvironment: a room that reads a variable behind its caller's back cannot be configured by code,
// and go test does not see the variable if the room read it too early.
func TestOnlyTheFacadeReadsTheEnvironment(t *testing.T) {
	for name, p := range packages(t) {
		if name == "omnitest" || strings.HasPrefix(name, "omnitest/cmd/") {
			continue
		}
		for _, file := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, 0)
			require.NoError(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if id, ok := sel.X.(*ast.Ident); ok && id.Name == "os" && (sel.Sel.Name == "Getenv" || sel.Sel.Name == "LookupEnv") {
					t.Errorf("%s/%s calls os.%s; take the value as a field instead", name, file, sel.Sel.Name)
				}
				return true
			})
		}
	}
}
