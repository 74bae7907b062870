package ar

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// cached writes tokens into a pool through a shuffled block table, as a used pool would give.
func cached(m *model, tokens []int32, blockSize int) (*pool, []int32) {
	blocks := (len(tokens) + blockSize - 1) / blockSize
	p := newPool(blocks+1, blockSize)
	table, _ := p.take(nil, blocks)
	rand.New(rand.NewPCG(1, 1)).Shuffle(blocks, func(i, j int) { table[i], table[j] = table[j], table[i] })
	for pos, t := range tokens {
		p.write(m, table, pos, t)
	}
	return p, table
}

func randomTokens(n int, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, 2))
	tokens := make([]int32, n)
	for i := range tokens {
		tokens[i] = int32(rng.IntN(256))
	}
	return tokens
}

// margin is by how much the right token wins, in units of a perfect read (1).
func margin(sc *scratch, right int32) float32 {
	second := float32(-logitScale)
	for t, x := range sc.logits {
		if int32(t) != right {
			second = max(second, x)
		}
	}
	return (sc.logits[right] - second) / logitScale
}

// The claim of the constructed weights: up to 8,192 positions every read is right, by at least 0.6.
func TestModelReadsEveryPosition(t *testing.T) {
	m := newModel(16, 8192)
	tokens := randomTokens(8192, 1)
	p, table := cached(m, tokens, 16)
	stride := 7
	if testing.Short() {
		stride = 101
	}
	var sc scratch
	least := float32(1)
	for pos := 0; pos < len(tokens); pos += stride {
		m.logits(p, table, len(tokens), pos, &sc)
		require.Equal(t, tokens[pos], pick(sc.logits[:], 0, nil), "position %d", pos)
		least = min(least, margin(&sc, tokens[pos]))
	}
	assert.GreaterOrEqual(t, least, float32(0.6))
	t.Logf("least margin %.3f over %d of 8192 positions", least, len(tokens)/stride+1)
}

// What a reader finds when the KV is not its own: zeroed blocks, swapped blocks.
func TestModelReadsWhatIsThere(t *testing.T) {
	m := newModel(16, 8192)
	tokens := encode("one block of 16! another block 16")[:32]
	read := func(p *pool, table []int32) (text string) {
		var sc scratch
		for pos := range tokens {
			m.logits(p, table, len(tokens), pos, &sc)
			text += decode([]int32{pick(sc.logits[:], 0, nil)})
		}
		return text
	}
	p, table := cached(m, tokens, 16)
	require.Equal(t, decode(tokens), read(p, table))
	require.Equal(t, decode(tokens[16:])+decode(tokens[:16]), read(p, []int32{table[1], table[0]}), "swapped blocks give swapped text")
	clear(p.block(table[0]))
	got := read(p, table)
	assert.NotEqual(t, decode(tokens[:16]), got[:16], "a zeroed block must not read as the text that was there")
	assert.Equal(t, decode(tokens[16:]), got[16:], "the other block is untouched")
	clear(p.block(table[1]))
	assert.NotContains(t, read(p, table), "block")
}

func TestPick(t *testing.T) {
	logits := []float32{1, 3, 2}
	assert.Equal(t, int32(1), pick(logits, 0, nil))
	seen := map[int32]int{}
	rng := rand.New(rand.NewPCG(5, 0))
	for range 3000 {
		seen[pick(logits, 1, rng)]++
	}
	// e^3 : e^2 : e^1 = 0.665 : 0.245 : 0.090
	assert.InDelta(t, 0.665, float64(seen[1])/3000, 0.04)
	assert.InDelta(t, 0.245, float64(seen[2])/3000, 0.04)
}

func BenchmarkStep(b *testing.B) {
	for _, n := range []int{512, 2560, 8192} {
		b.Run(fmt.Sprintf("context=%d", n), func(b *testing.B) {
			m := newModel(16, 8192)
			tokens := randomTokens(n, 1)
			p, table := cached(m, tokens, 16)
			var sc scratch
			pos := 0
			for b.Loop() {
				m.logits(p, table, n, pos, &sc)
				pos = (pos + 1) % n
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(n), "ns/position")
		})
	}
}
