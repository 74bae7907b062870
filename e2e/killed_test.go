//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/stack"
)

// TestKilledSuiteLeavesNothing kills this very test binary with SIGKILL at random moments, while it starts, uses or stops its
// stack: no cleanup of ours runs then. No stage may live on, and the next run must find its ports free.
func TestKilledSuiteLeavesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: 20 runs that are killed, each with a second of grace for its stages")
	}
	t.Parallel()
	const kills, atOnce = 20, 5 // most of a kill's time is its watchdogs' grace
	turn := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i := range kills {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			after := time.Duration(rand.IntN(1500)) * time.Millisecond
			if left := kill(t, after); len(left) > 0 {
				t.Errorf("kill %d, %v after the start: a minute later still there: %s", i, after, strings.Join(left, ", "))
			}
		})
	}
	wg.Wait()
	// The killed runs had reserved ports; a lock that outlived its holder would be in the way of this stack.
	s := omnitest.Start(t, stack.Spec{})
	if err := s.Health(t.Context()); err != nil {
		t.Error(err)
	}
}

// kill starts this test binary, kills it after a while, and gives what of it is left when that should be nothing.
func kill(t *testing.T, after time.Duration) []string {
	t.Helper()
	// A variable that all descendants inherit finds them, whatever process group or parent they have by then.
	mark := fmt.Sprintf("%s=%s", omnitest.EnvOut, t.TempDir())
	cmd := exec.Command(os.Args[0], "-test.run=TestFlowOfText|TestHandoffProven|TestBrokenStages")
	cmd.Env = append(os.Environ(), mark, omnitest.EnvFaults+"=", omnitest.EnvStack+"=")
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return nil
	}
	time.Sleep(after)
	cmd.Process.Kill()
	cmd.Wait()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		left := marked(mark)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// marked lists the processes, zombies aside, whose environment holds the mark.
func marked(mark string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, file := range files {
		env, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(env, []byte(mark)) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		found = append(found, fmt.Sprintf("%s %.60q", filepath.Base(filepath.Dir(file)), bytes.ReplaceAll(cmdline, []byte{0}, []byte(" "))))
	}
	return found
}
