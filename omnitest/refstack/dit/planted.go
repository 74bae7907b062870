package dit

import (
	"image"
	"slices"
)

// What the faults do to a prompt and to a picture.

// read gives the part of a prompt that reaches the model.
func (f *Faults) read(prompt string) string {
	if !f.ShortPrompt {
		return prompt
	}
	r := []rune(prompt)
	return string(r[:len(r)/2])
}

// seen gives the scene that is painted in place of the one that was asked for.
func (f *Faults) seen(s scene) scene {
	if f.ExtraShape && len(s.shapes) > 0 {
		s.shapes = append(s.shapes, s.shapes[0])
	}
	if f.WrongColour {
		s.shapes = slices.Clone(s.shapes)
		for i := range s.shapes {
			at := slices.IndexFunc(colours, func(c colourWord) bool { return c.rgb == s.shapes[i].rgb })
			s.shapes[i].rgb = colours[(at+1)%len(colours)].rgb
		}
	}
	return s
}

// extraSign paints a sign into the corner that is farthest from the picture's own.
func extraSign(m *image.RGBA, p placement) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	own := image.Rect(w/2, h/2, w/2, h/2)
	if p.text != nil {
		own = p.text.panel
	}
	c := own.Min.Add(own.Max).Div(2)
	size, gap := image.Pt(w/4, h/10), min(w, h)/50
	var best image.Rectangle
	far := -1
	for _, at := range []image.Point{{gap, gap}, {w - gap - size.X, gap}, {gap, h - gap - size.Y}, {w - gap - size.X, h - gap - size.Y}} {
		d := at.Add(size.Div(2)).Sub(c)
		if n := d.X*d.X + d.Y*d.Y; n > far {
			best, far = image.Rectangle{Min: at, Max: at.Add(size)}, n
		}
	}
	if b := layText([]string{"SALE"}, best, min(w, h), 0.5, 0.5); b != nil {
		drawSign(m, b, b.lines, meanLuma(m, best) > 128)
	}
}

// brighten multiplies all levels.
func brighten(m *image.RGBA, gain float32) {
	eachPixel(m, m.Rect, func(p []byte) {
		p[0], p[1], p[2] = clamp8(gain*float32(p[0])), clamp8(gain*float32(p[1])), clamp8(gain*float32(p[2]))
	})
}
