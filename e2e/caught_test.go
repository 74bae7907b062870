package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/refstack"
)

// caught says for each fault of the reference stack which tests of this package must fail, and what the failure must say:
// the cause, not a symptom. A fault that is missing here and in testdata/fault-matrix.md fails TestEveryFaultIsCaught.
var caught = []struct {
	fault string
	tests string   // regexp for -test.run
	says  []string // each must stand in the output
}{
	// The longest come first: they wait for leases of 30 s and for a limit.
	{"decode.recompute=chat", "TestGateOfOneInMany$", []string{"1 handoff-proven: decode used the KV cache that prefill computed: refuted: decode computed"}},
	{"decode.recompute=long", "TestGateOfOneInMany$", []string{"1 handoff-proven: decode used the KV cache that prefill computed: refuted: decode computed"}},
	{"dit.stall", "TestSameSeedSamePixels", []string{"deadline", "dit no answer"}},
	{"proxy.drop-ticket", "TestHandoffProven$", []string{"refuted: ", "ticket was sent by prefill at +", "never forwarded by proxy", "decode computed"}},
	{"proxy.cross-tickets", "TestHandoffProven$", []string{"refuted: ", "decode was given the ticket of request", "to another request"}},
	{"prefill.zero-blocks", "TestHandoffProven$", []string{"refuted: ", "garbage, one character over and over: zeroed or missing blocks?"}},
	{"prefill.lost-head", "TestHandoffMargins", []string{"part of the KV is missing or wrong although the text is right"}},
	{"prefill.foreign-blocks", "TestHandoffProven$", []string{"refuted: ", "to another request"}},
	{"prefill.leak-on-abort", "TestTicketNobodyPulls", []string{"prefill did not release its KV blocks within"}},
	{"decode.silent-recompute", "TestHandoffProven$", []string{"refuted: decode computed", "prompt tokens itself", "bytes 0"}},
	{"decode.transfer-fails=fail", "TestHandoffProven$", []string{"refuted: ", "transfer", "failed"}},
	{"decode.transfer-fails=recompute", "TestHandoffProven$", []string{"refuted: ", "failed", "decode computed"}},
	{"decode.claim-hit-without-bytes", "TestHandoffProven$", []string{"refuted: ", "claims", "moved 0 bytes"}},
	{"decode.missing-series", "TestHandoffProven$", []string{"inconclusive: ", "vllm:nixl_bytes_transferred", "absent"}},
	{"decode.counter-reset", "TestHandoffProven$", []string{"inconclusive: ", "fell from", "restarted?"}},
	{"decode.truncate-stream", "TestHandoffProven$", []string{"truncated: ", "finish_reason", "[DONE]", "decode 200"}},
	{"decode.error-in-200", "TestStreamEqualsWhole", []string{"error inside a 200 answer", "decode 200", "200 with an error inside"}},
	{"decode.drift", "TestLongAnswersDoNotDrift$", []string{"divergence-onset", "from tokens 64..79 on", "answers and blocks part"}},
	{"decode.leak-slowly", "TestGateOfOneInMany$", []string{"5 nothing-kept: no request leaves a KV block behind: refuted: blocks stayed behind since the beginning", "decode did not release its KV blocks within"}},
	{"proxy.cache-answers", "TestGateOfOneInMany$", []string{"refuted: 4 identical requests were answered, and decode finished 3"}},
	{"dit.short-prompt", "TestGateOfOneInMany$", []string{"16 plan-read-whole: the picture shows the end of its plan: refuted: two plans of", "give the very same picture"}},
	{"dit.wrong-size", "TestImages", []string{"1008x1024", "1024x1024"}},
	{"dit.blank", "TestImages", []string{"blank"}},
	{"dit.wrong-letter", "TestTextRendering", []string{"image differs from golden", "text crop"}},
	{"dit.no-text", "TestTextRendering", []string{"image differs from golden", "text crop"}},
	{"dit.edit-ignored", "TestContentEdits", []string{"edit did not happen", "changed tiles"}},
	{"dit.edit-outside-region", "TestContentEdits", []string{"changed outside", "tile MAD"}},
	{"dit.edit-ignored", "TestEditOfUnknownRegion/recolour", []string{"edit did not happen", "changed tiles of the picture"}},
	{"dit.edit-redraws", "TestContentEdits/add-shape", []string{"picture changed outside the region: tile MAD at"}},
	{"dit.edit-redraws", "TestEditOfUnknownRegion/recolour", []string{"edit redrew more than it was asked for: changed tiles of the picture"}},
	{"dit.edit-redraws", "TestStyleEdits/black-and-white", []string{"style transfer: content lost, distance to the source"}},
	{"dit.edit-drift", "TestEditInTurns", []string{"picture drifted over the turns: mean of", "of 10: the later turns would repeat this"}},
	{"dit.mask-ignored", "TestEditWithMask", []string{"edit did not happen", "picture changed outside the region"}},
	{"dit.first-input-only", "TestEditOfSeveralInputs", []string{"another picture was put in: correlation of", "with desk-512"}},
	{"dit.extra-text", "TestTextRendering/(en|zh)/(open-24-hours|hotel-zh)", []string{"image differs from golden: outside the text boxes, at", "the difference is"}},
	{"dit.short-prompt", "TestTextRendering/en/fresh-coffee", []string{"image differs from golden", "metric  elsewhere"}},
	{"dit.wrong-colour", "TestCountAndPlace/one$", []string{"wrong number or place of things: 0 things are red, want 1"}},
	{"dit.wrong-colour", "TestSceneGoldens/red-cube|TestColourWordCounts/green", []string{"wrong colour: "}},
	{"dit.extra-shape", "TestCountAndPlace/place", []string{"wrong number or place of things: 2 things are red, want 1"}},
	{"dit.few-steps", "TestStepsCount/picture", []string{"4 and 5 steps gave the same pixels"}},
	{"dit.wrong-count", "TestSeveralPictures", []string{"4 pictures", "asked for 3"}},
	{"dit.silent-audio", "TestSpeech$", []string{"sound is silent: RMS -120, at least -50 (dBFS)"}},
	{"dit.clipped-audio", "TestSpeech$", []string{"sound is clipped: share of samples at full scale"}},
	{"dit.wrong-speech", "TestSpeech$", []string{"sound differs from golden: log-mel distance at"}},
	{"dit.truncated-audio", "TestSpeech$", []string{"wrong duration: ", "sound differs from golden: it lasts"}},
	{"dit.truncated-audio", "TestMixedAnswer", []string{"wrong duration: "}},
	{"dit.mixed-order", "TestMixedAnswer", []string{"the answer holds image, text, audio; want text, image, audio, in this order"}},
	{"proxy.truncate-speech", "TestSpeechThroughProxy/(whole|raw|chunks)", []string{"the proxy changed the sound: 16384 bytes at the entry, "}},
}

