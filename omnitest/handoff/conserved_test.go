package handoff

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

func TestConserved(t *testing.T) {
	const bytes, block = 512 * 1024, 16 * 1024
	for _, c := range []struct {
		name  string
		plant func(e *Evidence)
		want  string
	}{
		{"healthy", func(*Evidence) {}, "proven: decode moved 524288 bytes: 32 blocks of 16 tokens x 1024 bytes"},
		{"content is not its business", func(e *Evidence) { e.Observations[0].Got = "garbage" }, "proven: decode moved 524288 bytes: 32 blocks of 16 tokens x 1024 bytes"},
		{"one block short", func(e *Evidence) { e.set(&e.Decode, NIXL.Bytes, bytes-block) }, "refuted: moved 507904 bytes, 524288 needed: 32 blocks of 16 tokens x 1024 bytes"},
		{"half, as of another dtype", func(e *Evidence) { e.set(&e.Decode, NIXL.Bytes, bytes/2) }, "refuted: moved 262144 bytes, 524288 needed: 32 blocks of 16 tokens x 1024 bytes"},
		{"too much", func(e *Evidence) { e.set(&e.Decode, NIXL.Bytes, bytes+block) }, "inconclusive: moved 540672 bytes, 524288 needed: 32 blocks of 16 tokens x 1024 bytes"},
		{"claims alone", func(e *Evidence) { e.set(&e.Decode, NIXL.Bytes, 0) }, "refuted: decode claims 512 transferred tokens, moved 0 bytes"},
		{"bytes alone", func(e *Evidence) { e.set(&e.Decode, NIXL.External, 0) }, "inconclusive: decode moved 524288 bytes but counts no transferred tokens"},
		{"recompute", func(e *Evidence) { e.recompute() }, "inconclusive: decode took no tokens and moved no bytes"},
		{"not known", func(e *Evidence) { e.BytesPerToken = 0 }, "inconclusive: bytes per token not known: give Source.BytesPerToken, or compare lengths (probe.BytesSlope)"},
		{"bytes absent", func(e *Evidence) { e.on(&e.Decode, NIXL.Bytes, prom.Absent) }, "inconclusive: vllm:nixl_bytes_transferred_sum of decode: absent"},
		{"tokens reset", func(e *Evidence) { e.on(&e.Decode, NIXL.External, prom.Reset) }, `inconclusive: vllm:prompt_tokens_by_source_total{source="external_kv_transfer"} of decode: reset`},
		{"restart", func(e *Evidence) { e.Decode.Resets = []string{"x fell from 2 to 1"} }, "inconclusive: counter of decode fell back: x fell from 2 to 1: restarted?"},
		{"dead", func(e *Evidence) { e.Decode = Stage{Problem: "decode: gone"} }, "inconclusive: decode: gone; "},
		{"preempted", func(e *Evidence) { e.set(&e.Decode, NIXL.Preemptions, 1) }, "inconclusive: how many blocks had to move is not known: 0 of 1 requests failed, or one was preempted or aborted; decode preempted 1 time"},
		{"a neighbour", func(e *Evidence) { e.set(&e.Decode, NIXL.Finished, 2) }, "inconclusive: decode finished 2 requests in the window, only 1 known"},
		{"failed", func(e *Evidence) { e.Observations[0].Err = errors.New("HTTP 500") }, "inconclusive: how many blocks had to move is not known: 1 of 1 requests failed"},
		{"lengths not told", func(e *Evidence) {
			e.Observations[0].PromptTokens = 0
			e.Flow = Flow{}
		}, "proven: decode moved 524288 bytes: 32 blocks of 16 tokens x 1024 bytes"},
		{"no counts of bytes", func(e *Evidence) { e.dialect, e.Dialect = &Example, Example.Name }, "inconclusive: connector example does not count bytes"},
		{"nothing asked", func(e *Evidence) { e.Observations, e.Flow.Records = nil, nil }, "inconclusive: no request was made in the window"},
	} {
		e := healthy("a")
		c.plant(e)
		assert.Contains(t, Conserved(e).String(), c.want, c.name)
	}
}

// Recorded on vLLM 0.32: bytes are conserved wherever a transfer went through, the crossed and the permuted tickets included,
// and nowhere else.
func TestRecordedConserved(t *testing.T) {
	for name, want := range map[string]string{
		"01-proper":                      "proven: decode moved 524288 bytes: 4 blocks of 32 tokens x 4096 bytes",
		"02-proper-again-full-local-hit": "proven: decode moved 131072 bytes: 1 block of 32 tokens x 4096 bytes",
		"03-withheld-ticket":             "inconclusive: decode took no tokens and moved no bytes",
		"05-crossed":                     "proven: decode moved 1048576 bytes: 8 blocks of 32 tokens x 4096 bytes",
		"10-len-0031":                    "proven: decode moved 131072 bytes: 1 block of 32 tokens x 4096 bytes",
		"10-len-0033":                    "proven: decode moved 262144 bytes: 2 blocks of 32 tokens x 4096 bytes",
		"10-len-1024":                    "proven: decode moved 4194304 bytes: 32 blocks of 32 tokens x 4096 bytes",
		"26-wrong-engine-id":             "inconclusive: how many blocks had to move is not known: 1 of 2 requests failed, or one was preempted or aborted",
		"31-prefill-killed":              "inconclusive: prefill: scrape: connection refused; ",
	} {
		assert.Contains(t, Conserved(recordedEvidence(t, name, false)).String(), want, name)
	}
}
