package ports

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holdEnv makes this binary a process that reserves a port, prints it and holds it until it is killed.
const holdEnv = "PORTS_TEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdEnv) != "" {
		s, err := Reserve(nil, "http")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", s.Port("http")))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(s.Port("http"))
		time.Sleep(time.Minute)
		l.Close()
		s.Release()
		return
	}
	os.Exit(m.Run())
}

func TestReserve(t *testing.T) {
	s, err := Reserve(nil, "http", "side")
	require.NoError(t, err)
	assert.NotEqual(t, s.Port("http"), s.Port("side"))
	assert.Zero(t, s.Port("other"))
	assert.Len(t, s.Map(), 2)
	for name, port := range s.Map() {
		assert.NoError(t, Check(port), name)
		assert.Less(t, port, 32768, "an ephemeral port may be taken by any outgoing connection")
	}

	_, err = Reserve(map[string]int{"again": s.Port("http")}, "again")
	var taken *InUse
	require.ErrorAs(t, err, &taken)
	assert.True(t, taken.Reserved)
	if runtime.GOOS == "linux" {
		comm, _ := os.ReadFile("/proc/self/comm")
		assert.EqualError(t, err, fmt.Sprintf("ports: again: port %d is reserved (by pid %d %s)",
			s.Port("http"), os.Getpid(), strings.TrimSpace(string(comm))))
	}

	port := s.Port("http")
	require.NoError(t, s.Release())
	require.NoError(t, s.Release(), "a second Release is harmless")
	s, err = Reserve(map[string]int{"again": port}, "again")
	require.NoError(t, err, "a released port can be had again")
	assert.Equal(t, port, s.Port("again"))
	require.NoError(t, s.Release())
	require.NoError(t, (*Set)(nil).Release())
}

func TestReserveTwiceTheSameName(t *testing.T) {
	_, err := Reserve(nil, "http", "http")
	assert.EqualError(t, err, `ports: "http" is asked for twice`)
}

func TestCheckNamesTheListener(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0") // a wildcard listener occupies 127.0.0.1 as well
	require.NoError(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	err = Check(port)
	var taken *InUse
	require.ErrorAs(t, err, &taken)
	assert.False(t, taken.Reserved)
	if runtime.GOOS == "linux" {
		comm, _ := os.ReadFile("/proc/self/comm")
		assert.EqualError(t, err, fmt.Sprintf("port %d is in use (by pid %d %s)", port, os.Getpid(), strings.TrimSpace(string(comm))))
	}
	_, err = Reserve(map[string]int{"http": port}, "http")
	require.ErrorAs(t, err, &taken, "a fixed port that is in use is refused")
	assert.ErrorContains(t, Check(70000), "port 70000 cannot be used: ")
	assert.EqualError(t, &InUse{Port: 80}, "port 80 is in use (by a process that cannot be seen from here)")
}

func TestReserveAtOnceNeverGivesAPortTwice(t *testing.T) {
	var mu sync.Mutex
	seen := map[int]bool{}
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			s, err := Reserve(nil, "a", "b", "c", "d")
			if !assert.NoError(t, err) {
				return
			}
			t.Cleanup(func() { s.Release() })
			mu.Lock()
			defer mu.Unlock()
			for _, p := range s.Map() {
				assert.False(t, seen[p], "port %d was given twice", p)
				seen[p] = true
			}
		})
	}
	wg.Wait()
}

func TestKilledHolderBlocksNothing(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(t.Context(), exe)
	child.Env = append(os.Environ(), holdEnv+"=1")
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, line)
	port, err := strconv.Atoi(strings.TrimSpace(line))
	require.NoError(t, err, line)

	_, err = Reserve(map[string]int{"http": port}, "http")
	var taken *InUse
	require.ErrorAs(t, err, &taken, "the child holds it")
	if runtime.GOOS == "linux" {
		assert.Equal(t, child.Process.Pid, taken.PID)
	}

	require.NoError(t, child.Process.Kill())
	child.Wait()
	s, err := Reserve(map[string]int{"http": port}, "http")
	require.NoError(t, err, "kill -9 of the holder frees its lock")
	require.NoError(t, s.Release())
}
