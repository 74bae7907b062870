package imagecheck

import (
	"fmt"
	"image"
	"math"
)

// PixelDiff summarises |a-b| over the R, G and B bytes of two pictures, in units of 0-255.
type PixelDiff struct {
	Max     int
	P99     int     // 99 % of the channel values differ by at most this
	MeanAbs float64 // of 0-255
	MSE     float64
	AlphaMA float64 // mean |difference| of alpha: compared apart, as hashes and luma see the picture on white
}

// PSNR in dB: 10*log10(255^2/MSE), the definition of scikit-image's peak_signal_noise_ratio with data_range 255.
// +Inf for equal pixels.
func (d PixelDiff) PSNR() float64 { return psnr(d.MSE) }

func psnr(mse float64) float64 {
	if mse == 0 {
		return math.Inf(1)
	}
	return 10 * math.Log10(255*255/mse)
}

// Diff compares two pictures of one size pixel by pixel.
func Diff(a, b *image.RGBA) (PixelDiff, error) {
	if err := comparable2(a.Rect, b.Rect); err != nil {
		return PixelDiff{}, err
	}
	return diffIn(a, b, nil), nil
}

// diffIn is Diff over the kept tiles; nil keeps all.
func diffIn(a, b *image.RGBA, keep *tileSet) PixelDiff {
	var hist [4][256]int64 // one for each channel: equal neighbours would wait for each other in one
	w, h := a.Rect.Dx(), a.Rect.Dy()
	for y := range h {
		ra, rb := a.Pix[y*a.Stride:][:4*w], b.Pix[y*b.Stride:][:4*w]
		if keep == nil {
			countDiff(ra, rb, &hist)
			continue
		}
		for x := 0; x < w; x += TileSide {
			if keep.at(x, y) {
				end := 4 * min(x+TileSide, w)
				countDiff(ra[4*x:end], rb[4*x:end], &hist)
			}
		}
	}
	var d PixelDiff
	var n, sum, squares, alphaN, alphaSum int64
	var rgb [256]int64
	alpha := &hist[3]
	for v := range rgb {
		rgb[v] = hist[0][v] + hist[1][v] + hist[2][v]
		n += rgb[v]
		sum += int64(v) * rgb[v]
		squares += int64(v) * int64(v) * rgb[v]
		if rgb[v] > 0 {
			d.Max = v
		}
		alphaN += alpha[v]
		alphaSum += int64(v) * alpha[v]
	}
	if n == 0 {
		return PixelDiff{MeanAbs: math.NaN(), MSE: math.NaN(), AlphaMA: math.NaN()}
	}
	var seen int64
	for v := range rgb {
		if seen += rgb[v]; seen*100 >= n*99 {
			d.P99 = v
			break
		}
	}
	d.MeanAbs, d.MSE, d.AlphaMA = float64(sum)/float64(n), float64(squares)/float64(n), float64(alphaSum)/float64(alphaN)
	return d
}

// countDiff adds to histograms: one table look-up a byte gives every statistic at once.
func countDiff(a, b []uint8, hist *[4][256]int64) {
	b = b[:len(a)]
	for i := 0; i+3 < len(a); i += 4 {
		hist[0][absDiff(a[i], b[i])]++
		hist[1][absDiff(a[i+1], b[i+1])]++
		hist[2][absDiff(a[i+2], b[i+2])]++
		hist[3][absDiff(a[i+3], b[i+3])]++
	}
}

// absDiff has no branch: the sign of noise cannot be predicted.
func absDiff(a, b uint8) uint8 {
	d := int32(a) - int32(b)
	sign := d >> 31
	return uint8((d ^ sign) - sign)
}

// comparable2 is an error for pictures that cannot be compared pixel by pixel.
func comparable2(a, b image.Rectangle) error {
	if a.Empty() || a.Size() != b.Size() {
		return fmt.Errorf("compare %dx%d with %dx%d pixels: the sizes must be equal and not empty", a.Dx(), a.Dy(), b.Dx(), b.Dy())
	}
	return nil
}

// LumaStats gives mean and standard deviation of a luma plane, 0-255.
func LumaStats(g *image.Gray) (mean, stddev float64) {
	var sum, squares, n uint64
	w := g.Rect.Dx()
	for y := range g.Rect.Dy() {
		for _, v := range g.Pix[y*g.Stride:][:w] {
			sum += uint64(v)
			squares += uint64(v) * uint64(v)
		}
		n += uint64(w)
	}
	if n == 0 {
		return math.NaN(), math.NaN()
	}
	mean = float64(sum) / float64(n)
	return mean, math.Sqrt(max(0, float64(squares)/float64(n)-mean*mean))
}
