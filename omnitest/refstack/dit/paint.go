package dit

import (
	"image"
	"image/color"
	"image/draw"
	"math"

	"golang.org/x/image/font"
	"golang.org/x/image/vector"

	"github.com/omnitest/suite/fixtures/fonts"
)

// placement says where the things of a scene go; pure, so that TextBox can tell without painting.
type placement struct {
	text   *textBlock // nil: no sign
	shapes []image.Rectangle
}

// place lays a scene out: shapes in a row above, the sign below them or, without shapes, somewhere around the middle.
func (s *scene) place(w, h int) placement {
	var p placement
	side := min(w, h)
	area := image.Rect(w*7/100, h*14/100, w*93/100, h*86/100)
	if n := len(s.shapes); n > 0 {
		top, bottom := h*6/100, h*94/100
		if len(s.texts) > 0 {
			bottom = h * 50 / 100
			area = image.Rect(w*7/100, h*54/100, w*93/100, h*95/100)
		}
		d := min((bottom-top)*92/100, w*84/100/n, side*62/100)
		for i := range n {
			cx, cy := w*(2*i+1)/(2*n), (top+bottom)/2
			p.shapes = append(p.shapes, image.Rect(cx-d/2, cy-d/2, cx-d/2+d, cy-d/2+d))
		}
	}
	// The hash moves the sign a little: pictures with equal signs would otherwise share their low frequencies.
	p.text = layText(s.texts, area, side, 0.3+0.4*unit(s.key, 11), 0.2+0.6*unit(s.key, 12))
	return p
}

// paint draws a scene's target picture. texts, if not nil, are painted instead of the scene's own in the place laid out
// for them (the wrong-letter fault); an empty list leaves the sign blank.
func (s *scene) paint(w, h int, p placement, lines []string) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	background(m, s.top, s.bottom, s.key)
	for i, r := range p.shapes {
		drawShape(m, s.shapes[i].kind, r, s.shapes[i].rgb)
	}
	if p.text != nil {
		drawSign(m, p.text, lines, unit(s.key, 13) < 0.5)
	}
	return m
}

// field is smooth noise: random values on a grid, interpolated.
type field struct {
	nodes  []float32
	nx, ny int
	amp    float32
}

func newField(k uint64, nx, ny int, amp float32) field {
	f := field{make([]float32, nx*ny), nx, ny, amp}
	for i := range f.nodes {
		f.nodes[i] = amp * float32(2*unit(k, uint64(i))-1)
	}
	return f
}

// ease is a table of cell index and eased fraction for each pixel of a side.
func ease(n, nodes int) (cell []int32, frac []float32) {
	cell, frac = make([]int32, n), make([]float32, n)
	for i := range n {
		u := (float64(i) + 0.5) / float64(n) * float64(nodes-1)
		c := min(int(u), nodes-2)
		t := u - float64(c)
		cell[i], frac[i] = int32(c), float32(t*t*(3-2*t))
	}
	return cell, frac
}

