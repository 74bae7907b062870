package ar

import (
	"fmt"
	"strconv"
)

// Fault drift is error accumulation: from generated token k on the key of a generated token is not quite its position's. It has
// a part of what the very next read looks for, driftAt of it in token k and driftStep more in each that follows. Attention to the
// right prompt position then shares its weight with the token that was generated last, first in one slice of four and with a
// thinner margin, 4 to 11 tokens later (36 prompts, six k) in most of them: the token is repeated, the repetition is stored with
// a key that is more wrong, and the text ends in a loop. Token k itself and all before it are right.
const (
	driftAt   = 0.875
	driftStep = 1.0 / 64
	driftMost = 2.0
)

// driftFrom reads k; 0: the fault is off.
func driftFrom(value string) (int, error) {
	if value == "" {
		return 0, nil
	}
	k, err := strconv.Atoi(value)
	if err != nil || k < 1 {
		return 0, fmt.Errorf("ar: fault drift %q: want the generated token from which on the KV is wrong, 1 or more", value)
	}
	return k, nil
}

// drifted spoils the key of the token at pos, which was just written. The caller holds the pool's mu.
func (s *Server) drifted(r *request, pos int) {
	i := pos - r.prompt - s.driftFrom
	if s.driftFrom == 0 || i < 0 {
		return
	}
	read := r.cursor - (len(r.tokens) - 1 - pos) // by the step after this token, also when it is computed again
	if read < r.start || read >= r.prompt {
		read = r.start
	}
	share := min(driftAt+driftStep*float32(i), driftMost)
	p, m := s.pool, s.model
	block, row := pos/p.blockSize, pos%p.blockSize*rowBytes
	for slice := range kvSlices {
		at := func(b int) uint64 { return m.places[b*kvSlices+slice] }
		wanted := m.rows[read%p.blockSize*kvSlices+slice] ^ at(read/p.blockSize) ^ at(block)
		key := p.rows(r.table[block], 2*slice)[row:][:rowBytes]
		for d := range HeadDim {
			putBF16(key[2*d:], bf16(key[2*d:])+signed(share/8, wanted, d))
		}
	}
}
