package handoff_test

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// What runs side by side here, windows over reference engines and over engines that hang, waits more than it computes. A -parallel of
// the command line comes later and wins.
func TestMain(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
