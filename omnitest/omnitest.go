// Package omnitest is the facade: the only room that knows *testing.T.
package omnitest

import (
	"testing"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/stack"
)

// Stack is a running stack in a test. The embedded Client talks to its entry, the proxy.
type Stack struct {
	*api.Client
}

// Shared gives the stack of this spec, started once per test binary. No spec: OMNITEST_STACK, else the reference stack.
func Shared(tb testing.TB, spec ...stack.Spec) *Stack { panic("not built yet") }

// Start gives a private stack that stops with the test.
func Start(tb testing.TB, spec stack.Spec) *Stack { panic("not built yet") }

// Target says what is being tested: "reference stack (simulated)".
func (s *Stack) Target() string { panic("not built yet") }

// Simulated is true when any stage runs on the reference engine: its figures are not a real engine's.
func (s *Stack) Simulated() bool { panic("not built yet") }

// Stage gives a client of one stage, bypassing the proxy.
func (s *Stack) Stage(stage engine.Stage) *api.Client { panic("not built yet") }

// Handoff is the source of handoff windows over this stack.
func (s *Stack) Handoff() handoff.Source { panic("not built yet") }

// PIDs of the processes we launched, by stage (stages attached by URL are missing).
func (s *Stack) PIDs() map[engine.Stage]int { panic("not built yet") }

// OutDir is where this test binary keeps its evidence and results.
func OutDir(tb testing.TB) string { panic("not built yet") }

// Check runs every check on v and reports all failures, not the first.
func Check[T any](tb testing.TB, v T, checks ...func(T) error) { panic("not built yet") }

// Main is the whole TestMain: func TestMain(m *testing.M) { omnitest.Main(m) }.
func Main(m *testing.M) { panic("not built yet") }
