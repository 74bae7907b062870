package api

import (
	"bytes"
	"encoding/base64"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Decoding in pieces gives what decoding at once gives: bytes, and the place of the first mistake.
func TestDecodeInPieces(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for _, size := range []int{0, 1, 2, 3, 100, piece/4*3 - 1, piece / 4 * 3, piece/4*3 + 1, 300_000, 1_000_001} {
		raw := make([]byte, size)
		for i := range raw {
			raw[i] = byte(random.Uint32())
		}
		text := []byte(base64.StdEncoding.EncodeToString(raw))
		dst := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
		n, err := decodeBase64(dst, text)
		require.NoError(t, err, size)
		assert.True(t, bytes.Equal(raw, dst[:n]), size)
		for _, at := range []int{0, 3, piece - 4, piece - 1, piece, piece + 1, len(text) - 5} {
			for _, bad := range []byte{'!', '=', '\n'} {
				if at < 0 || at >= len(text)-4 {
					continue
				}
				broken := bytes.Clone(text)
				broken[at] = bad
				_, want := base64.StdEncoding.Decode(make([]byte, len(dst)), broken)
				_, err := decodeBase64(dst, broken)
				if bad == '\n' {
					want = errLineBreak
				}
				if bad == '=' && at%piece == piece-1 {
					assert.IsType(t, want, err, "a padding that ends a piece of %d at %d", size, at) // told at the padding, not after it
					continue
				}
				assert.Equal(t, want, err, "%q at %d of %d", bad, at, len(text))
			}
		}
	}
}

func TestScanInPieces(t *testing.T) {
	for _, at := range []int{0, piece - 1, piece, 3*piece + 5} {
		b := append([]byte(strings.Repeat("a", at)), "xa"...)
		assert.Equal(t, at, indexByte(b, 'x'))
		assert.Equal(t, -1, indexByte(b, 'y'))
		assert.Equal(t, b, grow(b[:len(b):len(b)]))
		assert.Equal(t, 2*len(b), cap(grow(b[:len(b):len(b)])))
	}
}
