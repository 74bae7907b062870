package handoff

import "errors"

// KVBytesPerToken is what one token occupies in a KV cache with separate keys and values: 2 x layers x kvHeads x headDim x
// dtypeBytes. It does not hold for MLA (one latent per layer), and heads that are replicated over tensor-parallel ranks
// count once per copy. Recorded: 2 x 12 x 2 x 128 x 2 = 12288 (vLLM 0.26, bf16), 2 x 4 x 2 x 64 x 4 = 4096 (0.32, float32).
func KVBytesPerToken(layers, kvHeads, headDim, dtypeBytes int) float64 {
	return float64(2 * layers * kvHeads * headDim * dtypeBytes)
}

// ErrNotCalibrated is evidence that does not tell bytes per token.
var ErrNotCalibrated = errors.New("handoff: this window does not tell the KV bytes per token: it needs a completed transfer of prompts of known length")

// BytesPerToken takes the KV bytes per token from a window: bytes moved / (whole blocks x block size). Use a window that is
// trusted for other reasons, then hold later ones to it through Source.BytesPerToken.
func BytesPerToken(e *Evidence) (float64, error) {
	c := newCase(e)
	moved, ok := e.Decode.get(c.d.Bytes)
	least, most, known := c.blocks()
	if !ok || moved == 0 || !known || least != most || least == 0 {
		return 0, ErrNotCalibrated
	}
	return moved / float64(least*e.BlockSize), nil
}
