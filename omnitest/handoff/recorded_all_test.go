package handoff

import (
	"encoding/json"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/replay"
)

// restOfTheCases are the recorded cases that TestRecordedVerdicts does not have, in the same form.
var restOfTheCases = func() map[string][3]string {
	const asWanted = "; 1 answer as wanted (control: a third server)"
	const nobodyCounted = "inconclusive: decode's counters saw none of the 1 answered request: is recorded its own metrics page?"
	const lease = "decode pulled 1 ticket that prefill had already given up: the blocks may have been reused"
	const held = "prefill is idle and still holds KV blocks: usage 0.0005, before the window 0.0000: was it told that decode has them?; "
	const patience = "ended by our own deadline or cancellation, not by the stack: the client's timeout of 500ms ran out"
	// Proven without a ledger, Proven with one ("": the same), state of Moved.
	m := map[string][3]string{
		// The prefix cache that a crossed ticket poisoned: nothing moves, and the answer is foreign still.
		"nixl/06-after-crossed-b-plain-poisoned-prefix": {"refuted: decode computed 4 of 100 prompt tokens itself (iteration_tokens +20, bytes 0); text diverges at byte 0: ",
			"refuted: decode computed 4 of 100 prompt tokens itself (iteration_tokens +20, bytes 0); sent to decode without having been at prefill; text diverges at byte 0: ", "refuted"},
		"nixl/10-len-0032": {"proven: decode took 32 of 32 prompt tokens from prefill (131072 bytes), computed 0 itself" + asWanted, "", "proven"},
		"nixl/10-len-0064": {"proven: decode took 64 of 64 prompt tokens from prefill (262144 bytes), computed 0 itself" + asWanted, "", "proven"},
		"nixl/10-len-0128": {"proven: decode took 128 of 128 prompt tokens from prefill (524288 bytes), computed 0 itself" + asWanted, "", "proven"},
		"nixl/10-len-0256": {"proven: decode took 256 of 256 prompt tokens from prefill (1048576 bytes), computed 0 itself" + asWanted, "", "proven"},
		"nixl/10-len-1024": {"proven: decode took 1024 of 1024 prompt tokens from prefill (4194304 bytes), computed 0 itself" + asWanted, "", "proven"},
		"nixl/16-chat":     {"proven: decode took 151 of 151 prompt tokens from prefill (655360 bytes), computed 0 itself" + asWanted, "", "proven"},
		// Prefill alone: without a ledger the counters can only doubt, with one the missing leg is named.
		"nixl/13-never-pulled-lease": {nobodyCounted + "; " + lease + "; prefill freed the blocks of 1 ticket that nobody pulled in time",
			"refuted: prefill answered at +12 ms, decode was never called; ", "inconclusive"},
		"nixl/15-decode-aborted-at-once": {nobodyCounted, "refuted: prefill answered at +12 ms, decode was never called; ", "inconclusive"},
		"nixl/17-prefill-stream-true-and-max4": {"refuted: prefill generated 5 tokens for 2 ticket legs, which ask for 2; decode's counters saw none of the 2 answered requests: ",
			"refuted: prefill generated 5 tokens for 2 ticket legs, which ask for 2; request max4: prefill answered at +12 ms, decode was never called; request stream: prefill answered at +12 ms without a ticket; ", "refuted"},
		// The recorder's own patience ended, on an engine that was healthy (14) and on one that hung (20): nobody can tell which.
		"nixl/14-decode-aborted-after-first-chunk": {"inconclusive: decode moved 2490368 bytes but counts no transferred tokens; " + patience, "", "inconclusive"},
		"nixl/20-missing-remote_request_id": {"inconclusive: request broken: " + patience,
			"refuted: request broken: ticket was altered between prefill and decode: remote_request_id was dropped; request broken: " + patience, "inconclusive"},
		"nixl/21-empty-block-ids": {"refuted: request broken: request failed: EngineCore encountered an issue. See stack trace (above) for the root cause. (and 1 more like it); decode: scrape: connection refused",
			"refuted: request broken: ticket was altered between prefill and decode: remote_block_ids [[146,152,153,154]] became [[]]; request broken: request failed: EngineCore encountered an issue.", "refuted"},
		// Decode told a request id that prefill never gave: the blocks came and the text is right, but prefill could not free
		// them for this request, and says so.
		"nixl/22-wrong-request-id": {"refuted: " + held + lease, "refuted: request broken: decode was given the ticket of request ffffffff (from before the window); " + held + lease, "refuted"},
		// A wrong port of an engine that decode had shaken hands with before: it works, and only the ledger knows.
		"nixl/28-wrong-port-known-engine": {"proven: decode took 170 of 170 prompt tokens from prefill (917504 bytes), computed 0 itself; 2 answers as wanted (control: a third server)",
			"refuted: request broken: ticket was altered between prefill and decode: remote_port 5600 became 5999", "proven"},

		"example/01-proper":                      {"proven: decode took 96 of 100 prompt tokens from prefill, computed 4 itself" + asWanted, "", "proven"},
		"example/02-proper-again-full-local-hit": {"inconclusive: nothing needed to move: decode already had 96 of 100 prompt tokens in its own prefix cache", "", "inconclusive"},
		"example/03-withheld-ticket":             {"proven: decode took 96 of 100 prompt tokens from prefill, computed 4 itself" + asWanted, "", "proven"}, // blocks are found by content
		"example/04-decode-only-no-prefill":      {"refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes not counted)", "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes not counted); sent to decode without having been at prefill", "refuted"},
		"example/10-len-0016":                    {"inconclusive: nothing needed to move: 16 prompt tokens are within the 33 that decode may compute itself", "", "inconclusive"},
		"example/10-len-0032":                    {"inconclusive: nothing needed to move: 32 prompt tokens are within the 33 that decode may compute itself", "", "inconclusive"},
		"example/10-len-0033":                    {"inconclusive: nothing needed to move: 33 prompt tokens are within the 33 that decode may compute itself", "", "inconclusive"},
		"example/10-len-0256":                    {"proven: decode took 224 of 256 prompt tokens from prefill, computed 32 itself" + asWanted, "", "proven"},
		"example/16-chat":                        {"proven: decode took 128 of 151 prompt tokens from prefill, computed 23 itself" + asWanted, "", "proven"},
	}
	return m
}()

