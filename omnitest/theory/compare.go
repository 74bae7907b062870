package theory

import (
	"fmt"
	"math"
	"strings"
)

// Tolerance is how far a measurement may lie from its prediction before a reason is due.
const Tolerance = 0.20

// Measured is one figure to put beside a prediction. A nil field was not measured, which is not 0.
type Measured struct {
	Stage   string   // name of a stage, "total", "memory" (bytes that the driver shows) or "allocated" (bytes that the framework's tensors take)
	Value   *float64 // seconds of one call (of all calls for "total"), or bytes
	WhyNot  string   // why there is no value
	Busy    *float64 // share of the time that the GPU was busy, 0 to 1 (NVML utilisation)
	Clock   *float64 // SM clock in MHz while it was measured
	Maximum *float64 // and its maximum
	Other   *float64 // share of the time that other work ran on the same GPU
}

// Comparison is one line of the table of theory against measurement.
type Comparison struct {
	Stage     string   `json:"stage"`
	Unit      string   `json:"unit"` // "s", "bytes"
	Predicted float64  `json:"predicted"`
	Measured  *float64 `json:"measured,omitempty"`
	Ratio     *float64 `json:"ratio,omitempty"`  // measured / predicted
	Off       bool     `json:"off"`              // by more than Tolerance
	Reason    string   `json:"reason,omitempty"` // why it is off, or why there is no ratio
}

// Compare puts measurements beside a prediction. A reason names the evidence it rests on; where the evidence names none, it says so.
func Compare(p *Prediction, measured []Measured) []Comparison {
	var all []Comparison
	for _, m := range measured {
		c := Comparison{Stage: m.Stage, Unit: "s", Measured: m.Value}
		s, known := p.Stage(m.Stage)
		switch {
		case m.Stage == "total":
			c.Predicted, known = p.Seconds, true
			s = p.longest()
		case m.Stage == "memory":
			c.Predicted, c.Unit, known = p.Memory.Total(), "bytes", true
		case m.Stage == "allocated":
			c.Predicted, c.Unit, known = p.Memory.Allocated(), "bytes", true
		case known:
			c.Predicted = s.Each
		}
		switch {
		case !known:
			c.Reason = "not predicted: the prediction has no such stage"
		case m.Value == nil || math.IsNaN(*m.Value):
			c.Measured = nil
			c.Reason = "not measured"
			if m.WhyNot != "" {
				c.Reason += ": " + m.WhyNot
			}
		case !(*m.Value > 0) || !(c.Predicted > 0):
			c.Reason = fmt.Sprintf("no ratio: %v measured, %v predicted", *m.Value, c.Predicted)
		default:
			ratio := *m.Value / c.Predicted
			c.Ratio = &ratio
			if c.Off = math.Abs(ratio-1) > Tolerance; c.Off {
				c.Reason = reason(p, s, m, c)
			}
		}
		all = append(all, c)
	}
	return all
}

func (p *Prediction) longest() (l Stage) {
	for _, s := range p.Stages {
		if s.Seconds > l.Seconds {
			l = s
		}
	}
	return l
}

func reason(p *Prediction, s Stage, m Measured, c Comparison) string {
	var why []string
	add := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	slower := *c.Ratio > 1
	if c.Unit == "bytes" {
		if slower {
			add("more than weights (%.1f GiB), cache, states, activations of %s (%.1f GiB) and overhead: the driver shows the allocator's high-water mark of earlier, larger requests, or a cache reserved in advance",
				p.Memory.Weights/gib, p.Memory.Peak, p.Memory.Activations/gib)
		} else {
			add("less than the weights and activations need at once: parts are offloaded, quantised, sliced or tiled")
		}
		return strings.Join(why, "; ")
	}
	if !slower {
		if *m.Value < s.Bound*float64(max(1, callsOf(m, s))) {
			add("faster than the roofline of %s allows (%.4g s): work was skipped (a cache, fewer tokens or steps), or it is another model or GPU", p.GPU, s.Bound*float64(max(1, callsOf(m, s))))
		} else {
			add("a larger share of the roofline than the %.2f that %s was predicted with", s.Efficiency, s.Name)
		}
		return strings.Join(why, "; ")
	}
	if s.Efficiency == 1 {
		add("predicted is the bound: no achieved fraction was stated for %s (this measurement makes it %.2f)", s.Name, 1 / *c.Ratio)
	}
	if m.Busy != nil && *m.Busy < 0.9 {
		add("the GPU was busy for %.0f %% of the time: the host did not launch work fast enough", 100**m.Busy)
	}
	if m.Clock != nil && m.Maximum != nil && *m.Clock < 0.9**m.Maximum {
		add("the SM clock was %.0f MHz of %.0f: power or temperature cap", *m.Clock, *m.Maximum)
	}
	if m.Other != nil && *m.Other > 0.05 {
		add("other work ran on the GPU for %.0f %% of the time", 100**m.Other)
	}
	if m.Stage == "total" {
		add("the total also holds queues, hops and host work, which no stage predicts")
	}
	if len(why) == 0 {
		var missing []string
		for _, e := range []struct {
			name string
			got  *float64
		}{{"GPU utilisation", m.Busy}, {"SM clock", m.Clock}, {"other work on the GPU", m.Other}} {
			if e.got == nil {
				missing = append(missing, e.name)
			}
		}
		if len(missing) > 0 {
			add("not explained; not measured: %s", strings.Join(missing, ", "))
		} else {
			add("not explained by GPU utilisation, SM clock or other work: the kernels reach less of the roofline here than where the fraction was fitted")
		}
	}
	return strings.Join(why, "; ")
}

func callsOf(m Measured, s Stage) int {
	if m.Stage == "total" {
		return s.Calls
	}
	return 1
}
