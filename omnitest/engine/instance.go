package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/omnitest/suite/omnitest/internal/devlock"
	"github.com/omnitest/suite/omnitest/internal/ports"
	"github.com/omnitest/suite/omnitest/internal/proc"
)

// Instance is one engine that serves one stage: started by Launch, or attached by URL (Remote). Its methods are safe for
// concurrent use.
type Instance struct {
	Stage      Stage
	Name       string
	Kind       string // of the engine: "reference", "remote", "vllm"
	Version    string // as GET /version tells, "0.32.0"; "": it does not tell
	Connector  string // how it hands KV over, "NixlConnector"; "": it does not, or it is not known
	BaseURL    string // without a slash at the end
	MetricsURL string // "": no metrics
	Model      string // served model name; "": it does not tell
	Simulated  bool   // its figures are not a real engine's
	StartTook  time.Duration

	plan    Plan
	process *proc.Process // nil: attached
	done    <-chan struct{}
	ports   *ports.Set
	devices *devlock.Held

	mu      sync.Mutex
	stopped bool // Stop came before the end
	stop    sync.Once
	stopErr error
}

// PID of the engine's first process, 0 for one that is attached.
func (i *Instance) PID() int {
	if i.process == nil {
		return 0
	}
	return i.process.PID()
}

// Done is closed when the engine's first process has ended, never for one that is attached.
func (i *Instance) Done() <-chan struct{} { return i.done }

// Err says why the engine ended (a *DiedError with the end of its log). It is nil while the engine runs and when Stop
// ended it; after Kill it is not nil, since Kill stands for a crash.
func (i *Instance) Err() error {
	if i.process == nil {
		return nil
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped || i.running() {
		return nil
	}
	return &DiedError{
		Stage: i.Stage, Name: i.Name, Cause: errors.New(i.process.Exit().String()),
		LogPath: i.LogPath(), Tail: i.Tail(tailLines),
	}
}

func (i *Instance) running() bool {
	select {
	case <-i.done:
		return false
	default:
		return true
	}
}

// LogPath is the file with the engine's output, "" for one that is attached.
func (i *Instance) LogPath() string {
	if i.process == nil {
		return ""
	}
	return i.process.LogPath()
}

// Tail gives the last n lines of the log.
func (i *Instance) Tail(n int) []string {
	if i.process == nil {
		return nil
	}
	return i.process.Tail(n)
}

// Signal sends a signal to the engine's whole process group; SIGSTOP makes it hang, SIGCONT lets it go on.
func (i *Instance) Signal(sig os.Signal) error {
	if i.process == nil {
		return fmt.Errorf("%s is attached by URL (%s): its process is not ours to signal", title(i.Stage, i.Name), i.BaseURL)
	}
	return i.process.Signal(sig)
}

// Kill ends the whole process group at once, as a crash would. Stop is still due.
func (i *Instance) Kill() error { return i.Signal(syscall.SIGKILL) }

// Stop ends the engine and everything it started: SIGTERM, SIGKILL after the plan's StopGrace or as soon as ctx ends, then
// whatever had left the process group, then what they left in shared memory. Ports and devices are free afterwards. It may be
// called again (the first result is given) and does nothing to an attached engine. An error means that something is still
// there.
//
// Do not pass t.Context() from within t.Cleanup: it has ended by then, and the engine gets no grace.
func (i *Instance) Stop(ctx context.Context) error {
	if i.process == nil {
		return nil
	}
	i.stop.Do(func() {
		i.mu.Lock()
		i.stopped = i.running()
		i.mu.Unlock()
		how, err := i.process.Stop(ctx, i.plan.StopGrace)
		if err != nil {
			i.stopErr = fmt.Errorf("%s was not stopped cleanly: %w%s", title(i.Stage, i.Name), err, logText(i.LogPath(), i.Tail(tailLines)))
		}
		i.note(how.String())
		if err := i.release(); err != nil {
			i.stopErr = errors.Join(i.stopErr, err)
		}
	})
	return i.stopErr
}

// note adds a line of ours to the engine's log, where whoever reads it wants to know how it ended.
func (i *Instance) note(line string) {
	if f, err := os.OpenFile(i.LogPath(), os.O_APPEND|os.O_WRONLY, 0); err == nil {
		fmt.Fprintf(f, "omnitest: %s\n", line)
		f.Close()
	}
}

func (i *Instance) release() error {
	return errors.Join(i.ports.Release(), i.devices.Release())
}
