package proc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const longGrace = 30 * time.Second

func TestExitAndTail(t *testing.T) {
	p, _ := startShell(t, `echo one; echo two >&2; printf 'load 1%%\rload 50%%\rload 100%%\r\n'; exit 3`)
	e := p.Exit()
	assert.Equal(t, 3, e.Code)
	assert.Regexp(t, `^exited with code 3 after \d+(\.\d)? m?s$`, e.String())
	assert.Equal(t, []string{"one", "two", "load 100%"}, p.Tail(10))
	assert.Equal(t, []string{"two", "load 100%"}, p.Tail(2))
	assert.ErrorIs(t, p.Signal(syscall.SIGTERM), os.ErrProcessDone)
	end, err := p.Stop(t.Context(), longGrace)
	require.NoError(t, err)
	assert.False(t, end.Forced)
	assert.Regexp(t, `^stopped in \d+(\.\d)? m?s, exited with code 3 after \d+(\.\d)? m?s$`, end.String())
}

func TestTailIsOfThisRunOnly(t *testing.T) {
	log := filepath.Join(t.TempDir(), "engine.log")
	require.NoError(t, os.WriteFile(log, []byte("an earlier run\n"), 0o644))
	p, err := Start(Command{Path: "sh", Args: []string{"-c", "echo this run"}, Log: log})
	require.NoError(t, err)
	p.Exit()
	assert.Equal(t, []string{"this run"}, p.Tail(10))
	all, _ := os.ReadFile(log)
	assert.Equal(t, "an earlier run\nthis run\n", string(all))
	_, err = p.Stop(t.Context(), 0)
	require.NoError(t, err)
}

func TestTailOfALongLog(t *testing.T) {
	log := filepath.Join(t.TempDir(), "big.log")
	var b strings.Builder
	for i := range 20000 {
		fmt.Fprintf(&b, "line %d\n", i)
	}
	b.WriteString(strings.Repeat("é", 300) + "\n\xff tail without newline")
	require.NoError(t, os.WriteFile(log, []byte(b.String()), 0o644))
	got := logFile{path: log}.tail(3)
	require.Len(t, got, 3)
	assert.Equal(t, "line 19999", got[0])
	assert.Equal(t, strings.Repeat("é", 200)+"...", got[1])
	assert.Equal(t, "\uFFFD tail without newline", got[2])
	whole := logFile{path: log}.tail(1 << 20)
	assert.Regexp(t, `^line \d+$`, whole[0], "a tail begins at a whole line")
	assert.Nil(t, logFile{path: "no such file"}.tail(3))
}

func TestStopIsGentleFirst(t *testing.T) {
	p, _ := startShell(t, `trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done`)
	awaitLine(t, p, "up")
	end, err := p.Stop(t.Context(), longGrace)
	require.NoError(t, err)
	assert.Equal(t, 7, end.Exit.Code)
	assert.Equal(t, []string{"bye"}, p.Tail(1), "its own cleanup ran")
	again, err := p.Stop(t.Context(), 0)
	require.NoError(t, err)
	assert.Equal(t, end, again, "a second Stop gives the first result")
}

func TestStopEscalates(t *testing.T) {
	p, _ := startShell(t, `trap '' TERM; echo up; while :; do sleep 0.05; done`)
	awaitLine(t, p, "up")
	end, err := p.Stop(t.Context(), 200*time.Millisecond)
	require.NoError(t, err)
	assert.True(t, end.Forced)
	assert.Equal(t, syscall.SIGKILL, end.Exit.Signal)
	assert.GreaterOrEqual(t, end.Took, 200*time.Millisecond)
	assert.Regexp(t, `^stopped in .*, was ended by signal 9 \(killed\) after .*; SIGKILL was needed$`, end.String())
}

func TestStopEndsAStoppedGroup(t *testing.T) {
	p, _ := startShell(t, `trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done`)
	awaitLine(t, p, "up")
	require.NoError(t, p.Signal(syscall.SIGSTOP))
	assert.True(t, groupHalted(p.PID()), "stopped when Signal returns")
	end, err := p.Stop(t.Context(), longGrace)
	require.NoError(t, err)
	assert.Equal(t, 0, end.Exit.Code, "it was let go on to see its SIGTERM")
	assert.Less(t, end.Took, longGrace)
}

func TestStopHurriesWhenItsContextEnds(t *testing.T) {
	p, _ := startShell(t, `trap '' TERM; echo up; while :; do sleep 0.05; done`)
	awaitLine(t, p, "up")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	end, err := p.Stop(ctx, time.Hour)
	require.NoError(t, err)
	assert.True(t, end.Forced)
}

// Children in the group, deaf children, children in sessions of their own, with and without the tag: none is left.
func TestStopFindsTheWholeFamily(t *testing.T) {
	p, file := startShell(t, engineScript)
	pids := awaitPIDs(t, file)
	for _, pid := range pids {
		require.True(t, alive(pid))
	}
	end, err := p.Stop(t.Context(), longGrace)
	require.NoError(t, err)
	require.NoError(t, anyAlive(pids))
	assert.True(t, end.Forced, "one worker ignores SIGTERM")
	if runtime.GOOS == "linux" {
		require.Len(t, end.Escaped, 2, "the two that called setsid")
		assert.Contains(t, end.String(), "; escaped from the group and killed: "+end.Escaped[0]+", "+end.Escaped[1])
		assert.Regexp(t, `^\d+ sleep$`, end.Escaped[0])
	}
}

