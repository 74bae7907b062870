package ar

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
)

const (
	kvSlices   = Layers * KVHeads // a "slice" is one (layer, KV head) pair
	rowBytes   = 2 * HeadDim      // one K or V row of one slice, bf16
	tokenBytes = kvSlices * rowBytes
	embedDim   = kvSlices * HeadDim

	// scoreScale and logitScale are the temperatures of the constructed weights. Keys are vectors of +-1/8, so a
	// position scores scoreScale with itself and scoreScale*N(0, 1/HeadDim) with any other: 60 against a standard
	// deviation of 7.5. Over 8,192 positions the sum of all others is below exp(45), the right one is exp(60).
	scoreScale = 60
	// At 32 a right read wins by about 20 nats, so a client that forgets temperature 0 still gets the echo; a garbled
	// read is flat, and there temperature and seed matter.
	logitScale = 32

	// A softmax weight below exp(-25) of the largest cannot move a float32 sum of up to 8,192 terms.
	negligible = -25
)

// model holds the constructed weights.
//
// K depends on the position alone and V on the token alone, so the KV of a prompt needs no attention: prefill writes
// rows, and only a position that must produce logits attends. That is what makes a reference engine without a GPU
// usable; what is NOT cut short is the read: every generated token is a softmax over all cached positions of the
// request's blocks.
//
// A position is a row in a block and the block's place in the table. The row is in K; the place is applied to the query
// when the block is read, as a sign per dimension. So content goes where the block table says, and permuted blocks give
// permuted text. (With a position that is wholly in K, as RoPE's, a permutation of full blocks would not be seen.)
type model struct {
	rows   []uint64  // by row in the block x kvSlices: the signs of its key
	places []uint64  // by place in the table x kvSlices: the signs that reading there applies
	keys   []byte    // by row x kvSlices rows of bf16: what is cached as K
	values []byte    // vocabSize x kvSlices rows of bf16: the embedding, cut into slices, cached as V
	embed  []float32 // vocabSize x embedDim, the same numbers
}

// newModel gives the same weights wherever it runs: P, D and the control agree.
func newModel(blockSize, maxLen int) *model {
	places := (maxLen + blockSize - 1) / blockSize
	m := &model{
		rows: make([]uint64, blockSize*kvSlices), places: make([]uint64, places*kvSlices), keys: make([]byte, blockSize*tokenBytes),
		values: make([]byte, vocabSize*tokenBytes), embed: make([]float32, vocabSize*embedDim),
	}
	rng := rand.New(rand.NewPCG(0x6f6d6e69, 1))
	for i := range m.rows {
		m.rows[i] = rng.Uint64()
		for d := range HeadDim {
			putBF16(m.keys[i*rowBytes+2*d:], signed(1.0/8, m.rows[i], d))
		}
	}
	rng = rand.New(rand.NewPCG(0x6f6d6e69, 2))
	for i := range m.places {
		m.places[i] = rng.Uint64()
	}
	fillUnitRows(rand.New(rand.NewPCG(0x6f6d6e69, 3)), m.values, embedDim)
	for i := range m.embed {
		m.embed[i] = bf16(m.values[2*i:])
	}
	return m
}

// signed is x with the sign that bit d of signs says.
func signed(x float32, signs uint64, d int) float32 {
	return math.Float32frombits(math.Float32bits(x) ^ uint32(signs>>d&1)<<31)
}

// fillUnitRows fills dst with random unit vectors of dim bf16 numbers.
func fillUnitRows(rng *rand.Rand, dst []byte, dim int) {
	row := make([]float64, dim)
	for ; len(dst) > 0; dst = dst[2*dim:] {
		var norm float64
		for i := range row {
			row[i] = rng.NormFloat64()
			norm += row[i] * row[i]
		}
		norm = math.Sqrt(norm)
		for i, x := range row {
			putBF16(dst[2*i:], float32(x/norm))
		}
	}
}

func bf16(b []byte) float32 {
	return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
}

// putBF16 rounds to nearest even; NaN and infinities do not occur.
func putBF16(b []byte, x float32) {
	u := math.Float32bits(x)
	u += 0x7fff + u>>16&1
	binary.LittleEndian.PutUint16(b, uint16(u>>16))
}

