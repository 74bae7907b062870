// Package workload makes the requests that a load sends: prompts of exact lengths for completions, turns of conversations,
// prompts for pictures, and pictures to edit.
//
// A description ([Text], [Chat], [Pictures], [Edits]) and a seed give a function from the number of a call to its request. It depends
// on nothing else: two clients, two runs, two orders of sending get the same requests. Numbers below 0 are for warm-ups, and get
// requests that no measured call repeats.
//
// Every request begins with a nonce of its own, so that no prefix cache can answer for prefill. The same seed gives the same nonces:
// a second run against a server that is still warm needs another seed.
package workload

import (
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// Text describes completion requests. The zero value asks for 128 tokens on prompts of 512, as token ids.
type Text struct {
	Input  Length // prompt, tokens; nil: Fixed(512)
	Output Length // max_tokens; nil: Fixed(128)
	// Bytes sends the prompt as ASCII text: exact where one byte is one token, as on the reference stack. Else it is sent as token ids,
	// which is exact on every engine: text that is decoded and encoded again changes its length.
	Bytes bool
	// IDs is the range of token ids, the upper end not included. Zero: 32 to 127, which every vocabulary has and none uses for
	// control; give your model's own for prompts that look more like its training.
	IDs [2]int
	// StopAtEOS lets an answer end early. Else ignore_eos is sent, and the answer has the drawn length.
	StopAtEOS bool
	Sampling  api.Sampling // what else is sent; MaxTokens and IgnoreEOS are set from the above
}

// Requests checks the description and gives the requests by number.
func (t Text) Requests(seed uint64) (func(i int) api.CompletionRequest, error) {
	if t.Input == nil {
		t.Input = Fixed(512)
	}
	if t.Output == nil {
		t.Output = Fixed(128)
	}
	if t.IDs == [2]int{} {
		t.IDs = [2]int{32, 127}
	}
	if err := errors.Join(t.Input.Check(), t.Output.Check()); err != nil {
		return nil, err
	}
	if t.IDs[0] < 0 || t.IDs[1]-t.IDs[0] < 2 {
		return nil, fmt.Errorf("workload: token ids %d to %d: want at least two", t.IDs[0], t.IDs[1])
	}
	return func(i int) api.CompletionRequest {
		rng, nonce := draws(seed, i)
		r := api.CompletionRequest{Sampling: t.Sampling}
		n := t.Input.Draw(rng)
		r.MaxTokens, r.IgnoreEOS = t.Output.Draw(rng), !t.StopAtEOS
		if t.Bytes {
			r.Prompt = textOf(rng, nonce, n)
		} else {
			r.PromptIDs = idsOf(rng, nonce, n, t.IDs)
		}
		return r
	}, nil
}

// Ahead makes the requests of the calls from .. to-1 now, so that none is made while the clock runs.
func Ahead[R any](requests func(i int) R, from, to int) func(i int) R {
	made := make([]R, max(to-from, 0))
	for k := range made {
		made[k] = requests(from + k)
	}
	return func(i int) R { return made[i-from] }
}

// draws gives the random numbers and the nonce of call i. For one seed no two calls have the same nonce: mix is a bijection.
func draws(seed uint64, i int) (*rand.Rand, uint64) {
	nonce := mix(mix(seed) + uint64(i))
	return rand.New(rand.NewPCG(seed, nonce)), nonce
}

// mix is the finalizer of splitmix64 (Steele, Lea and Flood 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// idsOf gives n ids, the first of which spell the nonce.
func idsOf(rng *rand.Rand, nonce uint64, n int, ids [2]int) []int {
	base := uint64(ids[1] - ids[0])
	all := make([]int, n)
	left, digits := nonce, ^uint64(0)
	for k := range all {
		if digits > 0 {
			all[k] = ids[0] + int(left%base)
			left, digits = left/base, digits/base
			continue
		}
		all[k] = ids[0] + rng.IntN(int(base))
	}
	return all
}

// word is the nonce as one word of 13 letters and digits.
func word(nonce uint64) string {
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(binary.BigEndian.AppendUint64(nil, nonce)))
}

// textOf gives n bytes of ASCII: the nonce, then words.
func textOf(rng *rand.Rand, nonce uint64, n int) string {
	b := append(make([]byte, 0, n+16), word(nonce)...)
	for len(b) < n {
		b = append(append(b, ' '), vocabulary[rng.IntN(len(vocabulary))]...)
	}
	return string(b[:n])
}

// wordsOf gives the nonce and n words.
func wordsOf(rng *rand.Rand, nonce uint64, n int) string {
	all := make([]string, 0, n+1)
	all = append(all, word(nonce))
	for range n {
		all = append(all, vocabulary[rng.IntN(len(vocabulary))])
	}
	return strings.Join(all, " ")
}

var vocabulary = strings.Fields(`a the red blue green small large old quiet bright wooden glass stone paper river harbour desk lamp mountain
	street window garden bridge tower boat train station market table chair cup book dog cat horse bird tree flower cloud rain snow light
	shadow morning evening winter summer near under above behind with and in on of painted photograph watercolour sketch poster`)
