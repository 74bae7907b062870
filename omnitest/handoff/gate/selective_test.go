package gate_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
)

// Failures that hit one kind of request, or one request in many, are seen by URL alone; the healthy stack raises no alarm.
func TestSelectiveFailures(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ faults, assertion, rule, says string }{
		{"decode.recompute=chat", "handoff-proven", "computed-itself", "decode computed"},
		{"decode.recompute=long", "handoff-proven", "computed-itself", "decode computed"},
		{"proxy.cache-answers", "no-silent-fallback", "answered-from-cache", "refuted: 4 identical requests were answered, and decode finished 3: the others were answered from a cache in front of it"},
		{"decode.leak-slowly", "nothing-kept", "slow-leak", "refuted: blocks stayed behind since the beginning, 120 requests of this experiment among what was sent: decode did not release its KV blocks within "},
		{"dit.short-prompt", "plan-read-whole", "plan-end-lost", "characters that differ in their last words give the very same picture: the end of a plan is not read"},
	} {
		for _, faults := range []string{"", c.faults} {
			t.Run(c.assertion+" "+faults, func(t *testing.T) {
				t.Parallel()
				s := refpd.Failure{Faults: faults}.Stack(t)
				v := run(t, attached(t, target(s.Start(t), s)), c.assertion).Outcome(c.assertion).Verdict
				if faults == "" {
					assert.Equal(t, handoff.StateProven, v.State, "%v", v)
					return
				}
				assert.Equal(t, handoff.StateRefuted, v.State, "%v", v)
				assert.True(t, v.Has(c.rule), "%v", v)
				assert.Contains(t, v.String(), c.says)
			})
		}
	}
}
