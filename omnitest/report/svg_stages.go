package report

import (
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
)

// barsPerFigure is how many rows share one picture at most of stage bars.
const barsPerFigure = 7

// stageBars draws where the time of a request went, a bar per row, on the same axis in every picture. Parts below zero (stages
// that overlapped) lie left of zero.
func stageBars(all []Row) []template.HTML {
	var pictures []template.HTML
	figures := (len(all) + barsPerFigure - 1) / barsPerFigure
	for rows := range slices.Chunk(all, (len(all)+figures-1)/figures) { // as many in each
		pictures = append(pictures, stagePicture(rows, all))
	}
	return pictures
}

func stagePicture(rows, all []Row) template.HTML {
	const barH, gap, top = 20.0, 24.0, 4.0
	kinds := stageKinds(all)
	var d drawing
	h := top + float64(len(rows))*(barH+gap) + 40
	d.open("Time of a request by stage", chartW, h)
	var ends []float64
	for _, r := range all {
		plus, minus := 0.0, 0.0
		for _, s := range r.Stages {
			v, _ := s.Mean.Get()
			plus, minus = plus+max(0, v), minus+min(0, v)
		}
		ends = append(ends, plus, minus)
	}
	x := niceScale(ends, 5, 10, chartW-24)
	x.lo = slices.Min(ends)
	x.ticks = slices.DeleteFunc(x.ticks, func(t float64) bool { return t < x.lo })
	bottom := top + float64(len(rows))*(barH+gap)
	for _, t := range x.ticks {
		fmt.Fprintf(&d.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`, x.at(t), top, x.at(t), bottom)
		d.text(x.at(t), bottom+16, "middle", "tick", tickText(t))
	}
	d.text(chartW/2, bottom+34, "middle", "name", "mean time of a request (ms)")
	for i, r := range rows {
		y := top + float64(i)*(barH+gap) + 16
		d.text(10, y-4, "start", "label halo", r.Name)
		plus, minus := 0.0, 0.0
		for _, s := range r.Stages {
			v, ok := s.Mean.Get()
			if !ok || v == 0 {
				continue
			}
			from := plus
			if v < 0 {
				minus += v
				from = minus
			} else {
				plus += v
			}
			k := slices.Index(kinds, s.Stage)
			left, width := x.at(from), x.at(from+math.Abs(v))-x.at(from)
			class := fmt.Sprintf("bar s%d", k%maxLines)
			if v < 0 {
				class += " minus"
			}
			fmt.Fprintf(&d.b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%g" class="%s"><title>%s</title></rect>`, left, y, max(0.5, width-1), barH, class,
				html.EscapeString(fmt.Sprintf("%s: %s ms", s.Stage, figure(v))))
			if name := s.Stage; width > charW*float64(len(name))+8 {
				d.text(left+width/2, y+14, "middle", fmt.Sprintf("in in%d", k%maxLines), name)
			}
		}
	}
	return d.close()
}

// stageKinds are the stages of all rows in the order in which they appear: the index is the colour.
func stageKinds(rows []Row) []string {
	var kinds []string
	for _, r := range rows {
		for _, s := range r.Stages {
			if !slices.Contains(kinds, s.Stage) {
				kinds = append(kinds, s.Stage)
			}
		}
	}
	return kinds
}
