package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Two levels, too short for a verdict: the table, the knee that nobody has shown, and the document.
func TestSelftest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "client.json")
	status, out, errs := command(t, nil, "selftest", "--streams", "2", "--rates", "20", "--level", "500ms", "--json", file)
	require.Zero(t, status, errs)
	assert.Regexp(t, `(?m)^streams +req/s +events/s`, out)
	assert.Regexp(t, `(?m)^ +2 +- +\d+ .*(not measured|INVALID-CLIENT): `, out)
	assert.Regexp(t, `(?m)^ +- +20 +\d+ .*(not measured|INVALID-CLIENT): `, out)
	assert.Regexp(t, `(?m)^requests/s +not measured$`, out)
	raw, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(raw), `"streams": "not measured: no level was valid"`)

	status, _, errs = command(t, nil, "selftest", "--client-cpus", "100000")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, "stamped: binding to cores [100000]")
}
