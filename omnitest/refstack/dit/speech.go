package dit

import (
	"math"
	"strings"
	"time"
	"unicode"
)

// SpeechRate is the sample rate of the reference voice, one channel of 16 bit: as vLLM-Omni's voices.
const SpeechRate = 24000

// Utterance is one in-process speech (no HTTP): the offline entry.
type Utterance struct {
	Text  string
	Voice string  // one of [Voices]; "": the first
	Speed float64 // 0: 1; 2 is twice as fast
	Seed  int64   // of the breath noise under the voice, 66 dB below full scale
}

// Voices are the names that a request may use, each with another pitch.
var Voices = []string{"alto", "bass"}

// voicePitch is the fundamental in Hz, within what a test of voices looks for (80 to 400).
var voicePitch = map[string]float64{"alto": 190, "bass": 110}

// sound is one letter of an utterance as it is spoken.
type sound struct {
	seconds float64
	formant [3]float64 // Hz; 0: a pause
	glide   float64    // of the pitch from begin to end, as a share: the tones of Chinese
}

// lead and tail are the silences around a speech.
const lead, tail = 0.040, 0.120

// sounds says how a text is spoken, letter by letter: every character has formants and a length of its own, so that another
// text is another sound, and a longer text a longer one. It isn't meant to be understood by people.
func sounds(text string) []sound {
	var out []sound
	for _, r := range strings.ToLower(text) {
		switch {
		case unicode.IsSpace(r):
			out = append(out, sound{seconds: 0.055})
		case unicode.Is(unicode.Han, r):
			h := hashString(string(r))
			tone := []float64{0, 0.18, -0.12, -0.25}[h>>32%4] / 2
			// An initial and a final, as syllables have: with one sound each, 的 and 家 were homophones.
			out = append(out, sound{0.085, formants(h), tone}, sound{0.105, formants(mix(h)), tone})
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			s := sound{seconds: 0.065, formant: formants(hashString(string(r)))}
			switch {
			case strings.ContainsRune("aeiou", r):
				s.seconds = 0.095
			case unicode.IsDigit(r):
				s.seconds = 0.150
			}
			if r >= 'a' && r <= 'z' { // no two letters of English share their formants
				i := float64(r - 'a')
				s.formant = [3]float64{300 + 110*math.Mod(i, 5), 950 + 290*math.Floor(i/5), 2500 + 180*math.Mod(i, 3)}
			}
			out = append(out, s)
		case unicode.IsPunct(r) && r != '\'' && r != '-':
			out = append(out, sound{seconds: 0.180})
		}
	}
	return out
}

// formants of a character by its hash, apart enough that neighbours differ audibly: 7 x 9 x 5 places.
func formants(h uint64) [3]float64 {
	return [3]float64{280 + 85*float64(h%7), 900 + 190*float64(h>>8%9), 2500 + 220*float64(h>>16%5)}
}

func (u Utterance) speed() float64 {
	if u.Speed <= 0 {
		return 1
	}
	return u.Speed
}

// Duration is how long the utterance is. It is exact: [Speak] gives as many samples.
func (u Utterance) Duration() time.Duration {
	n := u.samples()
	return time.Duration(float64(n) / SpeechRate * float64(time.Second))
}

func (u Utterance) samples() int {
	n := seconds(lead) + seconds(tail)
	for _, s := range sounds(u.Text) {
		n += seconds(s.seconds / u.speed())
	}
	return n
}

func seconds(s float64) int { return int(s * SpeechRate) }

