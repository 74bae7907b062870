package replay

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A recording agrees with itself, two runs of one request agree, and every kind of difference shows.
func TestDifferences(t *testing.T) {
	recordings := os.DirFS("../../../testdata/recordings")
	load := func(name string) (Exchange, Fields) {
		e, err := Load(recordings, "vllm-0.32.0/single/"+name+".json")
		require.NoError(t, err)
		return e, FieldsOf(e.Status, e.Header, string(e.Body), false)
	}
	e, plain := load("completion")
	again, _ := load("completion-again-prefix-hit")
	assert.Empty(t, Differences(plain, FieldsOf(e.Status, e.Header, string(e.Body), false)))
	require.NotEqual(t, string(e.Body), string(again.Body))
	other := strings.NewReplacer(`"id":"cmpl-`, `"id":"cmpl-00`, `"created":1`, `"created":2`).Replace(string(e.Body))
	other = other[:strings.Index(other, `cmpl-00`)+7] + other[strings.Index(other, `cmpl-00`)+9:] // still 16 digits
	require.NotEqual(t, string(e.Body), other)
	assert.Empty(t, Differences(plain, FieldsOf(e.Status, e.Header, other, false)), "ids and times are a run's own")

	for change, want := range map[[2]string]string{
		{`"object":"text_completion"`, `"object":"completion"`}: `object: "text_completion" -> "completion"`,
		{`"index":0,`, ``}:                           `choices[].index: 0 -> absent`,
		{`"logprobs":null`, `"logprobs":[]`}:         `choices[].logprobs: null -> 0 elements`,
		{`"prompt_tokens":6,`, `"prompt_tokens":7,`}: `usage.prompt_tokens: 6 -> 7`,
		{`"prompt_tokens":6,"total_tokens":22`, `"total_tokens":22,"prompt_tokens":6`}: `usage keys: `,
		{`{"id"`, `<html>{"id"`}: `body: absent -> no JSON`,
	} {
		body := strings.Replace(string(e.Body), change[0], change[1], 1)
		require.NotEqual(t, string(e.Body), body, change[0])
		var says []string
		for _, d := range Differences(plain, FieldsOf(e.Status, e.Header, body, false)) {
			says = append(says, d.String())
		}
		assert.Contains(t, strings.Join(says, "\n"), want)
	}
	assert.Equal(t, []Difference{{"end", "absent", "none: the client gave up"}, {"status", "200", "500"}},
		Differences(plain, FieldsOf(500, e.Header, string(e.Body), true)))
	assert.Equal(t, []Difference{{"header content-type", "application/json", "absent"}},
		Differences(plain, FieldsOf(200, http.Header{}, string(e.Body), false)))

	e, stream := load("completion-stream")
	assert.Equal(t, "data: events, [DONE]", stream["framing"])
	broken := FieldsOf(e.Status, e.Header, strings.Replace(string(e.Body), "data: [DONE]", "data: [END]", 1), false)
	assert.Contains(t, Differences(stream, broken), Difference{"framing", "data: events, [DONE]", "other"})
}