// TestRecordedVerdictsOfTheRest gives every other recorded case its name.
func TestRecordedVerdictsOfTheRest(t *testing.T) {
	for folder, want := range restOfTheCases {
		t.Run(folder, func(t *testing.T) {
			t.Parallel() // some wait for an engine that hung
			d := &NIXL
			if strings.HasPrefix(folder, "example/") {
				d = &Example
			}
			for _, ledger := range []bool{false, true} {
				e := evidenceOf(t, d, folder, ledger)
				if d == &NIXL {
					e.BytesPerToken = 4096
				}
				text := want[0]
				if ledger && want[1] != "" {
					text = want[1]
				}
				assert.True(t, strings.HasPrefix(Proven(e).String(), text), "ledger %v:\nwant %s\ngot  %s", ledger, text, Proven(e))
				if !ledger {
					assert.True(t, strings.HasPrefix(Moved(e).String(), want[2]+":"), Moved(e).String())
				}
			}
		})
	}
}

// TestEveryRecordedCaseHasAVerdict: a case that is added to the recordings and to no table fails here.
func TestEveryRecordedCaseHasAVerdict(t *testing.T) {
	n := 0
	for _, connector := range []string{"nixl", "example"} {
		cases, err := fs.ReadDir(recordings, "vllm-0.32.0/"+connector)
		require.NoError(t, err)
		for _, c := range cases {
			if !c.IsDir() {
				continue
			}
			n++
			_, rest := restOfTheCases[connector+"/"+c.Name()]
			first := connector == "nixl" && recordedVerdicts[c.Name()]
			assert.True(t, rest != first, "%s/%s must be in exactly one table", connector, c.Name())
		}
	}
	assert.Equal(t, 42, n)
	assert.Equal(t, 42, len(restOfTheCases)+len(recordedVerdicts), "a table names a case that is not recorded")
}

// TestRecordedTickets: every ticket that a real prefill gave passes, and every broken one that a real decode was sent fails
// where it is the ticket itself that is broken, not its meaning: a wrong port is a good ticket to nowhere.
func TestRecordedTickets(t *testing.T) {
	broken := map[string]string{
		"vllm-0.32.0/nixl/20-missing-remote_request_id/d.json": "ticket lacks remote_request_id",
		"vllm-0.32.0/nixl/21-empty-block-ids/d.json":           "ticket names no blocks (remote_block_ids [[]])",
		"vllm-gpu-pd-0.26.0/http/054-missing-host-D.json":      "ticket lacks remote_host",
	}
	given, sentOn, none, asks := 0, 0, 0, 0
	for _, dir := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		list, paths, err := replay.LoadAll(recordings, dir)
		require.NoError(t, err)
		for i, x := range list {
			var answer, request sent
			if !x.Streamed() && json.Unmarshal(x.Body, &answer) == nil && answer.Ticket != nil {
				if string(answer.Ticket) == "null" {
					none++
					assert.EqualError(t, CheckTicket(&NIXL, answer.Ticket), "no ticket", paths[i])
				} else {
					given++
					assert.NoError(t, CheckTicket(&NIXL, answer.Ticket), paths[i])
				}
			}
			if json.Unmarshal(x.RequestBody, &request) != nil || request.Ticket == nil || string(request.Ticket) == "null" {
				continue
			}
			if strings.Contains(string(request.Ticket), `"do_remote_decode": true`) || strings.Contains(string(request.Ticket), `"do_remote_decode":true`) {
				asks++
				assert.True(t, sameValues(NIXL.Ask, request.Ticket), "%s: the ask of the recorder is the dialect's: %s", paths[i], request.Ticket)
				assert.ErrorContains(t, CheckTicket(&NIXL, request.Ticket), "ticket lacks remote_engine_id", "%s: an ask is no ticket", paths[i])
				continue
			}
			sentOn++
			if want := broken[paths[i]]; want != "" {
				assert.EqualError(t, CheckTicket(&NIXL, request.Ticket), want, paths[i])
				delete(broken, paths[i])
			} else {
				assert.NoError(t, CheckTicket(&NIXL, request.Ticket), paths[i])
			}
		}
	}
	assert.Empty(t, broken, "recorded broken tickets that were not met")
	assert.Equal(t, [3]int{60, 56, 69}, [3]int{given, sentOn, asks}, "tickets given by prefill, sent to decode, asked for")
	assert.NotZero(t, none)
}

func sameValues(a, b json.RawMessage) bool {
	var x, y map[string]any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil || len(x) != len(y) {
		return false
	}
	for k, v := range x {
		if w, ok := y[k]; !ok || w != v {
			return false
		}
	}
	return true
}
