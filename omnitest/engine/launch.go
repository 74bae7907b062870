package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/devlock"
	"github.com/omnitest/suite/omnitest/internal/ports"
	"github.com/omnitest/suite/omnitest/internal/proc"
)

// Options say where an instance lives. The zero value serves no stage in particular, in a new temporary folder.
type Options struct {
	Stage  Stage
	Name   string           // unique within a stack; "": the stage
	Dir    string           // logs and scratch; "": a new folder under os.TempDir, which stays as evidence
	Peers  map[Stage]string // base URLs of stages that are up already
	Env    []string         // added to the environment after the plan's own
	Label  string           // who holds the device locks, "TestX"; "": Name
	Report func(string)     // progress worth showing, "waiting for gpu0 held by ..."; nil: none
}

const (
	defaultReady = 60 * time.Second // Plan.ReadyTimeout
	defaultGrace = 10 * time.Second // Plan.StopGrace
	failedGrace  = time.Second      // grace for an engine that did not get ready
	tailLines    = 20               // of the log in an error
	hintLines    = 400              // of the log that Diagnose looks at: vLLM's cause stands above three tracebacks
)

// Launch starts an instance and returns when it is ready, or attaches to one (Remote). ctx bounds the start only; the
// instance runs until Stop or the death of this process, whichever comes first and however it comes. Every error is a
// *LaunchError, and then nothing is left running.
func Launch(ctx context.Context, e Engine, o Options) (*Instance, error) {
	in, err := launch(ctx, e, o)
	var le *LaunchError
	if errors.As(err, &le) && bindFailed(le) {
		// Somebody took a port between our reservation and the engine's bind. New ports, once.
		if in, err = launch(ctx, e, o); errors.As(err, &le) {
			le.Cause = fmt.Errorf("%w (second try with new ports: the first ended with \"address already in use\")", le.Cause)
		}
	}
	return in, err
}

func launch(ctx context.Context, e Engine, o Options) (*Instance, error) {
	o.Name = cmp.Or(o.Name, string(o.Stage), e.Kind())
	in := &Instance{Stage: o.Stage, Name: o.Name, Kind: e.Kind(), done: make(chan struct{})}
	fail := func(cause error) (*Instance, error) {
		err := &LaunchError{Stage: o.Stage, Name: o.Name, Remote: in.process == nil && in.plan.Path == "" && in.BaseURL != "", Cause: cause}
		if in.process != nil {
			if _, stopErr := in.process.Stop(context.WithoutCancel(ctx), failedGrace); stopErr != nil {
				err.Cause = fmt.Errorf("%w; and then: %w", cause, stopErr)
			}
			err.LogPath, err.Tail = in.process.LogPath(), in.process.Tail(tailLines)
			err.Hint = Diagnose(in.process.Tail(hintLines))
		}
		in.release()
		return nil, err
	}

	var err error
	if in.ports, err = ports.Reserve(nil, e.Ports()...); err != nil {
		return fail(err)
	}
	place := Place{Stage: o.Stage, Name: o.Name, Dir: o.Dir, Ports: in.ports.Map(), Peers: o.Peers}
	if len(place.Ports) > 0 { // something will be started
		if place.Dir, err = makeDir(o); err != nil {
			return fail(err)
		}
	}
	plan, err := e.Plan(place)
	if err != nil {
		return fail(err)
	}
	plan.HealthPath = cmp.Or(plan.HealthPath, "/health")
	plan.ReadyTimeout = cmp.Or(plan.ReadyTimeout, defaultReady)
	plan.StopGrace = cmp.Or(plan.StopGrace, defaultGrace)
	plan.BaseURL = strings.TrimRight(plan.BaseURL, "/")
	in.plan = plan
	in.BaseURL, in.MetricsURL, in.Model, in.Connector, in.Simulated = plan.BaseURL, plan.MetricsURL, plan.Model, plan.Connector, plan.Simulated
	if in.devices, err = devlock.Lock(ctx, plan.Devices, cmp.Or(o.Label, o.Name), o.Report); err != nil {
		return fail(err)
	}

	begun := time.Now() // after the wait for devices, which is not the engine's
	if plan.Path != "" {
		if place.Dir == "" {
			if place.Dir, err = makeDir(o); err != nil {
				return fail(err)
			}
		}
		in.process, err = proc.Start(proc.Command{
			Path: plan.Path, Args: plan.Args, Env: append(plan.Env[:len(plan.Env):len(plan.Env)], o.Env...),
			Log: filepath.Join(place.Dir, o.Name+".log"),
		})
		if err != nil {
			return fail(fmt.Errorf("cannot be run: %w", err))
		}
		in.done = in.process.Done()
	}
	wait, given := context.WithCancelCause(ctx)
	defer given(nil)
	if h, ok := e.(interface{ hopeless([]string) error }); ok && in.process != nil {
		go watchLog(wait, given, in.process, h.hopeless)
	}
	model, err := waitReady(wait, plan, in.done)
	if errors.Is(err, errEnded) {
		err = ended(e, in.process.Exit())
	}
	if lost := (*hopelessError)(nil); errors.As(context.Cause(wait), &lost) && err != nil {
		err = lost
	}
	if err != nil {
		return fail(err)
	}
	in.StartTook = time.Since(begun)
	in.Model = cmp.Or(plan.Model, model)
	in.Version = version(ctx, in.BaseURL)
	return in, nil
}

// ended explains an end before the engine was ready.
func ended(e Engine, exit proc.Exit) error {
	text := exit.String()
	if exit.Code == 0 {
		text = strings.Replace(text, "code 0", "code 0 before it was ready,", 1)
		if h, ok := e.(interface{ exitHint() string }); ok {
			text += ": " + h.exitHint()
		}
	}
	return &endError{text, exit}
}

type endError struct {
	text string
	exit proc.Exit
}

func (e *endError) Error() string { return e.text }

// hopelessError says that an engine still runs and will never be ready.
type hopelessError struct{ text string }

func (e *hopelessError) Error() string { return e.text }

// watchLog gives up the wait as soon as the log shows that it is in vain.
func watchLog(ctx context.Context, give context.CancelCauseFunc, p *proc.Process, hopeless func([]string) error) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Second):
		}
		if err := hopeless(p.Tail(tailLines * 2)); err != nil {
			give(err)
			return
		}
	}
}

// bindFailed says whether the engine ended itself, or hangs, because a port was taken.
func bindFailed(e *LaunchError) bool {
	var end *endError
	var lost *hopelessError
	if !errors.As(e.Cause, &end) && !errors.As(e.Cause, &lost) {
		return false
	}
	text := strings.ToLower(strings.Join(e.Tail, "\n"))
	// Go, libc; Python prints the number as well: 98 on Linux, 48 on macOS.
	for _, sign := range []string{"address already in use", "eaddrinuse", "errno 98", "errno 48"} {
		if strings.Contains(text, sign) {
			return true
		}
	}
	return false
}

func makeDir(o Options) (string, error) {
	if o.Dir == "" {
		return os.MkdirTemp("", "omnitest-"+strings.ReplaceAll(o.Name, string(os.PathSeparator), "-")+"-")
	}
	dir, err := filepath.Abs(o.Dir) // errors name the log: it must be found from anywhere
	if err != nil {
		return "", err
	}
	return dir, os.MkdirAll(dir, 0o755)
}
