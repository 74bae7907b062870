package imagecheck

import (
	"fmt"
	"image"
	"math"
	"strconv"
)

// Things demands n separate things of a named colour (see [Colour]): parts of the picture that hang together, of 8x8 px boxes
// whose mean colour is nearest to that name, each at least 0.5 % of the picture. With places (as many as things, or fewer),
// each must hold the middle of one: "three red circles, one of them in the top left". It counts what has a colour of its
// own on a ground of another; things that touch are one, and what a thing is nobody can tell without a model.
func Things(n int, colour string, places ...image.Rectangle) Check {
	return check("things", "wrong number or place of things", func(p Picture, f *finding) {
		want := f.named(colour)
		if want < 0 {
			return
		}
		if n < 0 || len(places) > n {
			f.fail("%d things at %d places cannot be checked", n, len(places))
			return
		}
		found := parts(p.opaque(), want, f.bounds.LeastThing)
		text := "none"
		for i, r := range found {
			f.mark(r.at, "thing "+strconv.Itoa(i))
			f.note("thing-"+strconv.Itoa(i), float64(r.area), "8x8 px boxes, within "+r.at.String())
			if i == 0 {
				text = r.at.String()
			} else if i < 8 {
				text += ", " + r.at.String()
			}
		}
		count := float64(len(found))
		f.asked(Metric{Name: "count", Value: count, Bound: float64(n), Direction: "<="}, Metric{Name: "count", Value: count, Bound: float64(n), Direction: ">="})
		if len(found) != n {
			f.fail("%d things are %s, want %d (%s)", len(found), colour, n, text)
			return
		}
		taken := make([]bool, len(found))
		for _, place := range places {
			if !f.inside(place, p) {
				return
			}
			held := false
			for i, r := range found {
				if !taken[i] && r.middle.In(place) {
					taken[i], held = true, true
					break
				}
			}
			if !held {
				f.mark(place, "none here")
				f.fail("no thing that is %s has its middle in %v (%s)", colour, place, text)
			}
		}
	})
}

// part is one thing.
type part struct {
	at     image.Rectangle // around it, pixels
	middle image.Point     // of its boxes
	area   int             // boxes
}

// parts finds what hangs together in one colour, in reading order of its first box.
func parts(img *image.RGBA, colour int, least float64) []part {
	cols, rows := ceilDiv(img.Rect.Dx(), boxSide), ceilDiv(img.Rect.Dy(), boxSide)
	has := make([]bool, cols*rows)
	names := map[[3]uint8]bool{} // OKLab costs cube roots, and flat parts repeat
	for i := range has {
		r := image.Rect(0, 0, boxSide, boxSide).Add(image.Pt(i%cols, i/cols).Mul(boxSide)).Intersect(img.Rect)
		c := meanColour(img, r)
		is, known := names[c]
		if !known {
			got := toLab(c)
			_, other := got.nearest(colour)
			is = got.distance(toLab(named[colour].rgb)) <= other
			names[c] = is
		}
		has[i] = is
	}
	var out []part
	var queue []int
	for i := range has {
		if !has[i] {
			continue
		}
		has[i] = false
		queue = append(queue[:0], i)
		var p part
		sum := image.Point{}
		for len(queue) > 0 {
			k := queue[len(queue)-1]
			queue = queue[:len(queue)-1]
			x, y := k%cols, k/cols
			box := image.Rect(x*boxSide, y*boxSide, (x+1)*boxSide, (y+1)*boxSide).Intersect(img.Rect)
			p.at, p.area, sum = p.at.Union(box), p.area+1, sum.Add(box.Min).Add(image.Pt(box.Dx()/2, box.Dy()/2))
			for _, d := range [4]image.Point{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
				if nx, ny := x+d.X, y+d.Y; nx >= 0 && ny >= 0 && nx < cols && ny < rows && has[ny*cols+nx] {
					has[ny*cols+nx] = false
					queue = append(queue, ny*cols+nx)
				}
			}
		}
		p.middle = sum.Div(p.area)
		if p.area >= max(1, int(math.Ceil(least*float64(cols*rows)))) {
			out = append(out, p)
		}
	}
	return out
}

// Aspect demands the shape of a picture where the engine may choose its size: width/height within 2 % of what was asked for.
func Aspect(w, h int) Check {
	return check("aspect", "wrong aspect ratio", func(p Picture, f *finding) {
		if w <= 0 || h <= 0 {
			f.fail("no ratio was asked for (%d:%d)", w, h)
			return
		}
		s := p.Size()
		off := math.Abs(float64(s.W)*float64(h)/(float64(s.H)*float64(w)) - 1)
		f.atMost("aspect-off", off, 0.02, fmt.Sprintf("it is %s, asked for %d:%d, off by", s, w, h), "of the ratio")
	})
}
