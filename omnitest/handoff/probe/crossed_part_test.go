package probe

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A decode that computes the last block itself and counts it as taken gives itself away by its own letters amid the lent ones.
func TestOwnRun(t *testing.T) {
	own, lent := nonce(192), nonce(192)
	from, to := ownRun(lent[:176]+own[176:], own, lent)
	assert.LessOrEqual(t, 170, from)
	assert.Equal(t, 192, to)
	for range 100 {
		own, lent := nonce(192), nonce(192)
		from, to := ownRun(lent[:191]+own[191:], own, lent)
		assert.Zero(t, to-from, "the last token is decode's own")
	}
}

// Recorded on real vLLM 0.32 with the tiny random model: both tickets were consumed, and the answer still has 15 bytes in a row
// of its own at their place. They are five times U+FFFD, of which the control is full.
func TestOwnRunOfFavouriteWords(t *testing.T) {
	own, lent, got := recorded(t, "own"), recorded(t, "lent"), recorded(t, "got")
	best, _, _ := sharedRun(got, own, lent, 0)
	assert.GreaterOrEqual(t, best, leastRun)
	from, to := ownRun(got, own, lent)
	assert.Zero(t, to-from)

	// The same texts, and the last block of got computed by decode itself.
	at := len(got) - 100
	from, to = ownRun(got[:at]+own[at:at+100], own, lent)
	assert.Positive(t, to-from)
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("testdata/favourite-words/" + name + ".txt")
	require.NoError(t, err)
	return string(text)
}
