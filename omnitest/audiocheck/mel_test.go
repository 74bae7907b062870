package audiocheck

import (
	"math"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// slowMel computes row r of a log-mel spectrogram the long way, from the written definition and without a line of the code
// under test: a sum over all samples for each bin (no FFT), and for each bin and band the triangle from the mel scale as a
// table of published points, not as a formula.
func slowMel(mono []float64, rate, r int) [MelBands]float64 {
	window, hop, size := rate*25/1000, rate/100, 512
	for size < window {
		size *= 2
	}
	powers := make([]float64, size/2+1)
	for k := range powers {
		var re, im float64
		for n := range window {
			v := mono[r*hop+n] * math.Pow(math.Sin(math.Pi*float64(n)/float64(window)), 2)
			re += v * math.Cos(2*math.Pi*float64(k)*float64(n)/float64(size))
			im += v * math.Sin(2*math.Pi*float64(k)*float64(n)/float64(size))
		}
		powers[k] = re*re + im*im
	}
	// Slaney's filter bank by its own construction: centres 66.67 Hz apart up to 1000 Hz, then a factor of 1.0711703 each.
	toHz := func(mel float64) float64 {
		if mel <= 15 {
			return mel * 66.66666666666667
		}
		return 1000 * math.Pow(1.0711702874914722, mel-15)
	}
	toMel := func(hz float64) float64 { // by bisection of toHz
		lo, hi := 0.0, 100.0
		for range 200 {
			if mid := (lo + hi) / 2; toHz(mid) < hz {
				lo = mid
			} else {
				hi = mid
			}
		}
		return lo
	}
	top := toMel(min(8000, float64(rate)/2))
	var out [MelBands]float64
	for b := range out {
		left, mid, right := toHz(top*float64(b)/81), toHz(top*float64(b+1)/81), toHz(top*float64(b+2)/81)
		sum := 0.0
		for k, p := range powers {
			hz := float64(k*rate) / float64(size)
			switch {
			case hz > left && hz <= mid:
				sum += p * (hz - left) / (mid - left) * 2 / (right - left)
			case hz > mid && hz < right:
				sum += p * (right - hz) / (right - mid) * 2 / (right - left)
			}
		}
		out[b] = math.Log10(max(sum, 1e-10))
	}
	return out
}

func TestLogMelEqualsItsDefinition(t *testing.T) {
	for _, rate := range []int{16000, 24000} {
		mono := make([]float64, rate/4)
		for i := range mono {
			x := float64(i) / float64(rate)
			mono[i] = 0.3*math.Sin(2*math.Pi*220*x) + 0.1*math.Sin(2*math.Pi*(1000+4000*x)*x) + 0.01*math.Sin(float64(i*i%977))
		}
		got := LogMel(mono, rate)
		require.Len(t, got, 1+(len(mono)-rate*25/1000)/(rate/100))
		for _, r := range []int{0, 7, len(got) - 1} {
			want := slowMel(mono, rate, r)
			for b := range want {
				assert.InDelta(t, want[b], got[r][b], 1e-5, "%d Hz, row %d, band %d", rate, r, b)
			}
		}
	}
}

// The scale by points that anyone can check: librosa's documentation gives 1000 Hz = 15 mel; 27 steps lead from 1000 to 6400 Hz.
func TestMelScale(t *testing.T) {
	for hz, mel := range map[float64]float64{0: 0, 200: 3, 440: 6.6, 1000: 15, 6400: 42} {
		assert.InDelta(t, mel, hzToMel(hz), 1e-9)
		assert.InDelta(t, hz, melToHz(mel), 1e-9)
	}
}

func TestFFT(t *testing.T) {
	const n = 64
	x := make([]complex128, n)
	for i := range x {
		x[i] = complex(math.Sin(float64(i*i)), math.Cos(float64(3*i)))
	}
	want := make([]complex128, n)
	for k := range want {
		for i, v := range x {
			a := -2 * math.Pi * float64(k*i) / n
			want[k] += v * complex(math.Cos(a), math.Sin(a))
		}
	}
	fft(x, twiddles(n))
	for k := range want {
		assert.InDelta(t, real(want[k]), real(x[k]), 1e-9)
		assert.InDelta(t, imag(want[k]), imag(x[k]), 1e-9)
	}
}

// A tone must land in the band of its frequency.
func TestToneLandsInItsBand(t *testing.T) {
	for _, hz := range []float64{300, 1000, 3000} {
		mono := make([]float64, 2400)
		for i := range mono {
			mono[i] = math.Sin(2 * math.Pi * hz * float64(i) / 24000)
		}
		row, best := LogMel(mono, 24000)[0], 0
		for b := range row {
			if row[b] > row[best] {
				best = b
			}
		}
		centre := melToHz(hzToMel(8000) * float64(best+1) / 81)
		assert.InDelta(t, hz, centre, 0.06*hz)
	}
}

func TestShortAndEmptySounds(t *testing.T) {
	assert.Nil(t, LogMel(nil, 24000))
	assert.Len(t, LogMel([]float64{1}, 24000), 1)
	assert.True(t, math.IsNaN(Distance(nil, Mel{{}}, 3).Worst), "nothing in common is not measured")
	d := Distance(Mel{{}}, Mel{{}}, 3)
	assert.Zero(t, d.Worst)
}

func BenchmarkChecks(b *testing.B) {
	s := voiceOf(b, "The quick brown fox jumps over the lazy dog, and then the dog sleeps.", "alto")
	b.ReportMetric(s.Duration().Seconds(), "audio-s")
	b.ReportAllocs()
	for b.Loop() {
		fresh, _ := Of(s.Samples, s.Format)
		for _, c := range []Check{Finite(), NotSilent(), NotClipped(), Centred(), Voiced(), NotNoise(), Quiet(), Like(s)} {
			if err := c(fresh); err != nil {
				b.Fatal(err)
			}
		}
	}
}
