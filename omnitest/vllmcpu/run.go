package vllmcpu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// step is one command of a Setup.
type step struct {
	what string // "install the packages"
	hint string // when it fails
	env  []string
	argv []string
}

const header = "== " // before a step's name in the log

// run runs one command. Its output goes to the log; out learns that it goes on, and the log's last line, since a person
// cannot tell three silent minutes from a hang.
func (s *setup) run(ctx context.Context, st step) error {
	began := time.Now()
	fmt.Fprintf(s.log, "%s%s\n", header, st.what)
	cmd := exec.CommandContext(ctx, st.argv[0], st.argv[1:]...)
	cmd.Env = append(cmd.Environ(), st.env...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	// Its own group, ended as a whole: pip and uv start helpers that would go on downloading.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	done := make(chan error, 1)
	if err := cmd.Start(); err != nil {
		return s.failed(st, err)
	}
	go func() { done <- cmd.Wait() }()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			last := ""
			if lines := s.tail(1); len(lines) > 0 && !strings.HasPrefix(lines[0], header) {
				last = "; " + lines[0]
			}
			fmt.Fprintf(s.out, "  %s: %s so far%.100s\n", st.what, time.Since(began).Round(time.Second), last)
		case err := <-done:
			if ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return s.failed(st, err)
			}
			fmt.Fprintf(s.out, "  %s: %s\n", st.what, time.Since(began).Round(100*time.Millisecond))
			return nil
		}
	}
}

func (s *setup) failed(st step, err error) error {
	hint := st.hint
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		hint = "a second run repairs what is half done"
	}
	return &SetupError{st.what, err, hint, s.log.Name(), s.tail(15)}
}

// tail gives the last n lines of the log that are not empty.
func (s *setup) tail(n int) []string {
	const most = 16 << 10
	f, err := os.Open(s.log.Name())
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	b := make([]byte, min(most, st.Size()))
	if _, err := f.ReadAt(b, st.Size()-int64(len(b))); err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-n):]
}
