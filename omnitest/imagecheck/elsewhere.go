package imagecheck

import (
	"cmp"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"math"
	"slices"
)

// NoExtraText demands that the picture shows nothing outside the text boxes that the golden does not show: [Text] looks
// into its boxes and cannot see a second sign, or a letter too many behind the last one. Both pictures are reduced to the
// mean luma of 8x8 px boxes, a change of brightness and contrast of the whole picture is taken out, and the worst 16 px
// tile may differ by at most 12 of 255. A text, or a picture, that moved as a whole by up to 6 px is followed. It needs
// pixel alignment, as Text does.
//
// What it cannot see: fine texture of the same mean, and letters below about 10 px.
func NoExtraText(golden Picture, boxes ...Box) Check {
	return check("no-extra-text", "picture shows more than the golden", func(p Picture, f *finding) {
		if !f.sameSize(p, golden, "golden") {
			return
		}
		f.expected = golden.Image
		moves := map[image.Point]bool{}
		for _, b := range boxes {
			if _, err := textFrame(b, p.Image.Rect); err != nil {
				f.fail("%v", err)
				return
			}
			moves[lineMove(CellNCC(golden.luma(), p.luma(), b.Rect, b.Lines, f.bounds.SearchPixels))] = true
		}
		f.elsewhere(boxMeans(golden.luma(), image.Point{}), boxes, moves, p)
	})
}

// lineMove is the move that most inked cells agree on.
func lineMove(cells []Cell) image.Point {
	votes := map[image.Point]int{}
	var best image.Point
	for _, c := range cells {
		if c.Flat {
			continue
		}
		votes[c.Move]++
		if votes[c.Move] > votes[best] {
			best = c.Move
		}
	}
	return best
}

// lowPass is a luma plane averaged over 8x8 boxes, row by row: 1/64 of the picture, and enough to see ink where there was none.
type lowPass struct {
	cols, rows int
	mean       []float64 // 0-255
}

// boxMeans averages luma over boxes that lie moved in the picture; at its border the last row and column repeat
// (so that a picture that moved is judged a little less strictly there).
func boxMeans(g *image.Gray, move image.Point) lowPass {
	w, h := g.Rect.Dx(), g.Rect.Dy()
	l := lowPass{cols: ceilDiv(w, boxSide), rows: ceilDiv(h, boxSide)}
	l.mean = make([]float64, l.cols*l.rows)
	sums := make([]int32, l.cols)
	for top := 0; top < h; top += boxSide {
		clear(sums)
		bottom := min(top+boxSide, h)
		for y := top; y < bottom; y++ {
			row := g.Pix[min(max(y+move.Y, 0), h-1)*g.Stride:][:w]
			if move.X == 0 {
				for x, v := range row {
					sums[x/boxSide] += int32(v)
				}
				continue
			}
			for x := range row {
				sums[x/boxSide] += int32(row[min(max(x+move.X, 0), w-1)])
			}
		}
		for i, s := range sums {
			l.mean[top/boxSide*l.cols+i] = float64(s) / float64((bottom-top)*(min((i+1)*boxSide, w)-i*boxSide))
		}
	}
	return l
}

// gray stores the plane as a picture, one pixel a box.
func (l lowPass) gray() *image.Gray {
	out := image.NewGray(image.Rect(0, 0, l.cols, l.rows))
	for i, v := range l.mean {
		out.Pix[i] = uint8(v + 0.5)
	}
	return out
}

// lowPassOf reads what gray stored, for a picture of w x h pixels.
func lowPassOf(img image.Image, w, h int) (lowPass, error) {
	l := lowPass{cols: ceilDiv(w, boxSide), rows: ceilDiv(h, boxSide)}
	if s := img.Bounds().Size(); s.X != l.cols || s.Y != l.rows {
		return lowPass{}, fmt.Errorf("it is %dx%d boxes, a picture of %dx%d has %dx%d", s.X, s.Y, w, h, l.cols, l.rows)
	}
	g := image.NewGray(image.Rect(0, 0, l.cols, l.rows))
	draw.Draw(g, g.Rect, img, img.Bounds().Min, draw.Src)
	l.mean = make([]float64, len(g.Pix))
	for i, v := range g.Pix {
		l.mean[i] = float64(v)
	}
	return l, nil
}

