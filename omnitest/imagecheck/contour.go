package imagecheck

import (
	"image"
	"math"
)

// contourSide is the side of the boxes that a difference is averaged over: no wider than a stroke of small text, wide enough to
// quiet noise to a third.
const contourSide = 3

// contourMoved is by how much more a line may be off that moved: what stands behind it need not have moved with it. Over 31
// seeds the nearest wrong glyph that moved is off by 0.3137 of the contrast, which is 1.25 times this bound [S].
const contourMoved = 5. / 3

// contour is how far a cell is from its place in the candidate where they differ most: the worst difference of 3x3 px means
// after brightness and contrast were fitted, in parts of the contrast of the whole line (0 to about 1). Correlation
// weighs a wrong stroke by its share of the cell's ink, which is little in a hanzi of twelve strokes; here it counts whole,
// while noise and JPEG, which have no extent, stay small.
func contour(ref, got *image.Gray, r image.Rectangle, move image.Point, contrast float64) float64 {
	w, h := r.Dx(), r.Dy()
	to := r.Add(move)
	if w < contourSide || h < contourSide || contrast <= 0 || !to.In(got.Rect) {
		return math.NaN()
	}
	n := float64(w * h)
	refSum, refSquares := rawSums(ref, r)
	gotSum, _ := rawSums(got, to)
	variance := n*float64(refSquares) - float64(refSum)*float64(refSum)
	gain := 1.0
	if variance > 0 {
		gain = (n*float64(dot(ref, got, r, to.Min)) - float64(refSum)*float64(gotSum)) / variance
	}
	gain = min(max(gain, 0.5), 2) // what needs more is another picture, and is to stay one
	offset := (float64(gotSum) - gain*float64(refSum)) / n
	column := make([]float64, w) // sums of the last three rows
	rows := make([]float64, contourSide*w)
	worst := 0.0
	for y := range h {
		a := ref.Pix[ref.PixOffset(r.Min.X, r.Min.Y+y):][:w]
		b := got.Pix[got.PixOffset(to.Min.X, to.Min.Y+y):][:w]
		row := rows[y%contourSide*w:][:w]
		for x := range w {
			d := float64(b[x]) - gain*float64(a[x]) - offset
			column[x] += d - row[x]
			row[x] = d
		}
		if y < contourSide-1 {
			continue
		}
		for x := contourSide - 1; x < w; x++ {
			worst = max(worst, math.Abs(column[x]+column[x-1]+column[x-2]))
		}
	}
	return worst / (contourSide * contourSide) / (gain * contrast)
}

// lineContrast is the distance of ink and ground in a line: the 99th less the 1st percentile of luma, 0-255.
func lineContrast(g *image.Gray, r image.Rectangle) float64 {
	var hist [256]int
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for _, v := range g.Pix[g.PixOffset(r.Min.X, y):][:r.Dx()] {
			hist[v]++
		}
	}
	n := r.Dx() * r.Dy()
	low, high, seen := -1, 0, 0
	for v, k := range hist {
		if seen += k; low < 0 && 100*seen > n {
			low = v
		}
		if 100*(seen-k) < 99*n {
			high = v
		}
	}
	return float64(high - low)
}

// worstContour gives the cell whose contour is farthest off, -1 where none has ink.
func worstContour(cells []Cell) int {
	worst := -1
	for i, c := range cells {
		if !math.IsNaN(c.Contour) && (worst < 0 || c.Contour > cells[worst].Contour) {
			worst = i
		}
	}
	return worst
}
