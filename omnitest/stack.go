package omnitest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/proc"
	"github.com/omnitest/suite/omnitest/stack"
)

// Stack is a running stack in a test. The embedded Client talks to its entry, the proxy.
type Stack struct {
	*api.Client
	run *stack.Stack
}

// Start gives a private stack that stops with the test. Tests that kill, starve or break a stage use it.
func Start(tb testing.TB, spec stack.Spec) *Stack {
	tb.Helper()
	s, err := launch(tb, spec)
	if err != nil {
		tb.Fatal(err)
	}
	countTested(tb)
	tb.Cleanup(func() {
		s.tellOnFailure(tb)
		if err := s.Stop(); err != nil {
			tb.Errorf("stopping the stack: %v", err)
		}
	})
	return s
}

// Shared gives the stack of this spec, started once per test binary and stopped by Main. No spec: the one that the
// environment asks for (see Spec). A shared stack with a dead stage is replaced by a new one.
func Shared(tb testing.TB, spec ...stack.Spec) *Stack {
	tb.Helper()
	var want stack.Spec
	switch len(spec) {
	case 0:
		var err error
		if want, err = Spec(); err != nil {
			tb.Fatal(err)
		}
	case 1:
		want = spec[0]
	default:
		tb.Fatal("Shared takes one spec")
	}
	binary.Lock()
	managed := binary.running
	binary.Unlock()
	if !managed {
		return Start(tb, want) // no Main, so nobody would stop a shared stack
	}
	s := pool.get(tb, want)
	countTested(tb)
	tb.Cleanup(func() { s.tellOnFailure(tb) })
	return s
}

// Attach gives a stack of which only the entry's URL is known: no handoff evidence can be had, all else works.
func Attach(tb testing.TB, url string) *Stack {
	tb.Helper()
	return Shared(tb, stack.Spec{Stages: map[engine.Stage]stack.Stage{engine.Proxy: {Engine: stack.EngineRemote, URL: url}}})
}

func launch(tb testing.TB, spec stack.Spec) (*Stack, error) {
	tb.Helper()
	if role := os.Getenv(engine.RoleEnv); role != "" {
		// This process was started to be a stage. Starting stacks from it would start processes without end.
		tb.Fatalf("%s=%s, but this process runs tests: call omnitest.Main (or ServeRole) first thing in TestMain", engine.RoleEnv, role)
	}
	neverCache()
	ctx, cancel := startContext(tb)
	defer cancel()
	out := OutDir(tb) // may end the test, so not under the lock
	binary.Lock()
	binary.launched++
	dir := filepath.Join(out, fmt.Sprintf("stack-%d", binary.launched))
	binary.Unlock()
	run, err := stack.Launch(ctx, spec, stack.Options{Dir: dir, Label: tb.Name(), Report: func(line string) { tb.Log(line) }})
	if err != nil {
		return nil, fmt.Errorf("the stack did not start:\n%w", err)
	}
	entry := run.Entry()
	s := &Stack{Client: &api.Client{BaseURL: entry.BaseURL, Model: entry.Model}, run: run}
	tb.Log("target: " + s.Target())
	if a, ok := tb.(interface{ Attr(key, value string) }); ok {
		a.Attr("target", s.Target())
	}
	return s, nil
}

// startContext bounds a start by the test's own deadline, less the time to report and clean up. It is not tb.Context():
// a shared stack outlives the test that happened to start it.
func startContext(tb testing.TB) (context.Context, context.CancelFunc) {
	if d, ok := tb.(interface{ Deadline() (time.Time, bool) }); ok {
		if end, ok := d.Deadline(); ok {
			return proc.Deadline(context.Background(), end)
		}
	}
	return context.WithCancel(context.Background())
}

// Stop ends a stack before its test does. Only for stacks from Start.
func (s *Stack) Stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	return s.run.Stop(ctx)
}

// Target says what is being tested: "reference stack (simulated)".
func (s *Stack) Target() string { return s.run.Target() }

// Simulated is true when any stage runs on the reference engine: its figures are not a real engine's.
func (s *Stack) Simulated() bool { return s.run.Simulated() }

// Stage gives a client of one stage, bypassing the proxy; nil when the stack has no such stage.
func (s *Stack) Stage(stage engine.Stage) *api.Client {
	in := s.run.Instance(stage)
	if in == nil {
		return nil
	}
	return &api.Client{BaseURL: in.BaseURL, Model: in.Model, Timeout: s.Timeout, Limits: s.Limits}
}

// Instance gives the running instance of a stage for tests that kill or freeze it; nil when there is none.
func (s *Stack) Instance(stage engine.Stage) *engine.Instance { return s.run.Instance(stage) }

