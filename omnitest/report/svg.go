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
	chartW, chartH = 400.0, 272.0
	plotTop        = 34.0
	plotBottom     = chartH - 44
	plotLeft       = 50.0
	charW          = 6.8 // mean width of a character of the label font, 12 px
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
	right, longest := chartW-14, 0
	for _, l := range c.Lines {
		longest = max(longest, utf8.RuneCountInString(short(l.Label)))
	}
	if longest > 0 {
		right = chartW - 16 - charW*float64(longest)
	}
	if c.CDF {
		right -= 14 // room for a piece of the line beside its name
	}
	x, y := c.scales(plotLeft, right)
	d.axes(c, x, y, right)
	for _, l := range c.Lines {
		d.line(c, l, x, y)
	}
	if c.CDF {
		d.keys(c.Lines, right+8)
		return d.close()
	}
	var labels []label
	for _, l := range c.Lines {
		if at, ok := lastPoint(l); ok && l.Label != "" {
			v, _ := at.Y.Get()
			labels = append(labels, label{l.Color, l.Label, right + 8, y.at(v), x.at(at.X), y.at(v)})
		}
	}
	spread(labels)
	for _, l := range labels {
		d.label(l)
	}
	return d.close()
}

// keys names distribution functions beside the plot, in the order in which they rise: all of them end at the top right.
func (d *drawing) keys(lines []Line, x float64) {
	median := func(l Line) float64 {
		for _, p := range l.Points {
			if v, _ := p.Y.Get(); v >= 50 {
				return p.X
			}
		}
		return math.Inf(1)
	}
	sorted := slices.Clone(lines)
	slices.SortStableFunc(sorted, func(a, b Line) int { return cmp.Compare(median(a), median(b)) })
	y := plotBottom - 4 - 15*float64(len(sorted)-1)
	for _, l := range sorted {
		fmt.Fprintf(&d.b, `<path d="M%.1f %.1fh12" class="line sample s%d"/>`, x, y, l.Color)
		fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" class="label t%d">%s<title>%s</title></text>`, x+16, y+4, l.Color, html.EscapeString(short(l.Label)), html.EscapeString(l.Label))
		y += 15
	}
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
func (d *drawing) line(c Chart, l Line, x, y scale) {
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
	fmt.Fprintf(&d.b, `<path d="%s" class="line s%d%s"/>`, path.String(), l.Color, dash)
	dense := len(l.Points) > 20
	for _, p := range l.Runs {
		d.point(c, l, p, x, y, true)
	}
	for _, p := range l.Points {
		if p.Invalid && !dense || !dense && !c.CDF {
			d.point(c, l, p, x, y, false)
		}
	}
}

// point draws a marker with the line's own shape; a point of an invalid client is a cross.
func (d *drawing) point(c Chart, l Line, p Point, x, y scale, faint bool) {
	v, ok := p.Y.Get()
	if !ok || c.CDF {
		return
	}
	px, py, r, i := x.at(p.X), y.at(v), 4.2, l.Color
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
	color        int
	text         string
	x, y         float64
	fromX, fromY float64 // the point it belongs to
}

func (d *drawing) label(l label) {
	fmt.Fprintf(&d.b, `<path d="M%.1f %.1fL%.1f %.1f" class="leader s%d"/>`, l.fromX+6, l.fromY, l.x-3, l.y, l.color)
	fmt.Fprintf(&d.b, `<text x="%.1f" y="%.1f" class="label t%d">%s<title>%s</title></text>`, l.x, l.y+4, l.color, html.EscapeString(short(l.text)), html.EscapeString(l.text))
}

func lastPoint(l Line) (Point, bool) {
	for _, p := range slices.Backward(l.Points) {
		if p.Y.OK() {
			return p, true
		}
	}
	return Point{}, false
}

// spread moves labels apart that would overlap, downwards, and the whole stack up again where it left the plot.
func spread(labels []label) {
	const apart = 14
	slices.SortStableFunc(labels, func(a, b label) int { return cmp.Compare(a.y, b.y) })
	for i := 1; i < len(labels); i++ {
		labels[i].y = max(labels[i].y, labels[i-1].y+apart)
	}
	if n := len(labels); n > 0 && labels[n-1].y > plotBottom {
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
