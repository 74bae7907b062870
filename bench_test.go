// Package suite has no code; this file makes `go test -bench ./perf/...` do what it says.
package suite

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// TestMain catches a path given to -bench. The flag takes a regexp, so `go test -bench ./perf/...` asks for benchmarks named
// "./perf/..." in this folder: without this file an error, with an ordinary one here a green run that measured nothing.
// What was meant is run instead, with the same flags, and with what stands after -args.
func TestMain(m *testing.M) {
	own, theirs := split(os.Args[1:])
	os.Args = append(os.Args[:1:1], own...)
	flag.Parse()
	pattern := flag.Lookup("test.bench").Value.String()
	if !isPath(pattern) {
		if len(theirs) > 0 {
			fmt.Fprintf(os.Stderr, "%s: this folder takes no flags; run: go test -bench ./perf/... -args %s\n", strings.Join(theirs, " "), strings.Join(theirs, " "))
			os.Exit(2)
		}
		if pattern != "" {
			fmt.Fprintln(os.Stderr, "this folder has no benchmarks; run: go test -run '^$' -bench . ./perf/...")
		}
		os.Exit(m.Run())
	}
	args := command(pattern, passOn(), theirs)
	fmt.Fprintf(os.Stderr, "-bench takes a regexp, not a path; running: go %s\n", strings.Join(args, " "))
	cmd := exec.Command("go", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// isPath tells a path from a regexp.
func isPath(pattern string) bool {
	return strings.HasPrefix(pattern, "./") || strings.HasPrefix(pattern, "../") || strings.Contains(pattern, "...")
}

// split parts the arguments of go test (-test.bench=., all in this form) from those that stood after -args.
func split(args []string) (own, theirs []string) {
	n := slices.IndexFunc(args, func(a string) bool { return !strings.HasPrefix(a, "-test.") })
	if n < 0 {
		return args, nil
	}
	return args[:n], args[n:]
}

// command is what was meant.
func command(path string, flags, args []string) []string {
	all := append([]string{"test", "-run=^$", "-bench=."}, flags...)
	all = append(all, path)
	if len(args) > 0 {
		all = append(append(all, "-args"), args...)
	}
	return all
}

// passOn gives the benchmark flags that the user set.
func passOn() []string {
	var args []string
	flag.Visit(func(f *flag.Flag) {
		switch name := strings.TrimPrefix(f.Name, "test."); name {
		case "benchtime", "count", "cpu", "benchmem", "v", "short", "failfast", "timeout", "shuffle":
			args = append(args, fmt.Sprintf("-%s=%s", name, f.Value))
		}
	})
	return args
}

// TestPassOn: no flag would be read as a package.
func TestPassOn(t *testing.T) {
	for _, arg := range passOn() {
		if !strings.HasPrefix(arg, "-") || !strings.Contains(arg, "=") {
			t.Errorf("flag %q would be read as a package", arg)
		}
	}
}

// TestArguments: what stands after -args reaches perf as it was typed.
func TestArguments(t *testing.T) {
	own, theirs := split([]string{"-test.paniconexit0", "-test.timeout=10m0s", "-test.bench=./perf/...", "-max-concurrency=1,4", "-goodput", "ttft:100 tpot:20", "-test.v"})
	got := strings.Join(command("./perf/...", []string{"-timeout=10m0s"}, theirs), "|")
	if want := "test|-run=^$|-bench=.|-timeout=10m0s|./perf/...|-args|-max-concurrency=1,4|-goodput|ttft:100 tpot:20|-test.v"; got != want || len(own) != 3 {
		t.Errorf("%q is run, want %q; %q are ours", got, want, own)
	}
	own, theirs = split([]string{"-test.v=true"})
	if got := strings.Join(command("./perf", nil, theirs), "|"); got != "test|-run=^$|-bench=.|./perf" || len(own) != 1 {
		t.Errorf("without arguments %q is run", got)
	}
	for pattern, path := range map[string]bool{"./perf/...": true, "../perf": true, "perf/...": true, ".": false, "Online/conc=1": false, "": false} {
		if isPath(pattern) != path {
			t.Errorf("%q: is a path %t, want %t", pattern, !path, path)
		}
	}
}
