// Command thirdparty builds the third-party P/D software that e2e/thirdparty_test.go tests as it is: llm-d's simulator of vLLM
// and its routing sidecar, at the versions of this folder's go.mod. They go into the user's cache folder.
//
//	make thirdparty                          # the first time 5 minutes on two free cores, then nothing to do
//	go run -C testdata/thirdparty . -remove
//
// The versions are not the newest ones on purpose: this sidecar still answers 200 from decode alone when prefill is dead.
package main

import (
	"bufio"
	"context"
	"debug/buildinfo"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// program is one that is built.
type program struct{ name, module string }

func (p program) pkg() string { return p.module + "/cmd/" + p.name }

var programs = []program{
	{"llm-d-inference-sim", "github.com/llm-d/llm-d-inference-sim"},
	{"pd-sidecar", "github.com/llm-d/llm-d-inference-scheduler"},
}

//go:embed go.mod
var pins string

// pinned is the version that go.mod asks for, "v0.10.2".
func (p program) pinned() string {
	for line := range strings.Lines(pins) {
		if w := strings.Fields(line); len(w) >= 2 && w[0] == p.module {
			return w[1]
		}
	}
	return "a version, which go.mod does not name"
}

// stale says why a program must be built, "" if what lies there is the pinned version. The binary itself tells.
func (p program) stale(dir string) string {
	info, err := buildinfo.ReadFile(filepath.Join(dir, p.name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return "not there"
	case err != nil:
		return err.Error()
	case info.Path != p.pkg():
		return "it is another program, " + info.Path
	case info.Main.Version != p.pinned():
		return "it is " + info.Main.Version
	}
	return ""
}

const (
	atMost = time.Hour // on a busy machine; the go command itself waits for a dead network for ever
	beat   = 15 * time.Second
)

func main() {
	dir := flag.String("dir", "", "where to put them; unset: omnitest/thirdparty in the user's cache folder, where the tests look")
	remove := flag.Bool("remove", false, "remove them instead")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, fmt.Errorf("not built within %v", atMost))
	defer cancel()
	if err := run(ctx, *dir, *remove, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "thirdparty:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string, remove bool, out io.Writer) error {
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return err
		}
		dir = filepath.Join(cache, "omnitest", "thirdparty")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if remove {
		for _, p := range programs { // by name: the folder may be anybody's
			if err := os.Remove(filepath.Join(dir, p.name)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
		_ = os.Remove(dir) // stays if something else is in it
		fmt.Fprintf(out, "thirdparty: nothing of ours is left in %s\n", dir)
		return nil
	}
	var todo []program
	for _, p := range programs {
		if why := p.stale(dir); why != "" {
			fmt.Fprintf(out, "thirdparty: %s %s: %s\n", p.name, p.pinned(), why)
			todo = append(todo, p)
		}
	}
	if len(todo) == 0 {
		fmt.Fprintf(out, "thirdparty: ready in %s, nothing to do\n", dir)
		return nil
	}
	return build(ctx, dir, todo, out)
}

// build makes them beside their places and moves them there: a test never meets half a program.
func build(ctx context.Context, dir string, todo []program, out io.Writer) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	fresh, err := os.MkdirTemp(dir, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(fresh)
	began := time.Now()
	fmt.Fprintf(out, "thirdparty: building into %s, 5 minutes on two free cores, 330 MB to download\n", dir)
	argv := []string{"go", "build", "-v", "-ldflags=-s -w", "-o", fresh + string(os.PathSeparator)}
	for _, p := range todo {
		argv = append(argv, p.pkg())
	}
	if err := compile(ctx, argv, out); err != nil {
		return err
	}
	for _, p := range todo {
		if why := p.stale(fresh); why != "" {
			return fmt.Errorf("%s was built, and %s instead of %s", p.name, why, p.pinned())
		}
		if err := os.Rename(filepath.Join(fresh, p.name), filepath.Join(dir, p.name)); err != nil {
			return err
		}
	}
	fmt.Fprintf(out, "thirdparty: ready after %s in %s\n  use     OMNITEST_REQUIRE=llm-d go test -v -run ThirdParty ./e2e/...\n  remove  go run -C testdata/thirdparty . -remove\n"+
		"          (sources and packages stay in Go's own caches: go clean -modcache, go clean -cache)\n", time.Since(began).Round(time.Second), dir)
	return nil
}

// compile runs the go command at low priority and tells how far it is.
func compile(ctx context.Context, argv []string, out io.Writer) error {
	if nice, err := exec.LookPath("nice"); err == nil {
		argv = append([]string{nice, "-n", "10"}, argv...)
	}
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // ended as a whole, compilers too
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	said, err := cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	var mu sync.Mutex
	var lines []string
	read := make(chan struct{})
	go func() {
		defer close(read)
		for s := bufio.NewScanner(said); s.Scan(); {
			mu.Lock()
			lines = append(lines, s.Text())
			mu.Unlock()
		}
	}()
	began, tick := time.Now(), time.NewTicker(beat)
	defer tick.Stop()
	for done := false; !done; {
		select {
		case <-tick.C:
			mu.Lock()
			fmt.Fprintf(out, "  %s so far, %d packages downloaded or compiled\n", time.Since(began).Round(time.Second), len(lines))
			mu.Unlock()
		case <-read:
			done = true
		case <-ctx.Done(): // Wait below ends the group
			done = true
		}
	}
	err = cmd.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		mu.Lock()
		defer mu.Unlock()
		return fmt.Errorf("%w; is the module proxy within reach (go env GOPROXY)? A second run goes on with what is there\n  go build ends with:\n    %s",
			err, strings.Join(lines[max(0, len(lines)-15):], "\n    "))
	}
	return nil
}
