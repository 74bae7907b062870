// Package perf measures. Each benchmark is a point of a plan; its figures come as benchmark metrics that benchstat reads with
// their direction, and as a result document with the users' table.
//
//	go test -bench ./perf/...
//	go test -run '^$' -bench . -benchtime 1x -count 6 ./perf/... | tee new.txt && benchstat old.txt new.txt
//
// One iteration is one whole load run, and every answer of it is checked: a fast wrong answer is a failed benchmark.
package perf

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/report"
)

func TestMain(m *testing.M) {
	omnitest.ServeRole()
	flag.Parse()
	if flag.Lookup("test.bench").Value.String() != "" {
		// Configuration and units stand before the first benchmark, on lines of their own: whatever is printed while one runs
		// makes benchstat drop its result.
		fmt.Println("target:", target())
		for _, line := range report.UnitLines() {
			fmt.Println(line)
		}
	}
	code := omnitest.Run(m)
	for _, p := range results.paths {
		fmt.Fprintln(os.Stderr, "omnitest: results:", p.Table, p.JSON)
	}
	os.Exit(code)
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
