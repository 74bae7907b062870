// Package devlock takes exclusive locks on devices, so that two test binaries never load a model on one GPU.
//
// `go test ./...` runs the binaries of several packages at once. A lock is a file per device name with the kernel's flock
// on it: it falls with the process that holds it and is never stale.
package devlock

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Held is a set of locked devices.
type Held struct {
	names []string
	locks []*flock.Flock
}

// Names of the locked devices, sorted.
func (h *Held) Names() []string { return h.names }

// Release frees the devices. It may be called again, and on nil.
func (h *Held) Release() error {
	if h == nil {
		return nil
	}
	var errs []error
	for _, l := range h.locks {
		errs = append(errs, l.Close())
	}
	h.locks = nil
	return errors.Join(errs...)
}

const (
	poll   = 100 * time.Millisecond // flock has no wait that a context could end
	remind = 30 * time.Second
)

var goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Lock waits until every named device ("gpu0") is ours or ctx ends. label says who we are to those who wait for us (the
// name of the test). report, if not nil, is told at once, whenever the holder changes and every 30 s, what is waited
// for. Names are locked in sorted order, which is what keeps two callers from waiting for each other; locking a name
// twice in one process waits for itself like any other.
func Lock(ctx context.Context, names []string, label string, report func(string)) (*Held, error) {
	return lockEvery(ctx, names, label, report, remind)
}

func lockEvery(ctx context.Context, names []string, label string, report func(string), every time.Duration) (*Held, error) {
	names = slices.Compact(slices.Sorted(slices.Values(names)))
	for _, n := range names {
		if !goodName.MatchString(n) {
			return nil, fmt.Errorf("device name %q: want letters, digits, dot, dash or underscore, like gpu0", n)
		}
	}
	h := &Held{names: names}
	if len(names) == 0 {
		return h, nil
	}
	dir, err := lockDir()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		l, err := lockOne(ctx, dir, n, label, report, every)
		if err != nil {
			h.Release()
			return nil, err
		}
		h.locks = append(h.locks, l)
	}
	return h, nil
}

func lockOne(ctx context.Context, dir, name, label string, report func(string), every time.Duration) (*flock.Flock, error) {
	path := filepath.Join(dir, name)
	if err := touch(path); err != nil {
		return nil, fmt.Errorf("lock of %s: %w", name, err)
	}
	// Without O_CREATE: Linux refuses that flag on another user's file in a sticky folder (fs.protected_regular).
	lock := flock.New(path, flock.SetFlag(os.O_RDWR))
	start := time.Now()
	var said string
	var saidAt time.Time
	for {
		ok, err := lock.TryLock()
		if err != nil {
			return nil, fmt.Errorf("lock of %s: %w", name, err)
		}
		if ok {
			if err := sign(path, label); err != nil {
				lock.Close()
				return nil, fmt.Errorf("lock of %s: %w", name, err)
			}
			return lock, nil
		}
		by := holder(path)
		if report != nil && (by != said || time.Since(saidAt) >= every) {
			report(fmt.Sprintf("waiting for %s held by %s", name, by))
			said, saidAt = by, time.Now()
		}
		select {
		case <-ctx.Done():
			lock.Close()
			return nil, fmt.Errorf("gave up waiting for %s after %s, it is held by %s: %w",
				name, time.Since(start).Round(100*time.Millisecond), by, context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

// lockDir is one folder for all users of the machine, as its devices are.
func lockDir() (string, error) {
	dir := filepath.Join(os.TempDir(), "omnitest-devices")
	err := os.Mkdir(dir, 0o777)
	if err == nil {
		err = os.Chmod(dir, 0o777|fs.ModeSticky) // past the umask
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("folder of device locks: %w", err)
	}
	return dir, nil
}

func touch(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}

// sign writes who holds the lock. It is for people: nothing decides by it.
func sign(path, label string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, "pid %d (%s)\n", os.Getpid(), label)
	return errors.Join(err, f.Close())
}

func holder(path string) string {
	b, _ := os.ReadFile(path)
	line, _, _ := strings.Cut(string(b), "\n")
	if line == "" {
		return "a process that has not signed yet"
	}
	return line
}
