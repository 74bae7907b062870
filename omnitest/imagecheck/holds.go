package imagecheck

import (
	"image"
	"math"

	xdraw "golang.org/x/image/draw"
)

// holdSide is the size at which two pictures are compared for what they show: small enough that resampling does not count.
const holdSide = 64 // pixels

// Holds demands that a place, in pixels, shows another picture, scaled to it: the correlation of luma, both scaled to 64x64,
// is at least 0.8, and above that with each of the pictures that it must not be ("put the second picture into the top
// right", and not the first). A picture that was cropped or turned before it was put there does not correlate.
func Holds(at image.Rectangle, want Picture, not ...Picture) Check {
	return check("holds", "another picture was put in", func(p Picture, f *finding) {
		if !f.inside(at, p) {
			return
		}
		if want.derived == nil {
			f.fail("there is no picture to look for")
			return
		}
		f.expected = want.Image
		f.mark(at, "must show "+nameOf(want))
		place := thumbnail(p.opaque(), at)
		likeness := func(o Picture) float64 { return correlation(place, thumbnail(o.opaque(), o.Image.Rect)) }
		own := likeness(want)
		f.atLeast("correlation", own, f.bounds.HoldsNCC, "correlation of "+at.String()+" with "+nameOf(want), "NCC of 64x64 px")
		for _, o := range not {
			if o.derived == nil {
				f.fail("there is no other picture to tell apart")
				continue
			}
			if v := likeness(o); v > own {
				f.metrics = append(f.metrics, Metric{Name: "correlation-other", Value: v, Bound: own, Direction: "<=", Note: nameOf(o)})
				f.fail("%v looks like %s (%s) and not like %s (%s)", at, nameOf(o), number(v), nameOf(want), number(own))
			} else {
				f.note("correlation-other", v, nameOf(o))
			}
		}
	})
}

func nameOf(p Picture) string {
	if p.Case.Name == "" {
		return "the wanted picture"
	}
	return p.Case.Name
}

// thumbnail scales a part of a picture to holdSide squared.
func thumbnail(img *image.RGBA, r image.Rectangle) *image.Gray {
	small := image.NewRGBA(image.Rect(0, 0, holdSide, holdSide))
	xdraw.BiLinear.Scale(small, small.Rect, img, r, xdraw.Src, nil)
	return Luma(small)
}

// correlation is the normalised cross-correlation of two planes of one size, -1..1; 0 where one of them is flat.
func correlation(a, b *image.Gray) float64 {
	n := int64(a.Rect.Dx() * a.Rect.Dy())
	sa, qa := rawSums(a, a.Rect)
	sb, qb := rawSums(b, b.Rect)
	va, vb := n*qa-sa*sa, n*qb-sb*sb
	if va <= 0 || vb <= 0 {
		return 0
	}
	return float64(n*dot(a, b, a.Rect, b.Rect.Min)-sa*sb) / math.Sqrt(float64(va)*float64(vb))
}
