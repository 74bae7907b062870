// Package e2e is the correctness gate: does a request travel proxy, prefill, decode and DiT, was the KV cache really handed
// over and used, and is the picture the one that was asked for.
//
//	go test ./e2e/...
//
// runs it on the built-in reference stack; OMNITEST_STACK=stack.yaml runs the same tests on real engines.
package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/stack"
)

func TestMain(m *testing.M) {
	// What runs side by side here, the rows of the table of faults and the killed suites, waits for leases and limits more than it
	// computes. A -parallel of the command line comes later and wins.
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	omnitest.Main(m)
}

// limit is how long one request may take before it counts as hung: real engines compile kernels inside the first request
// of a shape (vLLM-Omni 0.26 took up to 16 s), the reference stack needs a fraction of a second unless it was told to be slow.
func limit(s *omnitest.Stack) time.Duration {
	for _, stage := range []engine.Stage{engine.Prefill, engine.Decode, engine.DiT} {
		if in := s.Instance(stage); in != nil && !in.Simulated {
			return 5 * time.Minute
		}
	}
	switch {
	case s.Spec().Timing != (refstack.Timing{}):
		return time.Minute
	case hung.Load():
		return 3 * time.Second
	}
	return 15 * time.Second
}

// hung is set by the first request to a reference stack that got no answer. The suite would take a quarter of an hour to wait
// as long for each of the others.
var hung atomic.Bool

// requestContext ends with the request's limit or with the test.
func requestContext(t *testing.T, s *omnitest.Stack) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit(s))
	t.Cleanup(cancel)
	return ctx
}

// nonce is a word that no engine has seen, so that no prefix cache can answer in place of a handoff.
func nonce() string { return strings.ToLower(rand.Text()[:10]) }

// fail ends the test for a request that failed, with the proxy's story of it: which stage was asked, which answered.
func fail(t *testing.T, s *omnitest.Stack, requestID string, err error) {
	t.Helper()
	if errors.Is(err, context.DeadlineExceeded) {
		hung.Store(true)
	}
	t.Fatalf("%v\n  ledger  %s", err, story(s, requestID))
}

func story(s *omnitest.Stack, requestID string) string {
	if text := s.Explain(requestID); text != "" {
		return text
	}
	return "the entry keeps no flow ledger, or does not know request " + requestID
}

// needStages skips or fails a test on a stack that lacks a stage.
func needStages(t *testing.T, s *omnitest.Stack, stages ...engine.Stage) {
	t.Helper()
	for _, stage := range stages {
		omnitest.Require(t, string(stage), s.Stage(stage) != nil,
			"describe a "+string(stage)+" stage with its URL in the file that OMNITEST_STACK names")
	}
}

// open begins a handoff window.
func open(t *testing.T, s *omnitest.Stack, src handoff.Source) *handoff.Window {
	t.Helper()
	w, err := handoff.Open(requestContext(t, s), src)
	if err != nil {
		t.Fatalf("handoff window: %v", err)
	}
	return w
}

// closed ends a handoff window and keeps its evidence.
func closed(t *testing.T, s *omnitest.Stack, w *handoff.Window) *handoff.Evidence {
	t.Helper()
	e, err := w.Close(requestContext(t, s))
	if err != nil {
		t.Fatalf("handoff window: %v", err)
	}
	path := filepath.Join(omnitest.TestDir(t), "handoff.json")
	if err := e.WriteFile(path); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log("handoff evidence: " + path + "\n" + e.Report())
		}
	})
	return e
}

// private gives a spec for a stack of this test's own, with short limits where the reference engine serves. On a stack that
// is attached by URL there is nothing private: tests that break something skip.
func private(t *testing.T) stack.Spec {
	t.Helper()
	spec, err := omnitest.Spec()
	if err != nil {
		t.Fatal(err)
	}
	for name, st := range spec.Stages {
		omnitest.Require(t, "launched-stack", st.Engine != stack.EngineRemote,
			"this test breaks a stage on purpose and "+string(name)+" is attached by URL; let the stack launch it")
	}
	return spec
}
