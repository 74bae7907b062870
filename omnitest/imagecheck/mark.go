package imagecheck

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"strings"

	xdraw "golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"

	"github.com/omnitest/suite/fixtures/fonts"
)

// mark is a place to be outlined in the evidence.
type mark struct {
	at    image.Rectangle
	label string
}

func (f *finding) mark(at image.Rectangle, label string) { f.marks = append(f.marks, mark{at, label}) }

// magenta is rare in pictures, and told from both black and white.
var magenta = color.RGBA{230, 0, 200, 255}

// drawMarks draws a copy of the picture with frames, each with its label above it, or inside where there is no room.
func drawMarks(img *image.RGBA, marks []mark) *image.RGBA {
	scale := max(1, img.Rect.Dy()/400)
	out := image.NewRGBA(img.Rect)
	copy(out.Pix, img.Pix)
	for _, m := range marks {
		at := m.at.Intersect(img.Rect)
		outline(out, at, 2*scale, magenta)
		if m.label == "" {
			continue
		}
		w := lineWidth(m.label)*scale + 2*scale
		x, y := max(0, min(at.Min.X, img.Rect.Dx()-w)), at.Min.Y-2*scale-lineHeight*scale
		if y < 0 {
			y = at.Min.Y
		}
		draw.Draw(out, image.Rect(x, y, x+w, y+lineHeight*scale), image.NewUniform(paper), image.Point{}, draw.Src)
		write(out, x+scale, y, m.label, ink, scale)
	}
	return out
}

// readView is what a reader made of a crop, at each of its scales.
type readView struct {
	name, want string
	img        *image.RGBA
	readings   []string
}

// draw stacks the crop, the text that was wanted and every reading.
func (v readView) draw() *image.RGBA {
	lines := append([]string{"want: " + v.want}, v.readings...)
	const scale = 2
	zoom := max(1, min(4, 160/max(v.img.Rect.Dy(), 1)))
	w, h := v.img.Rect.Dx()*zoom, v.img.Rect.Dy()*zoom
	for _, l := range lines {
		w = max(w, scale*lineWidth(l)+8)
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h+8+scale*lineHeight*len(lines)+4))
	draw.Draw(out, out.Rect, image.NewUniform(paper), image.Point{}, draw.Src)
	xdraw.NearestNeighbor.Scale(out, image.Rect(0, 0, v.img.Rect.Dx()*zoom, h), v.img, v.img.Rect, xdraw.Over, nil)
	for i, l := range lines {
		write(out, 4, h+8+scale*lineHeight*i, l, ink, scale)
	}
	return out
}

// lineHeight of a line of labels, and the width of its half-width characters, in pixels.
const (
	lineHeight = 15
	halfWidth  = 7
)

// drawable replaces what no font here can draw by its code point, so that a wrong hanzi is told by its number and not by a box.
func drawable(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString(" / ")
		case r >= ' ' && r < 127, r > 127 && fonts.Has(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "U+%04X ", r)
		}
	}
	return b.String()
}

// lineWidth of a label at scale 1.
func lineWidth(s string) (w int) {
	for _, r := range drawable(s) {
		if w += halfWidth; r > 127 {
			w += halfWidth
		}
	}
	return w
}

// write draws a line with its top left corner at x, y. ASCII is a bitmap at scale 1 and Go Mono above it, whose zero has a
// slash: what a reader took for what must be seen. Hanzi are outlined.
func write(img *image.RGBA, x, y int, s string, c color.RGBA, scale int) {
	advance := halfWidth * scale
	ascii, hanzi := font.Face(basicfont.Face7x13), font.Face(nil) // hanzi: made if it is needed
	if scale > 1 {
		if f, err := opentype.Parse(gomono.TTF); err == nil {
			if face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: float64(advance) / 0.6, DPI: 72}); err == nil { // its letters are 0.6 em wide
				ascii = face
			}
		}
	}
	base := y + basicfont.Face7x13.Ascent*scale
	d := font.Drawer{Dst: img, Src: image.NewUniform(c)}
	for _, r := range drawable(s) {
		step := advance
		d.Face = ascii
		if r > 127 {
			if hanzi == nil {
				var err error
				if hanzi, err = fonts.Face(float64(2*advance) - 1); err != nil {
					return // the fonts are embedded: they open or nothing of this module works
				}
			}
			d.Face, step = hanzi, 2*advance
		}
		d.Dot = fixed.P(x, base)
		d.DrawString(string(r))
		x += step
	}
}
