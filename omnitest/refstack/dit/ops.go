package dit

import (
	"image"
	"image/color"

	xdraw "golang.org/x/image/draw"
)

// The operations of an edit. Each works inside of a rectangle of m and never touches a pixel outside of it. Each moves
// the luma of most of its rectangle by well over the 8 levels from which a checker counts a 32 px tile as changed:
// an edit that is there but cannot be measured would be useless to a test.
const veil = 18 // levels by which the surroundings of an added thing are shaded

func (s *Server) carryOut(e instruction, m *image.RGBA, inputs []*image.RGBA, area image.Rectangle, r *Result) {
	switch e.op {
	case opRecolour:
		recolour(m, area, e.rgb)
	case opAdd:
		shade(m, area)
		clip := m.SubImage(area).(*image.RGBA)
		drawShape(clip, e.shape, shapeBox(area), e.rgb)
	case opRemove:
		smoothFill(m, area)
	case opText:
		s.writeText(e, m, area, r)
	case opStyle:
		stylise(m, area, e.style)
	case opInsert:
		if len(inputs) > 1 {
			in := inputs[1]
			xdraw.BiLinear.Scale(m, area, in, cover(in.Rect, area), xdraw.Src, nil)
			return
		}
		recolour(m, area, hsl(unit(e.key, 1), 0.7, 0.5))
	default:
		recolour(m, area, hsl(unit(e.key, 1), 0.7, 0.5))
	}
}

// shapeBox is a box for a shape in a region: as large as it can be, at most 2:1.
func shapeBox(area image.Rectangle) image.Rectangle {
	w, h := area.Dx()*86/100, area.Dy()*86/100
	w, h = min(w, 2*h), min(h, 2*w)
	c := area.Min.Add(area.Max).Div(2)
	return image.Rect(c.X-w/2, c.Y-h/2, c.X-w/2+w, c.Y-h/2+h)
}

// cover is the part of a picture that fills area without distortion.
func cover(pic, area image.Rectangle) image.Rectangle {
	w, h := pic.Dx(), pic.Dy()
	if w*area.Dy() > h*area.Dx() {
		w = max(1, h*area.Dx()/area.Dy())
	} else {
		h = max(1, w*area.Dy()/area.Dx())
	}
	at := pic.Min.Add(image.Pt((pic.Dx()-w)/2, (pic.Dy()-h)/2))
	return image.Rectangle{at, at.Add(image.Pt(w, h))}
}

// eachPixel calls f with the four bytes of every pixel of a rectangle.
func eachPixel(m *image.RGBA, area image.Rectangle, f func(p []byte)) {
	area = area.Intersect(m.Rect)
	for y := area.Min.Y; y < area.Max.Y; y++ {
		row := m.Pix[m.PixOffset(area.Min.X, y):m.PixOffset(area.Max.X, y)]
		for ; len(row) >= 4; row = row[4:] {
			f(row[:4:4])
		}
	}
}

func lumaOf(p []byte) float32 {
	return 0.299*float32(p[0]) + 0.587*float32(p[1]) + 0.114*float32(p[2])
}

func meanLuma(m *image.RGBA, area image.Rectangle) float64 {
	sum, n := 0.0, 0
	eachPixel(m, area, func(p []byte) { sum += float64(lumaOf(p)); n++ })
	return sum / float64(max(1, n))
}

// recolour gives an area a colour and keeps a share of its light and shade. A colour as light as the area already is
// would change the hue alone; it is made lighter or darker.
func recolour(m *image.RGBA, area image.Rectangle, c color.RGBA) {
	const keep, apart = 0.3, 56
	mean := meanLuma(m, area)
	if d := luma(c) - mean; d > -apart && d < apart {
		if mean > 128 {
			c = blend(c, color.RGBA{0, 0, 0, 255}, min(0.8, (luma(c)-mean+apart)/max(1, luma(c))))
		} else {
			c = blend(c, color.RGBA{255, 255, 255, 255}, min(0.8, (mean+apart-luma(c))/max(1, 255-luma(c))))
		}
	}
	base := [3]float32{float32(c.R), float32(c.G), float32(c.B)}
	eachPixel(m, area, func(p []byte) {
		d := keep * (lumaOf(p) - float32(mean))
		p[0], p[1], p[2] = clamp8(base[0]+d), clamp8(base[1]+d), clamp8(base[2]+d)
	})
}

