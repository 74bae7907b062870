package handoff

import (
	"time"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Omni is prefill and decode as two stages inside one vLLM-Omni orchestrator: one page for both, vLLM's series told apart by
// the label stage (beside replica, in place of engine). Give both endpoints of a Source that page. Not recorded with two AR
// stages. The orchestrator hands the ticket on itself, so nobody sees it, and series of the connector inside are not
// known. Its statistics are off without --log-stats and are published once a second. The name is "omni(0>1)".
//
// The way of the plan into the picture is another channel with series of its own (vllm_omni:transfer_*); they say nothing here.
func Omni(prefill, decode string) *Dialect {
	d := vllm
	d.Name = "omni(" + prefill + ">" + decode + ")"
	d.PrefillLabels, d.DecodeLabels = prom.Labels{"stage": prefill}, prom.Labels{"stage": decode}
	d.Settle = 1100 * time.Millisecond
	d.Lacks = "omni: tickets stay inside the orchestrator and bytes are not known to be counted, so the verdict rests on tokens and content"
	return &d
}