// background fills m with a slanted gradient and two octaves of soft clouds. Clouds move the luma, so that the
// perceptual hashes of two prompts differ in about half of their bits. Costs about 10 ns a pixel.
func background(m *image.RGBA, top, bottom color.RGBA, k uint64) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	side := min(w, h)
	grain := func(n int) (nx, ny int) { return min(4*n, n*w/side), min(4*n, n*h/side) } // round clouds
	var fields []field
	for i, f := range []struct {
		nodes int
		amp   float32
	}{{7, 46}, {18, 26}} {
		nx, ny := grain(f.nodes)
		fields = append(fields, newField(key(k, uint64(i)+1), nx, ny, f.amp))
	}
	type axis struct {
		cell []int32
		frac []float32
	}
	xs, ys := make([]axis, len(fields)), make([]axis, len(fields))
	rows := make([][]float32, len(fields))
	for i, f := range fields {
		xs[i].cell, xs[i].frac = ease(w, f.nx)
		ys[i].cell, ys[i].frac = ease(h, f.ny)
		rows[i] = make([]float32, f.nx)
	}
	slant := float32(unit(k, 3) - 0.5)
	base := [3]float32{float32(top.R), float32(top.G), float32(top.B)}
	span := [3]float32{float32(bottom.R) - base[0], float32(bottom.G) - base[1], float32(bottom.B) - base[2]}
	for y := range h {
		for i, f := range fields {
			c, t := int(ys[i].cell[y])*f.nx, ys[i].frac[y]
			for x := range f.nx {
				a, b := f.nodes[c+x], f.nodes[c+f.nx+x]
				rows[i][x] = a + float32((b-a)*t)
			}
		}
		v := (float32(y) + 0.5) / float32(h)
		pix := m.Pix[y*m.Stride : y*m.Stride+4*w]
		c0, f0, r0 := xs[0].cell, xs[0].frac, rows[0]
		c1, f1, r1 := xs[1].cell, xs[1].frac, rows[1]
		for x := range w {
			a, b := r0[c0[x]], r0[c0[x]+1]
			l := a + float32((b-a)*f0[x])
			a, b = r1[c1[x]], r1[c1[x]+1]
			l += a + float32((b-a)*f1[x])
			g := v + float32(slant*(float32(x)/float32(w)-0.5))
			g = max(0, min(1, g))
			p := pix[4*x : 4*x+4 : 4*x+4]
			p[0] = clamp8(base[0] + float32(span[0]*g) + l)
			p[1] = clamp8(base[1] + float32(span[1]*g) + l)
			p[2] = clamp8(base[2] + float32(span[2]*g) + l)
			p[3] = 255
		}
	}
}

// clamp8 rounds to a byte.
func clamp8(v float32) uint8 {
	if v <= 0 {
		return 0
	}
	if v >= 255 {
		return 255
	}
	return uint8(v + 0.5)
}

// drawSign paints the panel and the text on it.
func drawSign(m *image.RGBA, b *textBlock, lines []string, dark bool) {
	panel, ink := color.RGBA{248, 246, 238, 255}, color.RGBA{20, 22, 30, 255}
	if dark {
		panel, ink = color.RGBA{24, 32, 58, 255}, color.RGBA{252, 250, 244, 255}
	}
	r := b.panel
	round := min(float32(min(r.Dx(), r.Dy()))*0.08, float32(b.size)*0.3)
	shadow := max(1, int(b.size*0.09))
	fillPath(m, r.Add(image.Pt(shadow, shadow)), color.RGBA{0, 0, 0, 110}, roundRect(round))
	fillPath(m, r, panel, roundRect(round))
	if t := max(1, int(b.size*0.055)); r.Dx() > 8*t && r.Dy() > 8*t {
		fillPath(m, r.Inset(2*t), ink, roundRect(round*0.7)) // a thin frame, within the padding
		fillPath(m, r.Inset(3*t), panel, roundRect(round*0.6))
	}
	drawLines(m, b, lines, ink)
}

func drawLines(m *image.RGBA, b *textBlock, lines []string, ink color.RGBA) {
	face, err := fonts.Face(b.size)
	if err != nil {
		return
	}
	defer face.Close()
	clip, ok := m.SubImage(b.panel).(*image.RGBA)
	if !ok {
		return
	}
	d := font.Drawer{Dst: clip, Src: image.NewUniform(ink), Face: face}
	for i, l := range lines {
		d.Dot = b.at[i]
		d.DrawString(l)
	}
}

// path adds an outline to a rasteriser that covers a w x h box.
type path func(z *vector.Rasterizer, w, h float32)

// fillPath paints an outline into a rectangle of m with antialiased edges.
func fillPath(m *image.RGBA, r image.Rectangle, c color.RGBA, p path) {
	if r.Empty() {
		return
	}
	// Through a mask: Rasterizer.Draw itself does not clip at the destination.
	mask := image.NewAlpha(image.Rect(0, 0, r.Dx(), r.Dy()))
	z := vector.NewRasterizer(r.Dx(), r.Dy())
	z.DrawOp = draw.Src
	p(z, float32(r.Dx()), float32(r.Dy()))
	z.Draw(mask, mask.Rect, image.Opaque, image.Point{})
	draw.DrawMask(m, r, image.NewUniform(premultiplied(c)), image.Point{}, mask, image.Point{}, draw.Over)
}

