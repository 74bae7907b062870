package proc

import (
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// script is what the watchdog runs; see there for what it is told.
//
//go:embed watchdog.sh
var script string

// watchdog is a shell that holds the read end of a pipe whose write end only we hold.
type watchdog struct {
	cmd  *exec.Cmd
	pipe *os.File
}

func startWatchdog(tag string) (*watchdog, error) {
	sh, err := exec.LookPath("sh")
	if err != nil {
		return nil, fmt.Errorf("no POSIX shell found, which the watchdog needs to end an engine when this process dies: %w", err)
	}
	r, w, err := os.Pipe() // both ends close-on-exec: no engine started later inherits them
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd := exec.Command(sh, "-c", script, "omnitest-watchdog", tag, sharedDir)
	cmd.Stdin = r
	cmd.Dir = "/" // hold no folder of the test
	// Where we ourselves are an engine of an outer run, its sweep must spare the watchdog, which is needed just then.
	for _, kv := range cmd.Environ() {
		if !strings.HasPrefix(kv, RunTag+"=") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	// A session of its own: neither Ctrl-C nor a closing terminal reaches it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		w.Close()
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	return &watchdog{cmd, w}, nil
}

// guard tells it which group to end.
func (d *watchdog) guard(group int) error {
	if _, err := fmt.Fprintf(d.pipe, "%d\n", group); err != nil {
		return fmt.Errorf("the watchdog has died: %w", err)
	}
	return nil
}

// tell says one more thing to it. Whether it has died is for dismiss to find out.
func (d *watchdog) tell(line string) { io.WriteString(d.pipe, line+"\n") }

// forget tells it that the group is empty and its number no longer ours.
func (d *watchdog) forget() { d.tell("gone") }

// dismiss ends it. An error means that it had died before, i.e. that the engine was unguarded.
func (d *watchdog) dismiss() error {
	_, err := io.WriteString(d.pipe, "ok\n")
	err = errors.Join(err, d.pipe.Close())
	late := time.AfterFunc(dying, func() { d.cmd.Process.Kill() })
	defer late.Stop()
	if werr := d.cmd.Wait(); werr != nil || err != nil {
		return fmt.Errorf("the watchdog had died, the engine ran unguarded: %w", errors.Join(werr, err))
	}
	return nil
}

// signalReaches asks the kernel whether a group has any member, zombies included (EPERM: only such, on macOS).
func signalReaches(group int) bool { return syscall.Kill(-group, 0) == nil }