// A crashed engine leaves its workers to us; so does Kill for one that had left the group.
func TestStopAfterKillSweepsTheTagged(t *testing.T) {
	p, file := startShell(t, engineScript)
	pids := awaitPIDs(t, file)
	require.NoError(t, p.Kill())
	assert.Equal(t, syscall.SIGKILL, p.Exit().Signal)
	end, err := p.Stop(t.Context(), longGrace)
	require.NoError(t, err)
	if runtime.GOOS == "linux" {
		assert.Len(t, end.Escaped, 1, "the tag finds one; the other lost both tag and parent: %v", end)
		eventually(t, func() error { // the one that nothing ties to us any more
			left := 0
			for _, pid := range pids {
				if alive(pid) {
					left++
					syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			if left > 1 {
				t.Errorf("%d of %v were left", left, pids)
			}
			return anyAlive(pids)
		})
	}
}

func TestStartFailures(t *testing.T) {
	dir := t.TempDir()
	_, err := Start(Command{Path: "no-such-engine", Log: filepath.Join(dir, "a.log")})
	assert.EqualError(t, err, `exec: "no-such-engine": executable file not found in $PATH`)

	file := filepath.Join(dir, "not-executable")
	require.NoError(t, os.WriteFile(file, []byte("#!/no/such/interpreter\n"), 0o755))
	before := openFiles()
	_, err = Start(Command{Path: file, Log: filepath.Join(dir, "b.log")})
	assert.ErrorContains(t, err, "no such file or directory")
	assert.Equal(t, before, openFiles(), "the watchdog that was started first is gone")

	_, err = Start(Command{Path: "sh"})
	assert.EqualError(t, err, "proc: no log file given")
}

func TestNoShellNoEngine(t *testing.T) {
	sleep, err := filepath.Abs("/bin/sleep")
	require.NoError(t, err)
	t.Setenv("PATH", t.TempDir())
	_, err = Start(Command{Path: sleep, Args: []string{"60"}, Log: filepath.Join(t.TempDir(), "a.log")})
	assert.EqualError(t, err, `no POSIX shell found, which the watchdog needs to end an engine when this process dies: exec: "sh": executable file not found in $PATH`)
}

func TestDeadWatchdogIsReported(t *testing.T) {
	p, _ := startShell(t, `echo up; exec sleep 60`)
	awaitLine(t, p, "up")
	require.NoError(t, p.dog.cmd.Process.Kill())
	eventually(t, func() error {
		if alive(p.dog.cmd.Process.Pid) {
			return errors.New("watchdog still runs")
		}
		return nil
	})
	_, err := p.Stop(t.Context(), longGrace)
	require.ErrorContains(t, err, "the watchdog had died, the engine ran unguarded: ")
}

func TestEnvironment(t *testing.T) {
	p, _ := startShell(t, `echo "$OMNITEST_RUN $A"`, "A=1", "A=2", "OMNITEST_RUN=of an outer run")
	p.Exit()
	assert.Equal(t, []string{p.Tag() + " 2"}, p.Tail(5))
	assert.Len(t, p.Tag(), 16)
}

// Nothing of ours stays after Stop: no goroutine, no file.
func TestStopLeavesNothingOpen(t *testing.T) {
	run := func() {
		p, _ := startShell(t, `exec sleep 60`)
		_, err := p.Stop(t.Context(), longGrace)
		require.NoError(t, err)
	}
	run()
	files, routines := openFiles(), runtime.NumGoroutine()
	for range 5 {
		run()
	}
	eventually(t, func() error {
		if f, g := openFiles(), runtime.NumGoroutine(); f > files || g > routines {
			return fmt.Errorf("files %d -> %d, goroutines %d -> %d", files, f, routines, g)
		}
		return nil
	})
}

func openFiles() int {
	fds, _ := os.ReadDir("/dev/fd")
	return len(fds)
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0 ms", 120 * time.Millisecond: "120 ms", time.Second: "1 s", 2345 * time.Millisecond: "2.3 s", 84600 * time.Millisecond: "85 s",
	} {
		assert.Equal(t, want, Span(d))
	}
}

func TestBudget(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct{ left, stop, grace time.Duration }{
		{10 * time.Minute, 9 * time.Minute, 30 * time.Second},
		{2 * time.Second, 1800 * time.Millisecond, 100 * time.Millisecond},
		{time.Second, 800 * time.Millisecond, 100 * time.Millisecond},
		{50 * time.Millisecond, -150 * time.Millisecond, 100 * time.Millisecond}, // too late: the context has ended already
	} {
		stop, grace := Budget(now, now.Add(c.left))
		assert.Equal(t, c.stop, stop.Sub(now), "stop with %s left", c.left)
		assert.Equal(t, c.grace, grace, "grace with %s left", c.left)
	}
}

func TestDeadline(t *testing.T) {
	ctx, cancel := Deadline(t.Context(), time.Time{})
	defer cancel()
	_, has := ctx.Deadline()
	assert.False(t, has, "a benchmark has no deadline")

	ctx, cancel = Deadline(t.Context(), time.Now().Add(50*time.Millisecond))
	defer cancel()
	require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
	assert.Regexp(t, `^the test's own deadline is near \(\d+ ms were left, 200 ms of them kept for stopping and reporting\); rerun with a longer -timeout: context deadline exceeded$`,
		context.Cause(ctx).Error())
}

// What the watchdog, the process table and the sweep add to a start and a stop.
func BenchmarkStartStop(b *testing.B) {
	log := filepath.Join(b.TempDir(), "engine.log")
	for b.Loop() {
		p, err := Start(Command{Path: "sleep", Args: []string{"60"}, Log: log})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := p.Stop(context.Background(), longGrace); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBareStartKill(b *testing.B) {
	for b.Loop() {
		c := exec.Command("sleep", "60")
		if err := c.Start(); err != nil {
			b.Fatal(err)
		}
		c.Process.Kill()
		c.Wait()
	}
}
