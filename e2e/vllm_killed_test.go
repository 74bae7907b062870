//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
)

const victimEnv = "E2E_VLLM_VICTIM" // a file: the test binary is to be killed, and says there how far it is

// TestVLLMVictim is the body of the test binary that TestKilledVLLMLeavesNothing kills. In a normal run it has nothing to do.
func TestVLLMVictim(t *testing.T) {
	file := os.Getenv(victimEnv)
	if file == "" {
		return
	}
	s := omnitest.Start(t, vllmSpec(t))
	say := func(word string) {
		if err := os.WriteFile(file, []byte(word), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	say("ready")
	for {
		r := api.CompletionRequest{Prompt: strings.Repeat(nonce()+" ", 40), Sampling: api.Sampling{MaxTokens: 32}}
		if _, err := s.Stage(engine.Proxy).Complete(requestContext(t, s), r); err != nil {
			break // prefill was killed
		}
		if strings.HasSuffix(file, "crash") {
			if err := s.Instance(engine.Prefill).Kill(); err != nil {
				t.Fatal(err)
			}
			<-s.Instance(engine.Prefill).Done()
			say("crashed")
		}
	}
	time.Sleep(5 * time.Minute)
}

// TestKilledVLLMLeavesNothing kills a test binary that runs a pair of real vLLM engines with SIGKILL: while the engines load,
// while they serve, and when one of them had died before. Neither a process may stay nor a file in shared memory, where each
// engine has 400 MB. Whose a file is, is seen from outside while the processes live; other vLLMs may run on this machine.
func TestKilledVLLMLeavesNothing(t *testing.T) {
	vllmSpec(t)
	for _, moment := range []struct {
		name string
		come func(said string, seen *descent) bool
	}{
		{"loading", func(_ string, seen *descent) bool { return seen.segments() >= 1 }},
		{"serving", func(said string, seen *descent) bool { return said == "ready" && seen.segments() >= 4 }},
		{"crash", func(said string, _ *descent) bool { return said == "crashed" }},
	} {
		t.Run(moment.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), moment.name)
			log, err := os.Create(filepath.Join(omnitest.TestDir(t), "victim.log"))
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestVLLMVictim$", "-test.v", "-test.timeout=10m")
			cmd.Env = append(os.Environ(), victimEnv+"="+file, omnitest.EnvOut+"="+t.TempDir(), omnitest.EnvStack+"=", omnitest.EnvFaults+"=", omnitest.EnvRequire+"=vllm")
			cmd.Stdout, cmd.Stderr = log, log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			seen := &descent{processes: map[int]string{}, files: map[string]uint64{}}
			seen.add(cmd.Process.Pid)
			for come := false; !come; {
				select {
				case err := <-ended:
					text, _ := os.ReadFile(log.Name())
					t.Fatalf("the suite ended before it could be killed (%v): %s", err, text)
				case <-time.After(250 * time.Millisecond):
				}
				seen.look()
				said, _ := os.ReadFile(file)
				come = moment.come(string(said), seen)
			}
			began := time.Now()
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			<-ended
			for limit := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
				seen.look()
				left := seen.left()
				if len(left) == 0 {
					t.Logf("%d processes and %d files in shared memory were gone %.1f s after the kill", len(seen.processes), len(seen.files), time.Since(began).Seconds())
					return
				}
				if time.Now().After(limit) {
					t.Fatalf("a minute after the kill there are still: %s", strings.Join(left, ", "))
				}
			}
		})
	}
}

// descent is a process, all that descend from it, and what they ever had in shared memory.
type descent struct {
	processes map[int]string    // by number, with their start times: numbers are used again
	files     map[string]uint64 // paths in /dev/shm, with their inodes
}

func (d *descent) add(pid int) {
	if _, start, alive := processStat(pid); alive {
		d.processes[pid] = start
	}
}

// look finds children, and files that any of them maps or that bear the number of one.
func (d *descent) look() {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for grown := true; grown; {
		grown = false
		for _, dir := range dirs {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			parent, start, alive := processStat(pid)
			if _, known := d.processes[parent]; alive && known && d.processes[pid] != start {
				d.processes[pid], grown = start, true
			}
		}
	}
	mapped := map[string]bool{}
	for pid := range d.processes {
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		for line := range bytes.Lines(text) {
			if w := bytes.Fields(line); len(w) > 5 && bytes.HasPrefix(w[5], []byte("/dev/shm/")) {
				mapped[string(w[4])] = true
			}
		}
	}
	files, _ := filepath.Glob("/dev/shm/*")
	for _, file := range files {
		st, err := os.Stat(file)
		if err != nil {
			continue
		}
		inode := st.Sys().(*syscall.Stat_t).Ino
		var pid int
		fmt.Sscanf(filepath.Base(file), "__KMP_REGISTERED_LIB_%d_", &pid)
		if _, ours := d.processes[pid]; ours || mapped[fmt.Sprint(inode)] {
			d.files[file] = inode
		}
	}
}

// segments counts the large ones.
func (d *descent) segments() (n int) {
	for file := range d.files {
		if strings.HasPrefix(filepath.Base(file), "psm_") {
			n++
		}
	}
	return n
}

func (d *descent) left() (left []string) {
	for pid, start := range d.processes {
		if _, now, alive := processStat(pid); alive && now == start {
			line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			left = append(left, fmt.Sprintf("process %d %.60q", pid, bytes.ReplaceAll(line, []byte{0}, []byte(" "))))
		}
	}
	for _, file := range slices.Sorted(maps.Keys(d.files)) {
		if st, err := os.Stat(file); err == nil && st.Sys().(*syscall.Stat_t).Ino == d.files[file] {
			left = append(left, file)
		}
	}
	return left
}

// processStat reads /proc/PID/stat. A zombie is not alive.
func processStat(pid int) (parent int, start string, alive bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, "", false
	}
	w := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // the name before it may hold anything
	if len(w) < 20 {
		return 0, "", false
	}
	parent, _ = strconv.Atoi(w[1])
	return parent, w[19], w[0] != "Z" && w[0] != "X"
}
