// Package suite has no code; this file makes `go test -bench ./perf/...` do what it says.
package suite

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain catches a path given to -bench. The flag takes a regexp, so `go test -bench ./perf/...` asks for benchmarks named
// "./perf/..." in this folder: without this file an error, with an ordinary one here a green run that measured nothing.
// What was meant is run instead, with the same flags.
func TestMain(m *testing.M) {
	flag.Parse()
	pattern := flag.Lookup("test.bench").Value.String()
	if !strings.HasPrefix(pattern, "./") && !strings.HasPrefix(pattern, "../") && !strings.Contains(pattern, "...") {
		if pattern != "" {
			fmt.Fprintln(os.Stderr, "this folder has no benchmarks; run: go test -run '^$' -bench . ./perf/...")
		}
		os.Exit(m.Run())
	}
	args := append([]string{"test", "-run=^$", "-bench=."}, passOn()...)
	args = append(args, pattern)
	fmt.Fprintf(os.Stderr, "-bench takes a regexp, not a path; running: go %s\n", strings.Join(args, " "))
	cmd := exec.Command("go", args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = nil, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
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

// TestPassOn is a test that this package has, so that `go test ./...` does not report it as empty.
func TestPassOn(t *testing.T) {
	for _, arg := range passOn() {
		if !strings.HasPrefix(arg, "-") || !strings.Contains(arg, "=") {
			t.Errorf("flag %q would be read as a package", arg)
		}
	}
}
