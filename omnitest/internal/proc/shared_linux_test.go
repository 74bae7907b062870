package proc

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const nameEnv = "PROC_TEST_NAME" // what an engine that leaves files puts into their names

func sharedFile(name string) string { return filepath.Join(sharedDir, name) }

func registration(pid int) string { return fmt.Sprintf("__KMP_REGISTERED_LIB_%d_0", pid) }

// mapFile makes a file if it is not there, maps it, and keeps the mapping until its process ends.
func mapFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(4096); err != nil {
		return err
	}
	_, err = syscall.Mmap(int(f.Fd()), 0, 4096, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	return err
}

// leave is an engine with a child that both make in shared memory what vLLM's processes make: a segment that is mapped, one
// that is only open, a semaphore (mapped under a first name and then linked to its last, as sem_open does), and OpenMP's
// registration, which nothing maps. On SIGTERM the child dies and the engine does not care.
func leave() {
	name := os.Getenv(nameEnv)
	check := func(err error) {
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	who := "child"
	if !strings.HasSuffix(name, "-child") {
		who = "parent"
		child := exec.Command(os.Args[0])
		child.Env = append(os.Environ(), nameEnv+"="+name+"-child")
		child.Stdout = os.Stdout
		check(child.Start())
	}
	check(mapFile(sharedFile("psm_" + name)))
	check(mapFile(sharedFile("psm_shared-" + name)))
	open, err := os.Create(sharedFile("psm_open-" + name))
	check(err)
	first := sharedFile("sem." + name)
	check(mapFile(first))
	check(os.Link(first, sharedFile("sem.mp-"+name)))
	check(os.Remove(first))
	check(os.WriteFile(sharedFile(registration(os.Getpid())), nil, 0o600))
	fmt.Printf("%s has left its files as %d\n", who, os.Getpid())
	if who == "parent" {
		for {
			time.Sleep(time.Minute)
			_ = open.Fd() // stays open
		}
	}
	time.Sleep(time.Minute)
}

// startWhatLeaves starts such an engine in this process's watch, and waits to be killed.
func startWhatLeaves() {
	p, err := Start(leaver(os.Getenv(nameEnv), os.Getenv("PIDS")))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if os.Getenv("CRASH") != "" {
		for p.shared.known() < 10 {
			time.Sleep(10 * time.Millisecond)
		}
		syscall.Kill(-p.PID(), syscall.SIGKILL)
		<-p.Done()
	}
	os.WriteFile(os.Getenv("PIDS")+".ready", nil, 0o600)
	time.Sleep(time.Minute)
}

// known counts the files that were seen so far.
func (s *shared) known() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files)
}

func leaver(name, log string) Command {
	return Command{Path: os.Args[0], Env: []string{wayEnv + "=leaves", nameEnv + "=" + name}, Log: log}
}

// planted are files that are nobody's or somebody else's, made while the engine lives, and a segment of the engine that this
// process uses too. None of them may go.
func planted(t *testing.T, name string) (kept []string) {
	t.Helper()
	dead := exec.Command("true")
	require.NoError(t, dead.Run())
	for _, n := range []string{"psm_foreign-" + name, "sem.mp-foreign-" + name, registration(dead.Process.Pid), "other-" + name} {
		require.NoError(t, os.WriteFile(sharedFile(n), []byte("page"), 0o600))
		kept = append(kept, n)
	}
	for _, n := range []string{"psm_mapped-" + name, "psm_shared-" + name} {
		require.NoError(t, mapFile(sharedFile(n)))
		kept = append(kept, n)
	}
	return kept
}

func logged(file, words string) error {
	b, _ := os.ReadFile(file)
	if !strings.Contains(string(b), words) {
		return fmt.Errorf("%s does not say %q: %s", file, words, b)
	}
	return nil
}

// leftBy gives what is there of an engine's files. Its log tells the numbers of its processes.
func leftBy(t *testing.T, name, log string) (left []string) {
	t.Helper()
	entries, err := os.ReadDir(sharedDir)
	require.NoError(t, err)
	text, err := os.ReadFile(log)
	require.NoError(t, err)
	var own []string
	for _, pid := range ints(string(text)) {
		own = append(own, registration(pid))
	}
	require.Len(t, own, 2, "%s", text)
	for _, n := range []string{name, name + "-child"} {
		own = append(own, "psm_"+n, "psm_open-"+n, "sem.mp-"+n, "psm_shared-"+n)
	}
	for _, e := range entries {
		if slices.Contains(own, e.Name()) {
			left = append(left, e.Name())
		}
	}
	return left
}

