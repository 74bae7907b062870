package imagecheck

import (
	"fmt"
	"math"
)

// SamePixels demands the very same pixels: the same server, request and seed, alone, must repeat bit by bit. A miss says
// how far apart the two are.
func SamePixels(other Picture) Check {
	return check("same-pixels", "pixels differ", func(p Picture, f *finding) {
		if !f.sameSize(p, other, "other picture") || p.sha() == other.sha() {
			return
		}
		f.expected = other.Image
		d := diffIn(p.Image, other.Image, nil)
		f.note("PSNR", d.PSNR(), "dB")
		f.note("max-diff", float64(d.Max), "0-255")
		f.note("p99-diff", float64(d.P99), "0-255")
		f.note("alpha-diff", d.AlphaMA, "mean, 0-255")
		alpha := ""
		if d.AlphaMA > 0 {
			alpha = ", alpha " + number(d.AlphaMA)
		}
		f.fail("SHA-256 %.12s, want %.12s; PSNR %s dB, largest difference %d, 99 %% of the values within %d%s",
			p.sha(), other.sha(), number(d.PSNR()), d.Max, d.P99, alpha)
	})
}

// SameUnderLoad demands the same picture as without neighbours in the batch, up to low bits: equal pixels, else
// PSNR >= 40 dB and SSIM >= 0.99. (Batch size changes the order of sums.)
func SameUnderLoad(alone Picture) Check {
	return check("same-under-load", "picture differs under load", func(p Picture, f *finding) {
		if !f.sameSize(p, alone, "picture made alone") || p.sha() == alone.sha() {
			return
		}
		f.expected = alone.Image
		f.atLeast("PSNR", diffIn(p.Image, alone.Image, nil).PSNR(), f.bounds.LoadPSNR, "PSNR", "dB")
		f.atLeast("SSIM", f.graySSIM(p, alone, nil), f.bounds.LoadSSIM, "SSIM", "luma")
	})
}

// Parity compares with the control's picture of the same prompt, size, steps and initial noise: SSIM >= 0.94 (mean over
// R, G, B, as torchmetrics) and PSNR >= 27 dB. Above 1.5 megapixels or from 50 steps on small differences grow and the
// rule is mean |difference| <= 0.03 and its 99th percentile <= 0.4 of full scale. Both rules are vLLM-Omni's. Below SSIM 0.97
// or PSNR 30 dB it warns.
func Parity(control Picture) Check {
	return parity("parity", "picture differs from control", control, func(b Bounds) (least, warn float64) { return b.ParityPSNR, b.WarnParityPSNR })
}

// ParityEdit is Parity for an edit of the same input by the same instruction: PSNR >= 28 dB, as much of the picture is the
// input's.
func ParityEdit(control Picture) Check {
	return parity("parity-edit", "edit differs from control", control, func(b Bounds) (least, warn float64) { return b.ParityEditPSNR, 0 })
}

func parity(name, prefix string, control Picture, levels func(Bounds) (least, warn float64)) Check {
	return check(name, prefix, func(p Picture, f *finding) {
		if !f.sameSize(p, control, "control's picture") || p.sha() == control.sha() {
			return
		}
		f.expected = control.Image
		least, warn := levels(f.bounds)
		d := diffIn(p.Image, control.Image, nil)
		if s := p.Size(); s.W*s.H > 1_500_000 || p.Case.Steps >= 50 {
			f.note("PSNR", d.PSNR(), "dB")
			f.atMost("mean-diff", d.MeanAbs/255, 0.03, "mean difference", "of full scale")
			f.atMost("p99-diff", float64(d.P99)/255, 0.4, "99th percentile of the difference", "of full scale")
			return
		}
		f.atLeastBetter("PSNR", d.PSNR(), least, warn, "PSNR", "dB")
		v, err := SSIMRGB(p.Image, control.Image)
		if err != nil {
			f.fail("%v", err)
			return
		}
		f.atLeastBetter("SSIM-RGB", v, f.bounds.ParitySSIM, f.bounds.WarnParitySSIM, "SSIM", "mean of R, G, B")
	})
}

// Distinct demands that this picture is another one than each of the others, which were made from other prompts: it fails
// where pHash64 and ExtP256 both lie below their bounds. A server that ignores the prompt, or answers from a foreign
// cache, is caught here. It is not for prompts that differ in a few letters. Without others there is nothing to tell apart
// and nothing is checked.
func Distinct(others ...Picture) Check {
	return check("distinct", "pictures of different prompts are alike", func(p Picture, f *finding) {
		for i, o := range others {
			if o.derived == nil {
				f.fail("there is no picture %d to compare with", i)
				continue
			}
			h, x, err := hashDistances(p, o)
			if err != nil {
				f.fail("picture %d: %v", i, err)
				continue
			}
			name := fmt.Sprintf("other-%d.", i)
			if h < f.bounds.DistinctPHash64 && x < f.bounds.DistinctExtP256 {
				f.metrics = append(f.metrics,
					Metric{Name: name + "pHash64", Value: float64(h), Bound: float64(f.bounds.DistinctPHash64), Direction: ">="},
					Metric{Name: name + "ExtP256", Value: float64(x), Bound: float64(f.bounds.DistinctExtP256), Direction: ">="})
				if f.expected == nil {
					f.expected = o.Image
				}
				f.fail("distance %d, at least %d (pHash64), and %d, at least %d (ExtP256), to the picture of prompt %q",
					h, f.bounds.DistinctPHash64, x, f.bounds.DistinctExtP256, clip(o.Case.Prompt, 60))
				continue
			}
			f.note(name+"pHash64", float64(h), "of 64")
			f.note(name+"ExtP256", float64(x), "of 256")
		}
	})
}

// hashDistances compares whole pictures.
func hashDistances(a, b Picture) (p64, x256 int, err error) {
	h, err := a.phash()
	if err != nil {
		return 0, 0, err
	}
	x, err := a.extp()
	if err != nil {
		return 0, 0, err
	}
	return distances(h, x, b)
}

// distances compares a whole picture with hashes.
func distances(h, x Hash, p Picture) (p64, x256 int, err error) {
	ph, err := p.phash()
	if err != nil {
		return 0, 0, err
	}
	px, err := p.extp()
	if err != nil {
		return 0, 0, err
	}
	if p64, err = h.Distance(ph); err != nil {
		return 0, 0, err
	}
	x256, err = x.Distance(px)
	return p64, x256, err
}

// graySSIM is SSIM of luma over the kept tiles.
func (f *finding) graySSIM(p, o Picture, keep *tileSet) float64 {
	a, b := p.luma(), o.luma()
	if a.Rect.Size() != b.Rect.Size() {
		return math.NaN()
	}
	return ssim(plane{a.Pix, a.Stride, 1}, plane{b.Pix, b.Stride, 1}, a.Rect.Dx(), a.Rect.Dy(), keep)
}
