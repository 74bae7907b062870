package omnitest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/omnitest/suite/omnitest/stack"
)

// The environment variables of the suite. They are read while a test runs and nowhere else: `go test` notices a changed
// variable only if the test itself has read it, so a value read in init or TestMain would give stale cached results.
const (
	EnvStack   = "OMNITEST_STACK"      // path of a stack.yaml; unset: the reference stack
	EnvFaults  = "OMNITEST_REF_FAULTS" // faults planted in the reference stages, "decode.silent-recompute,dit.blank"
	EnvOut     = "OMNITEST_OUT"        // folder for logs, evidence and results; unset: a temporary one, kept on failure
	EnvASR     = "OMNITEST_ASR"        // URL of a server of /v1/audio/transcriptions that checks what speech says; unset: not checked
	EnvUpdate  = "OMNITEST_UPDATE"     // 1: write goldens instead of only comparing
	EnvRequire = "OMNITEST_REQUIRE"    // capabilities whose absence fails instead of skips, "dit,goldens"; see Capabilities
)

// Spec is the topology that the environment asks for: OMNITEST_STACK if set, else the reference stack, with the faults of
// OMNITEST_REF_FAULTS.
func Spec() (stack.Spec, error) {
	var spec stack.Spec
	if path := os.Getenv(EnvStack); path != "" {
		var err error
		if spec, err = stack.Load(fromRoot(path)); err != nil {
			return spec, fmt.Errorf("%s: %w", EnvStack, err)
		}
	}
	if names := os.Getenv(EnvFaults); names != "" {
		if spec.FaultNames != "" {
			return spec, fmt.Errorf("%s and faults in %s=%s are both set; use one", EnvFaults, EnvStack, os.Getenv(EnvStack))
		}
		spec.FaultNames = names
		if err := spec.Validate(); err != nil {
			return spec, fmt.Errorf("%s: %w", EnvFaults, err)
		}
	}
	return spec, nil
}

// fromRoot finds a relative path where the user typed it: go test runs each package in its own folder, so a path that is not
// there is looked for in the folders above, up to the module's root.
func fromRoot(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	dir, err := os.Getwd()
	for err == nil {
		found := filepath.Join(dir, path)
		if _, missing := os.Stat(found); missing == nil {
			return found
		}
		if _, noRoot := os.Stat(filepath.Join(dir, "go.mod")); noRoot == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return path
}

// Updating is true when goldens are to be written (OMNITEST_UPDATE=1).
func Updating() bool { return os.Getenv(EnvUpdate) == "1" }

// Capabilities are the words that the suite's own tests give to Require.
var Capabilities = []string{
	"proxy", "prefill", "decode", "dit", // the stage is part of the stack
	"ledger",          // the proxy keeps a flow ledger
	"launched-stack",  // the stages were started by the test and may be broken
	"reference-stack", // faults or small pools can be planted
	"no-fallback",     // the proxy was not told to go on without prefill
	"legible-text",    // the model writes whole characters
	"language",        // the model answers a plain question
	"goldens",         // approved pictures exist for this DiT
	"offline",         // batches can be run without a server
	"short-lease",     // prefill gives tickets up after seconds
	"time-to-cancel",  // the engine is slow enough to be interrupted
	"ocr",             // tesseract is installed, with the language of the text
	"speech",          // the dit stage speaks
	"asr",             // a transcription server is named
	"browser",         // Chromium is installed, to open the report
	"vllm",            // real vLLM for a CPU is installed
	"llm-d",           // llm-d's simulator and sidecar are built (make thirdparty)
}

// required reads OMNITEST_REQUIRE.
func required() []string {
	var names []string
	for name := range strings.SplitSeq(os.Getenv(EnvRequire), ",") {
		if name = strings.TrimSpace(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// unknownRequired finds names in OMNITEST_REQUIRE that neither the suite nor a test of this run knows. A gate with a
// misspelt word protects nothing.
func unknownRequired() error {
	skipped.Lock()
	defer skipped.Unlock()
	for _, name := range required() {
		if !slices.Contains(Capabilities, name) && !skipped.asked[name] {
			return fmt.Errorf("%s names %q, which no test of this run asks for; known: %s", EnvRequire, name, strings.Join(Capabilities, ", "))
		}
	}
	return nil
}

// Require skips the test when a capability is missing, and fails it when OMNITEST_REQUIRE names that capability, so that a
// gate cannot turn green by losing its GPU. remedy tells what to do: "set OMNITEST_STACK to a stack with real engines".
func Require(tb testing.TB, capability string, have bool, remedy string) {
	tb.Helper()
	skipped.Lock()
	if skipped.asked == nil {
		skipped.asked = map[string]bool{}
	}
	skipped.asked[capability] = true
	skipped.Unlock()
	if have {
		return
	}
	if slices.Contains(required(), capability) {
		tb.Fatalf("%s is required (%s) and missing: %s", capability, EnvRequire, remedy)
	}
	skipped.Lock()
	skipped.tests = append(skipped.tests, fmt.Sprintf("%s (no %s)", tb.Name(), capability))
	skipped.Unlock()
	tb.Skipf("no %s: %s (%s=%s makes this a failure)", capability, remedy, EnvRequire, capability)
}
