package api_test

import (
	"os"
	"testing"

	"github.com/omnitest/suite/omnitest/internal/stamped"
)

func TestMain(m *testing.M) {
	stamped.Main() // the benchmarks' server is this program started anew
	os.Exit(m.Run())
}
