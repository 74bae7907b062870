// Package perf measures. Each benchmark is a point of a plan; its figures come as benchmark metrics that benchstat reads with
// their direction, and as a result document with the users' table, a page and charts.
//
//	go test -bench ./perf/...
//	go test -bench ./perf/... -args -max-concurrency=1,4 -random-input-len=2048
//	go test -run '^$' -bench . -benchtime 1x -count 6 ./perf/... | tee new.txt && benchstat old.txt new.txt
//
// One iteration is one whole load run. Its connections are open before the clock starts, a canary beside the load says what the client
// itself did to the figures, every event goes to a log on disk, and every answer is checked when the load is over: a fast wrong
// answer is a failed request, and a failed request is a failed benchmark.
package perf

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/omnitest/suite/omnitest"
)

// set are the flags of this run.
var set *settings

func TestMain(m *testing.M) {
	// What tests run side by side, benchmarks of broken stacks, waits more than it computes. A -parallel of the command line wins.
	if err := flag.Set("test.parallel", strconv.Itoa(2*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	omnitest.ServeRole()
	set = register(flag.CommandLine)
	flag.Usage = usage
	flag.Parse()
	if err := set.check(flag.CommandLine); err != nil {
		fmt.Fprintln(os.Stderr, "perf:", strings.ReplaceAll(err.Error(), "\n", "\nperf: "))
		os.Exit(2)
	}
	set.flags = set.lines(flag.CommandLine)
	if flag.Lookup("test.bench").Value.String() != "" {
		gpus.open() // before any stack is there: what the GPUs hold now is not ours
		// Configuration and units stand before the first benchmark, on lines of their own: whatever is printed while one runs
		// makes benchstat drop its result.
		fmt.Println("target:", target())
		for _, line := range unitLines() {
			fmt.Println(line)
		}
	}
	code := omnitest.Run(m)
	if bench := flag.Lookup("test.bench").Value.String(); bench != "" && flag.Lookup("test.list").Value.String() == "" && code == 0 && !results.any() {
		fmt.Fprintf(os.Stderr, "perf: no row was measured: nothing matches -bench %s, or all of it was skipped; -v gives the reason of each skip\n", bench)
		code = 1
	}
	if err := gpus.released(); err != nil {
		fmt.Fprintln(os.Stderr, "perf: after all stacks were stopped:", err)
		code = max(code, 1)
	}
	if err := results.close(); err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// any tells whether a row was measured.
func (k *kept) any() bool {
	k.Lock()
	defer k.Unlock()
	for _, d := range k.sets {
		if len(d.Rows) > 0 {
			return true
		}
	}
	return false
}

// usage shows the flags of this package; those of go test are in `go help testflag`.
func usage() {
	fmt.Fprintln(os.Stderr, "flags of perf, after -args:")
	ours := flag.NewFlagSet("perf", flag.ContinueOnError)
	ours.SetOutput(os.Stderr)
	register(ours)
	ours.PrintDefaults()
}

// target is what will be measured, as far as it is known before anything is started.
func target() string {
	spec, err := omnitest.Spec()
	switch {
	case err != nil:
		return "none: " + err.Error()
	case spec.Stages == nil:
		return "reference stack (simulated)"
	case spec.Name != "":
		return spec.Name
	}
	return os.Getenv(omnitest.EnvStack)
}
