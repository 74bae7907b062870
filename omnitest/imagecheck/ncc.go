package imagecheck

import (
	"image"
	"math"
)

// Variances of luma (0-255 squared) that tell an empty cell from one with ink. In the reference the limit is low, in the
// candidate higher, because noise on an empty cell is no letter.
const (
	flatReference = 100
	flatCandidate = 400
)

// nccEnough ends the search for a cell: what lies above cannot change a verdict, and an aligned picture is judged at the
// first offset instead of the last.
const nccEnough = 0.999

// Cell is one glyph-sized piece of a text box with its best match.
type Cell struct {
	Rect image.Rectangle // in the reference
	Move image.Point     // where it was found in the candidate, relative to Rect
	NCC  float64         // -1..1 normalised cross-correlation; 0 also for a cell that is empty on one side only
	Flat bool            // empty in the reference
	// Contour is the worst difference of 3x3 px means after brightness and contrast were fitted, in parts of the contrast of the
	// line; NaN for a flat cell.
	Contour float64
}

// CellNCC compares the text in box of two luma planes in the same coordinates, glyph by glyph. Cells are 0.6 box heights
// wide and overlap by half; for each the best normalised cross-correlation within +-search pixels is taken. A wrong letter
// pulls one cell down, however long the line is; a shift of the text within the search does not.
//
// An empty cell of the reference (variance < 100) has NCC 1 if the candidate has an equally empty place (variance < 400)
// within the search, else 0. The search ends early at 0.999. Lines are told apart by the
// rows without ink between them, so that a cell is as high as one line also in a box of several; where that fails, the
// box is divided into the given number of lines (0: 1).
func CellNCC(ref, got *image.Gray, box image.Rectangle, lines, search int) []Cell {
	box = box.Intersect(ref.Rect).Intersect(got.Rect)
	if box.Empty() {
		return nil
	}
	area := box.Inset(-search).Intersect(got.Rect)
	sums := newIntegral(got, area)
	var cells []Cell
	var last image.Point // a shifted line is shifted as a whole: begin where the neighbour was found
	for _, line := range splitLines(ref, box, lines) {
		contrast := lineContrast(ref, line)
		width := min(max(int(0.6*float64(line.Dy())+0.5), 4), box.Dx())
		for _, x := range steps(box.Min.X, box.Max.X, width) {
			c := bestCell(ref, got, sums, area, image.Rect(x, line.Min.Y, x+width, line.Max.Y), search, last)
			c.Contour = math.NaN()
			if !c.Flat {
				last = c.Move
				c.Contour = contour(ref, got, c.Rect, c.Move, contrast)
			}
			cells = append(cells, c)
		}
	}
	return cells
}

// steps gives where pieces of a size begin that cover from..to and overlap by half; the last one ends at to.
func steps(from, to, size int) []int {
	var out []int
	for v := from; v < to-size; v += max(size/2, 1) {
		out = append(out, v)
	}
	return append(out, to-size)
}

// splitLines splits a box into its lines of text: runs of rows with ink, told from smooth background by steep steps along the
// row. What is too low to be a line (a dot, one stroke of a hanzi) belongs to its neighbour. On a textured background
// every row has steps, and the box is divided into n equal lines.
func splitLines(g *image.Gray, box image.Rectangle, n int) []image.Rectangle {
	const steep = 24 // of 255, between neighbours: noise of sigma 4 has one in 20,000
	var runs []image.Rectangle
	inked := false
	for y := box.Min.Y; y < box.Max.Y; y++ {
		row := g.Pix[g.PixOffset(box.Min.X, y):][:box.Dx()]
		edges := 0
		for x := 1; x < len(row); x++ {
			if absDiff(row[x], row[x-1]) >= steep {
				edges++
			}
		}
		has := edges >= 2
		switch {
		case has && inked:
			runs[len(runs)-1].Max.Y++
		case has:
			runs = append(runs, image.Rect(box.Min.X, y, box.Max.X, y+1))
		}
		inked = has
	}
	least := max(12, box.Dy()/12)
	for len(runs) > 1 {
		low := 0
		for i, r := range runs {
			if r.Dy() < runs[low].Dy() {
				low = i
			}
		}
		if runs[low].Dy() >= least {
			break
		}
		near := low - 1
		if low == 0 || low+1 < len(runs) && runs[low+1].Min.Y-runs[low].Max.Y < runs[low].Min.Y-runs[low-1].Max.Y {
			near = low + 1
		}
		runs[near] = runs[near].Union(runs[low])
		runs = append(runs[:low], runs[low+1:]...)
	}
	if len(runs) > 1 {
		return runs
	}
	// Not the run itself: the rows around the ink must be as empty as in the reference.
	n = min(max(n, 1), box.Dy())
	out := make([]image.Rectangle, n)
	for i := range out {
		out[i] = image.Rect(box.Min.X, box.Min.Y+i*box.Dy()/n, box.Max.X, box.Min.Y+(i+1)*box.Dy()/n)
	}
	return out
}

