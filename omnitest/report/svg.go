package report

import (
	"cmp"
	"fmt"
	"html"
	"html/template"
	"math"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/metrics"
)

// A chart is drawn at this size and scaled by the page, so that its text stays about as large as the page's own from 360 to
// 560 pixels of width.
const (
	chartW, chartH = 440.0, 290.0
	plotTop        = 34.0
	plotBottom     = chartH - 44
	plotLeft       = 50.0
	charW          = 6.3 // mean width of a character of the label font, 12 px
	maxLabel       = 24  // characters of a direct label
)

// svg draws a chart as inline SVG. Colours come from the page's style sheet by class, so that light and dark share the picture.
// Lines differ by colour, by the shape of their points and by the label at their end.
func (c Chart) svg() template.HTML {
	if len(c.Lines) == 0 {
		return ""
	}
	var d drawing
	d.open(c.Title, chartW, chartH)
	right := chartW - 14
	if !c.CDF {
		longest := 0
		for _, l := range c.Lines {
			longest = max(longest, utf8.RuneCountInString(short(l.Label)))
		}
		if longest > 0 {
			right = chartW - 16 - charW*float64(longest)
		}
	}
	x, y := c.scales(plotLeft, right)
	d.axes(c, x, y, right)
	var labels []label
	for i, l := range c.Lines {
		d.line(c, i, l, x, y)
		if c.CDF {
			labels = append(labels, cdfLabel(i, len(c.Lines), l, x, y))
		} else if at, ok := lastPoint(l); ok && l.Label != "" {
			v, _ := at.Y.Get()
			labels = append(labels, label{i, l.Label, right + 8, y.at(v), x.at(at.X), y.at(v), false})
		}
	}
	spread(labels)
	for _, l := range labels {
		d.label(l)
	}
	return d.close()
}

func (c Chart) scales(left, right float64) (x, y scale) {
	var xs, ys []float64
	for _, l := range c.Lines {
		for _, p := range append(slices.Clone(l.Points), l.Runs...) {
			xs = append(xs, p.X)
			if v, ok := p.Y.Get(); ok {
				ys = append(ys, v)
			}
		}
	}
	if c.CDF {
		return niceScale(xs, 5, left, right), scale{lo: 0, hi: 100, a: plotBottom, b: plotTop, ticks: []float64{0, 25, 50, 75, 100}}
	}
	y = niceScale(ys, 5, plotBottom, plotTop)
	if c.X.Name == "time" {
		x = niceScale(xs, 5, left, right)
		x.hi = max(x.ticks[len(x.ticks)-2], slices.Max(xs)) // the axis ends with the run
		x.ticks = slices.DeleteFunc(x.ticks, func(t float64) bool { return t > x.hi })
		return x, y
	}
	return pointScale(xs, left, right, 26), y
}

// drawing writes SVG. All foreign text goes through html.EscapeString.
type drawing struct{ b strings.Builder }

func (d *drawing) open(title string, w, h float64) {
	fmt.Fprintf(&d.b, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, w, h, html.EscapeString(title))
}

func (d *drawing) close() template.HTML {
	d.b.WriteString(`</svg>`)
	return template.HTML(d.b.String())
}

func (d *drawing) text(x, y float64, anchor, class, text string) {
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" text-anchor="%s" class="%s">%s</text>`, x, y, anchor, class, html.EscapeString(text))
}

func (d *drawing) axes(c Chart, x, y scale, right float64) {
	for _, t := range y.ticks {
		class := "grid"
		if t == 0 {
			class = "axis"
		}
		fmt.Fprintf(&d.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="%s"/>`, plotLeft, y.at(t), right, y.at(t), class)
		d.text(plotLeft-7, y.at(t)+4, "end", "tick", tickText(t))
	}
	for _, t := range x.ticks {
		fmt.Fprintf(&d.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="axis"/>`, x.at(t), plotBottom, x.at(t), plotBottom+4)
		d.text(x.at(t), plotBottom+17, "middle", "tick", tickText(t))
	}
	d.text(4, 15, "start", "name", c.Y.Title())
	scaled := ""
	if x.log {
		scaled = ", logarithmic"
	}
	d.text((plotLeft+right)/2, plotBottom+36, "middle", "name", c.X.Title()+scaled)
}

// line draws the segments between neighbours that both have a value; a point without one leaves a gap.
func (d *drawing) line(c Chart, i int, l Line, x, y scale) {
	var path strings.Builder
	down := false
	before := math.NaN()
	for _, p := range l.Points {
		v, ok := p.Y.Get()
		switch {
		case !ok:
			down = false
			continue
		case !down && !c.CDF:
			fmt.Fprintf(&path, "M%.1f %.1f", x.at(p.X), y.at(v))
		case !down: // a distribution function rises from zero
			fmt.Fprintf(&path, "M%.1f %.1fV%.1f", x.at(p.X), y.at(0), y.at(v))
		case c.CDF:
			fmt.Fprintf(&path, "H%.1fV%.1f", x.at(p.X), y.at(v))
		default:
			fmt.Fprintf(&path, "L%.1f %.1f", x.at(p.X), y.at(v))
		}
		down, before = true, v
	}
	if math.IsNaN(before) {
		return
	}
	dash := ""
	if l.Dashed {
		dash = " dash"
	}
	fmt.Fprintf(&d.b, `<path d="%s" class="line s%d%s"/>`, path.String(), i, dash)
	dense := len(l.Points) > 20
	for _, p := range l.Runs {
		d.point(c, i, l, p, x, y, true)
	}
	for _, p := range l.Points {
		if p.Invalid && !dense || !dense && !c.CDF {
			d.point(c, i, l, p, x, y, false)
		}
	}
}