// scratch is the working memory of one worker.
type scratch struct {
	query  [HeadDim]float32
	scores []float32
	out    [embedDim]float32
	logits [vocabSize]float32
}

// logits attends from position pos over the first n cached positions of the block table and fills sc.logits.
func (m *model) logits(kv *pool, table []int32, n, pos int, sc *scratch) {
	if cap(sc.scores) < n {
		sc.scores = make([]float32, n, n+n/4)
	}
	scores := sc.scores[:n]
	for s := range kvSlices {
		query := m.rows[pos%kv.blockSize*kvSlices+s] ^ m.places[pos/kv.blockSize*kvSlices+s]
		top := float32(math.Inf(-1))
		for j, b := 0, 0; j < n; b++ {
			here := query ^ m.places[b*kvSlices+s]
			for d := range sc.query {
				sc.query[d] = signed(scoreScale/8.0, here, d)
			}
			rows := kv.rows(table[b], 2*s)
			for ; len(rows) >= rowBytes && j < n; rows = rows[rowBytes:] {
				x := dotRow(&sc.query, (*[rowBytes]byte)(rows))
				scores[j] = x
				top = max(top, x)
				j++
			}
		}
		out := (*[HeadDim]float32)(sc.out[s*HeadDim:])
		*out = [HeadDim]float32{}
		var sum float32
		for j, x := range scores {
			if x -= top; x < negligible {
				continue
			}
			w := float32(math.Exp(float64(x)))
			sum += w
			rows := kv.rows(table[j/kv.blockSize], 2*s+1)
			addRow(out, w, (*[rowBytes]byte)(rows[j%kv.blockSize*rowBytes:]))
		}
		for i := range out {
			out[i] /= sum
		}
	}
	for t := range sc.logits {
		sc.logits[t] = logitScale * dot(&sc.out, (*[embedDim]float32)(m.embed[t*embedDim:]))
	}
}

// dotRow reads four bf16 numbers per 64-bit load: bf16 is the upper half of a float32, so widening is a shift or a mask.
func dotRow(q *[HeadDim]float32, k *[rowBytes]byte) float32 {
	var a, b, c, d float32
	for i := 0; i < HeadDim; i += 4 {
		x := binary.LittleEndian.Uint64(k[2*i:])
		lo, hi := uint32(x), uint32(x>>32)
		a += q[i] * math.Float32frombits(lo<<16)
		b += q[i+1] * math.Float32frombits(lo&0xffff0000)
		c += q[i+2] * math.Float32frombits(hi<<16)
		d += q[i+3] * math.Float32frombits(hi&0xffff0000)
	}
	return a + b + c + d
}

func addRow(out *[HeadDim]float32, w float32, v *[rowBytes]byte) {
	for i := 0; i < HeadDim; i += 2 {
		x := binary.LittleEndian.Uint32(v[2*i:])
		out[i] += w * math.Float32frombits(x<<16)
		out[i+1] += w * math.Float32frombits(x&0xffff0000)
	}
}

func dot(x, y *[embedDim]float32) float32 {
	var a, b, c, d float32
	for i := 0; i < embedDim; i += 4 {
		a += x[i] * y[i]
		b += x[i+1] * y[i+1]
		c += x[i+2] * y[i+2]
		d += x[i+3] * y[i+3]
	}
	return a + b + c + d
}

// pick chooses the next token among the first vocab logits: the largest at temperature 0, else a sample by rng.
func pick(logits []float32, temperature float64, rng *rand.Rand) int32 {
	best := 0
	for t, x := range logits {
		if x > logits[best] {
			best = t
		}
	}
	if temperature <= 0 || rng == nil {
		return int32(best)
	}
	var sum float64
	weights := make([]float64, len(logits))
	for t, x := range logits {
		weights[t] = math.Exp(float64(x-logits[best]) / temperature)
		sum += weights[t]
	}
	u := rng.Float64() * sum
	for t, w := range weights {
		if u -= w; u < 0 {
			return int32(t)
		}
	}
	return int32(best)
}

// logSumExp of the logits at temperature 1: token t has log probability logits[t] - logSumExp.
func logSumExp(logits []float32) float64 {
	top := logits[0]
	for _, x := range logits {
		top = max(top, x)
	}
	var sum float64
	for _, x := range logits {
		sum += math.Exp(float64(x - top))
	}
	return float64(top) + math.Log(sum)
}
