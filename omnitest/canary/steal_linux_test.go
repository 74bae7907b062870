package canary

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestParseSteal(t *testing.T) {
	stolen, all, none := parseSteal([]byte("cpu  100 1 50 800 5 0 4 40 30 0\ncpu0 1 2 3\n"))
	assert.Equal(t, [2]uint64{40, 1000}, [2]uint64{stolen, all}, "guest time is part of user")
	assert.Empty(t, none)
	_, _, none = parseSteal([]byte("cpu  100 1 50 800\n"))
	assert.Equal(t, `/proc/stat begins with "cpu  100 1 50 800", which holds no steal`, none)
	_, _, none = parseSteal([]byte("cpu 1 2 3 4 5 6 7 x\n"))
	assert.Equal(t, `/proc/stat: strconv.ParseUint: parsing "x": invalid syntax`, none)
}
