package report_test

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/report"
)

// savedEvidence is a window as an older run left it: one request of 32 tokens, moved or not.
func savedEvidence(t *testing.T, external, bytes string) *handoff.Evidence {
	t.Helper()
	e := new(handoff.Evidence)
	require.NoError(t, json.Unmarshal([]byte(`{"schema":"omnitest.handoff/v1","dialect":"nixl","opened":"2026-11-24T08:00:00Z","closed":"2026-11-24T08:00:02Z","block_size":16,
		"prefill":{"counters":{"vllm:prompt_tokens_total":{"state":"present","delta":32},"vllm:request_success_total":{"state":"present","delta":1},
			"vllm:generation_tokens_total":{"state":"present","delta":1},"vllm:iteration_tokens_total_sum":{"state":"present","delta":33},
			"vllm:prompt_tokens_by_source_total{source=\"local_compute\"}":{"state":"present","delta":32},"vllm:prompt_tokens_by_source_total{source=\"local_cache_hit\"}":{"state":"present"},
			"vllm:nixl_num_kv_expired_reqs_total":{"state":"present"},"vllm:num_preemptions_total":{"state":"present"}}},
		"decode":{"counters":{"vllm:prompt_tokens_total":{"state":"present","delta":32},"vllm:request_success_total":{"state":"present","delta":1},
			"vllm:generation_tokens_total":{"state":"present","delta":4},"vllm:iteration_tokens_total_sum":{"state":"present","delta":4},
			"vllm:prompt_tokens_by_source_total{source=\"external_kv_transfer\"}":{"state":"present","delta":`+external+`},
			"vllm:prompt_tokens_by_source_total{source=\"local_compute\"}":{"state":"present"},"vllm:prompt_tokens_by_source_total{source=\"local_cache_hit\"}":{"state":"present"},
			"vllm:nixl_bytes_transferred_sum":{"state":"present","delta":`+bytes+`},"vllm:nixl_bytes_transferred_count":{"state":"present","delta":1},
			"vllm:nixl_num_failed_transfers_total":{"state":"present"},"vllm:nixl_num_failed_notifications_total":{"state":"present"},"vllm:num_preemptions_total":{"state":"present"}}},
		"flow":{"kept":false,"note":"no entry given"},
		"observations":[{"request_id":"r","prompt":"p","prompt_tokens":32,"output_tokens":4,"got":"fine","want":"fine","want_from":"known answer"}]}`), e))
	return e
}

// Windows are part of the document, and no view of it shows one that is refuted or in doubt as passed.
func TestHandoffWindows(t *testing.T) {
	good, bad := savedEvidence(t, "32", "32768"), savedEvidence(t, "32", "0")
	require.NoError(t, handoff.Proven(good).Err())
	r := report.Result{Target: "lab", Handoff: []report.Window{report.HandoffWindow("TestA", good), report.HandoffWindow("TestB", bad)}}
	doubt := report.HandoffWindow("TestC", good, handoff.Proven(good), handoff.Verdict{Claim: "no request outlived its deadline"})
	delete(doubt.Numbers, "decode.bytes")
	r.Handoff = append(r.Handoff, doubt)
	want := `## handoff: lab

| window | verdict      | requests | prompt tokens | from prefill | computed by decode |        bytes |
| ------ | ------------ | -------: | ------------: | -----------: | -----------------: | -----------: |
| TestA  | proven       |        1 |            32 |           32 |                  0 |        32768 |
| TestB  | refuted      |        1 |            32 |           32 |                  0 |            0 |
| TestC  | inconclusive |        1 |            32 |           32 |                  0 | not measured |

- proven in 1 of 3 windows
- TestB: decode used the KV cache that prefill computed: refuted: decode claims 32 transferred tokens, moved 0 bytes
- TestC: no request outlived its deadline: inconclusive: nothing was judged
`
	assert.Equal(t, want, report.Table(r))

	p, err := report.Write(t.TempDir(), r)
	require.NoError(t, err)
	back, err := report.Read(p.JSON)
	require.NoError(t, err)
	assert.Equal(t, want, report.Table(back), "the table can be made again from the document alone")
	line := back.Handoff[1].Requests[0]
	assert.Equal(t, handoff.StateInconclusive, line.State, "refuted as a window, not by name")
	assert.Equal(t, 0.0, *line.Bytes)
	assert.Nil(t, line.Blocks, "no ledger, no ticket: not 0 blocks")
	assert.Equal(t, 2*time.Second, time.Duration(back.Handoff[0].Seconds*float64(time.Second)))
}

// A window without a verdict, or with a word that no reader knows, is refused.
func TestHandoffWindowNeedsAVerdict(t *testing.T) {
	for want, verdicts := range map[string][]report.Verdict{
		`report: result refused: handoff window 0 "TestA": no verdict`:                                             nil,
		`report: result refused: handoff window 0 "TestA": verdict "passed", want proven, refuted or inconclusive`: {{Verdict: "passed"}},
	} {
		_, err := report.Write(filepath.Join(t.TempDir(), "x"), report.Result{Target: "lab", Handoff: []report.Window{{Name: "TestA", Verdicts: verdicts}}})
		require.EqualError(t, err, want)
	}
}
