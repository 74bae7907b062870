package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// sharedDir is where Linux keeps POSIX shared memory. Our own tests put another folder in its place.
var sharedDir = "/dev/shm"

// shared knows which files in shared memory an engine's processes made that outlive their makers. Three kinds do (seen with
// vLLM 0.32 on a CPU): Python's segments, psm_*, 160 to 250 MB each, when their maker is killed; Python's semaphores,
// sem.mp-*; and OpenMP's registration, __KMP_REGISTERED_LIB_<pid>_<uid>, a page per process, also after vLLM's orderly stop,
// since vLLM kills its own workers.
//
// No name of the first two kinds tells whose it is, so one has to look while the processes live: what they map, and what they
// have open. It is the inode that counts: a semaphore is mapped under the name it had before it got its last.
type shared struct {
	dir string

	mu    sync.Mutex
	pids  map[int]bool      // all that were ever seen in the family
	files map[string]uint64 // name to inode
}

func newShared() *shared {
	return &shared{dir: sharedDir, pids: map[int]bool{}, files: map[string]uint64{}}
}

// look records what the processes of kin hold, and gives what was not known before.
func (s *shared) look(kin map[int]uint64) map[string]uint64 {
	fresh := map[string]uint64{}
	s.mu.Lock()
	defer s.mu.Unlock()
	var held holds
	for pid := range kin {
		s.pids[pid] = true
		held.add(s.dir, pid)
	}
	entries, _ := os.ReadDir(s.dir)
	for _, e := range entries {
		name := e.Name()
		pid, omp := ompOwner(name)
		if !omp && !strings.HasPrefix(name, "psm_") && !strings.HasPrefix(name, "sem.mp-") {
			continue
		}
		inode, ok := inodeOf(filepath.Join(s.dir, name))
		if !ok || s.files[name] == inode {
			continue
		}
		if omp && s.pids[pid] || !omp && held.has(name, inode) {
			s.files[name], fresh[name] = inode, inode
		}
	}
	return fresh
}

// remove takes away what is recorded and what nobody uses any more, and gives the names.
func (s *shared) remove() (removed []string, err error) {
	s.look(nil) // OpenMP's files of processes that came and went between two looks at the files
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return nil, nil
	}
	var held holds
	for pid := range processes() {
		held.add(s.dir, pid)
	}
	var errs []error
	for name, inode := range s.files {
		path := filepath.Join(s.dir, name)
		now, there := inodeOf(path)
		pid, omp := ompOwner(name)
		switch {
		case !there, now != inode: // gone, or another's by now
		case omp && runs(pid), !omp && held.has(name, inode): // may be used
			continue
		default:
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				errs = append(errs, err)
				continue
			}
			removed = append(removed, name)
		}
		delete(s.files, name)
	}
	slices.Sort(removed)
	return removed, errors.Join(errs...)
}

// holds is what some processes map and have open of the shared memory.
type holds struct {
	inodes map[uint64]bool
	names  map[string]bool
}

func (h *holds) has(name string, inode uint64) bool { return h.inodes[inode] || h.names[name] }

// add looks at one process. Another user's cannot be seen, and does not hold files of ours.
func (h *holds) add(dir string, pid int) {
	if h.inodes == nil {
		h.inodes, h.names = map[uint64]bool{}, map[string]bool{}
	}
	proc := "/proc/" + strconv.Itoa(pid)
	maps, _ := os.ReadFile(proc + "/maps")
	for line := range bytes.Lines(maps) {
		// 7f4a2b200000-7f4a3b200000 rw-s 00000000 00:1b 1570   /dev/shm/psm_19b4377c
		if bytes.Contains(line, []byte(dir+"/")) {
			if w := bytes.Fields(line); len(w) > 5 {
				inode, _ := strconv.ParseUint(string(w[4]), 10, 64)
				h.inodes[inode] = true
			}
		}
	}
	fds, _ := os.ReadDir(proc + "/fd")
	for _, fd := range fds {
		if to, err := os.Readlink(proc + "/fd/" + fd.Name()); err == nil {
			if name, ok := strings.CutPrefix(to, dir+"/"); ok {
				h.names[name] = true
			}
		}
	}
}

// ompOwner gives the process of an OpenMP registration.
func ompOwner(name string) (pid int, ok bool) {
	rest, ok := strings.CutPrefix(name, "__KMP_REGISTERED_LIB_")
	if !ok {
		return 0, false
	}
	number, _, _ := strings.Cut(rest, "_")
	pid, err := strconv.Atoi(number)
	return pid, err == nil
}

// runs is false for a zombie, which uses nothing any more and may stay for long in a container without an init.
func runs(pid int) bool {
	s, ok := readStat(strconv.Itoa(pid))
	return ok && s.alive()
}

func inodeOf(path string) (uint64, bool) {
	st, err := os.Lstat(path)
	if err != nil || !st.Mode().IsRegular() {
		return 0, false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return sys.Ino, true
}

// watchShared looks whenever something was made or removed in shared memory (which shows in the folder's time, so that an
// engine without any costs nothing), until the first process has ended: others may live a little longer.
func (p *Process) watchShared() {
	const often = 250 * time.Millisecond
	var seen time.Time
	tick := time.NewTicker(often)
	defer tick.Stop()
	for {
		if st, err := os.Stat(p.shared.dir); err != nil {
			return // no shared memory here
		} else if changed := st.ModTime(); !changed.Equal(seen) {
			seen = changed
			p.lookAt(family(p.pid, p.tag))
		}
		select {
		case <-p.done:
			p.lookAt(family(p.pid, p.tag))
			return
		case <-tick.C:
		}
	}
}

// lookAt records what processes hold in shared memory and tells the watchdog, which has to remove it should we die.
func (p *Process) lookAt(kin map[int]uint64) {
	for name, inode := range p.shared.look(kin) {
		p.dog.tell(fmt.Sprintf("shm %d %s", inode, name))
	}
}
