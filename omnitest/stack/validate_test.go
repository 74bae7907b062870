package stack

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// Each row is a file somebody could write by mistake and the words that must help them. A file that is read in part tests
// something else than was meant, so none of these may pass.
func TestMistakesInStackYAML(t *testing.T) {
	for _, c := range []struct{ name, file, says string }{
		{"empty", "", "the file is empty; for the whole reference stack leave OMNITEST_STACK unset"},
		{"unknown key", "stages:\n  prefill: {engine: remote, url: http://h:1, modle: x}\n", "field modle is no key of a stage; known: engine, url"},
		{"unknown top key", "stage: {}\n", "field stage is no key here; known: name, stages"},
		{"two documents", "name: a\n---\nname: b\n", "more than one YAML document"},
		{"no stage", "stages: {}\n", "stages: none given"},
		{"unknown stage", "stages: {encoder: {}}\n", "stages.encoder: unknown stage; known: proxy, prefill, decode, dit"},
		{"unknown engine", "stages: {dit: {engine: vlm}}\n", `stages.dit.engine: unknown engine "vlm"; known: reference, vllm, remote`},
		{"remote without url", "stages: {dit: {engine: remote}}\n", "stages.dit.url: missing; a remote stage needs its base URL"},
		{"url without scheme", "stages: {dit: {engine: remote, url: 'host:8000'}}\n", "want http://host:port"},
		{"url with /v1", "stages: {dit: {engine: remote, url: 'http://h:1/v1'}}\n", "want the base URL without /v1"},
		{"metrics url", "stages: {dit: {engine: remote, url: 'http://h:1', metrics_url: nowhere}}\n", "stages.dit.metrics_url"},
		{"url for what we launch", "stages: {dit: {url: 'http://h:1'}}\n", `a url is given, but engine is "reference", which we launch ourselves; say engine: remote`},
		{"proxy with no prefill", "stages: {proxy: {}, decode: {}, dit: {}}\n", "the proxy has no prefill stage, but a decode stage"},
		{"proxy with no decode", "stages: {proxy: {}, prefill: {}}\n", "the proxy has no decode stage, but a prefill stage"},
		{"proxy alone", "stages: {proxy: {}}\n", "the proxy has nothing behind it"},
		{"load failure policy", "stages: {decode: {load_failure_policy: retry}}\n", `"retry"; known: fail, recompute`},
		{"unknown fault", "faults: decode.silent\n", "decode.silent-recompute"},
		{"fault for a stage that is not there", "stages: {proxy: {}, prefill: {}, decode: {}}\nfaults: dit.blank\n", "dit.blank cannot be planted: no dit stage runs on the reference engine"},
		{"negative pool", "stages: {decode: {blocks: -3}}\n", "never negative"},
		{"duration without unit", "stages: {prefill: {lease: 5}}\n", "as a duration; write it with its unit, like 5s"},
		{"bad duration", "stages: {prefill: {lease: fast}}\n", "fast"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse([]byte(c.file))
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestAllMistakesAreToldAtOnce(t *testing.T) {
	_, err := Parse([]byte("stages: {encoder: {}, dit: {engine: remote}}\nfaults: nonsense\n"))
	require.ErrorContains(t, err, "stages.encoder")
	require.ErrorContains(t, err, "stages.dit.url")
	require.ErrorContains(t, err, "nonsense")
}

func TestLoadNamesTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stack.yaml")
	require.NoError(t, os.WriteFile(path, []byte("stage: {}\n"), 0o600))
	_, err := Load(path)
	require.ErrorContains(t, err, path)
	_, err = Load(path + ".missing")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// A file and the Go value beside it must be the same stack.
func TestYAMLIsTheGoStruct(t *testing.T) {
	file := `
name: lab
stages:
  proxy: {}
  prefill: {engine: remote, url: "http://10.0.0.1:8100", metrics_url: "http://10.0.0.1:9100/metrics", model: m, ready_timeout: 20m}
  decode: {lease: 2s, load_failure_policy: recompute, block_size: 32, blocks: 64, devices: [gpu0]}
allow_fallback: true
timing:
  decode: {decode_per_step: 3ms, jitter: 0.1}
  dit: {per_step: 10ms}
faults: decode.silent-recompute
`
	got, err := Parse([]byte(file))
	require.NoError(t, err)
	want := Spec{
		Name: "lab",
		Stages: map[engine.Stage]Stage{
			engine.Proxy:   {},
			engine.Prefill: {Engine: "remote", URL: "http://10.0.0.1:8100", MetricsURL: "http://10.0.0.1:9100/metrics", Model: "m", ReadyTimeout: 20 * 60e9},
			engine.Decode:  {Lease: 2e9, LoadFailure: "recompute", BlockSize: 32, Blocks: 64, Devices: []string{"gpu0"}},
		},
		AllowFallback: true,
		Timing:        refstack.Timing{Decode: ar.Timing{DecodePerStep: 3e6, Jitter: 0.1}, DiT: dit.Timing{PerStep: 10e6}},
		FaultNames:    "decode.silent-recompute",
	}
	require.Empty(t, cmp.Diff(want, got))
	faults, err := got.Planted()
	require.NoError(t, err)
	require.True(t, faults.Decode.SilentRecompute)
}

func TestFaultsGivenTwice(t *testing.T) {
	err := Spec{FaultNames: "dit.blank", Faults: refstack.Faults{DiT: dit.Faults{Stall: true}}}.Validate()
	require.ErrorContains(t, err, "given twice")
}