// Speak gives the samples. Equal utterances give equal samples. Text without a letter, a digit or a hanzi gives nil: there is
// nothing to say.
func Speak(u Utterance) []int16 {
	pitch := voicePitch[u.Voice]
	if pitch == 0 {
		pitch = voicePitch[Voices[0]]
	}
	said := sounds(u.Text)
	voiced := false
	for _, s := range said {
		voiced = voiced || s.formant[0] > 0
	}
	if !voiced {
		return nil
	}
	wave := make([]float64, seconds(lead), u.samples())
	for _, s := range said {
		n := seconds(s.seconds / u.speed())
		at := len(wave)
		wave = wave[:at+n]
		if s.formant[0] > 0 {
			voice(wave[at:], s, pitch)
		}
	}
	wave = wave[:cap(wave)]
	out := make([]int16, len(wave))
	k := key(uint64(u.Seed), 0x737065656368)
	for i, v := range wave {
		noise := float64(int64(mix(k+uint64(i)))) / (1 << 63) * 27 // uniform, 66 dB below full scale
		out[i] = int16(max(-32768, min(32767, math.Round(v*32768+noise))))
	}
	return out
}

// voice adds up the harmonics of one sound, each as loud as the formants let it through. The harmonics are oscillators that
// turn by complex multiplication: a sine for each would take twenty times as long.
func voice(out []float64, s sound, pitch float64) {
	const top = 5000.0 // Hz
	edge := min(len(out)/4, SpeechRate*8/1000)
	count := int(top / (pitch * (1 + math.Abs(s.glide))))
	amp := make([]float64, count)
	total := 0.0
	for h := range amp {
		f := pitch * float64(h+1)
		for i, centre := range s.formant {
			width := []float64{90, 130, 220}[i]
			d := (f - centre) / width
			amp[h] += []float64{1, 0.6, 0.25}[i] / (1 + d*d)
		}
		total += amp[h]
	}
	for i := range out {
		out[i] = 0
	}
	phase := 0.0
	for i := range out {
		where := float64(i) / float64(len(out))
		phase += 2 * math.Pi * pitch * (1 + s.glide*where) / SpeechRate
		step := complexUnit(phase)
		turn, sum := step, 0.0
		for _, a := range amp {
			sum += a * imag(turn)
			turn *= step
		}
		gain := 1.0
		if i < edge {
			gain = 0.5 - 0.5*math.Cos(math.Pi*float64(i)/float64(edge))
		}
		if left := len(out) - 1 - i; left < edge {
			gain = min(gain, 0.5-0.5*math.Cos(math.Pi*float64(left)/float64(edge)))
		}
		out[i] = 0.6 * gain * sum / total
	}
}

func complexUnit(phase float64) complex128 {
	sin, cos := math.Sincos(phase)
	return complex(cos, sin)
}

// spoken is the utterance as the faults have it.
func (f Faults) spoken(u Utterance) []int16 {
	if f.WrongSpeech {
		u.Text = otherText(u.Text)
	}
	out := Speak(u)
	switch {
	case f.SilentAudio:
		clear(out)
	case f.ClippedAudio:
		for i, v := range out {
			out[i] = int16(max(-32768, min(32767, 12*int(v))))
		}
	}
	if f.TruncatedAudio {
		out = out[:len(out)*2/3]
	}
	return out
}

// otherText changes the letter in the middle of a text into the next one of the alphabet, or a hanzi into its neighbour: the
// least that can be said wrongly, and with the same length.
func otherText(text string) string {
	r := []rune(text)
	for d := range len(r) {
		i := len(r)/2 + (d+1)/2*(1-2*(d%2))
		if i < 0 || i >= len(r) {
			continue
		}
		switch c := unicode.ToLower(r[i]); {
		case strings.ContainsRune("bcdfghjklmnpqrstvwxz", c): // consonants are of one length
			r[i] = rune("cdfghjklmnpqrstvwxzb"[strings.IndexRune("bcdfghjklmnpqrstvwxz", c)])
			return string(r)
		case unicode.Is(unicode.Han, c):
			r[i] = c + 1
			return string(r)
		case unicode.IsDigit(c):
			r[i] = '0' + (c-'0'+1)%10
			return string(r)
		}
	}
	return text + "b"
}
