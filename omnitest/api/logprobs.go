package api

import (
	"math"
	"slices"
	"strings"
)

// readLogprobs reads both shapes: completions' parallel lists and chat's list of objects.
func readLogprobs(c *cursor) []Logprob {
	var out []Logprob
	at := func(n int) *Logprob {
		for len(out) <= n {
			out = append(out, Logprob{Logprob: math.NaN()})
		}
		return &out[n]
	}
	c.object(func(key []byte) {
		switch string(key) {
		case "tokens":
			c.array(func(n int) { at(n).Token = string(c.bytes()) })
		case "token_logprobs":
			c.array(func(n int) { at(n).Logprob = c.float(math.NaN()) })
		case "top_logprobs":
			c.array(func(n int) {
				c.object(func(key []byte) {
					token := string(key)
					at(n).Top = append(at(n).Top, TopLogprob{token, c.float(math.NaN())})
				})
			})
		case "content":
			c.array(func(n int) {
				at(n)
				c.object(func(key []byte) {
					switch string(key) {
					case "token":
						out[n].Token = string(c.bytes())
					case "logprob":
						out[n].Logprob = c.float(math.NaN())
					case "top_logprobs":
						c.array(func(int) {
							top := TopLogprob{Logprob: math.NaN()}
							c.object(func(key []byte) {
								switch string(key) {
								case "token":
									top.Token = string(c.bytes())
								case "logprob":
									top.Logprob = c.float(math.NaN())
								}
							})
							out[n].Top = append(out[n].Top, top)
						})
					}
				})
			})
		}
	})
	for i := range out { // an object's order means nothing
		slices.SortStableFunc(out[i].Top, func(a, b TopLogprob) int {
			switch {
			case a.Logprob > b.Logprob:
				return -1
			case a.Logprob < b.Logprob:
				return 1
			}
			return strings.Compare(a.Token, b.Token)
		})
	}
	return out
}
