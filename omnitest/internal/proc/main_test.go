package proc

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// wayEnv makes this binary a victim that starts an engine and then dies in the way named; see dying_test.go.
const wayEnv = "PROC_TEST_WAY"

// sharedEnv is the folder that stands for shared memory here and in the processes that we start.
const sharedEnv = "PROC_TEST_SHARED"

func TestMain(m *testing.M) {
	sharedDir = os.Getenv(sharedEnv)
	switch os.Getenv(wayEnv) {
	case "":
		sharedDir, _ = os.MkdirTemp("", "proc-test-shared-")
		os.Setenv(sharedEnv, sharedDir)
		status := m.Run()
		os.RemoveAll(sharedDir)
		os.Exit(status)
	case "any moment":
		startForEver()
	case "leaves":
		leave()
	case "starts what leaves":
		startWhatLeaves()
	default:
		victim = true
	}
	os.Exit(m.Run())
}

// family of processes as real engines have them: the first process, a worker in its group, a worker that ignores
// SIGTERM, and where setsid exists one in a session of its own. All their numbers are in the file $PIDS.
const engineScript = `
sleep 300 & echo $! >>"$PIDS"
sh -c 'trap "" TERM; while :; do sleep 1; done' & echo $! >>"$PIDS"
if command -v setsid >/dev/null && [ -d /proc/self ]; then
	setsid sh -c 'echo $$ >>"$PIDS"; exec sleep 300' &
	# without the tag and the group: only the process tree finds it (a title set by setproctitle hides the tag)
	env -u OMNITEST_RUN setsid sh -c 'echo $$ >>"$PIDS"; exec sleep 300' &
fi
echo $$ >>"$PIDS"
echo the engine is up
wait
`

func enginePIDs() int {
	if runtime.GOOS == "linux" {
		return 5
	}
	return 3
}

// awaitPIDs reads the numbers of an engine's processes once all are there.
func awaitPIDs(t *testing.T, file string) []int {
	var pids []int
	eventually(t, func() error {
		b, _ := os.ReadFile(file)
		if pids = ints(string(b)); len(pids) < enginePIDs() || !strings.HasSuffix(string(b), "\n") {
			return fmt.Errorf("only %v in %s", pids, file)
		}
		return nil
	})
	return pids
}

func ints(s string) (out []int) {
	for w := range strings.FieldsSeq(s) {
		if n, err := strconv.Atoi(w); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// eventually polls until f is content. The machine may be loaded: the deadline only has to exist.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	require.NoError(t, err)
}

// alive says whether a process exists and is no zombie.
func alive(pid int) bool {
	if runtime.GOOS == "linux" {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		rest := string(b[max(0, strings.LastIndexByte(string(b), ')')):])
		return err == nil && !strings.HasPrefix(rest, ") Z") && !strings.HasPrefix(rest, ") X")
	}
	return syscall.Kill(pid, 0) == nil
}

func anyAlive(pids []int) error {
	for _, p := range pids {
		if alive(p) {
			return fmt.Errorf("process %d of %v still runs", p, pids)
		}
	}
	return nil
}

// startShell starts a shell script as an engine. The log and $PIDS lie in the test's folder. It is stopped with the test.
func startShell(t *testing.T, script string, env ...string) (p *Process, pidFile string) {
	t.Helper()
	dir := t.TempDir()
	pidFile = filepath.Join(dir, "pids")
	p, err := Start(Command{Path: "sh", Args: []string{"-c", script}, Env: append(env, "PIDS="+pidFile), Log: filepath.Join(dir, "logs", "engine.log")})
	require.NoError(t, err)
	t.Cleanup(func() { p.Stop(t.Context(), 0) })
	return p, pidFile
}

func awaitLine(t *testing.T, p *Process, want string) {
	t.Helper()
	eventually(t, func() error {
		for _, l := range p.Tail(10) {
			if l == want {
				return nil
			}
		}
		return fmt.Errorf("log does not have %q: %q", want, p.Tail(10))
	})
}
