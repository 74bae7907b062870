// Package ports reserves TCP ports on 127.0.0.1 for servers that are about to be started.
//
// Asking the kernel for ":0", closing it and passing the number on is a race twice over: another test binary may get the
// same number, and, because ":0" gives numbers of the ephemeral range, so may any outgoing connection of anybody (a load
// test makes thousands). So ports are taken from a range below the ephemeral one and are guarded by lock files. A lock is
// the kernel's (flock): it falls with the process that holds it, kill -9 included, and never has to be cleaned up.
package ports

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/gofrs/flock"
)

// Numbers that Reserve chooses from. Linux hands out ephemeral ports from 32768 (net.ipv4.ip_local_port_range), macOS
// and IANA from 49152; the defaults of engines (8000, 8091, 5600, 29500 and up) lie outside as well.
const (
	lowest  = 18000
	highest = 28999
)

// Set is a set of reserved ports. They stay reserved until Release or the death of this process.
type Set struct {
	ports map[string]int
	locks []*flock.Flock
}

// Reserve reserves one port per name. fixed may name numbers that the caller insists on (nil: none); a fixed port that
// is taken is an *InUse error. On error nothing stays reserved.
func Reserve(fixed map[string]int, names ...string) (*Set, error) {
	dir, err := lockDir()
	if err != nil {
		return nil, err
	}
	s := &Set{ports: make(map[string]int, len(names))}
	for _, name := range names {
		if _, dup := s.ports[name]; dup {
			s.Release()
			return nil, fmt.Errorf("ports: %q is asked for twice", name)
		}
		port, lock, err := 0, (*flock.Flock)(nil), error(nil)
		if n := fixed[name]; n != 0 {
			port = n
			lock, err = take(dir, n)
		} else {
			port, lock, err = takeAny(dir)
		}
		if err != nil {
			s.Release()
			return nil, fmt.Errorf("ports: %s: %w", name, err)
		}
		s.ports[name] = port
		s.locks = append(s.locks, lock)
	}
	return s, nil
}

// Port gives the number reserved for a name, 0 for an unknown name.
func (s *Set) Port(name string) int { return s.ports[name] }

// Map gives all numbers by name.
func (s *Set) Map() map[string]int { return maps.Clone(s.ports) }

// Release frees the reservation. It may be called again, and on a nil Set.
func (s *Set) Release() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, l := range s.locks {
		// The file stays: removing a lock file that another process has just opened gives two holders of one name.
		errs = append(errs, l.Close())
	}
	s.locks = nil
	return errors.Join(errs...)
}

// InUse says that a port is taken, and by whom where the system tells.
type InUse struct {
	Port     int
	PID      int    // 0: unknown
	Process  string // name of that process, "": unknown
	Reserved bool   // reserved through this package, perhaps not listening yet
}

func (e *InUse) Error() string {
	what := "is in use"
	if e.Reserved {
		what = "is reserved"
	}
	switch {
	case e.PID != 0 && e.Process != "":
		return fmt.Sprintf("port %d %s (by pid %d %s)", e.Port, what, e.PID, e.Process)
	case e.PID != 0:
		return fmt.Sprintf("port %d %s (by pid %d)", e.Port, what, e.PID)
	}
	return fmt.Sprintf("port %d %s (by a process that cannot be seen from here)", e.Port, what)
}

// Check says whether a server could listen on 127.0.0.1:port now; an *InUse error where something else does.
func Check(port int) error {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		pid := owner(port)
		return &InUse{Port: port, PID: pid, Process: processName(pid)}
	}
	return fmt.Errorf("port %d cannot be used: %w", port, err)
}

// take locks one port number and then looks whether it is free. In this order: whoever holds the lock is the only one
// of us who may bind the port, so that looking does not disturb a server that is just starting.
func take(dir string, port int) (*flock.Flock, error) {
	path := filepath.Join(dir, strconv.Itoa(port))
	lock := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, err
	}
	if !ok {
		pid := 0
		if b, err := os.ReadFile(path); err == nil {
			pid, _ = strconv.Atoi(string(b))
		}
		return nil, &InUse{Port: port, PID: pid, Process: processName(pid), Reserved: true}
	}
	if err := Check(port); err != nil {
		lock.Close()
		return nil, err
	}
	if err := os.WriteFile(path, strconv.AppendInt(nil, int64(os.Getpid()), 10), 0o600); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

func takeAny(dir string) (int, *flock.Flock, error) {
	const tries = 200
	var last error
	for range tries {
		port := lowest + rand.IntN(highest-lowest+1)
		lock, err := take(dir, port)
		if err == nil {
			return port, lock, nil
		}
		var taken *InUse
		if !errors.As(err, &taken) {
			return 0, nil, err
		}
		last = err
	}
	return 0, nil, fmt.Errorf("no free port between %d and %d in %d tries, the last one: %w", lowest, highest, tries, last)
}

// lockDir is one folder per user: a file of another user in a sticky /tmp could not be opened for locking.
func lockDir() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("omnitest-ports-%d", os.Getuid()))
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("ports: folder of lock files: %w", err)
	}
	return dir, nil
}