// tone fits got = gain*ref + offset over the boxes that lie outside the text and are saturated in neither plane, by least
// trimmed squares: the quarter that fits worst, foreign text among it, has no say. The gain is kept within 0.8 to 1.25 and the
// offset within 32: what needs more is another picture.
func tone(ref, got lowPass, boxes []Box) (gain, offset float64) {
	type pair struct{ x, y, off float64 }
	var all []pair
	for i, x := range ref.mean {
		at := image.Pt(i%ref.cols, i/ref.cols).Mul(boxSide)
		y := got.mean[i]
		if min(x, y) < 5 || max(x, y) > 245 || slices.ContainsFunc(boxes, func(b Box) bool { return at.In(b.Rect.Inset(-2 * boxSide)) }) {
			continue
		}
		all = append(all, pair{x: x, y: y})
	}
	gain = 1
	kept := all
	for range 4 {
		var sx, sy, sxx, sxy float64
		n := float64(len(kept))
		for _, p := range kept {
			sx, sy, sxx, sxy = sx+p.x, sy+p.y, sxx+p.x*p.x, sxy+p.x*p.y
		}
		variance := n*sxx - sx*sx
		if n < 16 || variance < n*n { // a plane without contrast has no gain
			return 1, 0
		}
		gain = min(max((n*sxy-sx*sy)/variance, 0.8), 1.25)
		offset = min(max((sy-gain*sx)/n, -32), 32)
		for i, p := range all {
			all[i].off = math.Abs(p.y - gain*p.x - offset)
		}
		slices.SortFunc(all, func(a, b pair) int { return cmp.Compare(a.off, b.off) })
		kept = all[:len(all)*3/4]
	}
	return gain, offset
}

// noMove leaves a plane where it is.
var noMove image.Point

// extraSide is the tile that decides: small, as one letter must not drown in it.
const extraSide = 16

// elsewhere judges what lies outside the text boxes.
func (f *finding) elsewhere(ref lowPass, boxes []Box, moves map[image.Point]bool, p Picture) {
	still := boxMeans(p.luma(), image.Point{})
	gain, offset := tone(ref, still, boxes)
	diff := make([]float64, len(ref.mean))
	for i := range diff {
		diff[i] = math.Inf(1)
	}
	follow := func(got lowPass) {
		for i, v := range ref.mean {
			want := min(max(gain*v+offset, 0), 255)
			diff[i] = min(diff[i], math.Abs(got.mean[i]-want))
		}
	}
	follow(still)
	for m := range moves {
		if m != noMove {
			follow(boxMeans(p.luma(), m))
		}
	}
	whole := p.Image.Rect
	const per = extraSide / boxSide
	worst, at, judged := math.Inf(-1), image.Rectangle{}, 0
	for ty := 0; ty < ref.rows; ty += per {
		for tx := 0; tx < ref.cols; tx += per {
			sum, n := 0.0, 0
			for y := ty; y < min(ty+per, ref.rows); y++ {
				for x := tx; x < min(tx+per, ref.cols); x++ {
					r := image.Rect(x*boxSide, y*boxSide, (x+1)*boxSide, (y+1)*boxSide).Intersect(whole)
					if !slices.ContainsFunc(boxes, func(b Box) bool { return r.Overlaps(b.Rect) }) { // else it is judged glyph by glyph
						sum, n = sum+diff[y*ref.cols+x], n+1
					}
				}
			}
			if n == 0 {
				continue
			}
			judged++
			if v := sum / float64(n); v > worst {
				worst, at = v, image.Rect(tx*boxSide, ty*boxSide, (tx+per)*boxSide, (ty+per)*boxSide).Intersect(whole)
			}
		}
	}
	f.note("gain", gain, fmt.Sprintf("offset %s, taken out", number(offset)))
	if judged == 0 {
		f.fail("the text boxes cover the picture, so nothing else was measured")
		return
	}
	f.worst = at
	f.mark(at, "worst 16 px tile "+number(worst))
	for _, b := range boxes {
		f.mark(b.Rect, "text, judged by its glyphs")
	}
	f.atMost("elsewhere", worst, f.bounds.ElsewhereMAD+80*math.Abs(gain-1), "outside the text boxes, at "+at.String()+", the difference is", "worst 16 px tile, 0-255")
}

// lowPassFile is where a golden keeps what its picture shows outside the text.
const lowPassFile = "luma-8.png"

var errNoLowPass = errors.New("no " + lowPassFile + ": it was made before extra text was looked for; run once with OMNITEST_UPDATE=1 and review what changes")
