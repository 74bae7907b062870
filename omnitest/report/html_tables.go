package report

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/metrics"
)

func words(texts ...string) []cell {
	var all []cell
	for _, t := range texts {
		all = append(all, cell{Text: t, Word: true})
	}
	return all
}

func numbers(texts ...string) []cell {
	var all []cell
	for _, t := range texts {
		all = append(all, cell{Text: t})
	}
	return all
}

func word(text string) cell {
	if text == "" {
		return cell{Text: "not recorded", Class: "word none"}
	}
	return cell{Text: text, Class: "word"}
}

// number shows a figure; one that was not measured says so in words.
func number(v metrics.Value) cell {
	x, ok := v.Get()
	if !ok {
		return cell{Text: metrics.NotMeasured, Class: "none"}
	}
	return cell{Text: figure(x)}
}

func verdictCell(verdict string) cell {
	class := map[string]string{"proven": "word good", metrics.ClientValid: "word good", "refuted": "word bad", metrics.ClientInvalid: "word bad", "inconclusive": "word doubt"}[verdict]
	if class == "" {
		class = "word none"
	}
	return cell{Text: verdict, Class: class}
}

// recordTable has the columns of the users' own record.
func recordTable(mode Mode, rows []Row) table {
	t := table{Title: strings.ToUpper(string(mode[:1])) + string(mode[1:]), Head: words("row")}
	var shown []column
	for _, c := range columns {
		if c.rare && !slices.ContainsFunc(rows, c.has) {
			continue
		}
		shown = append(shown, c)
		t.Head = append(t.Head, cell{Text: c.title})
	}
	for _, r := range rows {
		row := tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark())}}
		for _, c := range shown {
			if c.text != nil {
				row.Cells = append(row.Cells, cell{Text: c.text(r)})
			} else {
				row.Cells = append(row.Cells, number(c.value(r)))
			}
		}
		t.Rows = append(t.Rows, row)
	}
	t.Notes = notes(rows)
	return t
}

// latencyTable has the distributions that the record has the means of.
func latencyTable(mode Mode, rows []Row) table {
	t := table{Title: "Latencies, " + string(mode), Head: append(words("row", "figure"), numbers("n", "mean", "median", "p90", "p95", "p99", "max", "unit")...)}
	small := false
	for _, r := range rows {
		s := r.Summary
		for _, f := range []struct {
			name string
			d    metrics.Dist
		}{{"TTFT", s.TTFT}, {"TPOT", s.TPOT}, {"ITL", s.ITL}, {"E2EL", s.E2EL}, {"TTFT from schedule", s.TTFTFromSchedule}, {"E2EL from schedule", s.E2ELFromSchedule}, {"client queue", s.ClientQueue}} {
			if f.d.N == 0 {
				continue // said below the record
			}
			row := tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark()), word(f.name), {Text: strconv.Itoa(f.d.N)}}}
			for _, v := range []metrics.Value{f.d.Mean, f.d.Median, f.d.P90, f.d.P95, f.d.P99, f.d.Max} {
				c := number(v)
				if !v.OK() {
					c.Text, small = "n too small", true
				}
				row.Cells = append(row.Cells, c)
			}
			row.Cells = append(row.Cells, cell{Text: f.d.Unit})
			t.Rows = append(t.Rows, row)
		}
	}
	if small {
		t.Notes = []string{fmt.Sprintf("n too small: a p90 needs %d requests, a p95 %d, a p99 %d; the maximum stands beside it", metrics.MinP90, metrics.MinP95, metrics.MinP99)}
	}
	return t
}

// clientTable is the client's own error.
func clientTable(rows []Row) table {
	t := table{ID: "client", Title: "The client's own error", Empty: "Not measured.",
		Head: append(words("row", "verdict"), numbers("dispatch p50 (ms)", "dispatch p99 (ms)", "event p50 (ms)", "event p99 (ms)", "CPU share", "steal", "coalesced reads", "Little gap")...)}
	for _, r := range rows {
		if r.Client.Verdict == "" {
			continue
		}
		c := r.Client
		row := tableRow{Invalid: r.invalid(), Cells: []cell{word(r.Name), verdictCell(r.client())}}
		for _, v := range []metrics.Value{c.Dispatch.P50, c.Dispatch.P99, c.Event.P50, c.Event.P99, c.CPUShare, c.Steal, c.Coalesced, c.LittleGap} {
			row.Cells = append(row.Cells, number(v))
		}
		t.Rows = append(t.Rows, row)
		for _, reason := range c.Reasons {
			t.Notes = append(t.Notes, r.Name+": "+reason)
		}
	}
	if n := len(rows) - len(t.Rows); n > 0 && len(t.Rows) > 0 {
		t.Notes = append(t.Notes, "not measured in "+plural(n, "row"))
	}
	return t
}

func errorTable(rows []Row) table {
	t := table{ID: "errors", Title: "Errors", Empty: "No request failed.", Head: append(words("row"), append(numbers("failed", "of", "share"), words("what happened")...)...)}
	for _, r := range rows {
		s := r.Summary
		texts := append(slices.Clone(s.Failures), r.Errors...)
		if s.Failed == 0 && len(texts) == 0 {
			continue
		}
		share := ""
		if s.Requests > 0 {
			share = figure(100*float64(s.Failed)/float64(s.Requests)) + " %"
		}
		t.Rows = append(t.Rows, tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark()), {Text: strconv.Itoa(s.Failed)}, {Text: strconv.Itoa(s.Requests)}, {Text: share},
			{Text: plain(strings.Join(texts, "; ")), Class: "word long"}}})
	}
	return t
}