// Spec is the topology that was launched.
func (s *Stack) Spec() stack.Spec { return s.run.Spec }

// Handoff is the source of handoff windows over this stack.
func (s *Stack) Handoff() handoff.Source {
	stages := s.run.Spec.Stages
	src := handoff.Source{Entry: s.Client, DiT: s.Stage(engine.DiT), BlockSize: stages[engine.Decode].BlockSize, Lease: stages[engine.Prefill].Lease}
	for stage, end := range map[engine.Stage]*handoff.Endpoint{engine.Prefill: &src.Prefill, engine.Decode: &src.Decode} {
		if in := s.run.Instance(stage); in != nil {
			*end = handoff.Endpoint{API: s.Stage(stage), MetricsURL: in.MetricsURL}
		}
	}
	return src
}

// Dead names the first stage whose process has ended although nobody stopped it, and why; "" while all live.
func (s *Stack) Dead() (engine.Stage, error) { return s.run.Dead() }

// PIDs of the processes we launched, by stage (stages attached by URL are missing).
func (s *Stack) PIDs() map[engine.Stage]int {
	pids := map[engine.Stage]int{}
	for _, stage := range s.run.Stages() {
		if pid := s.run.Instance(stage).PID(); pid != 0 {
			pids[stage] = pid
		}
	}
	return pids
}

// Ledger reads the proxy's flow ledger: every record after Seq since.
func (s *Stack) Ledger(ctx context.Context, since int64) ([]flow.Record, error) {
	var page flow.Page
	err := s.GetJSON(ctx, fmt.Sprintf("%s?since=%d", flow.Path, since), &page)
	return page.Records, err
}

// Explain tells from the flow ledger how far a request came: "prefill 200 in 12 ms, decode 200 in 30 ms, dit: no answer
// after 10.0 s". It is "" when the entry keeps no ledger or does not know the request.
func (s *Stack) Explain(requestID string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	records, err := s.Ledger(ctx, 0)
	if err != nil {
		return ""
	}
	for i := len(records) - 1; i >= 0; i-- {
		if r := &records[i]; r.RequestID == requestID {
			return r.String()
		}
	}
	return ""
}

// tellOnFailure adds to a failed test what its stack has to say.
func (s *Stack) tellOnFailure(tb testing.TB) {
	if !tb.Failed() {
		return
	}
	var b strings.Builder
	fmt.Fprintf(&b, "stack  %s", s.Target())
	for _, stage := range s.run.Stages() {
		in := s.run.Instance(stage)
		fmt.Fprintf(&b, "\n  %-8s %s", stage, in.BaseURL)
		if in.PID() == 0 {
			continue
		}
		fmt.Fprintf(&b, "  pid %d  log %s", in.PID(), in.LogPath())
		if last := in.Tail(1); len(last) > 0 {
			fmt.Fprintf(&b, "  last line: %s", last[0])
		}
		if err := in.Err(); err != nil {
			fmt.Fprintf(&b, "\n           ended: %v", err)
		}
	}
	tb.Log(b.String())
}

// binary is what this test binary knows of itself.
var binary struct {
	sync.Mutex
	running  bool // Main or Run is in charge and will close the pool
	launched int
}

// pool holds the shared stacks by their spec, and why a spec could not be started: every test would wait for the same failure
// again otherwise.
var pool sharedPool

type sharedPool struct {
	mu     sync.Mutex
	stacks map[string]*Stack
	failed map[string]error
}

func (p *sharedPool) get(tb testing.TB, spec stack.Spec) *Stack {
	tb.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		tb.Fatal(err)
	}
	key := string(raw)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.failed[key]; err != nil {
		tb.Fatalf("the shared stack could not be started before:\n%v", err)
	}
	if s := p.stacks[key]; s != nil {
		stage, cause := s.run.Dead()
		if stage == "" {
			return s
		}
		tb.Logf("the shared stack lost its %s stage and is replaced: %v", stage, cause)
		if err := s.Stop(); err != nil {
			tb.Log(err)
		}
	}
	if p.stacks == nil {
		p.stacks, p.failed = map[string]*Stack{}, map[string]error{}
	}
	s, err := launch(tb, spec)
	if err != nil {
		p.failed[key] = err
		tb.Fatal(err)
	}
	p.stacks[key] = s
	return s
}

func (p *sharedPool) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var first error
	for _, s := range p.stacks {
		if err := s.Stop(); err != nil && first == nil {
			first = err
		}
	}
	p.stacks = nil
	return first
}
