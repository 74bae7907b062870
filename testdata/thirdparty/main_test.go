package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// fakeGo stands in for the go command: what it does is the script's.
func fakeGo(t *testing.T, script string) {
	t.Helper()
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":/usr/bin:/bin")
}

func TestPins(t *testing.T) {
	for _, p := range programs {
		if v := p.pinned(); !strings.HasPrefix(v, "v") {
			t.Errorf("%s: %s", p.name, v)
		}
	}
}

func TestBuildFails(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct{ name, script, want string }{
		{"go fails", "echo no route to proxy >&2; exit 1", "exit status 1; is the module proxy within reach (go env GOPROXY)? A second run goes on with what is there\n  go build ends with:\n    no route to proxy"},
		{"nothing is built", "exit 0", "llm-d-inference-sim was built, and not there instead of v0.10.2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fakeGo(t, c.script)
			var out strings.Builder
			err := run(t.Context(), dir, false, &out)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("have %v, want %s", err, c.want)
			}
			if want := "thirdparty: pd-sidecar v0.7.1: not there\n"; !strings.Contains(out.String(), want) {
				t.Errorf("said %q, want %q", out.String(), want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// A program that lies there under the right name and is another one must be built anew, not used.
func TestStranger(t *testing.T) {
	dir := t.TempDir()
	exe, err := os.ReadFile(os.Args[0]) // this test
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "pd-sidecar"), exe, 0o755); err != nil {
		t.Fatal(err)
	}
	if why := programs[1].stale(dir); !strings.HasPrefix(why, "it is another program, ") {
		t.Error(why)
	}
	if err := os.WriteFile(filepath.Join(dir, "pd-sidecar"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if why := programs[1].stale(dir); why == "" {
		t.Error("a script is no sidecar")
	}
}

// Ctrl-C ends the compilers as well, and at once.
func TestCancelled(t *testing.T) {
	mark := filepath.Join(t.TempDir(), "pid")
	fakeGo(t, "sleep 300 &\necho $! >"+mark+".new; mv "+mark+".new "+mark+"; wait")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	dir, ended := t.TempDir(), make(chan error, 1)
	go func() { ended <- run(ctx, dir, false, &strings.Builder{}) }()
	var compiler int
	for end := time.Now().Add(time.Minute); compiler == 0; time.Sleep(10 * time.Millisecond) {
		text, _ := os.ReadFile(mark)
		compiler, _ = strconv.Atoi(strings.TrimSpace(string(text)))
		if time.Now().After(end) {
			t.Fatal("the go command was not started")
		}
	}
	cancel()
	select {
	case err := <-ended:
		if err == nil || !strings.Contains(err.Error(), "context canceled") {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("goes on")
	}
	for end := time.Now().Add(10 * time.Second); syscall.Kill(compiler, 0) == nil && !zombie(compiler); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("what the go command had started lives on")
		}
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// zombie: ended, and nobody has asked how; without /proc nothing is one.
func zombie(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestRemove(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"pd-sidecar", "mine"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time nothing is there, which is what was wanted
		if err := run(t.Context(), dir, true, &strings.Builder{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "mine")); err != nil {
		t.Error("what is not ours was removed")
	}
	if _, err := os.Stat(filepath.Join(dir, "pd-sidecar")); err == nil {
		t.Error("what is ours was left")
	}
}
