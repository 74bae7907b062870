package metrics

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// SLO is one service level objective: a request is good if the figure is at most Limit.
type SLO struct {
	Name  string  // a key of ParseSLOs
	Limit float64 // ms; of audio_rtf a ratio
}

// SLOs are the objectives that a request must meet together to count as good. None: no goodput is measured.
type SLOs []SLO

// sloNames are the objectives in the order of messages. vllm-omni's calculator reads the objective on audio_ttfp from a key
// that its command line does not let through (audio_ttft; vllm-omni#1872, #5668, #3799), so that it can be set there under
// neither name. Both work here.
var sloNames = []string{"ttft", "tpot", "e2el", "audio_ttfp", "audio_rtf", "audio_continuity"}

// ParseSLOs reads objectives as `vllm bench serve --goodput` takes them, "ttft:100 tpot:20" (spaces or commas), limits in ms:
//
//	ttft, tpot, e2el    text; e2el also of pictures
//	audio_ttfp          time to first packet of sound; also as "audio_ttft", which is how vllm-omni spells it
//	audio_rtf           real-time factor, a ratio: 1 is as fast as it is played
//	audio_continuity    the longest silence of a player that starts with the first packet
//
// "" is no objective. Unknown names, limits that are no number or below 0, and a name given twice are errors.
func ParseSLOs(text string) (SLOs, error) {
	var all SLOs
	for _, pair := range strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == ',' || r == '\t' || r == '\n' }) {
		name, value, ok := strings.Cut(pair, ":")
		limit, err := strconv.ParseFloat(value, 64)
		if !ok || err != nil || math.IsNaN(limit) {
			return nil, fmt.Errorf("goodput %q: want NAME:MILLISECONDS, like ttft:100", pair)
		}
		if name == "audio_ttft" {
			name = "audio_ttfp"
		}
		switch {
		case !slices.Contains(sloNames, name):
			return nil, fmt.Errorf("goodput %q: unknown objective %q; there are %s", pair, name, strings.Join(sloNames, ", "))
		case limit < 0:
			return nil, fmt.Errorf("goodput %q: a limit below 0", pair)
		case slices.ContainsFunc(all, func(o SLO) bool { return o.Name == name }):
			return nil, fmt.Errorf("goodput %q: %s is given twice", pair, name)
		}
		all = append(all, SLO{name, limit})
	}
	return all, nil
}

// String is what ParseSLOs reads.
func (o SLOs) String() string {
	var all []string
	for _, s := range o {
		all = append(all, s.Name+":"+strconv.FormatFloat(s.Limit, 'g', -1, 64))
	}
	return strings.Join(all, " ")
}

// Goodput counts the requests that met every objective.
type Goodput struct {
	SLOs     string `json:"slos"`     // "ttft:100 tpot:20"
	Requests int    `json:"requests"` // good ones
	Rate     Value  `json:"rate"`     // good requests/s over the whole duration
	Share    Value  `json:"share"`    // of all requests, failed ones too
	// Missed counts by objective the successes that missed it, those that could not show the figure among them.
	Missed map[string]int `json:"missed,omitempty"`
}

// good tells whether a request met every objective. A figure that was not measured meets none, but for the TPOT of an
// answer of one token where the profile says so.
func (g *Goodput) judge(p *Profile, o SLOs, f *Figures) {
	good := true
	for _, s := range o {
		if !s.met(p, f) {
			good = false
			if g.Missed == nil {
				g.Missed = map[string]int{}
			}
			g.Missed[s.Name]++
		}
	}
	if good {
		g.Requests++
	}
}

func (s SLO) met(p *Profile, f *Figures) bool {
	var v Value
	switch s.Name {
	case "ttft":
		v = f.TTFT
	case "tpot":
		v = f.TPOT
		if n, ok := f.OutputTokens.Get(); !v.OK() && ok && n < 2 && !f.noTokens && p.OneTokenIsFast {
			v = Of(0)
		}
	case "e2el":
		v = f.E2EL
	case "audio_ttfp":
		v = f.AudioTTFP
	case "audio_rtf":
		v = f.AudioRTF
	case "audio_continuity":
		v = f.Underrun
	}
	x, ok := v.Get()
	return ok && x <= s.Limit
}
