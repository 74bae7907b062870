package ar

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/replay"
)

const conformanceFile = "../../../testdata/conformance.md"

var recordings = os.DirFS("../../../testdata/recordings")

// reasons explain every remaining difference between the recorded vLLM 0.32.0 and the reference. The first that fits a
// difference is its reason; one that fits none must be taken out.
var reasons = []struct{ exchange, field, why string }{
	{`.*`, `.*system_fingerprint|version`, "it says that it is the reference"},
	{`single/get-models`, `data\[\]\.owned_by`, "it says that it is the reference"},
	{`single/get-models`, `data\[\]\.root`, "there is no model folder: root is the model's name"},
	// Exchanges with token ids for a prompt are left out of this pattern on purpose: their counts must be equal.
	{`single/.*|nixl/16-chat/.*`, `.*(prompt_tokens|total_tokens|created_cache_tokens|prompt_token_ids|remote_num_tokens|remote_block_ids\[\]|count|tokens)`,
		"bytes are its tokens, so a text has more of them; prompts given as ids count the same"},
	{`single/.*logprobs`, `.*\.bytes(\[\])?`, "bytes are its tokens: the first of a character has no text yet"},
	{`single/(err-bad-role|completion-two-prompts|completion-stop-string)`, `choices\[\]\.finish_reason|usage\.completion_tokens`, "an echo ends where its prompt ends; random weights never end"},
	{`single/completion-prompt-logprobs`, `choices\[\]\.prompt_logprobs(\[\])?`, "not built: no check reads log probabilities of a prompt"},
	{`nixl/(21|23)-.*/(d-next|d-health)`, `connection`, "its port closes with the engine's death; vLLM's closed after it had answered these two with 500 and 503"},
	{`/metrics`, `.*_per_gpu_total`, "no GPU"},
	{`/metrics`, `vllm:admission_rejections_total`, "no queue limit to reject by"},
	{`/metrics`, `http_.*|python_.*`, "series of the Python server, about nothing that is tested"},
	{`/metrics`, `.*_created`, "when a series was made: nothing reads it"},
}

// fields is an answer as it is compared: what identifies a run is taken out, everything else must be equal.
type fields = replay.Fields

// TestConformance sends every recorded request of single/ and nixl/ to the reference and compares the answers field by
// field: status, headers, framing, keys and their order, types, nulls, numbers. What differs must stand in
// testdata/conformance.md with its reason; OMNITEST_UPDATE=1 writes the file.
func TestConformance(t *testing.T) {
	x := conform(t)
	single := serve(t, Config{Model: "tiny", MaxModelLen: 2048, BlockSize: 32, EngineID: "engine-p"})
	list, _, err := replay.LoadAll(recordings, "vllm-0.32.0/single")
	require.NoError(t, err)
	slices.SortStableFunc(list, func(a, b replay.Exchange) int { return a.Start.Compare(b.Start) })
	for _, e := range list {
		if x.skips(e) {
			continue
		}
		x.compare(e, x.send(single, e, nil))
	}
	x.cases(t)
	x.metrics(t)
	x.logged(t)
	assert.Equal(t, 204, x.sent+len(x.skipped), "recorded exchanges of single/ and nixl/")

	page := x.page(t)
	if os.Getenv("OMNITEST_UPDATE") == "1" {
		require.NoError(t, os.WriteFile(conformanceFile, []byte(page), 0o666))
	}
	have, err := os.ReadFile(conformanceFile)
	require.NoError(t, err, "OMNITEST_UPDATE=1 writes it")
	if d := cmp.Diff(string(have), page); d != "" {
		t.Errorf("%s is not current (-file +now); look at the changes, then OMNITEST_UPDATE=1 writes them:\n%s", conformanceFile, d)
	}
}

// TestConformanceCanFail: a field that the reference gives in another way shows up, for each kind of difference there is.
func TestConformanceCanFail(t *testing.T) {
	e, err := replay.Load(recordings, "vllm-0.32.0/single/completion.json")
	require.NoError(t, err)
	for change, want := range map[[2]string]string{
		{`"object":"text_completion"`, `"object":"completion"`}: `object: "text_completion" -> "completion"`,
		{`"index":0,`, ``}:                           `choices[].index: 0 -> absent`,
		{`"logprobs":null`, `"logprobs":[]`}:         `choices[].logprobs: null -> 0 elements`,
		{`"prompt_tokens":6,`, `"prompt_tokens":7,`}: `usage.prompt_tokens: 6 -> 7`,
		{`"prompt_tokens":6,"total_tokens":22`, `"total_tokens":22,"prompt_tokens":6`}: `usage keys: `,
		{`"id":"cmpl-`, `"id":"completion-`}:                                           `id: "cmpl-<hex>" -> `,
	} {
		x := conform(t)
		body := strings.Replace(string(e.Body), change[0], change[1], 1)
		require.NotEqual(t, string(e.Body), body, change[0])
		x.compare(e, sentAnswer{status: 200, header: e.Header, body: body})
		require.NotEmpty(t, x.rows, change[0])
		assert.Contains(t, x.text(), want)
	}
	x := conform(t)
	header := e.Header.Clone()
	header.Set("Content-Type", "text/plain")
	x.compare(e, sentAnswer{status: 201, header: header, body: string(e.Body)})
	assert.Contains(t, x.text(), "status: 200 -> 201")
	assert.Contains(t, x.text(), "header content-type: application/json -> text/plain")

	stream, err := replay.Load(recordings, "vllm-0.32.0/single/completion-stream.json")
	require.NoError(t, err)
	for change, want := range map[[2]string]string{
		{"data: [DONE]", "data: [END]"}:                        "framing",
		{"\n\ndata: ", "\n\nevent: x\ndata: "}:                 "framing",
		{`"finish_reason":"length"`, `"finish_reason":"stop"`}: `finish.choices[].finish_reason: "length" -> "stop"`,
	} {
		x := conform(t)
		x.compare(stream, sentAnswer{status: 200, header: stream.Header, body: strings.Replace(string(stream.Body), change[0], change[1], 1)})
		assert.Contains(t, x.text(), want)
	}
	x = conform(t)
	x.compare(stream, sentAnswer{status: 200, header: stream.Header, body: string(stream.Body)})
	assert.Empty(t, x.rows, "a recording agrees with itself")
}

type row struct{ field, recorded, ours string }

type conformance struct {
	t       *testing.T
	rows    map[row][]string // to the exchanges
	sent    int
	skipped map[string]string
	logs    map[string]string // of decode, by the case's number
}

func conform(t *testing.T) *conformance {
	return &conformance{t: t, rows: map[row][]string{}, skipped: map[string]string{}, logs: map[string]string{}}
}