// TestEveryFaultIsCaught runs this test binary again for every fault, the way a person would: with OMNITEST_REF_FAULTS set.
// It proves of the tests above that they can fail, and that they fail with the right reason.
func TestEveryFaultIsCaught(t *testing.T) {
	needFreeHand(t)
	if testing.Short() {
		t.Skip("-short: starts a stack for each fault")
	}
	t.Parallel()
	covered := map[string]bool{}
	for _, c := range caught {
		covered[strings.Split(c.fault, "=")[0]] = true
		t.Run(c.fault, func(t *testing.T) {
			t.Parallel()
			code, text := rerun(t, c.tests, omnitest.EnvFaults+"="+c.fault)
			if code == 0 {
				t.Fatalf("%s passed with %s planted:\n%s", c.tests, c.fault, text)
			}
			for _, words := range c.says {
				if !strings.Contains(text, words) {
					t.Errorf("the failure does not say %q:\n%s", words, text)
				}
			}
		})
	}
	matrix, err := os.ReadFile("../testdata/fault-matrix.md") // what package gate saw, and is held to
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range refstack.AllFaults() {
		if !covered[f.Name] && !bytes.Contains(matrix, []byte(f.Name)) {
			t.Errorf("fault %s (%s) has no row in this table, nor in the fault matrix of package gate", f.Name, f.Doc)
		}
	}
}

// needFreeHand is for tests that choose the faults of the reference stack themselves.
func needFreeHand(t *testing.T) {
	t.Helper()
	omnitest.Require(t, "reference-stack", os.Getenv(omnitest.EnvFaults) == "" && os.Getenv(omnitest.EnvStack) == "",
		"this test plants its own faults in the reference stack; unset "+omnitest.EnvFaults+" and "+omnitest.EnvStack)
}

// TestHealthyStackRaisesNoAlarm is the other half: the same tests, run the same way without a fault, must pass.
func TestHealthyStackRaisesNoAlarm(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: runs most of the suite a second time")
	}
	needFreeHand(t)
	t.Parallel()
	var tests []string
	for _, c := range caught {
		tests = append(tests, c.tests)
	}
	if code, text := rerun(t, strings.Join(tests, "|")); code != 0 {
		t.Errorf("exit code %d:\n%s", code, text)
	}
}

// TestUnknownFaultIsRefused: a typo must not test the healthy stack in silence.
func TestUnknownFaultIsRefused(t *testing.T) {
	code, text := rerun(t, "TestFlowOfText", omnitest.EnvFaults+"=decode.silent-recompue")
	if code == 0 || !strings.Contains(text, `"decode.silent-recompue"`) || !strings.Contains(text, "decode.silent-recompute") {
		t.Errorf("exit code %d, want a refusal that lists the known faults:\n%s", code, text)
	}
}

// rerun starts this test binary again with other variables and gives its exit code and output.
func rerun(t *testing.T, tests string, env ...string) (code int, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run="+tests, "-test.timeout=5m")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s", omnitest.EnvOut, t.TempDir()))
	cmd.Env = append(cmd.Env, env...)
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	// The target lines name the planted fault; what the table looks for must stand in a failure.
	text = regexp.MustCompile(`(?m)^.*with planted faults.*\n`).ReplaceAllString(string(out), "")
	return cmd.ProcessState.ExitCode(), text
}
