package handoff

import "fmt"

// Conserved judges the bytes of a window alone: what decode says it moved is whole blocks of the tokens that it says it took, a
// started block as much as a full one (recorded on vLLM 0.26 and 0.32: exactly). It catches transfers that arrive in part, and
// keys and values of another size than the model's. It needs Source.BytesPerToken; without it nothing can be conserved within
// one window, and probe.BytesSlope compares several. What the bytes contain is not its business, nor is a recompute: a window
// in which nothing moved is inconclusive.
func Conserved(e *Evidence) Verdict {
	return judge(e, "the bytes moved are those of the tokens taken",
		[]rule{stageProblems, claimsWithoutBytes, bytesMoved, conservable, preempted, exclusive, attestConserved})
}

// conservable says what keeps the sums from being done.
func conservable(c *exam) {
	if c.d.Bytes.Name == "" {
		c.doubt("bytes-not-counted", "", "connector %s does not count bytes", c.d.Name)
		return
	}
	for _, x := range []Series{c.d.Bytes, c.d.External} {
		if _, ok := c.Decode.get(x); !ok && len(c.Decode.Counters) > 0 {
			c.doubt("absent-series", "", "%s of decode: %s", x, c.Decode.signed(x))
			return
		}
	}
	moved, _ := c.Decode.get(c.d.Bytes)
	external, _ := c.Decode.get(c.d.External)
	_, _, known := c.blocks()
	switch {
	case moved == 0 && external == 0:
		c.doubt("nothing-to-move", "", "decode took no tokens and moved no bytes")
	case c.BytesPerToken == 0:
		c.doubt("bytes-per-token-unknown", "", "bytes per token not known: give Source.BytesPerToken, or compare lengths (probe.BytesSlope)")
	case !known:
		c.doubt("blocks-unknown", "", "how many blocks had to move is not known: %d of %d requests failed, or one was preempted or aborted", c.failed, len(c.requests))
	}
}

// attestConserved speaks where the blocks are known; that the bytes are wrong is for bytesMoved to say, and outranks it.
func attestConserved(c *exam) {
	moved, ok := c.Decode.get(c.d.Bytes)
	least, most, known := c.blocks()
	if !ok || moved == 0 || !known || c.BytesPerToken == 0 {
		return
	}
	text := fmt.Sprintf("decode moved %.0f bytes: %s of %d tokens x %g bytes", moved, blocksText(least, most), c.BlockSize, c.BytesPerToken)
	if least != most {
		text += ", as lengths are not known better"
	}
	c.attest("conserved", "%s", text)
}
