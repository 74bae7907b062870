package textcheck

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/replay"
)

// chunk is a completion or chat answer, or one event of it.
type chunk struct {
	Choices []struct {
		Index          int
		Text           string
		Message, Delta struct{ Content json.RawMessage }
	}
}

func (c chunk) text() (s string) {
	for _, x := range c.Choices {
		if x.Index == 0 {
			s += x.Text
			for _, raw := range []json.RawMessage{x.Message.Content, x.Delta.Content} {
				var content string
				if json.Unmarshal(raw, &content) == nil {
					s += content
				}
			}
		}
	}
	return s
}

// TestRecordedAnswers puts the questions to every text that real vLLM was recorded with. Its models have random weights: they do
// loop, and write bytes that are no characters. What vLLM does with these is right, though: no surrogate is alone, no event is
// broken UTF-8.
func TestRecordedAnswers(t *testing.T) {
	var all []replay.Exchange
	for _, engine := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		some, _, err := replay.LoadAll(os.DirFS("../../testdata/recordings"), engine)
		require.NoError(t, err)
		all = append(all, some...)
	}
	seen, loops, near, broken := map[string]bool{}, 0, 0, 0
	for _, e := range all {
		if e.Unfinished() || e.Status != 200 {
			continue
		}
		answer, text := &api.Text{}, ""
		if e.Streamed() {
			for part := range bytes.SplitSeq(e.Body, []byte("\n\n")) {
				data := bytes.TrimPrefix(part, []byte("data: "))
				var c chunk
				if json.Unmarshal(data, &c) == nil {
					answer.Events = append(answer.Events, api.Event{Data: data})
					text += c.text()
				}
			}
		} else {
			var c chunk
			if json.Unmarshal(e.Body, &c) != nil {
				continue
			}
			answer.Events = append(answer.Events, api.Event{Data: e.Body})
			text = c.text()
		}
		if text == "" {
			continue
		}
		answer.Choices = []api.Choice{{Text: text}}
		for _, ev := range answer.Events {
			assert.Empty(t, LoneSurrogates(ev.Data), e.Name)
			assert.True(t, utf8.Valid(ev.Data), e.Name)
		}
		for _, d := range Mojibake(text) {
			assert.NotEqual(t, TwiceEncoded, d.Kind, "%s: %v", e.Name, d)
		}
		if n := utf8.RuneCountInString(text); n < 32 || seen[text] {
			continue
		}
		seen[text] = true
		if FindLoop(text).Share > LoopShare {
			loops++
		}
		if FindNearLoop(text).Share > NearLoopShare {
			near++
		}
		if strings.ContainsRune(text, utf8.RuneError) {
			broken++
		}
	}
	t.Logf("%d different texts of 32 characters or more: %d end in a loop, %d in a near one, %d hold U+FFFD", len(seen), loops, near, broken)
	assert.GreaterOrEqual(t, len(seen), 30)
	assert.Positive(t, loops, "a model with random weights does loop: the suite must not ask this of one")
	assert.Positive(t, broken)
}
