package handoff

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// Decode pulls a ticket's blocks once for each choice, prefill computed them once: twice the tokens for two choices are no lie.
// Found by TestAxesTrouble; three times the tokens are one.
func TestChoicesTakeThePromptAgain(t *testing.T) {
	e := healthy("r")
	d := e.d()
	e.Observations[0].Choices = 2
	e.set(&e.Decode, d.Finished, 2)
	e.set(&e.Decode, d.PromptTokens, 1024)
	e.set(&e.Decode, d.External, 1024)
	e.set(&e.Decode, d.Bytes, 1024*1024)
	e.set(&e.Decode, d.Transfers, 2)
	e.set(&e.Prefill, d.LateNotices, 1)
	assert.Equal(t, "inconclusive: decode pulled 1 ticket that prefill had already given up: the blocks may have been reused (there are several choices behind one ticket, and prefill gives it up after the first pull)", Proven(e).String())

	e.set(&e.Decode, d.PromptTokens, 1536)
	e.set(&e.Decode, d.External, 1536)
	assert.Contains(t, Proven(e).String(), "refuted: decode claims 1536 tokens from prefill, which processed 512 prompt tokens in this window")

	e.Observations[0].PromptTokens, e.Flow = 0, Flow{} // how long the prompt is, nobody tells
	assert.False(t, Proven(e).Has("prefill-idle"))
}
