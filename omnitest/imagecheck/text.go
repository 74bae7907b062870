package imagecheck

import (
	"fmt"
	"image"
	"math"
	"strconv"
)

// TextMargin is what a crop has around its box on every side, in pixels (less at the picture's border): the hash sees the
// letters whole, and a glyph cell has room to be found elsewhere.
const TextMargin = 8

// Box is text in a picture, of one line or several. A box for each line says better which one is wrong.
type Box struct {
	Text string          // what it says, for people: no check reads it
	Rect image.Rectangle // tight around the text, in pixels
	// Lines, of equal height, into which the box is divided where they cannot be told apart by the empty rows between them,
	// as on a textured background. 0: 1.
	Lines int
}

// Text demands that every box shows the same glyphs as in another picture of the same layout. The gate is the contour of the
// glyph cells: none is anywhere off by more than 0.2 of the contrast of its line (see [Cell]), or 0.3 where the line moved. Beside it the worst cell
// correlates by at least 0.93 (see [CellNCC]), and the ExtP256 distance of the copied crops is at most 10 of 256. It needs pixel
// alignment: same engine, seed, size and steps. Where the layout is free only a reader can tell what the text says ([Reads],
// [ReadsSomewhere]). What stands outside the boxes is for [NoExtraText].
func Text(golden Picture, boxes ...Box) Check {
	return check("text", "text differs", func(p Picture, f *finding) {
		if !f.sameSize(p, golden, "golden") {
			return
		}
		f.expected = golden.Image
		if len(boxes) == 0 {
			f.fail("no text box was given")
		}
		for i, b := range boxes {
			ref, err := cutText(golden.opaque(), b)
			if err != nil {
				f.fail("golden, %v", err)
				continue
			}
			f.text(i, ref, p)
		}
	})
}

// textRef is one line as it should look.
type textRef struct {
	Box
	frame image.Rectangle // the box with its margin, cut to the picture
	crop  *image.RGBA     // the frame's pixels at origin 0,0
	hash  Hash
}

// cutText copies a line out of a golden picture. A box without ink in it is an error: it would demand an empty place.
func cutText(img *image.RGBA, b Box) (textRef, error) {
	frame, err := textFrame(b, img.Rect)
	if err != nil {
		return textRef{}, err
	}
	c := crop(img, frame)
	h, err := ExtP256(c)
	if err != nil {
		return textRef{}, fmt.Errorf("text box %v %q: %w", b.Rect, b.Text, err)
	}
	return textRef{Box: b, frame: frame, crop: c, hash: h}, nil
}

func textFrame(b Box, picture image.Rectangle) (image.Rectangle, error) {
	if b.Rect.Empty() || !b.Rect.In(picture) {
		return image.Rectangle{}, fmt.Errorf("text box %v %q is not inside the picture of %dx%d", b.Rect, b.Text, picture.Dx(), picture.Dy())
	}
	return b.Rect.Inset(-TextMargin).Intersect(picture), nil
}

// text judges line i of the picture, and tells how far it moved as a whole.
func (f *finding) text(i int, ref textRef, p Picture) image.Point {
	name := "text-" + strconv.Itoa(i)
	what := strconv.Quote(clip(ref.Text, 60))

	// In the picture's coordinates, whatever the origin of the crop.
	refLuma := Luma(ref.crop)
	refLuma.Rect = ref.frame
	cells := CellNCC(refLuma, p.luma(), ref.Rect, ref.Lines, f.bounds.SearchPixels)
	// The hash needs its letters where they were: it breaks at 4 px. Follow the line where it went as a whole.
	move := lineMove(cells)
	if !ref.frame.Add(move).In(p.Image.Rect) {
		move = image.Point{}
	}
	got := crop(p.opaque(), ref.frame.Add(move))

	distance := math.NaN()
	h, err := ExtP256(got)
	if err == nil {
		d, derr := ref.hash.Distance(h)
		if err = derr; err == nil {
			distance = float64(d)
		}
	}
	before := len(f.metrics)
	if err != nil {
		f.metrics = append(f.metrics, Metric{Name: name + ".ExtP256", Value: distance, Bound: float64(f.bounds.TextExtP256), Direction: "<="})
		f.fail("text crop of %s has no hash, the text is missing: %v", what, err)
	} else if move == (image.Point{}) {
		f.atMost(name+".ExtP256", distance, float64(f.bounds.TextExtP256), "text crop distance", "ExtP256")
	} else { // another background behind the same letters moves it by more than a wrong letter does
		f.note(name+".ExtP256", distance, "")
	}

	worst := worstCell(cells)
	view := textView{name: name, want: ref.crop, got: got}
	if worst < 0 {
		f.fail("text %s was not measured: no cells in %v", what, ref.Rect)
	} else {
		c := cells[worst]
		view.cell, view.ncc = c.Rect.Sub(ref.frame.Min), c.NCC
		view.moved = c.Rect.Add(c.Move).Sub(ref.frame.Min).Sub(move)
		f.atLeast(name+".cell-NCC", c.NCC, f.bounds.TextCellNCC, "text cell correlation",
			fmt.Sprintf("worst of %d cells, within %d px", len(cells), f.bounds.SearchPixels))
	}
	if i := worstContour(cells); i >= 0 {
		c, limit := cells[i], f.bounds.TextContour
		if move != (image.Point{}) { // an edge of the ground that stayed where it was is no stroke
			limit *= contourMoved
		}
		if !f.atMost(name+".contour", c.Contour, limit, "text contour is off by",
			fmt.Sprintf("of the contrast, worst 3x3 px of %d cells", len(cells))) && view.ncc >= f.bounds.TextCellNCC {
			view.cell = c.Rect.Sub(ref.frame.Min)
			view.moved = c.Rect.Add(c.Move).Sub(ref.frame.Min).Sub(move)
			view.caption = "actual, contour off by " + number(c.Contour) + " in this cell"
		}
	}
	for j := before; j < len(f.metrics); j++ {
		f.metrics[j].Note = what
		if move != (image.Point{}) {
			f.metrics[j].Note += fmt.Sprintf(", moved by %d,%d px", move.X, move.Y)
		}
	}
	f.mark(ref.Rect.Add(move), name)
	f.texts = append(f.texts, view)
	return move
}