func windowTable(windows []Window) table {
	t := table{ID: "handoff", Title: "Handoff windows", Empty: "No window was kept.",
		Head: append(words("window", "verdict"), append(numbers("requests", "prompt tokens", "from prefill", "computed by decode", "bytes"), words("why")...)...)}
	for _, w := range windows {
		row := tableRow{Cells: []cell{word(w.Name), verdictCell(w.verdict()), {Text: strconv.Itoa(len(w.Requests))}}}
		for _, name := range []string{"decode.prompt_tokens", "decode.external_tokens", "decode.computed_tokens", "decode.bytes"} {
			n, ok := w.Numbers[name]
			if !ok {
				row.Cells = append(row.Cells, cell{Text: metrics.NotMeasured, Class: "none"})
				continue
			}
			row.Cells = append(row.Cells, cell{Text: strconv.FormatFloat(n, 'f', -1, 64)})
		}
		var why []string
		for _, v := range w.Verdicts {
			if v.Verdict != "proven" {
				why = append(why, v.Name+": "+v.Verdict+": "+strings.Join(v.Reasons, "; "))
			}
		}
		row.Cells = append(row.Cells, cell{Text: plain(strings.Join(why, " | ")), Class: "word long"})
		t.Rows = append(t.Rows, row)
	}
	return t
}

// hardwareTable is what the processes of each stage cost.
func hardwareTable(r Row) table {
	t := table{Head: append(words("stage"), append(numbers("peak RSS (GB)", "mean RSS (GB)", "CPU (s)", "cores, mean", "processes"), words("remark")...)...)}
	for _, stage := range stageOrder(r.Hardware.Stages) {
		s := r.Hardware.Stages[stage]
		if s.Absent != "" || s.Samples == 0 {
			row := tableRow{Cells: []cell{word(stage)}}
			for range 5 {
				row.Cells = append(row.Cells, cell{Text: metrics.NotMeasured, Class: "none"})
			}
			t.Rows = append(t.Rows, tableRow{Cells: append(row.Cells, cell{Text: s.Absent, Class: "word"})})
			continue
		}
		cores := metrics.Absent("the window's length is unknown")
		if r.Hardware.WallS > 0 {
			cores = metrics.Of(s.CPUSeconds / r.Hardware.WallS)
		}
		t.Rows = append(t.Rows, tableRow{Cells: []cell{word(stage), number(metrics.Of(float64(s.PeakRSS) / gb)), number(metrics.Of(float64(s.MeanRSS) / gb)),
			number(metrics.Of(s.CPUSeconds)), number(cores), {Text: strconv.Itoa(s.Processes)}, {Text: join(s.Ended, s.Err), Class: "word"}}})
	}
	return t
}

// stagesOf draws the rows that have a breakdown, and gives the same as a table: narrow parts have no room for their number.
func stagesOf(all []Row) *stagesFigure {
	var rows []Row
	for _, r := range all {
		if len(r.Stages) > 0 {
			rows = append(rows, r)
		}
	}
	if len(rows) == 0 {
		return nil
	}
	f := &stagesFigure{Keys: stageKinds(rows)}
	f.Table.Head = append(words("row"), numbers(f.Keys...)...)
	lacking, below := map[string]int{}, map[string][]float64{}
	for i := range rows {
		r := rows[i]
		rows[i].Name = r.mark()
		row := tableRow{Invalid: r.invalid(), Cells: []cell{word(r.mark())}}
		for _, kind := range f.Keys {
			k := slices.IndexFunc(r.Stages, func(s StageTime) bool { return s.Stage == kind })
			if k < 0 {
				row.Cells = append(row.Cells, cell{})
				continue
			}
			s := r.Stages[k]
			c := number(s.Mean)
			if share, ok := s.Share.Get(); ok {
				c.Text += fmt.Sprintf(" (%.1f %%)", 100*share)
			}
			row.Cells = append(row.Cells, c)
			if v, ok := s.Mean.Get(); !ok {
				lacking[join(kind+" not measured", s.Mean.Reason())]++
			} else if v < 0 {
				below[kind] = append(below[kind], v)
			}
		}
		f.Table.Rows = append(f.Table.Rows, row)
	}
	for _, what := range slices.Sorted(maps.Keys(lacking)) {
		f.Notes = append(f.Notes, fmt.Sprintf("%s, in %s", what, plural(lacking[what], "row")))
	}
	for _, kind := range slices.Sorted(maps.Keys(below)) {
		f.Notes = append(f.Notes, fmt.Sprintf("%s is below zero in %s, down to %s ms: the stages overlapped by so much", kind, plural(len(below[kind]), "row"), figure(slices.Min(below[kind]))))
	}
	f.SVG = stageBars(rows)
	if n := len(all) - len(rows); n > 0 {
		f.Notes = append(f.Notes, "without a breakdown: "+plural(n, "row"))
	}
	return f
}

// stageOrder lists roles in the order of the flow, others after them by name.
func stageOrder[V any](stages map[string]V) []string {
	flow := []string{"client", "proxy", "encode", "prefill", "decode", "dit", "vae", "talker"}
	all := slices.Sorted(maps.Keys(stages))
	rank := func(s string) int {
		if i := slices.Index(flow, s); i >= 0 {
			return i
		}
		return len(flow)
	}
	slices.SortStableFunc(all, func(a, b string) int { return rank(a) - rank(b) })
	return all
}

// plain shortens foreign text (an engine's error page) for a cell. Escaping is the template's.
func plain(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if r := []rune(s); len(r) > 400 {
		return string(r[:400]) + "..."
	}
	return s
}