func premultiplied(c color.RGBA) color.RGBA {
	a := uint32(c.A)
	return color.RGBA{uint8(uint32(c.R) * a / 255), uint8(uint32(c.G) * a / 255), uint8(uint32(c.B) * a / 255), c.A}
}

func polygon(pts ...float32) path {
	return func(z *vector.Rasterizer, w, h float32) {
		z.MoveTo(pts[0]*w, pts[1]*h)
		for i := 2; i < len(pts); i += 2 {
			z.LineTo(pts[i]*w, pts[i+1]*h)
		}
		z.ClosePath()
	}
}

func roundRect(r float32) path {
	return func(z *vector.Rasterizer, w, h float32) {
		z.MoveTo(r, 0)
		z.LineTo(w-r, 0)
		z.QuadTo(w, 0, w, r)
		z.LineTo(w, h-r)
		z.QuadTo(w, h, w-r, h)
		z.LineTo(r, h)
		z.QuadTo(0, h, 0, h-r)
		z.LineTo(0, r)
		z.QuadTo(0, 0, r, 0)
		z.ClosePath()
	}
}

func ellipse(z *vector.Rasterizer, w, h float32) {
	const n = 96
	for i := range n {
		sin, cos := math.Sincos(2 * math.Pi * float64(i) / n)
		x, y := w/2*(1+float32(cos)), h/2*(1+float32(sin))
		if i == 0 {
			z.MoveTo(x, y)
		} else {
			z.LineTo(x, y)
		}
	}
	z.ClosePath()
}

var starPath = func() path {
	pts := make([]float32, 0, 20)
	for i := range 10 {
		r := 0.5
		if i%2 == 1 {
			r = 0.2
		}
		sin, cos := math.Sincos(2*math.Pi*float64(i)/10 - math.Pi/2)
		pts = append(pts, float32(0.5+r*cos), float32(0.5+r*sin))
	}
	return polygon(pts...)
}()

// drawShape paints a shape with a soft shadow and, where it has faces, shading.
func drawShape(m *image.RGBA, k shapeKind, r image.Rectangle, c color.RGBA) {
	black, white := color.RGBA{0, 0, 0, 255}, color.RGBA{255, 255, 255, 255}
	d := max(1, min(r.Dx(), r.Dy())*3/100)
	shadow := func(p path) { fillPath(m, r.Add(image.Pt(d, d)), color.RGBA{0, 0, 0, 90}, p) }
	switch k {
	case circle:
		shadow(ellipse)
		fillPath(m, r, blend(c, black, 0.25), ellipse)
		fillPath(m, r.Inset(d), c, ellipse)
		shine := image.Rect(r.Min.X+r.Dx()*24/100, r.Min.Y+r.Dy()*16/100, r.Min.X+r.Dx()*46/100, r.Min.Y+r.Dy()*34/100)
		fillPath(m, shine, blend(c, white, 0.35), ellipse)
	case square:
		p := polygon(0, 0, 1, 0, 1, 1, 0, 1)
		shadow(p)
		fillPath(m, r, blend(c, black, 0.25), p)
		fillPath(m, r.Inset(d), c, p)
	case triangle:
		p := polygon(0.5, 0.04, 1, 0.94, 0, 0.94)
		shadow(p)
		fillPath(m, r, c, p)
		fillPath(m, r, blend(c, black, 0.22), polygon(0.5, 0.04, 1, 0.94, 0.62, 0.94))
	case cube:
		shadow(polygon(0.5, 0, 0.94, 0.24, 0.94, 0.76, 0.5, 1, 0.06, 0.76, 0.06, 0.24))
		fillPath(m, r, blend(c, white, 0.30), polygon(0.5, 0, 0.94, 0.24, 0.5, 0.48, 0.06, 0.24))
		fillPath(m, r, c, polygon(0.06, 0.24, 0.5, 0.48, 0.5, 1, 0.06, 0.76))
		fillPath(m, r, blend(c, black, 0.32), polygon(0.5, 0.48, 0.94, 0.24, 0.94, 0.76, 0.5, 1))
	case star:
		shadow(starPath)
		fillPath(m, r, c, starPath)
	}
}
