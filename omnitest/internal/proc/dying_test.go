package proc

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/internal/ports"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// victim is true in the process that is to die; PROC_TEST_WAY says how.
var victim bool

// TestVictim is the body of that process. In a normal run it has nothing to do: TestNothingOutlivesUs starts it.
func TestVictim(t *testing.T) {
	if !victim {
		return
	}
	p, err := Start(Command{Path: "sh", Args: []string{"-c", engineScript}, Log: os.Getenv("PIDS") + ".log"})
	require.NoError(t, err)
	t.Cleanup(func() { // what every test would have; runs in one of the six ways
		p.Stop(t.Context(), time.Second)
		fmt.Println("cleanup ran")
	})
	awaitPIDs(t, os.Getenv("PIDS"))
	fmt.Println("engine is up")
	switch os.Getenv(wayEnv) {
	case "fatal":
		t.Fatal("as planned")
	case "panic in a goroutine":
		go panic("as planned")
	case "unguarded":
		p.dog.cmd.Process.Kill()
		p.dog.cmd.Wait()
		os.Exit(1)
	case "os.Exit":
		os.Exit(1)
	}
	time.Sleep(time.Minute) // until the timeout or the signal
}

func TestNothingOutlivesUs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		way     string
		signal  os.Signal
		cleanup bool // whether t.Cleanup ran: all the reason for the watchdog
		output  string
	}{
		{way: "fatal", cleanup: true, output: "as planned"},
		{way: "test timeout", output: "panic: test timed out after "},
		{way: "panic in a goroutine", output: "panic: as planned"},
		{way: "os.Exit"},
		{way: "SIGKILL", signal: syscall.SIGKILL},
		{way: "SIGINT", signal: syscall.SIGINT},
	} {
		t.Run(c.way, func(t *testing.T) {
			t.Parallel()
			limit := time.Minute
			if c.way == "test timeout" {
				limit = 2 * time.Second
			}
			out, pidFile := die(t, c.way, c.signal, limit)
			for limit < time.Minute && !strings.Contains(out, "engine is up") { // a loaded machine
				limit *= 4
				out, pidFile = die(t, c.way, c.signal, limit)
			}
			pids := awaitPIDs(t, pidFile)
			assert.Equal(t, c.cleanup, strings.Contains(out, "cleanup ran"), out)
			assert.Contains(t, out, c.output)
			eventually(t, func() error { return anyAlive(pids) })
		})
	}
}

// The counter-proof: without its watchdog the same engine stays, and the assertion above sees it.
func TestWithoutWatchdogTheEngineStays(t *testing.T) {
	t.Parallel()
	_, pidFile := die(t, "unguarded", nil, time.Minute)
	pids := awaitPIDs(t, pidFile)
	time.Sleep(1500 * time.Millisecond) // longer than the watchdog's first two rounds
	for _, pid := range pids {
		assert.True(t, alive(pid), "%d of %v", pid, pids)
		syscall.Kill(pid, syscall.SIGKILL)
	}
	eventually(t, func() error { return anyAlive(pids) })
}

// die runs a victim to its end and gives its output and the file with the numbers of its engine's processes.
func die(t *testing.T, way string, signal os.Signal, timeout time.Duration) (output, pidFile string) {
	pidFile = filepath.Join(t.TempDir(), "pids")
	child := exec.CommandContext(t.Context(), executable(t), "-test.run=^TestVictim$", "-test.v", "-test.timeout="+timeout.String())
	child.Env = append(os.Environ(), wayEnv+"="+way, "PIDS="+pidFile)
	var out strings.Builder
	child.Stdout, child.Stderr = &out, &out // a pipe: Wait returns only when nobody holds it, engines included
	require.NoError(t, child.Start())
	if signal != nil {
		awaitPIDs(t, pidFile)
		require.NoError(t, child.Process.Signal(signal))
	}
	require.Error(t, child.Wait(), out.String())
	return out.String(), pidFile
}

// startForEver is a process that starts engines on reserved ports, one after the other, until it is killed.
func startForEver() {
	work := os.Getenv("PIDS")
	note, _ := os.Create(work + ".ports")
	for {
		s, err := ports.Reserve(nil, "http")
		if err == nil {
			fmt.Fprintln(note, s.Port("http"))
			_, err = Start(Command{Path: "sh", Args: []string{"-c", `setsid sleep 300 & sleep 300 & wait`}, Log: work + ".log"})
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// The starter is killed at twenty moments, many of which fall between the start of a watchdog and that of its engine, or
// between that and the word to the watchdog. No process with the starter's mark may be left (watchdogs included), and
// every port that it had reserved can be had again.
func TestKilledAtAnyMoment(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc to find processes by their environment; run on Linux")
	}
	t.Parallel()
	const times = 20
	slots := make(chan struct{}, times)
	var wg sync.WaitGroup
	for i := range times {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			work := filepath.Join(t.TempDir(), "starter")
			mark := fmt.Sprintf("PROC_TEST_MARK=%x", rand.Uint64())
			child := exec.CommandContext(t.Context(), executable(t))
			child.Env = append(os.Environ(), wayEnv+"=any moment", "PIDS="+work, mark)
			if !assert.NoError(t, child.Start()) {
				return
			}
			for end := time.Now().Add(20 * time.Second); len(reserved(work)) == 0 && time.Now().Before(end); {
				time.Sleep(time.Millisecond)
			}
			time.Sleep(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
			assert.NoError(t, child.Process.Kill())
			child.Wait()
			var left []string
			for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				if left = marked(mark); len(left) == 0 {
					break
				}
			}
			assert.Empty(t, left, "round %d", i)
			taken := reserved(work)
			assert.NotEmpty(t, taken)
			for _, p := range taken {
				s, err := ports.Reserve(map[string]int{"http": p}, "http")
				assert.NoError(t, err)
				s.Release()
			}
		})
	}
	wg.Wait()
}

func reserved(work string) []int {
	b, _ := os.ReadFile(work + ".ports")
	return ints(string(b))
}

// marked names the living processes that have an environment entry.
func marked(entry string) (out []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, f := range files {
		b, _ := os.ReadFile(f)
		if strings.Contains("\x00"+string(b), "\x00"+entry+"\x00") {
			line, _ := os.ReadFile(filepath.Join(filepath.Dir(f), "cmdline"))
			out = append(out, fmt.Sprintf("%s: %.60q", f, line))
		}
	}
	return out
}

func executable(t *testing.T) string {
	exe, err := os.Executable()
	require.NoError(t, err)
	return exe
}