func TestSharedMemoryIsRemoved(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/maps"); err != nil {
		t.Skip("needs /proc")
	}
	for _, c := range []struct {
		way string
		end func(*Process)
	}{
		{"stopped without grace", func(*Process) {}},
		{"killed before", func(p *Process) { p.Kill() }},
		{"crashed before", func(p *Process) {
			for p.shared.known() < 10 {
				time.Sleep(10 * time.Millisecond)
			}
			syscall.Kill(-p.PID(), syscall.SIGKILL)
			<-p.Done()
		}},
	} {
		t.Run(c.way, func(t *testing.T) {
			t.Parallel()
			name := strings.ReplaceAll(c.way, " ", "-")
			log := filepath.Join(t.TempDir(), "log")
			p, err := Start(leaver(name, log))
			require.NoError(t, err)
			t.Cleanup(func() { p.Stop(t.Context(), 0) })
			eventually(t, func() error { return logged(log, "parent has") })
			eventually(t, func() error { return logged(log, "child has") })
			kept := planted(t, name)
			require.Len(t, leftBy(t, name, log), 10, "all there before: the test can fail")
			c.end(p)
			how, err := p.Stop(t.Context(), 0)
			require.NoError(t, err)
			assert.Equal(t, []string{"psm_shared-" + name}, leftBy(t, name, log), "what somebody else maps stays")
			assert.Len(t, how.Removed, 9)
			assert.Contains(t, how.String(), "; removed from shared memory: __KMP_REGISTERED_LIB_")
			for _, n := range kept {
				assert.FileExists(t, sharedFile(n))
			}
		})
	}
}

// The starter is killed with SIGKILL: its watchdog removes the same, and no more.
func TestWatchdogRemovesSharedMemory(t *testing.T) {
	t.Parallel()
	for _, crash := range []string{"", "yes"} { // the engine may have crashed long before: then the starter's word is all there is
		t.Run("engine crashed before:"+crash, func(t *testing.T) {
			t.Parallel()
			name := "watched" + crash
			log := filepath.Join(t.TempDir(), "log")
			starter := exec.CommandContext(t.Context(), executable(t))
			starter.Env = append(os.Environ(), wayEnv+"=starts what leaves", "PIDS="+log, nameEnv+"="+name, "CRASH="+crash)
			require.NoError(t, starter.Start())
			eventually(t, func() error { return logged(log, "parent has") })
			eventually(t, func() error { return logged(log, "child has") })
			kept := planted(t, name)
			eventually(t, func() error { _, err := os.Stat(log + ".ready"); return err })
			require.Len(t, leftBy(t, name, log), 10, "all there before: the test can fail")
			require.NoError(t, starter.Process.Kill())
			starter.Wait()
			eventually(t, func() error {
				if left := leftBy(t, name, log); len(left) != 1 {
					return fmt.Errorf("left: %v", left)
				}
				return nil
			})
			assert.Equal(t, []string{"psm_shared-" + name}, leftBy(t, name, log), "what somebody else maps stays")
			for _, n := range kept {
				assert.FileExists(t, sharedFile(n))
			}
		})
	}
}

// A file that took the name of one of ours is not ours.
func TestSharedMemoryOfAnotherWithTheSameName(t *testing.T) {
	s := newShared()
	s.dir = t.TempDir()
	path := filepath.Join(s.dir, "psm_same")
	require.NoError(t, mapFile(path))
	require.Len(t, s.look(map[int]uint64{os.Getpid(): 0}), 1)
	require.Empty(t, s.look(map[int]uint64{os.Getpid(): 0}), "told once")
	require.NoError(t, os.WriteFile(path+".new", nil, 0o600))
	require.NoError(t, os.Rename(path+".new", path))
	removed, err := s.remove()
	require.NoError(t, err)
	assert.Empty(t, removed)
	assert.FileExists(t, path)

	s.dir = filepath.Join(s.dir, "nowhere")
	assert.Empty(t, s.look(map[int]uint64{os.Getpid(): 0}))
}
