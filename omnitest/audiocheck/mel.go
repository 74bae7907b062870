package audiocheck

import (
	"math"
	"math/cmplx"
	"sync"
)

// MelBands is the number of bands of a [Mel].
const MelBands = 80

const (
	melTop    = 8000.0 // Hz, or half the sample rate where that is less: above it speech holds little and resamplers differ
	melHop    = 0.010  // s
	melWindow = 0.025  // s
	melFloor  = 1e-10  // of power: log10 of silence
)

// Mel is a log-mel spectrogram: one row of [MelBands] values for every 10 ms, each the log10 of the power in a band.
type Mel [][MelBands]float32

// LogMel is the log-mel spectrogram of mono samples, the definition that Whisper's and vLLM's audio front ends share: periodic
// Hann window of 25 ms every 10 ms, power spectrum, 80 triangular bands on Slaney's mel scale with Slaney's area
// normalisation (Auditory Toolbox, 1998; the defaults of librosa.filters.mel), log10 of at least 1e-10. Two things differ,
// both without effect on a comparison of two Mels: frames are not reflected at the ends (row i begins at sample i*hop), and the
// window is padded to a power of two for the FFT. Sounds shorter than a window give one row.
func LogMel(mono []float64, rate int) Mel {
	if len(mono) == 0 || rate <= 0 {
		return nil
	}
	p := planFor(rate)
	rows := max(1, 1+(len(mono)-p.window)/p.hop)
	if len(mono) < p.window {
		rows = 1
	}
	out := make(Mel, rows)
	buf := make([]complex128, p.size)
	power := make([]float64, p.size/2+1)
	for r := range out {
		frame := mono[min(r*p.hop, len(mono)):]
		spectrum(frame[:min(len(frame), p.window)], p.hann, buf, power, p.twiddle)
		for b := range p.bands {
			sum := 0.0
			for i, w := range p.bands[b].weight {
				sum += w * power[p.bands[b].first+i]
			}
			out[r][b] = float32(math.Log10(max(sum, melFloor)))
		}
	}
	return out
}

// plan holds what depends on the sample rate alone.
type plan struct {
	window, hop, size int
	hann              []float64
	twiddle           []complex128
	bands             [MelBands]band
}

// band is one triangle over the bins of the spectrum.
type band struct {
	first  int
	weight []float64
}

var plans sync.Map // int -> *plan: a handful of sample rates, computed once each

func planFor(rate int) *plan {
	if p, ok := plans.Load(rate); ok {
		return p.(*plan)
	}
	known := 0
	plans.Range(func(any, any) bool { known++; return true })
	p := newPlan(rate)
	if known < 32 { // odd rates of hostile files must not fill the memory
		plans.Store(rate, p)
	}
	return p
}

func newPlan(rate int) *plan {
	p := &plan{window: max(1, int(melWindow*float64(rate))), hop: max(1, int(melHop*float64(rate))), size: 512}
	for p.size < p.window {
		p.size *= 2
	}
	p.hann = hann(p.window)
	p.twiddle = twiddles(p.size)
	top := min(melTop, float64(rate)/2)
	edges := make([]float64, MelBands+2) // Hz, equally spaced in mel
	for i := range edges {
		edges[i] = melToHz(hzToMel(top) * float64(i) / float64(MelBands+1))
	}
	bin := float64(rate) / float64(p.size)
	for b := range p.bands {
		lo, mid, hi := edges[b], edges[b+1], edges[b+2]
		first := int(math.Ceil(lo / bin))
		var w []float64
		for k := first; float64(k)*bin < hi && k <= p.size/2; k++ {
			f := float64(k) * bin
			w = append(w, max(0, min((f-lo)/(mid-lo), (hi-f)/(hi-mid)))*2/(hi-lo))
		}
		p.bands[b] = band{first, w}
	}
	return p
}

// hzToMel is Slaney's scale: linear up to 1000 Hz (15 mel), logarithmic above with 27 steps to 6400 Hz.
func hzToMel(hz float64) float64 {
	if hz < 1000 {
		return hz * 3 / 200
	}
	return 15 + 27*math.Log(hz/1000)/math.Log(6.4)
}

func melToHz(mel float64) float64 {
	if mel < 15 {
		return mel * 200 / 3
	}
	return 1000 * math.Exp((mel-15)*math.Log(6.4)/27)
}

// hann is the periodic Hann window, as spectra want it.
func hann(n int) []float64 {
	w := make([]float64, n)
	for i := range w {
		w[i] = 0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/float64(n))
	}
	return w
}

// spectrum puts the power spectrum of a windowed frame, zero padded to len(buf), into power.
func spectrum(frame, window []float64, buf []complex128, power []float64, twiddle []complex128) {
	clear(buf)
	for i, v := range frame {
		buf[i] = complex(v*window[i], 0)
	}
	fft(buf, twiddle)
	for k := range power {
		re, im := real(buf[k]), imag(buf[k])
		power[k] = re*re + im*im
	}
}

// twiddles are the roots of unity that fft of size n needs.
func twiddles(n int) []complex128 {
	w := make([]complex128, n/2)
	for i := range w {
		w[i] = cmplx.Rect(1, -2*math.Pi*float64(i)/float64(n))
	}
	return w
}

// fft is the radix-2 transform of Cooley and Tukey, in place; len(x) is a power of two and twiddle belongs to it.
func fft(x, twiddle []complex128) {
	n := len(x)
	for i, j := 1, 0; i < n; i++ { // bit reversal
		bit := n >> 1
		for ; j&bit != 0; bit >>= 1 {
			j ^= bit
		}
		j ^= bit
		if i < j {
			x[i], x[j] = x[j], x[i]
		}
	}
	for size := 2; size <= n; size *= 2 {
		half, step := size/2, n/size
		for start := 0; start < n; start += size {
			for k := range half {
				a, b := x[start+k], x[start+k+half]*twiddle[k*step]
				x[start+k], x[start+k+half] = a+b, a-b
			}
		}
	}
}
