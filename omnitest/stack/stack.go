package stack

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/omnitest/suite/omnitest/engine"
)

// Stack is a topology that runs. Its stages are ready: each answered its health check.
type Stack struct {
	Spec Spec // as launched, faults resolved
	Dir  string

	instances map[engine.Stage]*engine.Instance
	stop      sync.Once
	stopErr   error
}

// Options say where a stack lives. The zero value works for stages that are all remote.
type Options struct {
	Dir    string       // logs and scratch; each instance gets a folder in it
	Label  string       // who holds the device locks, "TestX"
	Report func(string) // progress lines such as "waiting for gpu0"; nil: none
}

// Launch starts what is to be started, attaches what is remote and returns when every stage is ready, and, where prefill
// and decode are no reference engines, when one request went through both (*SmokeError; Spec.SkipSmoke). ctx bounds the
// start only; the stack runs until Stop. On failure everything that was started is stopped again.
func Launch(ctx context.Context, spec Spec, o Options) (*Stack, error) {
	if err := spec.Validate(); err != nil {
		return nil, fmt.Errorf("stack: %w", err)
	}
	spec.Faults, _ = spec.Planted() // Validate has seen the error
	spec.FaultNames = ""
	s := &Stack{Spec: spec, Dir: o.Dir, instances: map[engine.Stage]*engine.Instance{}}

	// The engines know nothing of each other and start side by side; the proxy needs their addresses.
	var back []engine.Stage
	for _, stage := range order[1:] {
		if _, ok := spec.stages()[stage]; ok {
			back = append(back, stage)
		}
	}
	if err := s.launch(ctx, o, back, nil); err != nil {
		return nil, s.abandon(err)
	}
	if _, ok := spec.stages()[engine.Proxy]; ok {
		peers := map[engine.Stage]string{}
		for stage, in := range s.instances {
			peers[stage] = in.BaseURL
		}
		if err := s.launch(ctx, o, []engine.Stage{engine.Proxy}, peers); err != nil {
			return nil, s.abandon(err)
		}
	}
	if s.needsSmoke() {
		if err := s.smoke(ctx); err != nil {
			return nil, s.abandon(err)
		}
	}
	return s, nil
}

func (s *Stack) launch(ctx context.Context, o Options, stages []engine.Stage, peers map[engine.Stage]string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		errs []error
	)
	for _, stage := range stages {
		wg.Go(func() {
			name := string(stage) + "-0"
			in, err := engine.Launch(ctx, s.engineFor(stage), engine.Options{
				Stage: stage, Name: name, Dir: filepath.Join(o.Dir, name),
				Peers: peers, Label: o.Label, Report: o.Report,
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				// The others were cancelled because of the first failure: their errors would hide it.
				if len(errs) == 0 {
					errs = append(errs, err)
				}
				cancel()
				return
			}
			s.instances[stage] = in
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (s *Stack) abandon(cause error) error {
	if err := s.Stop(context.Background()); err != nil {
		return fmt.Errorf("%w\nand then stopping the rest failed: %w", cause, err)
	}
	return cause
}

// Stop ends what Launch started: the proxy first, so that no request enters a stack that is coming down. Remote stages
// are left alone. It may be called more than once.
func (s *Stack) Stop(ctx context.Context) error {
	s.stop.Do(func() {
		var errs []error
		if in := s.instances[engine.Proxy]; in != nil {
			errs = append(errs, in.Stop(ctx))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		for stage, in := range s.instances {
			if stage == engine.Proxy {
				continue
			}
			wg.Go(func() {
				err := in.Stop(ctx)
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			})
		}
		wg.Wait()
		s.stopErr = errors.Join(errs...)
	})
	return s.stopErr
}

// Instance gives the instance that serves a stage, nil when the stack has no such stage.
func (s *Stack) Instance(stage engine.Stage) *engine.Instance { return s.instances[stage] }

// Stages lists the stages of this stack in the order of the flow.
func (s *Stack) Stages() []engine.Stage {
	var have []engine.Stage
	for _, stage := range order {
		if s.instances[stage] != nil {
			have = append(have, stage)
		}
	}
	return have
}

// Entry is the instance that clients talk to: the proxy, else the first stage there is.
func (s *Stack) Entry() *engine.Instance { return s.instances[s.Stages()[0]] }

// Dead names the first stage whose process has ended although nobody stopped it; "" while all live.
func (s *Stack) Dead() (engine.Stage, error) {
	for _, stage := range s.Stages() {
		in := s.instances[stage]
		select {
		case <-in.Done():
			return stage, in.Err()
		default:
		}
	}
	return "", nil
}

// Simulated is true when any stage runs on the reference engine.
func (s *Stack) Simulated() bool {
	return slices.ContainsFunc(s.Stages(), func(st engine.Stage) bool { return s.instances[st].Simulated })
}

// Target says in one line what is tested: "reference stack (simulated)", or each stage with its engine and URL.
func (s *Stack) Target() string {
	var parts []string
	allReference := true
	for _, stage := range s.Stages() {
		in := s.instances[stage]
		if in.Simulated {
			parts = append(parts, fmt.Sprintf("%s %s", stage, EngineReference))
			continue
		}
		allReference = false
		text := fmt.Sprintf("%s %s", stage, in.BaseURL)
		if in.PID() != 0 { // ours: its port is another one each time and says nothing
			text = strings.TrimSpace(fmt.Sprintf("%s %s %s", stage, in.Kind, in.Version))
		}
		if in.Model != "" {
			text += " model " + in.Model
		}
		parts = append(parts, text)
	}
	text := "reference stack (simulated)"
	switch {
	case !allReference && s.Simulated():
		text = strings.Join(parts, ", ") + " (partly simulated)"
	case !allReference:
		text = strings.Join(parts, ", ")
	}
	if s.Spec.Name != "" {
		text = s.Spec.Name + ": " + text
	}
	if s.Spec.Faults.Any() {
		text += " with planted faults " + s.Spec.Faults.String()
	}
	return text
}
