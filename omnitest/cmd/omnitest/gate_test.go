package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// ask runs the gate command on a stack.
func ask(t *testing.T, r *refpd.Running, more ...string) (status int, out, errs string) {
	return command(t, nil, append([]string{"gate", "--entry", r.Entry, "--prefill", r.Prefill, "--decode", r.Decode}, more...)...)
}

// Only proven is status 0: refuted and inconclusive are not, in the exit status, in words and in the document.
func TestGate(t *testing.T) {
	t.Parallel()
	const quick = "--only=handoff-proven,metric-sanity"
	for _, c := range []struct {
		name   string
		faults ar.Faults // of decode
		status int
		state  string
	}{
		{"proven", ar.Faults{}, 0, "proven"},
		{"refuted", ar.Faults{SilentRecompute: true}, 1, "refuted"},
		{"inconclusive", ar.Faults{MissingSeries: true}, 1, "inconclusive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "gate.json")
			status, out, errs := ask(t, refpd.Stack{Decode: ar.Config{Faults: c.faults}}.Start(t), quick, "--json", file)
			assert.Equal(t, c.status, status, out)
			assert.True(t, strings.HasPrefix(out, "gate: "+c.state+", 2 of 2 asked, "), out)
			assert.Contains(t, out, "\n  1  handoff-proven       "+c.state)
			if c.status != 0 {
				assert.Equal(t, "omnitest: the gate is not passed: "+c.state+"\n", errs)
			}
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			var doc struct {
				State    string
				Outcomes []struct{ Verdict struct{ State string } }
			}
			require.NoError(t, json.Unmarshal(data, &doc))
			assert.Equal(t, c.state, doc.State)
			assert.Equal(t, c.state, doc.Outcomes[0].Verdict.State)
		})
	}
}

func TestGateRefuses(t *testing.T) {
	t.Parallel()
	status, _, errs := command(t, nil, "gate", "--entry", "http://127.0.0.1:1")
	assert.NotZero(t, status)
	assert.Contains(t, errs, "missing flags: --decode=URL, --prefill=URL")
	status, out, _ := command(t, nil, "gate", "--entry=x", "--prefill=x", "--decode=x", "--only=help")
	assert.Zero(t, status)
	assert.Contains(t, out, "  1  handoff-proven       decode used the KV cache that prefill computed\n")
	status, _, errs = command(t, nil, "gate", "--entry=x", "--prefill=x", "--decode=x", "--only=handof")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, `omnitest: gate: no assertion is called "handof"; there are `)
}
