package omnitest

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// out is the evidence folder of this test binary.
var out struct {
	sync.Mutex
	dir  string
	temp bool            // made by us, removed after a green run
	used map[string]bool // folders of top-level tests that this run has begun
}

// OutDir is where this test binary keeps its evidence and results: $OMNITEST_OUT/<package>, else a temporary folder that
// is kept when a test fails. The tests of a binary share it; use a sub-folder named after the test.
func OutDir(tb testing.TB) string {
	tb.Helper()
	out.Lock()
	defer out.Unlock()
	if out.dir != "" {
		return out.dir
	}
	name := strings.TrimSuffix(filepath.Base(os.Args[0]), ".test")
	var err error
	if root := os.Getenv(EnvOut); root != "" {
		// go test runs each package in its own folder; a relative path would scatter the evidence.
		if !filepath.IsAbs(root) {
			tb.Fatalf("%s=%s: must be an absolute path, because go test changes into each package's folder", EnvOut, root)
		}
		out.dir = filepath.Join(root, name)
		err = os.MkdirAll(out.dir, 0o755)
	} else {
		out.temp = true
		out.dir, err = os.MkdirTemp("", "omnitest-"+name+"-")
	}
	if err != nil {
		tb.Fatal(err)
	}
	return out.dir
}

// TestDir is the folder for the evidence of one test inside OutDir. What an earlier run left there is removed: a picture that
// failed yesterday must not lie beside a test that passed today.
func TestDir(tb testing.TB) string {
	tb.Helper()
	root, name := OutDir(tb), cleanName(tb.Name())
	dir := filepath.Join(root, filepath.FromSlash(name))
	out.Lock()
	defer out.Unlock()
	// Once for a whole top-level test: its sub-tests' folders lie in its own.
	top, _, _ := strings.Cut(name, "/")
	if top = filepath.Join(root, top); !out.used[top] {
		if out.used == nil {
			out.used = map[string]bool{}
		}
		out.used[top] = true
		if err := os.RemoveAll(top); err != nil {
			tb.Fatal(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	return dir
}

// cleanName keeps the slashes of sub-tests and replaces what file systems dislike.
func cleanName(name string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(`:*?"<>|\ `, r) {
			return '_'
		}
		return r
	}, name)
}

// closeOut removes a temporary evidence folder after a green run and names it after a red one.
func closeOut(green bool) {
	out.Lock()
	defer out.Unlock()
	switch {
	case out.dir == "":
	case out.temp && green:
		os.RemoveAll(out.dir)
	case !green:
		fmt.Fprintln(os.Stderr, "omnitest: logs and evidence:", out.dir)
	}
	out.dir = ""
}

// neverCache keeps `go test` from answering "(cached)" for a test that talks to an engine: cmd/go does not know that the
// engine, the GPU or the model behind it may have changed. It caches only with the test's own log of what it opened.
func neverCache() {
	if f := flag.Lookup("test.testlogfile"); f != nil && f.Value.String() != "" {
		os.Remove(f.Value.String())
	}
}
