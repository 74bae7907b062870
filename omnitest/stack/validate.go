package stack

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/refstack"
)

// Names of the engines that a Stage may ask for.
const (
	EngineReference = "reference" // built in, launched by us; figures are simulated
	EngineRemote    = "remote"    // something that already runs, attached by URL
	EngineVLLM      = "vllm"      // real vLLM, launched by us
)

// order is that of the stages along a request. Messages and reports list stages in it.
var order = []engine.Stage{engine.Proxy, engine.Prefill, engine.Decode, engine.DiT}

// stages gives the stages that this spec really has: nil means all four on the reference engine.
func (s Spec) stages() map[engine.Stage]Stage {
	if s.Stages != nil {
		return s.Stages
	}
	all := make(map[engine.Stage]Stage, len(order))
	for _, stage := range order {
		all[stage] = Stage{}
	}
	return all
}

func (s Stage) engine() string {
	if s.Engine == "" {
		return EngineReference
	}
	return s.Engine
}

// complaints collects what is wrong, so that a file is corrected in one go.
type complaints []error

func (c *complaints) add(format string, args ...any) { *c = append(*c, fmt.Errorf(format, args...)) }

// Validate reports every mistake in the spec, not the first.
func (s Spec) Validate() error {
	var c complaints
	all := s.stages()
	if len(all) == 0 {
		c.add("stages: none given; leave the key out for the whole reference stack")
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(order, name) {
			c.add("stages.%s: unknown stage; known: %s", name, join(order))
			continue
		}
		all[name].validate(name, &c)
	}
	s.topology(&c)
	if s.PlanTokens < 0 {
		c.add("plan_tokens: %d is negative", s.PlanTokens)
	}
	if f, err := s.Planted(); err != nil {
		c = append(c, err)
	} else {
		for _, name := range f.Stages() {
			if st, ok := all[engine.Stage(name)]; !ok || st.engine() != EngineReference {
				c.add("faults: %s cannot be planted: no %s stage runs on the reference engine", f, name)
			}
		}
	}
	return errors.Join(c...)
}

// validate looks at one stage alone.
func (s Stage) validate(name engine.Stage, c *complaints) {
	kind := s.engine()
	if kind != EngineRemote && (s.URL != "" || s.MetricsURL != "") {
		c.add("stages.%s: a url is given, but engine is %q, which we launch ourselves; say engine: %s", name, kind, EngineRemote)
	}
	if kind != EngineVLLM && s.VLLM != nil {
		c.add("stages.%s: a vllm block is given, but engine is %q; say engine: %s", name, kind, EngineVLLM)
	}
	if s.BlockSize < 0 || s.Blocks < 0 || s.Lease < 0 || s.ReadyTimeout < 0 {
		c.add("stages.%s: block_size, blocks, lease and ready_timeout are never negative", name)
	}
	switch kind {
	case EngineReference:
		if s.LoadFailure != "" && s.LoadFailure != "fail" && s.LoadFailure != "recompute" {
			c.add("stages.%s.load_failure_policy: %q; known: fail, recompute", name, s.LoadFailure)
		}
	case EngineRemote:
		if err := checkURL(s.URL); err != nil {
			c.add("stages.%s.url: %w", name, err)
		}
		if s.MetricsURL != "" {
			if err := checkURL(s.MetricsURL); err != nil {
				c.add("stages.%s.metrics_url: %w", name, err)
			}
		}
	case EngineVLLM:
		switch {
		case name != engine.Prefill && name != engine.Decode:
			c.add("stages.%s: engine %s serves %s and %s", name, EngineVLLM, engine.Prefill, engine.Decode)
		case s.VLLM == nil:
			c.add("stages.%s.vllm: missing; it names at least the model: vllm: {model_path: ...}", name)
		default:
			if err := s.vllm().Validate(); err != nil {
				c.add("stages.%s.vllm: %w", name, err)
			}
		}
		if s.Blocks != 0 {
			c.add("stages.%s.blocks: only a %s stage has it; vLLM sizes its cache in bytes (vllm.cpu.kv_gib, or --gpu-memory-utilization in vllm.args)", name, EngineReference)
		}
	default:
		c.add("stages.%s.engine: unknown engine %q; known: %s, %s, %s", name, s.Engine, EngineReference, EngineVLLM, EngineRemote)
	}
}

// topology looks at how the stages fit together.
func (s Spec) topology(c *complaints) {
	all := s.stages()
	p, hasP := all[engine.Prefill]
	d, hasD := all[engine.Decode]
	if hasP && hasD && p.VLLM != nil && (p.VLLM.Role == "kv_consumer" || p.VLLM.Role == "none") {
		c.add("stages.prefill.vllm.kv_role: %q gives no tickets, and there is a decode stage; kv_producer (also the default) or kv_both", p.VLLM.Role)
	}
	if hasP && hasD && d.VLLM != nil && (d.VLLM.Role == "kv_producer" || d.VLLM.Role == "none") {
		c.add("stages.decode.vllm.kv_role: %q takes no tickets, and there is a prefill stage; kv_consumer (also the default) or kv_both", d.VLLM.Role)
	}
	if p.VLLM != nil && d.VLLM != nil && p.VLLM.EngineID != "" && p.VLLM.EngineID == d.VLLM.EngineID {
		c.add("stages: prefill and decode have the same engine_id %q; leave it out, each is then named by its stage", p.VLLM.EngineID)
	}
	_, hasDiT := all[engine.DiT]
	if proxy, ok := all[engine.Proxy]; ok && proxy.engine() == EngineReference {
		switch {
		case hasD && !hasP:
			c.add("stages: the proxy has no prefill stage, but a decode stage; add stages.prefill, or leave out decode for a DiT alone")
		case hasP && !hasD:
			c.add("stages: the proxy has no decode stage, but a prefill stage; add stages.decode, or leave out prefill for a DiT alone")
		case !hasP && !hasDiT:
			c.add("stages: the proxy has nothing behind it; add prefill and decode, or dit, or both")
		}
	}
}

// Planted gives the faults of this stack, whichever way they were written. Both ways at once is a mistake: one would
// silently win.
func (s Spec) Planted() (refstack.Faults, error) {
	if s.FaultNames == "" {
		return s.Faults, nil
	}
	if s.Faults.Any() {
		return s.Faults, errors.New("faults: given twice, as Faults and as FaultNames; use one")
	}
	f, err := refstack.ParseFaults(s.FaultNames)
	if err != nil {
		return f, fmt.Errorf("faults: %w", err)
	}
	return f, nil
}

func checkURL(raw string) error {
	if raw == "" {
		return errors.New("missing; a remote stage needs its base URL, like http://127.0.0.1:8000")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return fmt.Errorf("%q: want http://host:port or https://host:port", raw)
	}
	if strings.HasSuffix(strings.TrimRight(u.Path, "/"), "/v1") {
		return fmt.Errorf("%q: want the base URL without /v1", raw)
	}
	return nil
}

func join(stages []engine.Stage) string {
	words := make([]string, len(stages))
	for i, s := range stages {
		words[i] = string(s)
	}
	return strings.Join(words, ", ")
}
