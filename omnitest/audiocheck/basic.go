package audiocheck

import (
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode"
)

// Is demands this format of the samples.
func Is(want Format) Check {
	return check("format", "wrong audio format", func(s Sound, f *finding) {
		if s.Format != want {
			f.fail("%s, want %s", s.Format, want)
		}
	})
}

// Finite demands that every sample is a number. NaN is what a broken vocoder makes, and a converter turns it into silence.
func Finite() Check {
	return check("finite", "sound holds what is no number", func(s Sound, f *finding) {
		bad, first := 0, -1
		for i, v := range s.Samples {
			if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
				if bad++; first < 0 {
					first = i
				}
			}
		}
		f.metrics = append(f.metrics, Metric{Name: "not-finite", Value: float64(bad), Direction: "<=", Note: "samples"})
		if bad > 0 {
			f.fail("%d of %d samples are NaN or infinite, the first at %.3f s", bad, len(s.Samples),
				float64(first/s.Format.Channels)/float64(s.Format.Rate))
		}
	})
}

// Duration demands a duration within 5 % or 50 ms of the wanted one, whichever is more. It is counted from the samples.
func Duration(want time.Duration) Check {
	return check("duration", "wrong duration", func(s Sound, f *finding) {
		tolerance := max(f.bounds.DurationShare*want.Seconds(), f.bounds.DurationSeconds)
		off := math.Abs(s.Duration().Seconds() - want.Seconds())
		m := Metric{Name: "duration-off", Value: off, Bound: tolerance, Direction: "<=", Note: "s"}
		f.metrics = append(f.metrics, m)
		if want <= 0 {
			f.fail("no duration was asked for (%s), so none can be checked", want)
		} else if !m.OK() {
			f.fail("%s, want %s within %s", seconds(s.Duration()), seconds(want), seconds(time.Duration(tolerance*1e9)))
		}
	})
}

// Samples demands exactly n samples of every channel, where a request names the duration: vLLM-Omni's own tests hold its
// engines to duration * rate.
func Samples(n int) Check {
	return check("samples", "wrong number of samples", func(s Sound, f *finding) {
		f.note("samples", float64(s.Frames()), "")
		if s.Frames() != n {
			f.fail("%d of each channel, want %d (%+d)", s.Frames(), n, s.Frames()-n)
		}
	})
}

// Pace demands a speech rate that a voice can have, between lo and hi characters a second, letters, digits and hanzi alone
// counted. People read English aloud with 12 to 17 letters a second and Chinese with 3.5 to 6 hanzi; wide limits of 5 to 30
// and 1.5 to 10 leave room for fast and slow voices and still see a text that was cut or said twice.
func Pace(text string, lo, hi float64) Check {
	return check("pace", "speech is too long or too short for its text", func(s Sound, f *finding) {
		n := 0
		for _, r := range text {
			if unicode.IsLetter(r) || unicode.IsDigit(r) {
				n++
			}
		}
		if n == 0 {
			f.fail("the text %q has nothing to say, so no pace can be checked", clip(text, 40))
			return
		}
		what := fmt.Sprintf("%d characters in %s, characters a second", n, seconds(s.Duration()))
		pace := float64(n) / s.Duration().Seconds()
		f.atLeast("pace", pace, lo, what, "")
		f.atMost("pace", pace, hi, what, "")
	})
}

// frameLevel is the length of the frames whose loudness is judged.
const frameLevel = 0.020 // s

// levels gives the RMS of each whole 20 ms frame in dBFS, at least -120. A sound shorter than a frame is one.
func levels(mono []float64, rate int) []float64 {
	n := max(1, min(int(frameLevel*float64(rate)), len(mono)))
	out := make([]float64, 0, len(mono)/n)
	for ; len(mono) >= n; mono = mono[n:] {
		out = append(out, decibel(power(mono[:n])))
	}
	return out
}

func power(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v * v
	}
	return sum / float64(max(1, len(x)))
}

// decibel of a power, at least -120.
func decibel(p float64) float64 { return 10 * math.Log10(max(p, 1e-12)) }

// NotSilent demands a sound: RMS of -50 dBFS or more, a fifth of its frames above that, and no silence of more than two
// seconds. dBFS is relative to a full-scale square wave.
func NotSilent() Check {
	return check("not-silent", "sound is silent", func(s Sound, f *finding) {
		mono := s.mono()
		active, run, longest := 0, 0, 0
		all := levels(mono, s.Format.Rate)
		for _, db := range all {
			if db > f.bounds.MinRMS {
				active, run = active+1, 0
				continue
			}
			run++
			longest = max(longest, run)
		}
		f.atLeast("rms", decibel(power(mono)), f.bounds.MinRMS, "RMS", "dBFS")
		f.atLeast("active-frames", float64(active)/float64(max(1, len(all))), f.bounds.ActiveFrames, "share of frames with sound", "of 1")
		f.atMost("longest-silence", float64(longest)*frameLevel, f.bounds.LongestSilence, "longest silence", "s")
	})
}

// fullScale is where a sample counts as clipped: the last step of 16 bit integers, as 32767 is the largest that exists.
const fullScale = 32766.5 / 32768

// NotClipped demands that at most one sample in a thousand lies in a run of three and more at full scale: a peak may touch it,
// a plateau is an overdriven gain.
func NotClipped() Check {
	return check("not-clipped", "sound is clipped", func(s Sound, f *finding) {
		clipped, ch := 0, s.Format.Channels
		for c := range ch {
			run := 0
			for i := c; i < len(s.Samples)+ch; i += ch {
				if i < len(s.Samples) && math.Abs(float64(s.Samples[i])) >= fullScale {
					run++
					continue
				}
				if run >= 3 {
					clipped += run
				}
				run = 0
			}
		}
		f.atMost("clipped", float64(clipped)/float64(len(s.Samples)), f.bounds.Clipped, "share of samples at full scale", "in runs of 3 and more")
	})
}

// Centred demands a mean of at most 1 % of full scale in every channel: a DC offset clicks at both ends and eats headroom.
func Centred() Check {
	return check("centred", "sound has a DC offset", func(s Sound, f *finding) {
		for c := range s.Format.Channels {
			sum := 0.0
			for i := c; i < len(s.Samples); i += s.Format.Channels {
				sum += float64(s.Samples[i])
			}
			name, what := "dc-offset", "mean"
			if s.Format.Channels > 1 {
				name, what = "dc-offset-"+strconv.Itoa(c), "mean of channel "+strconv.Itoa(c)
			}
			f.atMost(name, math.Abs(sum)/float64(s.Frames()), f.bounds.DCOffset, what, "of full scale")
		}
	})
}
