package audiocheck

import (
	"fmt"
	"math"
)

// Same demands the very same samples as another sound: the same request twice, or streamed and whole. Headers may differ.
func Same(other Sound) Check {
	return check("same", "sound differs from the other one", func(s Sound, f *finding) {
		if !f.comparable(s, other, "other") {
			return
		}
		f.expected = &other
		if s.SHA256() == other.SHA256() {
			return
		}
		n := min(len(s.Samples), len(other.Samples))
		differ, first, most := 0, -1, 0.0
		for i := range n {
			if math.Float32bits(s.Samples[i]) == math.Float32bits(other.Samples[i]) {
				continue
			}
			if differ++; first < 0 {
				first = i
			}
			most = max(most, math.Abs(float64(s.Samples[i])-float64(other.Samples[i])))
		}
		f.metrics = append(f.metrics, Metric{Name: "samples-differ", Value: float64(differ), Direction: "<="})
		f.note("most", most, "of full scale")
		switch {
		case len(s.Samples) != len(other.Samples) && differ == 0:
			f.fail("%d samples, the other has %d; the first %d are equal", len(s.Samples), len(other.Samples), n)
		case len(s.Samples) != len(other.Samples):
			f.fail("%d samples, the other has %d; they part at %.3f s", len(s.Samples), len(other.Samples), s.at(first))
		default:
			f.fail("%d of %d samples, from %.3f s on, by at most %s of full scale", differ, n, s.at(first), number(most))
		}
	})
}

// at is the time of sample i in seconds.
func (s Sound) at(i int) float64 { return float64(i/s.Format.Channels) / float64(s.Format.Rate) }

// comparable fails and returns false if the two cannot be compared sample by sample. A mismatch is never skipped.
func (f *finding) comparable(s, other Sound, name string) bool {
	switch {
	case other.derived == nil:
		f.fail("there is no %s sound to compare with", name)
	case s.Format.Rate != other.Format.Rate || s.Format.Channels != other.Format.Channels:
		f.fail("it is %s, the %s %s", s.Format, name, other.Format)
	default:
		return true
	}
	return false
}

// Like demands the sound of another: its duration (as [Duration]), and a log-mel distance of at most 0.8 dB in the mean and
// 1.5 dB in the worst 60 ms, after the shift of up to 50 ms that suits best. It asks for what a golden of the same voice and seed
// gives; another voice saying the same text is not like it.
func Like(other Sound) Check {
	return check("like", "sound differs from the other one", func(s Sound, f *finding) {
		if f.comparable(s, other, "other") {
			f.like(s, other, "other")
		}
	})
}

func (f *finding) like(s, other Sound, name string) {
	f.expected = &other
	tolerance := max(f.bounds.DurationShare*other.Duration().Seconds(), f.bounds.DurationSeconds)
	off := math.Abs(s.Duration().Seconds() - other.Duration().Seconds())
	m := Metric{Name: "duration-off", Value: off, Bound: tolerance, Direction: "<=", Note: "s"}
	f.metrics = append(f.metrics, m)
	if !m.OK() {
		f.fail("it lasts %s, the %s %s", seconds(s.Duration()), name, seconds(other.Duration()))
	}
	d, shift := nearest(s, other, f.bounds.MelShift)
	f.note("logmel-shift", shift, "s")
	what := fmt.Sprintf("log-mel distance at %.2f s", float64(d.At)*melHop)
	f.atMost("logmel-worst", d.Worst, f.bounds.MelWorst, what, "dB, worst 60 ms")
	f.atMost("logmel-mean", d.Mean, f.bounds.MelMean, "mean log-mel distance", "dB")
}

// melParts is into how many parts a hop is divided to bring two sounds in line: frames that are cut 5 ms apart differ by up to
// 2.4 dB for nothing, more than some wrong letters do.
const melParts = 4

// shifted are the spectrograms of mono samples that begin 0, 1, 2, 3 quarters of a hop late.
func shifted(mono []float64, rate int) []Mel {
	var out []Mel
	for part := range melParts {
		if skip := planFor(rate).hop * part / melParts; skip < len(mono) {
			out = append(out, LogMel(mono[skip:], rate))
		}
	}
	return out
}

// nearest is the distance at the best shift of up to maxShift seconds.
func nearest(s, other Sound, maxShift float64) (best MelDistance, shift float64) {
	for part, mel := range other.shifted() {
		d := Distance(s.mel(), mel, int(maxShift/melHop))
		if part == 0 || d.Mean < best.Mean {
			best, shift = d, (float64(d.Shift)-float64(part)/melParts)*melHop
		}
	}
	return best, shift
}

// MelDistance is how far two spectrograms are apart.
type MelDistance struct {
	Mean  float64   // dB, over all frames that both have
	Worst float64   // dB, of the worst [melStretch] frames in a row
	At    int       // first frame of those
	Shift int       // frames that the first lies behind the second
	Rows  []float64 // dB of each compared frame
}

const (
	melStretch = 6  // frames: 60 ms, a letter of fast speech; over 100 ms two wrong letters in 24 were missed
	melDepth   = 50 // dB below the loudest band of a sound: what lies deeper is noise floor, where anything may differ
)

// Distance compares two spectrograms: the mean absolute difference over the bands of each frame, in dB, at the shift of at most
// maxShift frames with the least mean. Each is first taken relative to its loudest value, so that gain does not count, and cut
// 50 dB below it, so that the noise floor does not. Frames that only one of them has, at its end, count for nothing here:
// compare the durations as well. Without frames in common all distances are NaN.
func Distance(a, b Mel, maxShift int) MelDistance {
	best := MelDistance{Mean: math.NaN(), Worst: math.NaN()}
	if len(a) == 0 || len(b) == 0 {
		return best
	}
	topA, topB := a.top(), b.top()
	for k := range 2*maxShift + 1 {
		shift := (k + 1) / 2 // 0, 1, -1, 2, -2: the least shift wins a draw
		if k%2 == 0 {
			shift = -shift
		}
		x, y := a, b
		if shift > 0 {
			x = x[min(shift, len(x)):]
		} else {
			y = y[min(-shift, len(y)):]
		}
		n := min(len(x), len(y))
		if n == 0 {
			continue
		}
		d := MelDistance{Shift: shift, Rows: make([]float64, n)}
		for i := range n {
			sum := 0.0
			for band := range MelBands {
				sum += math.Abs(relative(x[i][band], topA) - relative(y[i][band], topB))
			}
			d.Rows[i] = sum / MelBands
			d.Mean += d.Rows[i] / float64(n)
		}
		if math.IsNaN(best.Mean) || d.Mean < best.Mean-1e-12 {
			best = d
		}
	}
	best.stretch()
	return best
}

// stretch finds the worst frames in a row.
func (d *MelDistance) stretch() {
	n := min(melStretch, len(d.Rows))
	if n == 0 {
		return
	}
	sum, worst := 0.0, -1.0
	for i, v := range d.Rows {
		sum += v
		if i >= n {
			sum -= d.Rows[i-n]
		}
		if i >= n-1 && sum > worst {
			worst, d.At = sum, i-n+1
		}
	}
	d.Worst = worst / float64(n)
}

// top is the loudest value, as log10 of power.
func (m Mel) top() float64 {
	top := math.Log10(melFloor)
	for i := range m {
		for _, v := range m[i] {
			top = max(top, float64(v))
		}
	}
	return top
}

// relative is a value in dB below the loudest, at most melDepth.
func relative(v float32, top float64) float64 { return max(-melDepth, 10*(float64(v)-top)) }