// worstCell gives the cell with the least NCC, -1 without cells.
func worstCell(cells []Cell) int {
	worst := -1
	for i, c := range cells {
		if worst < 0 || c.NCC < cells[worst].NCC {
			worst = i
		}
	}
	return worst
}

func bestCell(ref, got *image.Gray, sums *integral, area, r image.Rectangle, search int, first image.Point) Cell {
	n := int64(r.Dx() * r.Dy())
	refSum, refSquares := rawSums(ref, r)
	refVar := n*refSquares - refSum*refSum // n^2 times the variance: exact in integers
	c := Cell{Rect: r, NCC: math.Inf(-1), Flat: refVar < flatReference*n*n}
	try := func(dx, dy int) bool {
		to := r.Add(image.Pt(dx, dy))
		if !to.In(area) {
			return false
		}
		sum, squares := sums.of(to)
		gotVar := n*squares - sum*sum
		var v float64
		switch {
		case c.Flat && gotVar < flatCandidate*n*n:
			v = 1
		case c.Flat || gotVar == 0:
			v = 0
		default:
			v = float64(n*dot(ref, got, r, to.Min)-refSum*sum) / math.Sqrt(float64(refVar)*float64(gotVar))
		}
		if v > c.NCC {
			c.NCC, c.Move = v, image.Pt(dx, dy)
		}
		return c.NCC >= nccEnough
	}
	if try(first.X, first.Y) || try(0, 0) {
		return c
	}
	for d := 1; d <= search; d++ { // rings outward: near offsets are the likely ones
		for i := -d; i <= d; i++ {
			if try(i, -d) || try(i, d) || try(-d, i) || try(d, i) {
				return c
			}
		}
	}
	if math.IsInf(c.NCC, -1) {
		c.NCC = 0
	}
	return c
}

// dot is the sum of products of a cell and its place in the candidate: the inner loop of the search.
func dot(ref, got *image.Gray, r image.Rectangle, to image.Point) int64 {
	var total int64
	w := r.Dx()
	for y := range r.Dy() {
		a := ref.Pix[ref.PixOffset(r.Min.X, r.Min.Y+y):][:w]
		b := got.Pix[got.PixOffset(to.X, to.Y+y):][:w]
		var s0, s1, s2, s3 uint32 // a row of 66,000 pixels would be needed to overflow
		for len(a) >= 4 && len(b) >= 4 {
			s0 += uint32(a[0]) * uint32(b[0])
			s1 += uint32(a[1]) * uint32(b[1])
			s2 += uint32(a[2]) * uint32(b[2])
			s3 += uint32(a[3]) * uint32(b[3])
			a, b = a[4:], b[4:]
		}
		for i := range a {
			s0 += uint32(a[i]) * uint32(b[i])
		}
		total += int64(s0) + int64(s1) + int64(s2) + int64(s3)
	}
	return total
}

func rawSums(g *image.Gray, r image.Rectangle) (sum, squares int64) {
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for _, v := range g.Pix[g.PixOffset(r.Min.X, y):][:r.Dx()] {
			sum += int64(v)
			squares += int64(v) * int64(v)
		}
	}
	return sum, squares
}

// integral holds summed areas of luma and its square, so that a cell's mean and variance cost four look-ups per offset.
type integral struct {
	r       image.Rectangle
	w       int
	sum, sq []int64
}

func newIntegral(g *image.Gray, r image.Rectangle) *integral {
	t := &integral{r: r, w: r.Dx() + 1}
	t.sum, t.sq = make([]int64, t.w*(r.Dy()+1)), make([]int64, t.w*(r.Dy()+1))
	for y := range r.Dy() {
		var s, q int64
		row := g.Pix[g.PixOffset(r.Min.X, r.Min.Y+y):][:r.Dx()]
		up, here := t.w*y, t.w*(y+1)
		for x, v := range row {
			s += int64(v)
			q += int64(v) * int64(v)
			t.sum[here+x+1] = t.sum[up+x+1] + s
			t.sq[here+x+1] = t.sq[up+x+1] + q
		}
	}
	return t
}

func (t *integral) of(r image.Rectangle) (sum, squares int64) {
	x0, x1 := r.Min.X-t.r.Min.X, r.Max.X-t.r.Min.X
	y0, y1 := (r.Min.Y-t.r.Min.Y)*t.w, (r.Max.Y-t.r.Min.Y)*t.w
	return t.sum[y1+x1] - t.sum[y0+x1] - t.sum[y1+x0] + t.sum[y0+x0],
		t.sq[y1+x1] - t.sq[y0+x1] - t.sq[y1+x0] + t.sq[y0+x0]
}
