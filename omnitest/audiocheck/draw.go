package audiocheck

import (
	"fmt"
	"image"
	"image/color"
	"image/draw"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

const (
	maxColumns = 2000 // frames that are drawn: 20 s, where a wrong stretch can still be seen
	bandHigh   = 2    // pixels a band
)

// panel is a spectrogram with its label.
type panel struct {
	label string
	img   *image.RGBA
}

// draw paints a spectrogram: time runs to the right, 10 ms a pixel, pitch upwards, loud is light, 50 dB in all.
func (m Mel) draw() *image.RGBA {
	top := m.top()
	return paint(len(m), func(x, band int) color.RGBA {
		g := uint8(255 * max(0, min(1, (relative(m[x][band], top)+melDepth)/melDepth)))
		return color.RGBA{g, g, g, 255}
	})
}

// drawDifference paints where two spectrograms differ, 0 to 20 dB. Where only one of them goes on the other counts as silent.
func drawDifference(a, b Mel) *image.RGBA {
	topA, topB := a.top(), b.top()
	value := func(m Mel, top float64, x, band int) float64 {
		if x >= len(m) {
			return -melDepth
		}
		return relative(m[x][band], top)
	}
	return paint(max(len(a), len(b)), func(x, band int) color.RGBA {
		e, g := value(a, topA, x, band), value(b, topB, x, band)
		d := min(max(e-g, g-e)/20, 1)
		return color.RGBA{uint8(255 * d), uint8(200 * max(0, 2*d-1)), uint8(60 * d * (1 - d)), 255}
	})
}

func paint(frames int, at func(x, band int) color.RGBA) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, min(max(frames, 1), maxColumns), MelBands*bandHigh))
	draw.Draw(out, out.Rect, image.Black, image.Point{}, draw.Src)
	for x := range min(frames, maxColumns) {
		for y := range out.Rect.Dy() {
			out.SetRGBA(x, y, at(x, MelBands-1-y/bandHigh))
		}
	}
	return out
}

// stacked draws panels from top to bottom, each below its label, with a line of seconds at the foot.
func stacked(panels ...panel) *image.RGBA {
	const head, foot, tick = 16, 16, int(1 / melHop)
	w, h := 0, foot
	for _, p := range panels {
		w, h = max(w, p.img.Rect.Dx(), 7*len(p.label)+8), h+head+p.img.Rect.Dy()
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	d := font.Drawer{Dst: out, Src: image.Black, Face: basicfont.Face7x13}
	line := func(x, y int, s string) {
		d.Dot = fixed.P(x, y+12)
		d.DrawString(s)
	}
	y := 0
	for _, p := range panels {
		line(4, y, p.label)
		draw.Draw(out, p.img.Rect.Add(image.Pt(0, y+head)), p.img, image.Point{}, draw.Src)
		y += head + p.img.Rect.Dy()
	}
	for x := 0; x < w; x += tick {
		draw.Draw(out, image.Rect(x, y, x+1, y+5), image.Black, image.Point{}, draw.Src)
		line(x+3, y, fmt.Sprintf("%d s", x/tick))
	}
	return out
}
