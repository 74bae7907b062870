package imagecheck

import (
	"fmt"
	"image"
	"math"
	"strings"
)

// Colour demands that a place, in pixels, has the named colour: of red, green, blue, yellow, orange, purple, white, black,
// grey, brown and pink its mean colour must be nearest to that one, by hue and lightness in OKLab. It needs no golden. Choose a place
// well inside the thing: a border or a shadow counts into the mean.
func Colour(at image.Rectangle, name string) Check {
	return check("colour", "wrong colour", func(p Picture, f *finding) {
		want := f.named(name)
		if want < 0 || !f.inside(at, p) {
			return
		}
		mean := meanColour(p.opaque(), at)
		f.mark(at, hexColour(mean)+", want "+name)
		got := toLab(mean)
		own := got.distance(toLab(named[want].rgb))
		nearest, least := got.nearest(want)
		f.metrics = append(f.metrics, Metric{Name: "colour-distance", Value: own, Bound: least, Direction: "<=", Note: "to " + name + "; bound: to " + named[nearest].name})
		turn := got.hueTo(toLab(named[want].rgb))
		f.note("hue-distance", turn, "degrees")
		if own <= least {
			return
		}
		hue := "hue " + number(math.Round(turn)) + " degrees off"
		if math.IsNaN(turn) {
			hue = "one of them has no hue"
		}
		f.fail("%v is %s, which is %s, want %s; %s, lightness %+.2f", at, hexColour(mean), named[nearest].name, name, hue, got.l-toLab(named[want].rgb).l)
	})
}

// Shows demands that some part of a place, in pixels, has the named colour (see [Colour]): one cell or more of the picture's
// [ColourGrid] that lies inside. For a thing whose place within is the model's to choose.
func Shows(at image.Rectangle, name string) Check {
	return check("shows", "colour is missing", func(p Picture, f *finding) {
		want := f.named(name)
		if want < 0 || !f.inside(at, p) {
			return
		}
		grid, err := p.colours()
		if err != nil {
			f.fail("%v", err)
			return
		}
		f.mark(at, "want "+name)
		cells, shown, best, at0 := 0, 0, math.Inf(1), image.Point{}
		for i, rgb := range grid {
			if !gridCell(i, p.Image.Rect).In(at) {
				continue
			}
			cells++
			c := toLab(rgb)
			own := c.distance(toLab(named[want].rgb))
			if own < best {
				best, at0 = own, image.Pt(i%GridSide, i/GridSide)
			}
			if _, other := c.nearest(want); own <= other {
				shown++
			}
		}
		if cells == 0 {
			f.fail("no cell of the 16x16 lies inside %v, so nothing was measured", at)
			return
		}
		f.note("cells", float64(cells), "of 256, inside the place")
		f.metrics = append(f.metrics, Metric{Name: "cells-" + name, Value: float64(shown), Bound: 1, Direction: ">="})
		if shown == 0 {
			f.fail("none of the %d cells inside %v is %s; the nearest, cell %d,%d, is %s", cells, at, name, at0.X, at0.Y, grid.At(at0))
		}
	})
}

// ColourLike demands that a place has the mean colour of another place of the same picture, within 28 of 255 in every channel:
// where something was removed one sees what stood behind it.
func ColourLike(at, as image.Rectangle) Check {
	return check("colour-like", "place does not look like its surroundings", func(p Picture, f *finding) {
		if !f.inside(at, p) || !f.inside(as, p) {
			return
		}
		a, b := meanColour(p.opaque(), at), meanColour(p.opaque(), as)
		off := max(absDiff(a[0], b[0]), absDiff(a[1], b[1]), absDiff(a[2], b[2]))
		f.mark(at, hexColour(a))
		f.mark(as, hexColour(b))
		f.atMost("colour", float64(off), float64(f.bounds.GridColour), fmt.Sprintf("%v is %s, %v is %s, distance", at, hexColour(a), as, hexColour(b)), "")
	})
}

// KeptColour demands that places, taken together, have the mean colour that they have in another picture, within 28 of 255 in
// every channel: "a green cube on a white table" has the table of the red one. Textures may differ.
func KeptColour(other Picture, places ...image.Rectangle) Check {
	return check("kept-colour", "colour changed elsewhere", func(p Picture, f *finding) {
		if !f.sameSize(p, other, "other picture") {
			return
		}
		f.expected = other.Image
		if len(places) == 0 {
			f.fail("no place was given")
			return
		}
		var was, is [3]float64
		area := 0.0
		for _, at := range places {
			if !f.inside(at, p) {
				return
			}
			f.mark(at, "")
			n := float64(at.Dx() * at.Dy())
			area += n
			a, b := meanColour(p.opaque(), at), meanColour(other.opaque(), at)
			for c := range 3 {
				is[c] += n * float64(a[c])
				was[c] += n * float64(b[c])
			}
		}
		mean := func(sum [3]float64) (c [3]uint8) {
			for i := range c {
				c[i] = uint8(sum[i]/area + 0.5)
			}
			return c
		}
		a, b := mean(is), mean(was)
		off := max(absDiff(a[0], b[0]), absDiff(a[1], b[1]), absDiff(a[2], b[2]))
		f.atMost("colour", float64(off), float64(f.bounds.GridColour), fmt.Sprintf("%v is %s, it was %s, distance", places, hexColour(a), hexColour(b)), "")
	})
}

// named finds a colour by its name; -1, and a failure, if there is none.
func (f *finding) named(name string) int {
	var names []string
	for i, n := range named {
		if n.name == name {
			return i
		}
		names = append(names, n.name)
	}
	f.fail("no colour is called %q; there are %s", name, strings.Join(names, ", "))
	return -1
}

// inside fails for a place that is empty or not inside the picture.
func (f *finding) inside(at image.Rectangle, p Picture) bool {
	if at.Empty() || !at.In(p.Image.Rect) {
		f.fail("the place %v is not inside the picture of %s", at, p.Size())
		return false
	}
	return true
}

// Greyscale demands a picture without colour: of its 8x8 px boxes 99 % have channel means that are within 12 of each other.
// Boxes, because noise differs from channel to channel.
func Greyscale() Check {
	return check("greyscale", "picture has colour", func(p Picture, f *finding) {
		v, at := boxChroma(p.opaque())
		f.atMost("chroma-p99", v, f.bounds.GreyChroma, "chroma of "+hexColour(meanColour(p.opaque(), at))+" at "+at.String()+" is", "99th percentile of 8x8 px boxes, 0-255")
	})
}

// boxChroma gives the 99th percentile of max-min of the mean R, G and B over 8x8 boxes, and a box that has it.
func boxChroma(img *image.RGBA) (p99 float64, at image.Rectangle) {
	var hist [256]int
	var where [256]image.Rectangle
	n := 0
	for y := 0; y < img.Rect.Dy(); y += boxSide {
		for x := 0; x < img.Rect.Dx(); x += boxSide {
			r := image.Rect(x, y, x+boxSide, y+boxSide).Intersect(img.Rect)
			c := meanColour(img, r)
			v := max(c[0], c[1], c[2]) - min(c[0], c[1], c[2])
			hist[v]++
			where[v] = r
			n++
		}
	}
	seen := 0
	for v, k := range hist {
		if seen += k; seen*100 >= n*99 {
			return float64(v), where[v]
		}
	}
	panic(fmt.Sprintf("imagecheck: a picture of %v has no boxes", img.Rect))
}