// point draws a marker with the line's own shape; a point of an invalid client is a cross.
func (d *drawing) point(c Chart, i int, l Line, p Point, x, y scale, faint bool) {
	v, ok := p.Y.Get()
	if !ok || c.CDF {
		return
	}
	px, py, r := x.at(p.X), y.at(v), 4.2
	class := fmt.Sprintf("dot s%d", i)
	if faint {
		r, class = 2.6, class+" faint"
	}
	title := fmt.Sprintf("%s: %s %s at %s %s", cmp.Or(l.Label, c.Y.Name), figure(v), c.Y.Unit, c.X.Name, tickText(p.X))
	if p.Invalid {
		title += ", " + metrics.ClientInvalid
		fmt.Fprintf(&d.b, `<path d="M%.1f %.1fl%.1f %.1fm0 %.1fl%.1f %.1f" class="cross s%d"><title>%s</title></path>`,
			px-r, py-r, 2*r, 2*r, -2*r, -2*r, 2*r, i, html.EscapeString(title))
		return
	}
	var shape string
	switch i % 4 {
	case 0:
		shape = fmt.Sprintf(`<circle cx="%.1f" cy="%.1f" r="%.1f" class="%s">`, px, py, r, class) + `%s</circle>`
	case 1:
		shape = fmt.Sprintf(`<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" class="%s">`, px-r*0.9, py-r*0.9, r*1.8, r*1.8, class) + `%s</rect>`
	case 2:
		shape = fmt.Sprintf(`<path d="M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz" class="%s">`, px, py-r*1.3, r*1.3, r*1.3, -r*1.3, r*1.3, -r*1.3, -r*1.3, class) + `%s</path>`
	default:
		shape = fmt.Sprintf(`<path d="M%.1f %.1fl%.1f %.1fh%.1fz" class="%s">`, px, py-r*1.3, r*1.3, r*2.3, -r*2.6, class) + `%s</path>`
	}
	fmt.Fprintf(&d.b, shape, "<title>"+html.EscapeString(title)+"</title>")
}

// label is the name of a line, beside its end.
type label struct {
	line         int
	text         string
	x, y         float64
	fromX, fromY float64 // the point it belongs to
	halo         bool
}

func (d *drawing) label(l label) {
	class := "label"
	if l.halo {
		class += " halo"
	}
	if !l.halo {
		fmt.Fprintf(&d.b, `<path d="M%.1f %.1fL%.1f %.1f" class="leader s%d"/>`, l.fromX+6, l.fromY, l.x-3, l.y, l.line)
	}
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" class="%s t%d">%s<title>%s</title></text>`, l.x, l.y+4, class, l.line, html.EscapeString(short(l.text)), html.EscapeString(l.text))
}

func lastPoint(l Line) (Point, bool) {
	for _, p := range slices.Backward(l.Points) {
		if p.Y.OK() {
			return p, true
		}
	}
	return Point{}, false
}

// cdfLabel puts the name of curve i of n at a height of its own, to the right of the curve, or to its left where there is no room.
func cdfLabel(i, n int, l Line, x, y scale) label {
	level := 12 + 76*float64(i+1)/float64(n+1)
	at := l.Points[len(l.Points)-1]
	for _, p := range l.Points {
		if v, _ := p.Y.Get(); v >= level {
			at = p
			break
		}
	}
	px, width := x.at(at.X)+7, charW*float64(utf8.RuneCountInString(short(l.Label)))
	if px+width > chartW-4 {
		px = max(plotLeft+2, x.at(at.X)-7-width)
	}
	return label{i, l.Label, px, y.at(level), x.at(at.X), y.at(level), true}
}

// spread moves labels apart that would overlap, downwards, and the whole stack up again where it left the plot.
func spread(labels []label) {
	const apart = 14
	slices.SortStableFunc(labels, func(a, b label) int { return cmp.Compare(a.y, b.y) })
	for i := 1; i < len(labels); i++ {
		if !labels[i].halo {
			labels[i].y = max(labels[i].y, labels[i-1].y+apart)
		}
	}
	if n := len(labels); n > 0 && !labels[n-1].halo && labels[n-1].y > plotBottom {
		labels[n-1].y = plotBottom
		for i := n - 2; i >= 0; i-- {
			labels[i].y = min(labels[i].y, labels[i+1].y-apart)
		}
	}
}

func short(s string) string {
	if r := []rune(s); len(r) > maxLabel {
		return string(r[:maxLabel-1]) + "…"
	}
	return s
}

// stageBars draws where the time of a request went, a bar per row. Parts below zero (stages that overlapped) lie left of zero.
func stageBars(rows []Row) template.HTML {
	const barH, gap, top = 20.0, 26.0, 8.0
	kinds := stageKinds(rows)
	var d drawing
	h := top + float64(len(rows))*(barH+gap) + 40
	d.open("Time of a request by stage", chartW, h)
	var ends []float64
	for _, r := range rows {
		plus, minus := 0.0, 0.0
		for _, s := range r.Stages {
			v, _ := s.Mean.Get()
			plus, minus = plus+max(0, v), minus+min(0, v)
		}
		ends = append(ends, plus, minus)
	}
	x := niceScale(ends, 5, 10, chartW-24)
	bottom := top + float64(len(rows))*(barH+gap)
	for _, t := range x.ticks {
		fmt.Fprintf(&d.b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" class="grid"/>`, x.at(t), top, x.at(t), bottom)
		d.text(x.at(t), bottom+16, "middle", "tick", tickText(t))
	}
	d.text(chartW/2, bottom+34, "middle", "name", "mean time of a request (ms)")
	for i, r := range rows {
		y := top + float64(i)*(barH+gap) + 16
		d.text(10, y-4, "start", "label", r.Name)
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
