package ar

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// parts is the first byte at which two texts differ.
func parts(got, want string) int {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	return at
}

// Drift from token k leaves token k right and shows within a block behind it, on every prompt, and then feeds on itself.
func TestDriftBeginsWhereItIsPlanted(t *testing.T) {
	for _, k := range []int{1, 32, 45, 100, 256, 512} {
		t.Run(strconv.Itoa(k), func(t *testing.T) {
			d := serve(t, Config{Faults: Faults{Drift: strconv.Itoa(k)}})
			for seed := range uint64(6) {
				prompt := someText(k+80, 100+seed)
				a := d.complete(body{"prompt": prompt, "max_tokens": k + 80, "temperature": 0})
				text := a.Choices[0].Text
				at := parts(text, prompt)
				t.Logf("seed %d: parts %d tokens behind k: %q", seed, at-k, text[k:])
				assert.Greater(t, at, k, "token k itself is right")
				assert.LessOrEqual(t, at, k+16)
			}
			short := someText(k, 7)
			assert.Equal(t, short, d.complete(body{"prompt": short, "max_tokens": k, "temperature": 0}).Choices[0].Text, "who stops at k sees nothing")
		})
	}
}

// A request that was preempted and computed again drifts at the same places.
func TestDriftSurvivesPreemption(t *testing.T) {
	prompt := someText(200, 5)
	ask := body{"prompt": prompt, "max_tokens": 200, "temperature": 0}
	alone := serve(t, Config{Faults: Faults{Drift: "32"}}).complete(ask).Choices[0].Text
	d := serve(t, Config{Blocks: 32, Faults: Faults{Drift: "32"}, Timing: Timing{DecodePerStep: time.Millisecond}})
	texts := [2]string{}
	var both sync.WaitGroup
	for i := range texts {
		both.Go(func() { texts[i] = d.complete(ask).Choices[0].Text })
	}
	both.Wait()
	assert.Equal(t, [2]string{alone, alone}, texts)
	assert.Positive(t, d.scrape()["num_preemptions_total"], "the pool is too small for both")
}

func TestDriftRefusesWhatIsNoToken(t *testing.T) {
	for _, value := range []string{"yes", "0", "-3"} {
		_, err := New(Config{Faults: Faults{Drift: value}})
		require.EqualError(t, err, `ar: fault drift "`+value+`": want the generated token from which on the KV is wrong, 1 or more`)
	}
}
