package omnitest_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestModuleOutsideTheTreePasses runs testdata/example, a module of its own that imports omnitest: what an importer writes
// must compile and pass, go.sum included.
func TestModuleOutsideTheTreePasses(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: the example module builds everything a second time")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-count=1", "./...")
	cmd.Dir = "../testdata/example"
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly")
	text, err := cmd.CombinedOutput()
	require.NoError(t, err, string(text))
	require.Contains(t, string(text), "ok ")
}
