package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/report"
)

// needBrowser gives the path of a Chromium, or skips (fails under OMNITEST_REQUIRE=browser) and says how to get one.
func needBrowser(t *testing.T) string {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	omnitest.Require(t, "browser", path != "", "install Chromium: apt-get install chromium")
	return path
}

// seen is what a browser did with a page.
type seen struct {
	requests []string // other than for the page itself
	errors   []string // of the console, exceptions, and what the security policy refused
}

// openPage loads a file in a headless browser that has no network, runs the actions, and tells what the page asked for.
func openPage(t *testing.T, browser, file string, actions ...chromedp.Action) seen {
	t.Helper()
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(browser), chromedp.NoSandbox, chromedp.UserDataDir(profile(t)),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND"))
	ctx, cancel := context.WithTimeoutCause(t.Context(), time.Minute, errors.New("the browser took longer than a minute"))
	defer cancel()
	ctx, cancel = chromedp.NewExecAllocator(ctx, opts...)
	defer cancel()
	ctx, cancel = chromedp.NewContext(ctx)
	defer cancel()

	page := (&url.URL{Scheme: "file", Path: file}).String()
	var mu sync.Mutex
	var s seen
	chromedp.ListenTarget(ctx, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch e := event.(type) {
		case *network.EventRequestWillBeSent:
			if e.Request.URL != page && !strings.HasPrefix(e.Request.URL, "data:") {
				s.requests = append(s.requests, e.Request.URL)
			}
		case *runtime.EventExceptionThrown:
			s.errors = append(s.errors, e.ExceptionDetails.Error())
		case *runtime.EventConsoleAPICalled:
			s.errors = append(s.errors, fmt.Sprintf("console.%s", e.Type))
		case *log.EventEntryAdded:
			s.errors = append(s.errors, e.Entry.Text)
		}
	})
	actions = append([]chromedp.Action{network.Enable(), log.Enable(), runtime.Enable(), network.EmulateNetworkConditions(true, 0, 0, 0), chromedp.Navigate(page),
		chromedp.WaitReady("body")}, actions...)
	if err := chromedp.Run(ctx, actions...); err != nil {
		t.Fatalf("%s in %s: %v", file, browser, withCause(ctx, err))
	}
	mu.Lock()
	defer mu.Unlock()
	return s
}

// profile is a folder for a browser's profile. The browser's children write into it for a moment after the browser itself has ended,
// so it is taken away again and again until that works.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "omnitest-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			err := os.RemoveAll(dir)
			if err == nil {
				return
			}
			if time.Now().After(deadline) {
				t.Errorf("the browser's profile stays: %v", err)
				return
			}
		}
	})
	return dir
}

func withCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

// TestReportInABrowser opens the page of a stored result with the network off: no request, no error on the console, the charts
// that were asked for are there with their lines, and nothing is wider than a telephone's screen.
func TestReportInABrowser(t *testing.T) {
	browser := needBrowser(t)
	r, err := report.Read(filepath.Join("..", "testdata", "report", "sweep.json"))
	if err != nil {
		t.Fatal(err)
	}
	page, err := report.HTML(r)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(omnitest.TestDir(t), "report.html")
	if err := os.WriteFile(file, page, 0o600); err != nil {
		t.Fatal(err)
	}

	var lines map[string]int // drawn ones, by the id of their chart
	var wide, narrow int64
	var title string
	s := openPage(t, browser, file,
		chromedp.EmulateViewport(1280, 900), chromedp.Title(&title),
		chromedp.Evaluate(`Object.fromEntries(Array.from(document.querySelectorAll("[id]")).map(f => [f.id,
			f.querySelectorAll("svg path.line:not(.sample)").length]))`, &lines),
		chromedp.Evaluate(`document.documentElement.scrollWidth`, &wide),
		chromedp.EmulateViewport(400, 900), chromedp.Evaluate(`document.documentElement.scrollWidth`, &narrow))
	if len(s.requests) > 0 {
		t.Errorf("the page asked for %q; it must be complete in itself", s.requests)
	}
	if len(s.errors) > 0 {
		t.Errorf("the console says %q", s.errors)
	}
	if want := r.Heading() + ": omnitest report"; title != want {
		t.Errorf("title %q, want %q", title, want)
	}
	if wide > 1280 || narrow > 400 {
		t.Errorf("the page is %d px wide on a screen of 1280, and %d on one of 400", wide, narrow)
	}
	for _, c := range report.Charts(r) {
		if got := lines[c.ID]; got != len(c.Lines) {
			t.Errorf("chart %s: %d lines on the page, want %d", c.ID, got, len(c.Lines))
		}
	}
	for _, id := range []string{"throughput-concurrency", "latency-concurrency", "throughput-batch", "memory-batch"} {
		if lines[id] == 0 {
			t.Errorf("chart %s, one of the four that were asked for, shows nothing", id)
		}
	}
	for _, id := range []string{"stages", "client", "errors", "handoff"} {
		if _, there := lines[id]; !there {
			t.Errorf("section %s is missing", id)
		}
	}
}

// TestBrowserSeesWhatAPageAsksFor is the proof that the test above can fail.
func TestBrowserSeesWhatAPageAsksFor(t *testing.T) {
	browser := needBrowser(t)
	file := filepath.Join(t.TempDir(), "bad.html")
	text := `<!doctype html><title>x</title><body><img src="http://chart.example/a.png"><script>console.error("x"); undefinedFunction()</script>`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := openPage(t, browser, file)
	if len(s.requests) != 1 || s.requests[0] != "http://chart.example/a.png" {
		t.Errorf("requests seen: %q", s.requests)
	}
	all := strings.Join(s.errors, "\n")
	if !strings.Contains(all, "console.error") || !strings.Contains(all, "undefinedFunction is not defined") {
		t.Errorf("errors seen: %q", s.errors)
	}
}
