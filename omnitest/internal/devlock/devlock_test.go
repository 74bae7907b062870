package devlock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// holdEnv makes this binary a process that locks the named device, says so and holds it until it is killed.
const holdEnv = "DEVLOCK_TEST_HOLD"

func TestMain(m *testing.M) {
	if name := os.Getenv(holdEnv); name != "" {
		_, err := Lock(context.Background(), []string{name}, "TestOfAnotherBinary", nil)
		fmt.Println("locked", err)
		time.Sleep(time.Minute)
		return
	}
	os.Exit(m.Run())
}

// device gives a name that no other test and no real run uses.
func device() string { return fmt.Sprintf("test-%x", rand.Uint64()) }

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func TestWaitsForAnotherProcessAndOutlivesItsDeath(t *testing.T) {
	gpu := device()
	exe, err := os.Executable()
	require.NoError(t, err)
	child := exec.CommandContext(within(t), exe)
	child.Env = append(os.Environ(), holdEnv+"="+gpu)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked <nil>\n", line)

	short, cancel := context.WithTimeout(t.Context(), 250*time.Millisecond)
	defer cancel()
	_, err = Lock(short, []string{gpu}, t.Name(), nil)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Regexp(t, fmt.Sprintf(`^gave up waiting for %s after \d+(\.\d)?m?s, it is held by pid %d \(TestOfAnotherBinary\): context deadline exceeded$`,
		gpu, child.Process.Pid), err.Error())

	var said []string
	h, err := lockEvery(within(t), []string{gpu}, t.Name(), func(s string) {
		if said = append(said, s); len(said) == 3 {
			child.Process.Kill() // its lock must fall with it
			child.Wait()
		}
	}, 100*time.Millisecond)
	require.NoError(t, err)
	defer h.Release()
	want := fmt.Sprintf("waiting for %s held by pid %d (TestOfAnotherBinary)", gpu, child.Process.Pid)
	assert.Equal(t, []string{want, want, want}, said, "at once, then at every interval")
	assert.Equal(t, []string{gpu}, h.Names())
}

func TestReportsTheNewHolder(t *testing.T) {
	gpu := device()
	first, err := Lock(within(t), []string{gpu}, "TestA", nil)
	require.NoError(t, err)
	report := make(chan string, 10)
	done := make(chan error, 1)
	go func() {
		h, err := Lock(within(t), []string{gpu}, "TestC", func(s string) { report <- s })
		done <- errors.Join(err, h.Release())
	}()
	assert.Equal(t, fmt.Sprintf("waiting for %s held by pid %d (TestA)", gpu, os.Getpid()), <-report)
	require.NoError(t, first.Release())
	require.NoError(t, first.Release(), "a second Release is harmless")
	require.NoError(t, <-done)
}

func TestSortedOrderCannotDeadlock(t *testing.T) {
	a, b := device(), device()
	var inside, runs atomic.Int32
	var wg sync.WaitGroup
	for i := range 4 {
		names := []string{a, b, a}
		if i%2 == 1 {
			names = []string{b, a}
		}
		wg.Go(func() {
			for range 3 {
				h, err := Lock(within(t), names, t.Name(), nil)
				if !assert.NoError(t, err) {
					return
				}
				assert.Equal(t, int32(1), inside.Add(1), "two holders at once")
				runs.Add(1)
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				h.Release()
			}
		})
	}
	wg.Wait()
	assert.Equal(t, int32(12), runs.Load())
}

func TestFailureLeavesNothingLocked(t *testing.T) {
	names := []string{device(), device()}
	if strings.Compare(names[0], names[1]) > 0 {
		names[0], names[1] = names[1], names[0]
	}
	second, err := Lock(within(t), names[1:], "holder of the second", nil)
	require.NoError(t, err)
	defer second.Release()
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Lock(short, names, t.Name(), nil)
	require.Error(t, err)
	first, err := Lock(within(t), names[:1], t.Name(), nil)
	require.NoError(t, err, "the first must have been given back")
	first.Release()
}

func TestBadNameAndNoName(t *testing.T) {
	_, err := Lock(t.Context(), []string{"../gpu"}, "x", nil)
	assert.EqualError(t, err, `device name "../gpu": want letters, digits, dot, dash or underscore, like gpu0`)
	h, err := Lock(t.Context(), nil, "x", nil)
	require.NoError(t, err)
	assert.NoError(t, h.Release())
	assert.NoError(t, (*Held)(nil).Release())
}