// shade darkens a light area and lightens a dark one a little, like the light that an added thing throws or takes.
func shade(m *image.RGBA, area image.Rectangle) {
	d := float32(veil)
	if meanLuma(m, area) > 128 {
		d = -veil
	}
	eachPixel(m, area, func(p []byte) {
		p[0], p[1], p[2] = clamp8(float32(p[0])+d), clamp8(float32(p[1])+d), clamp8(float32(p[2])+d)
	})
}

// writeText replaces what an area shows by a sign with the text.
func (s *Server) writeText(e instruction, m *image.RGBA, area image.Rectangle, r *Result) {
	shade(m, area)
	b := editText(e, area, m.Rect)
	if b == nil {
		return
	}
	r.TextBox = b.ink
	drawSign(m.SubImage(area).(*image.RGBA), b, s.spelled(b.lines), meanLuma(m, area) > 128)
}

func editText(e instruction, area, pic image.Rectangle) *textBlock {
	inner := area.Inset(max(1, min(area.Dx(), area.Dy())*4/100))
	b := layText(e.texts, inner, min(pic.Dx(), pic.Dy()), 0.5, 0.5)
	if b != nil {
		b.panel = inner // the old text must be covered, so the sign fills its place
	}
	return b
}

// EditTextBox is TextBox for an edit instruction that paints text.
func EditTextBox(instruction string, w, h int) image.Rectangle {
	e := parseEdit(instruction)
	if e.op != opText || w <= 0 || h <= 0 {
		return image.Rectangle{}
	}
	w, h = snap(w), snap(h)
	if b := editText(e, e.region(w, h), image.Rect(0, 0, w, h)); b != nil {
		return b.ink
	}
	return image.Rectangle{}
}

// smoothFill fills an area with colours blended in from its border: what was there is gone. Sides at the edge of the
// picture have nothing beyond them and do not count.
func smoothFill(m *image.RGBA, area image.Rectangle) {
	const blur = 12
	w, h := area.Dx(), area.Dy()
	side := func(n int, ok bool, at func(i int) (x, y int)) [][3]float32 {
		if !ok {
			return nil
		}
		raw := make([][3]float32, n)
		for i := range raw {
			x, y := at(i)
			p := m.Pix[m.PixOffset(x, y):]
			raw[i] = [3]float32{float32(p[0]), float32(p[1]), float32(p[2])}
		}
		out := make([][3]float32, n)
		for i := range out {
			lo, hi := max(0, i-blur), min(n, i+blur+1)
			for _, c := range raw[lo:hi] {
				for k := range c {
					out[i][k] += c[k] / float32(hi-lo)
				}
			}
		}
		return out
	}
	left := side(h, area.Min.X > 0, func(i int) (int, int) { return area.Min.X - 1, area.Min.Y + i })
	right := side(h, area.Max.X < m.Rect.Max.X, func(i int) (int, int) { return area.Max.X, area.Min.Y + i })
	top := side(w, area.Min.Y > 0, func(i int) (int, int) { return area.Min.X + i, area.Min.Y - 1 })
	bottom := side(w, area.Max.Y < m.Rect.Max.Y, func(i int) (int, int) { return area.Min.X + i, area.Max.Y })
	for y := range h {
		for x := range w {
			var sum [3]float32
			var weight float32
			add := func(s [][3]float32, i, distance int) {
				if s == nil {
					return
				}
				g := 1 / float32((distance+1)*(distance+1))
				weight += g
				for k, v := range s[i] {
					sum[k] += g * v
				}
			}
			add(left, y, x)
			add(right, y, w-1-x)
			add(top, x, y)
			add(bottom, x, h-1-y)
			p := m.Pix[m.PixOffset(area.Min.X+x, area.Min.Y+y):]
			if weight == 0 { // the whole picture: nothing is left to look at
				p[0], p[1], p[2] = 200, 204, 208
				continue
			}
			p[0], p[1], p[2] = clamp8(sum[0]/weight), clamp8(sum[1]/weight), clamp8(sum[2]/weight)
		}
	}
}
