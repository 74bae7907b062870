// Package plot writes the charts of a result as PNG and SVG files, for papers and slides. The HTML page of package report needs
// none of it; the drawing library stays out of that room.
package plot

import (
	"errors"
	"fmt"
	"image/color"
	"os"
	"path/filepath"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/omnitest/suite/omnitest/report"
)

// Paths are the files that Write made, and the charts that had nothing to draw, with why.
type Paths struct {
	Files []string
	Empty map[string][]string // by Chart.ID
}

const width, height = 16 * vg.Centimeter, 10 * vg.Centimeter

// palette is that of the page: Okabe and Ito's, which remains distinct under colour blindness, darkened where white paper needs it.
var palette = []color.Color{
	rgb(0x0072b2), rgb(0xd55e00), rgb(0x009e73), rgb(0xb0528c), rgb(0x8a6d00), rgb(0x2f97cf), rgb(0x6b4fa0), rgb(0x6b6f76),
}

func rgb(v uint32) color.Color { return color.RGBA{uint8(v >> 16), uint8(v >> 8), uint8(v), 255} }

// Write makes the folder and in it <id>.png and <id>.svg of every chart that has something to draw.
func Write(dir string, r report.Result) (Paths, error) {
	paths := Paths{Empty: map[string][]string{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return paths, fmt.Errorf("plot: %w", err)
	}
	for _, c := range report.Charts(r) {
		if len(c.Lines) == 0 {
			paths.Empty[c.ID] = c.Missing
			continue
		}
		p, err := Plot(c, r)
		if err != nil {
			return paths, err
		}
		for _, ext := range []string{".png", ".svg"} {
			file := filepath.Join(dir, c.ID+ext)
			if err := p.Save(width, height, file); err != nil {
				return paths, fmt.Errorf("plot: %w", err)
			}
			paths.Files = append(paths.Files, file)
		}
	}
	return paths, nil
}

// Plot draws one chart. Its title names the target: a picture is passed on without the page around it. A chart without lines is
// an error.
func Plot(c report.Chart, r report.Result) (*plot.Plot, error) {
	if len(c.Lines) == 0 {
		return nil, errors.New("plot: " + c.ID + " has nothing to draw")
	}
	p := plot.New()
	p.Title.Text = c.Title + "\n" + r.Heading()
	p.Title.TextStyle.Font.Size, p.Title.Padding = 12, 6
	for _, s := range []*draw.TextStyle{&p.Title.TextStyle, &p.X.Label.TextStyle, &p.Y.Label.TextStyle, &p.X.Tick.Label, &p.Y.Tick.Label, &p.Legend.TextStyle} {
		s.Font.Variant = "Sans"
	}
	p.X.Label.Text, p.Y.Label.Text = c.X.Title(), c.Y.Title()
	p.Legend.Left, p.Legend.Top = !c.CDF, !c.CDF
	p.Add(plotter.NewGrid())
	x := axisOf(c)
	if _, log := x.scale.(plot.LogScale); log {
		p.X.Label.Text += ", logarithmic"
	}
	p.X.Scale, p.X.Tick.Marker = x.scale, x.ticks
	invalid := false
	for _, l := range c.Lines {
		inv, err := add(p, c, l)
		if err != nil {
			return nil, fmt.Errorf("plot: %s: %w", c.ID, err)
		}
		invalid = invalid || inv
	}
	if invalid {
		p.X.Label.Text += "\nx INVALID-CLIENT: the client was late itself"
	}
	p.X.Min, p.X.Max = x.min, x.max
	p.Y.Min = min(0, p.Y.Min) // a cut axis makes a small difference look large
	p.Y.Max *= 1.08
	if c.CDF {
		p.Y.Max = 100
	}
	return p, nil
}

// add draws the parts of a line between its gaps, and a cross where the client was invalid.
func add(p *plot.Plot, c report.Chart, l report.Line) (invalid bool, err error) {
	var parts []plotter.XYs
	var good, bad plotter.XYs
	open := false
	for _, pt := range l.Points {
		y, ok := pt.Y.Get()
		if !ok {
			open = false
			continue
		}
		if !open {
			parts, open = append(parts, nil), true
		}
		xy := plotter.XY{X: pt.X, Y: y}
		parts[len(parts)-1] = append(parts[len(parts)-1], xy)
		if pt.Invalid {
			bad = append(bad, xy)
		} else {
			good = append(good, xy)
		}
	}
	style := draw.LineStyle{Color: palette[l.Color%len(palette)], Width: vg.Points(1.5)}
	if l.Dashed {
		style.Dashes = []vg.Length{vg.Points(5), vg.Points(4)}
	}
	var sample *plotter.Line
	for _, xys := range parts {
		line, err := plotter.NewLine(xys)
		if err != nil {
			return false, err
		}
		line.LineStyle = style
		if c.CDF {
			line.StepStyle = plotter.PostStep
		}
		p.Add(line)
		sample = line
	}
	thumbs := []plot.Thumbnailer{sample}
	if !c.CDF && len(l.Points) <= 20 {
		shapes := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}, draw.RingGlyph{}}
		for _, set := range []struct {
			xys    plotter.XYs
			shape  draw.GlyphDrawer
			radius float64
		}{{good, shapes[l.Color%len(shapes)], 3.2}, {bad, draw.CrossGlyph{}, 6}} {
			if len(set.xys) == 0 {
				continue
			}
			points, err := plotter.NewScatter(set.xys)
			if err != nil {
				return false, err
			}
			points.GlyphStyle = draw.GlyphStyle{Color: style.Color, Radius: vg.Points(set.radius), Shape: set.shape}
			p.Add(points)
			if len(good) > 0 && &set.xys[0] == &good[0] {
				thumbs = append(thumbs, points)
			}
		}
	}
	if l.Label != "" {
		p.Legend.Add(strings.ReplaceAll(l.Label, "✕", "x"), thumbs...) // the fonts have no such sign
	}
	return len(bad) > 0, nil
}
