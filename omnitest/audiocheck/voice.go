package audiocheck

import (
	"math"
	"slices"
)

// Voiced demands harmonics: a mean harmonics-to-noise ratio of 1 dB or more over the frames that are not silent. It sees noise,
// hiss and broken vocoders without any model, and silence too (nothing is voiced).
func Voiced() Check {
	return check("voiced", "sound is no voice", func(s Sound, f *finding) {
		db, frames := HNR(s.mono(), s.Format.Rate)
		f.note("hnr-frames", float64(frames), "frames judged")
		if frames == 0 {
			f.metrics = append(f.metrics, Metric{Name: "hnr", Value: math.NaN(), Bound: f.bounds.HNR, Direction: ">=", Note: "dB"})
			f.fail("no frame reaches 1 %% of full scale, so there is nothing to judge")
			return
		}
		f.atLeast("hnr", db, f.bounds.HNR, "harmonics to noise", "dB")
	})
}

// HNR is the mean harmonics-to-noise ratio in dB over frames of 30 ms that reach 1 % of full scale, and the number of those
// frames. Of a frame with normalised autocorrelation r at the best lag of a pitch between 80 and 400 Hz it is
// 10*log10(r/(1-r)) (Boersma 1993), within -20 to 40 dB. The same frames, lags and silence limit as vLLM-Omni's test of its
// voices, without its code. Rates of 48 kHz and more are first averaged down to 24 to 48 kHz: the work grows with the square of the
// rate, and a pitch lies far below.
func HNR(mono []float64, rate int) (db float64, frames int) {
	if k := rate / 24000; k > 1 {
		mono, rate = averaged(mono, k), rate/k
	}
	n := rate * 30 / 1000
	lo, hi := max(1, rate/400), rate/80
	if hi >= n {
		hi = n - 1
	}
	for ; len(mono) >= n && n > 0; mono = mono[n:] {
		frame := mono[:n]
		if peak(frame) < 0.01 {
			continue
		}
		best := 0.0
		for lag := lo; lag <= hi; lag++ {
			a, b := frame[:n-lag], frame[lag:]
			var ab, aa, bb float64
			for i, v := range a {
				ab += v * b[i]
				aa += v * v
				bb += b[i] * b[i]
			}
			if aa > 0 && bb > 0 {
				best = max(best, ab/math.Sqrt(aa*bb))
			}
		}
		db += max(-20, min(40, 10*math.Log10(max(best, 1e-9)/max(1-best, 1e-9))))
		frames++
	}
	if frames > 0 {
		db /= float64(frames)
	}
	return db, frames
}

// averaged takes the mean of every k samples.
func averaged(x []float64, k int) []float64 {
	out := make([]float64, len(x)/k)
	for i := range out {
		for _, v := range x[i*k:][:k] {
			out[i] += v / float64(k)
		}
	}
	return out
}

func peak(x []float64) float64 {
	p := 0.0
	for _, v := range x {
		p = max(p, math.Abs(v))
	}
	return p
}

// NotNoise demands a spectrum with peaks: a median spectral flatness of at most 0.35 over the frames that are not silent.
func NotNoise() Check {
	return check("not-noise", "sound is noise", func(s Sound, f *finding) {
		flat, frames := Flatness(s.mono(), s.Format.Rate)
		f.note("flatness-frames", float64(frames), "frames judged")
		if frames == 0 {
			flat = math.NaN() // nothing was measured, and nothing passes unmeasured
		}
		f.atMost("flatness", flat, f.bounds.Flatness, "spectral flatness", "median, 1 is flat")
	})
}

// Flatness is the median over frames of 25 ms, of those that reach 1 % of full scale, of the geometric over the arithmetic mean
// of the power spectrum from 50 Hz to 8 kHz, and the number of those frames. White noise gives 0.56 (its periodogram scatters
// exponentially, whose geometric mean is e to the minus 0.577), a voice less than a tenth of that.
func Flatness(mono []float64, rate int) (flat float64, frames int) {
	p := planFor(rate)
	buf, pow := make([]complex128, p.size), make([]float64, p.size/2+1)
	bin := float64(rate) / float64(p.size)
	first, last := int(50/bin)+1, min(int(melTop/bin), p.size/2)
	var all []float64
	for ; len(mono) >= p.window; mono = mono[p.window:] {
		frame := mono[:p.window]
		if peak(frame) < 0.01 {
			continue
		}
		spectrum(frame, p.hann, buf, pow, p.twiddle)
		logs, sum := 0.0, 0.0
		for _, v := range pow[first : last+1] {
			logs += math.Log(max(v, 1e-20))
			sum += max(v, 1e-20)
		}
		n := float64(last + 1 - first)
		all = append(all, math.Exp(logs/n)/(sum/n))
	}
	if len(all) == 0 {
		return 0, 0
	}
	slices.Sort(all)
	return all[len(all)/2], len(all)
}

// Quiet demands quiet pauses: 20 dB between the loud frames (95th percentile) and the quietest (5th percentile). It needs
// speech that pauses; of a sound without any pause it says that the floor is loud, which is then true.
func Quiet() Check {
	return check("quiet", "sound has a loud noise floor", func(s Sound, f *finding) {
		all := levels(s.mono(), s.Format.Rate)
		slices.Sort(all)
		loud, floor := all[(len(all)-1)*95/100], all[(len(all)-1)*5/100]
		f.note("noise-floor", floor, "dBFS")
		f.atLeast("snr", loud-floor, f.bounds.SNR, "loud frames over pauses", "dB")
	})
}
