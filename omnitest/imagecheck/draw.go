package imagecheck

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"

	xdraw "golang.org/x/image/draw"
)

// heatFull is the low-passed difference, 0-255, that is drawn as white.
const heatFull = 32

var (
	paper  = color.RGBA{245, 245, 245, 255}
	ink    = color.RGBA{20, 20, 20, 255}
	accent = color.RGBA{0, 230, 255, 255} // on the heat colours, which have no cyan
	grid   = color.RGBA{70, 70, 70, 255}
)

// sideBySide draws expected | actual | heatmap, the first by its label. Pictures of different size get no heatmap.
func sideBySide(want, got *image.RGBA, judged *tileSet, label string) *image.RGBA {
	scale := max(1, got.Rect.Dy()/400)
	head, gap := 17*scale, 8*scale
	panels := []struct {
		label string
		img   *image.RGBA
	}{{label, want}, {"actual", got}, {}}
	if t, err := TileMAD(Luma(got), Luma(want)); err == nil {
		panels[2].label = fmt.Sprintf("difference 0-%d", heatFull)
		if judged != nil {
			panels[2].label += ", blue: not judged"
		}
		panels[2].img = heatmap(t, Luma(got), judged, scale)
	}
	w, h := -gap, 0
	for _, p := range panels {
		if p.img != nil {
			w, h = w+gap+max(p.img.Rect.Dx(), 8*scale*len(p.label)), max(h, p.img.Rect.Dy())
		}
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h+head))
	draw.Draw(out, out.Rect, image.NewUniform(paper), image.Point{}, draw.Src)
	x := 0
	for _, p := range panels {
		if p.img == nil {
			continue
		}
		write(out, x+2*scale, 2*scale, p.label, ink, scale)
		draw.Draw(out, p.img.Rect.Add(image.Pt(x, head)), p.img, image.Point{}, draw.Over)
		x += gap + max(p.img.Rect.Dx(), 8*scale*len(p.label))
	}
	return out
}

// heatmap draws the low-passed |difference| over a faint copy of the picture, with the 32 px grid and the worst 5 judged
// tiles boxed, each with its MAD.
func heatmap(t Tiles, under *image.Gray, judged *tileSet, scale int) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, t.W, t.H))
	for y := range t.H {
		for x := range t.W {
			c := heat(t.Boxes[y/boxSide*t.BoxCols+x/boxSide] / heatFull)
			if x%TileSide == 0 || y%TileSide == 0 {
				c = blend(c, grid, 0.35)
			}
			faint := under.Pix[y*under.Stride+x] / 6
			c = color.RGBA{max(c.R, faint), max(c.G, faint), max(c.B, faint), 255}
			if judged != nil && !judged.at(x, y) {
				c = blend(c, color.RGBA{30, 60, 160, 255}, 0.6)
			}
			out.SetRGBA(x, y, c)
		}
	}
	for _, i := range t.worst(5, judged) {
		if t.MAD[i] < 1 {
			continue // a box around nothing would mislead
		}
		r := t.Rect(i)
		outline(out, r, 2*scale, accent)
		label := fmt.Sprintf("%.0f", t.MAD[i])
		at := r.Min
		draw.Draw(out, image.Rect(0, 0, 7*len(label)*scale+2, 12*scale).Add(at), image.Black, image.Point{}, draw.Src)
		write(out, at.X+1, at.Y, label, accent, scale)
	}
	return out
}

// heat maps 0..1 to black, purple, red, orange, yellow, white.
func heat(v float64) color.RGBA {
	stops := []color.RGBA{{0, 0, 0, 255}, {90, 15, 110, 255}, {200, 40, 60, 255}, {245, 130, 20, 255}, {250, 220, 80, 255}, {255, 255, 255, 255}}
	v = min(max(v, 0), 1) * float64(len(stops)-1)
	i := min(int(v), len(stops)-2)
	return blend(stops[i], stops[i+1], v-math.Floor(min(v, float64(len(stops)-2))))
}

func blend(a, b color.RGBA, t float64) color.RGBA {
	mix := func(x, y uint8) uint8 { return uint8(float64(x)*(1-t) + float64(y)*t + 0.5) }
	return color.RGBA{mix(a.R, b.R), mix(a.G, b.G), mix(a.B, b.B), 255}
}

// textView is a pair of crops with the worst cell.
type textView struct {
	name        string
	want, got   *image.RGBA
	cell, moved image.Rectangle // in crop coordinates; moved is where the cell was found in got
	ncc         float64
	caption     string // of the lower crop; "": the NCC
}

// draw stacks expected, by its label, above actual, enlarged, with the worst cell outlined in both.
func (v textView) draw(label string) *image.RGBA {
	w, h := v.want.Rect.Dx(), v.want.Rect.Dy()
	zoom := max(1, min(4, 160/max(h, 1)))
	if w*zoom < 480 {
		zoom = max(zoom, min(6, 480/max(w, 1)))
	}
	const head = 17
	row := head + h*zoom + 6
	labels := [2]string{label, v.caption}
	if v.caption == "" {
		labels[1] = fmt.Sprintf("actual, worst cell NCC %s", number(v.ncc))
	}
	out := image.NewRGBA(image.Rect(0, 0, max(w*zoom, 8*len(labels[1])), 2*row))
	draw.Draw(out, out.Rect, image.NewUniform(paper), image.Point{}, draw.Src)
	for i, part := range []struct {
		img  *image.RGBA
		cell image.Rectangle
	}{{v.want, v.cell}, {v.got, v.moved}} {
		y := i * row
		write(out, 2, y+2, labels[i], ink, 1)
		to := image.Rect(0, y+head, part.img.Rect.Dx()*zoom, y+head+part.img.Rect.Dy()*zoom)
		xdraw.NearestNeighbor.Scale(out, to, part.img, part.img.Rect, xdraw.Over, nil)
		if !part.cell.Empty() {
			c := image.Rectangle{Min: part.cell.Min.Mul(zoom), Max: part.cell.Max.Mul(zoom)}.Add(to.Min)
			outline(out, c, 2, magenta)
		}
	}
	return out
}

// outline draws a frame of the given thickness just outside r, cut to the picture.
func outline(img *image.RGBA, r image.Rectangle, thick int, c color.RGBA) {
	o := r.Inset(-thick)
	for _, side := range []image.Rectangle{
		{o.Min, image.Pt(o.Max.X, r.Min.Y)}, {image.Pt(o.Min.X, r.Max.Y), o.Max},
		{image.Pt(o.Min.X, r.Min.Y), image.Pt(r.Min.X, r.Max.Y)}, {image.Pt(r.Max.X, r.Min.Y), image.Pt(o.Max.X, r.Max.Y)},
	} {
		draw.Draw(img, side, image.NewUniform(c), image.Point{}, draw.Src)
	}
}
