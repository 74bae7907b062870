package omnitest

import (
	"fmt"
	"strings"
	"sync"
	"testing"
)

// Check runs every check on v and reports all failures, not the first. A check is a value: the same func(T) error gates
// one answer in a test, every answer under load and every hour of a soak.
func Check[T any](tb testing.TB, v T, checks ...func(T) error) {
	tb.Helper()
	for _, check := range checks {
		if err := check(v); err != nil {
			tb.Error(err)
		}
	}
}

// skipped remembers what Require skipped, and how many tests with a stack were not, so that a run which tested little says so
// at its end.
var skipped struct {
	sync.Mutex
	tests  []string
	tested int
	asked  map[string]bool // capabilities that a test asked for, had or not
}

// countTested notes at the end of a test that had a stack whether it really ran.
func countTested(tb testing.TB) {
	tb.Cleanup(func() {
		if !tb.Skipped() {
			skipped.Lock()
			skipped.tested++
			skipped.Unlock()
		}
	})
}

// skipSummary is what to say about skips at the end of a run. nothing: every test that had a stack skipped for lack of a
// capability, which must not look like success.
func skipSummary() (text string, nothing bool) {
	skipped.Lock()
	defer skipped.Unlock()
	if len(skipped.tests) == 0 {
		return "", false
	}
	text = fmt.Sprintf("omnitest: %d skipped for lack of a capability: %s", len(skipped.tests), strings.Join(skipped.tests, ", "))
	if skipped.tested == 0 {
		return text + "\nomnitest: that was every test with a stack: nothing was tested", true
	}
	return text, false
}
