package imagecheck

import (
	"image"
	"math"
	"runtime"
	"sync"
)

// Constants of SSIM as Wang et al. 2004 define it and scikit-image computes it with gaussian_weights=True, sigma=1.5,
// use_sample_covariance=False, data_range=255: an 11x11 Gaussian window, K1 0.01, K2 0.03, population covariance.
const (
	ssimRadius = 5
	ssimC1     = (0.01 * 255) * (0.01 * 255)
	ssimC2     = (0.03 * 255) * (0.03 * 255)
)

// ssimTaps is one half of the normalised window, the centre first.
var ssimTaps = func() (t [ssimRadius + 1]float64) {
	sum := 0.0
	for i := range t {
		t[i] = math.Exp(-float64(i*i) / (2 * 1.5 * 1.5))
		sum += t[i]
		if i > 0 {
			sum += t[i]
		}
	}
	for i := range t {
		t[i] /= sum
	}
	return t
}()

// SSIM is the mean structural similarity of two luma planes of one size, over the windows that lie fully inside.
// 1 for equal planes. At least 11x11 pixels.
func SSIM(a, b *image.Gray) (float64, error) {
	if err := comparable2(a.Rect, b.Rect); err != nil {
		return math.NaN(), err
	}
	return ssim(plane{a.Pix, a.Stride, 1}, plane{b.Pix, b.Stride, 1}, a.Rect.Dx(), a.Rect.Dy(), nil), nil
}

// SSIMRGB is the mean of SSIM over R, G and B: what torchmetrics computes for colour pictures.
func SSIMRGB(a, b *image.RGBA) (float64, error) {
	if err := comparable2(a.Rect, b.Rect); err != nil {
		return math.NaN(), err
	}
	sum := 0.0
	for c := range 3 {
		sum += ssim(plane{a.Pix[c:], a.Stride, 4}, plane{b.Pix[c:], b.Stride, 4}, a.Rect.Dx(), a.Rect.Dy(), nil)
	}
	return sum / 3, nil
}

// plane is one channel: every step-th byte of a row.
type plane struct {
	pix          []uint8
	stride, step int
}

// ssim is the mean over the windows whose centre lies in a kept tile; NaN if there is none. Bands of rows are computed in
// parallel; the sum is taken in row order, so that the value does not depend on the number of CPUs.
func ssim(a, b plane, w, h int, keep *tileSet) float64 {
	if w <= 2*ssimRadius || h <= 2*ssimRadius {
		return math.NaN()
	}
	type rowSum struct {
		sum float64
		n   int
	}
	rows := make([]rowSum, h)
	bands := min(runtime.GOMAXPROCS(0), (h+63)/64)
	var wg sync.WaitGroup
	for i := range bands {
		// Centres are ssimRadius <= y < h-ssimRadius.
		first := ssimRadius + i*(h-2*ssimRadius)/bands
		last := ssimRadius + (i+1)*(h-2*ssimRadius)/bands
		wg.Go(func() {
			ring := newSSIMRing(w)
			next := first - ssimRadius // first row not yet in the ring
			for y := first; y < last; y++ {
				for ; next <= y+ssimRadius; next++ {
					ring.add(next, a, b)
				}
				rows[y].sum, rows[y].n = ring.row(y, keep)
			}
		})
	}
	wg.Wait()
	var sum float64
	n := 0
	for _, r := range rows {
		sum += r.sum
		n += r.n
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}

// ssimRing keeps the horizontally filtered moments of the last 11 rows: a, b, a*a+b*b, a*b. (SSIM needs the two variances
// only as a sum, which saves a fifth of the work.)
type ssimRing struct {
	w     int
	rows  [2*ssimRadius + 1][4][]float64
	raw   [4][]float64
	accum [4][]float64
}

func newSSIMRing(w int) *ssimRing {
	r := &ssimRing{w: w}
	buf := make([]float64, (len(r.rows)+2)*4*w)
	take := func() []float64 {
		s := buf[:w:w]
		buf = buf[w:]
		return s
	}
	for k := range 4 {
		r.raw[k], r.accum[k] = take(), take()
		for i := range r.rows {
			r.rows[i][k] = take()
		}
	}
	return r
}

// add filters row y horizontally into the ring.
func (r *ssimRing) add(y int, a, b plane) {
	pa, pb := a.pix[y*a.stride:], b.pix[y*b.stride:]
	for x := range r.w {
		// Around 128: the moments stay small and the variances lose no digits.
		va, vb := float64(pa[x*a.step])-128, float64(pb[x*b.step])-128
		r.raw[0][x], r.raw[1][x], r.raw[2][x], r.raw[3][x] = va, vb, va*va+vb*vb, va*vb
	}
	slot := &r.rows[y%len(r.rows)]
	for k := range 4 {
		src, dst := r.raw[k], slot[k]
		for x := ssimRadius; x < r.w-ssimRadius; x++ {
			s := src[x-5 : x+6 : x+6]
			dst[x] = ssimTaps[0]*s[5] + ssimTaps[1]*(s[4]+s[6]) + ssimTaps[2]*(s[3]+s[7]) +
				ssimTaps[3]*(s[2]+s[8]) + ssimTaps[4]*(s[1]+s[9]) + ssimTaps[5]*(s[0]+s[10])
		}
	}
}

// row filters vertically around y and sums SSIM over the kept centres.
func (r *ssimRing) row(y int, keep *tileSet) (sum float64, n int) {
	slot := func(y int) *[4][]float64 { return &r.rows[y%len(r.rows)] }
	lo, hi := ssimRadius, r.w-ssimRadius
	for k := range 4 {
		acc := r.accum[k]
		c0 := slot(y)[k]
		p1, q1, p2, q2 := slot(y - 1)[k], slot(y + 1)[k], slot(y - 2)[k], slot(y + 2)[k]
		p3, q3, p4, q4 := slot(y - 3)[k], slot(y + 3)[k], slot(y - 4)[k], slot(y + 4)[k]
		p5, q5 := slot(y - 5)[k], slot(y + 5)[k]
		for x := lo; x < hi; x++ {
			acc[x] = ssimTaps[0]*c0[x] + ssimTaps[1]*(p1[x]+q1[x]) + ssimTaps[2]*(p2[x]+q2[x]) +
				ssimTaps[3]*(p3[x]+q3[x]) + ssimTaps[4]*(p4[x]+q4[x]) + ssimTaps[5]*(p5[x]+q5[x])
		}
	}
	ma, mb, sq, ab := r.accum[0], r.accum[1], r.accum[2], r.accum[3]
	for x := lo; x < hi; x++ {
		if keep != nil && !keep.at(x, y) {
			x |= TileSide - 1 // on to the next tile
			continue
		}
		a, b := ma[x], mb[x]
		variances := sq[x] - a*a - b*b
		covariance := ab[x] - a*b
		a, b = a+128, b+128
		sum += (2*a*b + ssimC1) * (2*covariance + ssimC2) / ((a*a + b*b + ssimC1) * (variances + ssimC2))
		n++
	}
	return sum, n
}
