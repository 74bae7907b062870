package refpd

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// Main is the TestMain of rooms whose tests run such stacks side by side: they wait for leases and for engines that hang more than they
// compute, so that three run to a core. A -parallel of the command line comes later and wins.
func Main(m *testing.M) {
	if err := flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}
