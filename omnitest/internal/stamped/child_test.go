package stamped

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestChild(t *testing.T) {
	c, err := Spawn(t.Context(), Options{Stamp: true})
	require.NoError(t, err)
	defer c.Stop()
	before := Now()
	_, events, _, err := post(t, c.URL, "/v1/completions", streamed)
	require.NoError(t, err)
	if runtime.GOOS == "linux" { // one clock for both processes
		st, ok := Parse([]byte(events[0].data))
		require.True(t, ok)
		assert.True(t, before < st.Written && st.Written < events[0].at, "%d %+v %d", before, st, events[0].at)
	}
	truth, err := c.Truth(t.Context(), true)
	require.NoError(t, err)
	require.Len(t, truth.Requests, 1)
	assert.Len(t, truth.Requests[0].Written, 8)
	truth, err = c.Truth(t.Context(), false)
	require.NoError(t, err)
	assert.Empty(t, truth.Requests[0].Written)
	assert.Equal(t, 8, truth.Late.N)
	require.NoError(t, c.Reset(t.Context()))
	truth, err = c.Truth(t.Context(), false)
	require.NoError(t, err)
	assert.Empty(t, truth.Requests)
	c.Stop()
	assert.Error(t, syscall.Kill(c.PID, 0), "it is gone")
}

func TestChildSaysWhyItDidNotStart(t *testing.T) {
	_, err := Spawn(t.Context(), Options{Fault: "rain"})
	require.ErrorContains(t, err, `stamped: the server did not start (does this program call stamped.Main first?): it said ""`)
	assert.ErrorContains(t, err, `stamped: unknown fault "rain"`)
}

// The role ends when the parent's end of its standard input closes, however the parent ended.
func TestTheRoleEndsWithItsParent(t *testing.T) {
	r, w := io.Pipe()
	out := &bytes.Buffer{}
	done := make(chan error, 1)
	go func() { done <- serveRole(`{}`, r, out) }()
	select {
	case err := <-done:
		t.Fatal("ended with its parent alive", err, out)
	case <-time.After(20 * time.Millisecond):
	}
	w.Close()
	select {
	case err := <-done:
		require.NoError(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("still serving without a parent")
	}
	assert.True(t, strings.HasPrefix(out.String(), "http://127.0.0.1:"), out)
}

// In a process of its own: binding cannot be undone by a test that shares the process with others.
func TestChildIsBoundToItsCore(t *testing.T) {
	if runtime.GOOS != "linux" {
		assert.ErrorContains(t, Pin(0), "stamped: binding to cores [0]: unsupported operation")
		return
	}
	c, err := Spawn(t.Context(), Options{CPUs: []int{0}})
	require.NoError(t, err)
	defer c.Stop()
	out, err := exec.CommandContext(t.Context(), "grep", "-h", "Cpus_allowed_list", "-r", "--include=status", "/proc/"+strconv.Itoa(c.PID)+"/task").Output()
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	assert.Greater(t, len(lines), 2, "several threads")
	for _, l := range lines {
		assert.Equal(t, "Cpus_allowed_list:\t0", l)
	}
}

// A request that meets a server which does not get to run arrived when it was sent, not when it was read.
func TestArrivalIsTheKernels(t *testing.T) {
	if runtime.GOOS != "linux" || strconv.IntSize != 64 {
		t.Skip("only 64-bit Linux says when bytes arrived; elsewhere the time of the read stands for it")
	}
	c, err := Spawn(t.Context(), Options{TTFT: time.Millisecond})
	require.NoError(t, err)
	defer c.Stop()
	require.NoError(t, syscall.Kill(c.PID, syscall.SIGSTOP))
	defer syscall.Kill(c.PID, syscall.SIGCONT)
	require.Eventually(t, func() bool { return stopped(c.PID) }, 20*time.Second, time.Millisecond)
	conn, err := net.Dial("tcp", strings.TrimPrefix(c.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	before := Now()
	_, err = fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(streamed), streamed)
	require.NoError(t, err)
	sent := Now()
	time.Sleep(20 * time.Millisecond)
	goesOn := Now()
	require.NoError(t, syscall.Kill(c.PID, syscall.SIGCONT))
	_, err = io.Copy(io.Discard, conn)
	require.NoError(t, err)
	truth, err := c.Truth(t.Context(), true)
	require.NoError(t, err)
	require.Len(t, truth.Requests, 1)
	r := truth.Requests[0]
	// The kernel stamps with the wall clock: allow what a slewed clock can be off by.
	const slack = int64(time.Millisecond)
	assert.True(t, before-slack < r.Arrived && r.Arrived < sent+slack, "%d %d %d", before, r.Arrived, sent)
	assert.Greater(t, r.Read, goesOn)
	assert.Greater(t, truth.Backlog.Max, 19.0, "ms")
	assert.Greater(t, truth.Late.Max, 18.0, "ms: what was due while it stood still is late, and said to be")
}

// stopped says whether each thread of a process stands still: a signal takes a while to reach them.
func stopped(pid int) bool {
	files, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/stat")
	for _, f := range files {
		text, err := os.ReadFile(f)
		if _, state, _ := bytes.Cut(text, []byte(") ")); err != nil || !bytes.HasPrefix(state, []byte("T")) {
			return false
		}
	}
	return len(files) > 0
}
