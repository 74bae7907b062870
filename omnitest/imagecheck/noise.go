package imagecheck

import (
	"image"
	"math"
)

// Noise estimates the standard deviation of additive noise in a luma plane, 0-255: the operator of Immerkær (1996), the
// difference of two Laplacians
//
//	 1 -2  1
//	-2  4 -2
//	 1 -2  1
//
// which answers 0 to flat and linear parts and has gain 6 for white noise; the scale is taken from the median of |answer|
// (median / 0.6745 / 6), so that edges and text, a minority of the pixels, do not count as noise. NaN below 3x3 pixels.
// A clean synthetic picture gives 0.
func Noise(g *image.Gray) float64 {
	w, h := g.Rect.Dx(), g.Rect.Dy()
	if w < 3 || h < 3 {
		return math.NaN()
	}
	var hist [16*255 + 1]int // |answer| is at most 8*255; room to spare
	for y := 1; y < h-1; y++ {
		p, c, n := g.Pix[(y-1)*g.Stride:][:w], g.Pix[y*g.Stride:][:w], g.Pix[(y+1)*g.Stride:][:w]
		for x := 1; x < w-1; x++ {
			v := int(p[x-1]) + int(p[x+1]) + int(n[x-1]) + int(n[x+1]) + 4*int(c[x]) -
				2*(int(p[x])+int(c[x-1])+int(c[x+1])+int(n[x]))
			if v < 0 {
				v = -v
			}
			hist[v]++
		}
	}
	// The median of integers, refined within its bin: the luma has 256 levels only, and noise of 1 level moves few bins.
	half := float64((w-2)*(h-2)) / 2
	below := 0.0
	for v, n := range hist {
		if below+float64(n) >= half {
			if v == 0 {
				// Bin 0 holds |answer| < 0.5. More than half in it: no noise that 8 bits can show.
				return 0
			}
			median := float64(v) - 0.5 + (half-below)/float64(n)
			return median / 0.6745 / 6
		}
		below += float64(n)
	}
	return math.NaN()
}

// LessNoise demands that this picture has less noise than another of the same prompt and seed made with fewer denoising
// steps: the residual falls with steps. It fails, not passes, if the other has no measurable noise.
func LessNoise(fewer Picture) Check {
	return check("less-noise", "more steps do not help", func(p Picture, f *finding) {
		if !f.sameSize(p, fewer, "picture with fewer steps") {
			return
		}
		f.expected = fewer.Image
		mine, theirs := Noise(p.luma()), Noise(fewer.luma())
		f.note("noise", mine, "sigma of luma 0-255")
		f.note("noise-fewer-steps", theirs, "sigma of luma 0-255")
		if !(theirs >= 0.5) { // rounding to 8 bits alone gives 1/sqrt(12) = 0.29
			half := Noise(halved(fewer.luma()))
			if half >= 0.5 {
				f.fail("the picture with fewer steps (%d) has no noise at full size, sigma %s, but %s at half size: it was made smaller and scaled up",
					fewer.Case.Steps, number(theirs), number(half))
				return
			}
			f.fail("the picture with fewer steps (%d) has no noise to compare with, sigma %s", fewer.Case.Steps, number(theirs))
			return
		}
		f.atMost("noise-ratio", mine/theirs, f.bounds.NoiseRatio,
			"noise sigma "+number(mine)+" against "+number(theirs)+" with fewer steps, ratio", "Immerkaer, median")
	})
}

// halved averages 2x2 pixels.
func halved(g *image.Gray) *image.Gray {
	out := image.NewGray(image.Rect(0, 0, g.Rect.Dx()/2, g.Rect.Dy()/2))
	for y := range out.Rect.Dy() {
		r0, r1 := g.Pix[2*y*g.Stride:], g.Pix[(2*y+1)*g.Stride:]
		for x := range out.Rect.Dx() {
			sum := int(r0[2*x]) + int(r0[2*x+1]) + int(r1[2*x]) + int(r1[2*x+1])
			out.Pix[y*out.Stride+x] = uint8((sum + 2) / 4)
		}
	}
	return out
}
