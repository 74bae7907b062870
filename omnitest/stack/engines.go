package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// engineFor turns one stage of the spec into the engine that serves it.
func (s *Stack) engineFor(stage engine.Stage) engine.Engine {
	st := s.Spec.stages()[stage]
	switch st.engine() {
	case EngineRemote:
		return engine.Remote{URL: st.URL, MetricsURL: st.MetricsURL, Model: st.Model, ReadyTimeout: st.ReadyTimeout}
	case EngineVLLM:
		return st.vllm()
	}
	return engine.Reference{
		Configure:    func(p engine.Place) (any, error) { return s.configure(st, p) },
		Model:        st.Model,
		ReadyTimeout: st.ReadyTimeout,
		Devices:      st.Devices,
	}
}

// vllm is the block of this stage with the stage's own keys in it and its folders expanded.
func (st Stage) vllm() engine.VLLM {
	v := *st.VLLM
	v.Model, v.BlockSize, v.Lease, v.LoadFailure = st.Model, st.BlockSize, st.Lease, st.LoadFailure
	v.ReadyTimeout, v.Devices = st.ReadyTimeout, st.Devices
	v.Venv, v.Bin, v.ModelPath = expand(v.Venv), expand(v.Bin), expand(v.ModelPath)
	return v
}

// expand replaces a leading "~/" by the home folder, and "~/.cache/" by the cache folder, which need not be below it
// (XDG_CACHE_HOME, macOS). What cannot be expanded stays and is then not found under its own name.
func expand(path string) string {
	if rest, ok := strings.CutPrefix(path, "~/.cache/"); ok {
		if cache, err := os.UserCacheDir(); err == nil {
			return filepath.Join(cache, rest)
		}
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return path
}

// configure makes the role's configuration once its ports and its peers are known.
func (s *Stack) configure(st Stage, p engine.Place) (any, error) {
	spec := s.Spec
	addr := func(port string) string { return fmt.Sprintf("127.0.0.1:%d", p.Ports[port]) }
	switch p.Stage {
	case engine.Prefill, engine.Decode:
		c := ar.Config{
			Model: st.Model, EngineID: p.Name, Listen: addr("http"), Side: addr("side"),
			BlockSize: st.BlockSize, Blocks: st.Blocks, Lease: st.Lease, LoadFailure: st.LoadFailure,
			Faults: spec.Faults.Prefill, Timing: spec.Timing.Prefill,
		}
		if p.Stage == engine.Decode {
			c.Faults, c.Timing = spec.Faults.Decode, spec.Timing.Decode
		}
		return c, nil
	case engine.DiT:
		return dit.Config{Model: st.Model, Listen: addr("http"), Faults: spec.Faults.DiT, Timing: spec.Timing.DiT}, nil
	case engine.Proxy:
		return proxy.Config{
			Listen: addr("http"), Prefill: p.Peers[engine.Prefill], Decode: p.Peers[engine.Decode], DiT: p.Peers[engine.DiT],
			Model: spec.stages()[engine.Decode].Model, DiTModel: spec.stages()[engine.DiT].Model,
			PlanTokens: spec.PlanTokens, AllowFallback: spec.AllowFallback, LedgerFile: p.Dir + "/ledger.jsonl", Faults: spec.Faults.Proxy,
		}, nil
	}
	return nil, fmt.Errorf("no reference engine for stage %q", p.Stage)
}

// Installed says what the stages that we launch lack on this machine, without starting anything (*engine.NotInstalledError,
// one for each stage). nil does not promise that they start.
func (s Spec) Installed() error {
	var errs []error
	for _, stage := range order {
		st, ok := s.stages()[stage]
		if !ok || st.engine() != EngineVLLM || st.VLLM == nil {
			continue
		}
		if _, err := st.vllm().Plan(engine.Place{Stage: stage, Name: string(stage)}); err != nil {
			errs = append(errs, fmt.Errorf("stages.%s: %w", stage, err))
		}
	}
	return errors.Join(errs...)
}
