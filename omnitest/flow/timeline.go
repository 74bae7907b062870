package flow

import (
	"fmt"
	"strings"
)

// String is the record as one line: "/v1/completions failed with 502 after 31 ms: prefill 200 at +0 ms in 12 ms, decode no
// answer at +12 ms: connection refused".
func (r *Record) String() string {
	var b strings.Builder
	b.WriteString(r.Route)
	switch r.Outcome {
	case "in-flight":
		b.WriteString(" still in flight: ")
	case "failed":
		fmt.Fprintf(&b, " failed with %d after %.0f ms: ", r.Status, r.EndMS)
	default:
		fmt.Fprintf(&b, " %s with %d after %.0f ms: ", r.Outcome, r.Status, r.EndMS)
	}
	if len(r.Hops) == 0 {
		b.WriteString("no stage was asked")
	}
	for i := range r.Hops {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(r.Hops[i].String())
	}
	if r.Fallback {
		b.WriteString("; decode ran without a ticket (declared fallback)")
	}
	return b.String()
}

// String is one hop: "prefill 200 at +0 ms in 12 ms".
func (h *Hop) String() string {
	text := h.Stage
	if h.Status == 0 {
		text += " no answer"
	} else {
		text += fmt.Sprintf(" %d", h.Status)
	}
	text += fmt.Sprintf(" at +%.0f ms", h.StartMS)
	if h.EndMS > 0 {
		text += fmt.Sprintf(" in %.0f ms", h.EndMS-h.StartMS)
	} else {
		text += ", not finished"
	}
	if h.Error != "" {
		text += ": " + h.Error
	}
	return text
}
