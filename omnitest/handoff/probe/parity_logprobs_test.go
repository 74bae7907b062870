package probe

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/api"
)

// Log probabilities of another request's tokens beside the right text.
func TestPartSpells(t *testing.T) {
	text := func(s, tokens string) *api.Text {
		x := &api.Text{Choices: []api.Choice{{Text: s}}}
		for _, r := range tokens {
			x.Choices[0].Logprobs = append(x.Choices[0].Logprobs, api.Logprob{Token: string(r)})
		}
		return x
	}
	assert.Equal(t, "zyx", part(text("abc", "abc"), text("abc", "zyx")).spelled)
	assert.Empty(t, part(text("abc", "abc"), text("abc", "abc")).spelled)
	assert.Empty(t, part(text("abc", "ab"), text("abc", "zy")).spelled, "the control's tokens do not spell its text either")
	assert.Empty(t, part(text("abc", "abc"), text("abc", "")).spelled, "not told")
}
