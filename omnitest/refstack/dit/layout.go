package dit

import (
	"image"
	"math"
	"unicode"

	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"

	"github.com/omnitest/suite/fixtures/fonts"
)

// Text layout. All sizes are pixels; share constants are of the shorter side of the picture unless they say otherwise.
const (
	oneLineMax  = 0.20  // font size of a short text
	oneLineMin  = 0.070 // below it a line is broken; 36 px at 512, so that ink stays above the 24 px that OCR reads best
	wrappedMax  = 0.115
	minFont     = 4.0  // px: below that nothing can be read anyway; what does not fit is cut off by the panel
	lineSpacing = 1.22 // of the font size
	padding     = 0.45 // of the font size, around the text on its panel
	refSize     = 128  // px at which advances are measured; unhinted advances are proportional to the size
)

// textBlock is text that has found its place.
type textBlock struct {
	size  float64
	lines []string
	at    []fixed.Point26_6 // baseline start of each line
	ink   image.Rectangle   // what the painted glyphs cover
	panel image.Rectangle   // the sign behind it
}

// layText fits texts into area (centred around the point at fx, fy of the slack, 0.5: the middle) with the largest font
// that fits. side is the picture's shorter side.
func layText(texts []string, area image.Rectangle, side int, fx, fy float64) *textBlock {
	if len(texts) == 0 || area.Empty() {
		return nil
	}
	ref, err := fonts.Face(refSize)
	if err != nil {
		return nil // impossible: the size is a constant
	}
	defer ref.Close()
	aw, ah := float64(area.Dx()), float64(area.Dy())
	width := func(s string) float64 { return float64(font.MeasureString(ref, s)) / 64 / refSize } // in em

	// One line for each text, when that leaves it big enough.
	widest := 0.0
	for _, t := range texts {
		widest = max(widest, width(t))
	}
	n := float64(len(texts))
	size := min(oneLineMax*float64(side), aw/(widest+2*padding)*0.98, ah/(n*lineSpacing+2*padding))
	lines := texts
	if size < oneLineMin*float64(side) {
		size, lines = wrapToFit(ref, texts, aw, ah, wrappedMax*float64(side))
	}
	return placeLines(lines, size, area, fx, fy)
}

// wrapToFit breaks texts into lines, looking for the largest font at which they fit.
func wrapToFit(ref font.Face, texts []string, aw, ah, largest float64) (float64, []string) {
	var lines []string
	for size := max(largest, minFont); ; size *= 0.95 {
		size = max(size, minFont)
		em := aw/size*0.98 - 2*padding
		lines = lines[:0]
		for _, t := range texts {
			lines = wrap(ref, lines, t, em)
		}
		if float64(len(lines))*lineSpacing*size+2*padding*size <= ah || size == minFont {
			return size, lines
		}
	}
}

// wrap breaks one text into lines of at most em ems: at spaces, between hanzi, and inside a word only when the word
// alone is too long.
func wrap(ref font.Face, lines []string, text string, em float64) []string {
	limit := fixed.Int26_6(em * refSize * 64)
	r := []rune(text)
	start, brk := 0, -1 // brk: where the next line would begin
	var x fixed.Int26_6
	for i := 0; i < len(r); i++ {
		if i > start && breakable(r[i-1], r[i]) {
			brk = i
		}
		a, _ := ref.GlyphAdvance(r[i])
		if x += a; x <= limit || i == start {
			continue
		}
		if brk <= start {
			brk = i
		}
		lines = append(lines, trimmed(r[start:brk]))
		start, x = brk, 0
		i, brk = brk-1, -1
	}
	if start < len(r) {
		lines = append(lines, trimmed(r[start:]))
	}
	return lines
}

func trimmed(r []rune) string {
	for len(r) > 0 && r[len(r)-1] == ' ' {
		r = r[:len(r)-1]
	}
	return string(r)
}

// breakable: after a space, and beside a hanzi unless punctuation would begin the line.
func breakable(before, r rune) bool {
	if before == ' ' {
		return true
	}
	if r == ' ' || unicode.IsPunct(r) {
		return false
	}
	return unicode.Is(unicode.Han, before) || unicode.Is(unicode.Han, r)
}

func placeLines(lines []string, size float64, area image.Rectangle, fx, fy float64) *textBlock {
	face, err := fonts.Face(size)
	if err != nil {
		return nil
	}
	defer face.Close()
	b := &textBlock{size: size, lines: lines}
	type extent struct {
		bounds fixed.Rectangle26_6
		adv    fixed.Int26_6
	}
	ext := make([]extent, len(lines))
	widest := fixed.Int26_6(0)
	for i, l := range lines {
		ext[i].bounds, ext[i].adv = font.BoundString(face, l)
		widest = max(widest, ext[i].adv)
	}
	pad := padding * size
	pw := min(float64(area.Dx()), float64(widest)/64+2*pad)
	ph := min(float64(area.Dy()), float64(len(lines))*lineSpacing*size+2*pad)
	px := float64(area.Min.X) + math.Floor((float64(area.Dx())-pw)*fx)
	py := float64(area.Min.Y) + math.Floor((float64(area.Dy())-ph)*fy)
	b.panel = image.Rect(int(px), int(py), int(px+pw), int(py+ph))

	// The ink is centred, not the em boxes: capitals have no descenders, and would sit too high.
	top, bottom := fixed.Int26_6(math.MaxInt32), fixed.Int26_6(math.MinInt32)
	for i := range lines {
		off := fixed.Int26_6(float64(i) * lineSpacing * size * 64)
		top = min(top, ext[i].bounds.Min.Y+off)
		bottom = max(bottom, ext[i].bounds.Max.Y+off)
	}
	first := fixed.Int26_6((py+ph/2)*64) - (top+bottom)/2
	for i := range lines {
		dot := fixed.Point26_6{
			X: fixed.Int26_6((px+pw/2)*64) - ext[i].adv/2,
			Y: first + fixed.Int26_6(float64(i)*lineSpacing*size*64),
		}
		// Whole pixels: glyphs of the same letter then look the same wherever they stand.
		dot.X, dot.Y = dot.X&^63, dot.Y&^63
		b.at = append(b.at, dot)
		e := ext[i].bounds.Add(dot)
		b.ink = b.ink.Union(image.Rect(e.Min.X.Floor(), e.Min.Y.Floor(), e.Max.X.Ceil(), e.Max.Y.Ceil()))
	}
	b.ink = b.ink.Intersect(b.panel)
	return b
}
