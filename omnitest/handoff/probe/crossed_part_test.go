package probe

import (
	"testing"

	"github.com/stretchr/testify/assert"
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
