// Package omnitest tests disaggregated multimodal inference: a proxy, a prefill engine, a decode engine that receives
// its KV cache, and a diffusion transformer (DiT).
//
//	func TestMain(m *testing.M) { omnitest.Main(m) }
//
//	func TestPoster(t *testing.T) {
//		s := omnitest.Shared(t)
//		answer, err := s.Generate(t.Context(), api.ImageRequest{Prompt: `a poster that says "OPEN"`})
//		if err != nil {
//			t.Fatal(err)
//		}
//		omnitest.Check(t, answer, imagecheck.Count(1))
//	}
//
// testdata/example is a whole module that does so and also proves a handoff.
//
// With nothing configured the stack is the built-in reference stack: real processes, sockets, KV blocks and pictures,
// but a toy model, so every figure from it is marked simulated. OMNITEST_STACK=stack.yaml points the same tests at real
// engines.
//
// This package is thin and the only one that knows *testing.T. The rooms below it (stack, engine, api, handoff,
// imagecheck, ...) return errors and can be used from a program.
package omnitest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/refstack"
)

// Main is the whole TestMain: func TestMain(m *testing.M) { omnitest.Main(m) }. It does not return.
//
// The reference stack runs as processes of this very test binary; Main is where such a process finds its role. So a
// package that uses the reference stack needs Main, or Run and ServeRole in a TestMain of its own.
func Main(m *testing.M) {
	ServeRole()
	os.Exit(Run(m))
}

// Run is Main for suites that have a TestMain of their own: it runs the tests, stops shared stacks and gives the exit
// code. Call ServeRole first, before flags are parsed and before anything is set up.
func Run(m *testing.M) int {
	if !flag.Parsed() {
		flag.Parse()
	}
	if hint := benchHint(flagValue("test.bench")); hint != "" {
		fmt.Fprintln(os.Stderr, hint)
		return 1
	}
	if os.Getenv(EnvFaults) == "help" {
		fmt.Fprint(os.Stderr, faultHelp())
		return 1
	}
	binary.Lock()
	binary.running = true
	binary.Unlock()
	code := m.Run()
	if err := pool.close(); err != nil {
		fmt.Fprintln(os.Stderr, "omnitest: stopping shared stacks:", err)
		code = max(code, 1)
	}
	if text, nothing := skipSummary(); text != "" {
		fmt.Fprintln(os.Stderr, text)
		if nothing {
			code = max(code, 1)
		}
	}
	if err := unknownRequired(); err != nil {
		fmt.Fprintln(os.Stderr, "omnitest:", err)
		code = max(code, 1)
	}
	closeOut(code == 0)
	return code
}

// ServeRole does nothing in an ordinary test run. In a process that was started to be one stage of the reference stack it
// serves that stage and exits.
func ServeRole() {
	role := os.Getenv(engine.RoleEnv)
	if role == "" {
		return
	}
	if err := refstack.RunRole(context.Background(), role, []byte(os.Getenv(engine.RoleConfigEnv))); err != nil {
		fmt.Fprintf(os.Stderr, "omnitest: role %s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// benchHint recognises `go test -bench ./perf/...`: go takes the path as the regexp and tests the package in the current
// directory, which finishes green and measures nothing.
func benchHint(pattern string) string {
	if strings.HasPrefix(pattern, "./") || strings.HasPrefix(pattern, "../") || strings.Contains(pattern, "...") {
		return fmt.Sprintf("omnitest: -bench takes a regexp and got the path %q. Run: go test -run '^$' -bench . ./perf/...", pattern)
	}
	return ""
}

// faultHelp is the answer to OMNITEST_REF_FAULTS=help.
func faultHelp() string {
	var b strings.Builder
	fmt.Fprintf(&b, "The faults of the reference stack, for %s (several with commas):\n", EnvFaults)
	for _, f := range refstack.AllFaults() {
		name := f.Name
		if len(f.Values) > 0 {
			name += "=" + strings.Join(f.Values, "|")
		}
		fmt.Fprintf(&b, "  %-38s %s\n", name, f.Doc)
	}
	return b.String()
}

func flagValue(name string) string {
	if f := flag.Lookup(name); f != nil {
		return f.Value.String()
	}
	return ""
}
