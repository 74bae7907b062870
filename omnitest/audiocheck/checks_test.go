package audiocheck

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/refstack/dit"
)

var voiceFormat = Format{Rate: dit.SpeechRate, Channels: 1, Bits: 16}

// voiceOf is the reference voice saying a text.
func voiceOf(t testing.TB, text, voice string) Sound {
	t.Helper()
	return sound(t, floats(dit.Speak(dit.Utterance{Text: text, Voice: voice})))
}

func floats(samples []int16) []float32 {
	out := make([]float32, len(samples))
	for i, v := range samples {
		out[i] = float32(v) / 32768
	}
	return out
}

func sound(t testing.TB, samples []float32) Sound {
	t.Helper()
	s, err := Of(samples, voiceFormat)
	require.NoError(t, err)
	return s
}

// changed is a copy of a sound with each sample changed.
func changed(t testing.TB, s Sound, f func(i int, v float64) float64) Sound {
	t.Helper()
	out := make([]float32, len(s.Samples))
	for i, v := range s.Samples {
		out[i] = float32(f(i, float64(v)))
	}
	return sound(t, out)
}

const hello = "hello world, this is a test of speech"

// Every check trips over the defect that it is for, with the words that a person needs, and is silent on a healthy voice.
func TestEveryCheckCanFail(t *testing.T) {
	good := voiceOf(t, hello, "alto")
	rng := rand.New(rand.NewPCG(1, 2))
	noise := changed(t, good, func(int, float64) float64 { return 0.2 * (2*rng.Float64() - 1) })
	late := sound(t, append(make([]float32, 3*dit.SpeechRate), good.Samples...))
	other := voiceOf(t, "hello world, this is a text of speech", "alto")
	for _, c := range []struct {
		name  string
		check Check
		bad   Sound
		says  string
	}{
		{"format", Is(voiceFormat), with(t, good, Format{16000, 1, 16, false}), "wrong audio format: 16000 Hz, 1 channel, 16 bit, want 24000 Hz, 1 channel, 16 bit"},
		{"finite", Finite(), changed(t, good, func(i int, v float64) float64 {
			if i >= 24000 && i < 24003 {
				return math.NaN()
			}
			return v
		}), "sound holds what is no number: 3 of 69840 samples are NaN or infinite, the first at 1.000 s\n  metric  not-finite 3, want <= 0 (samples)"},
		{"duration", Duration(good.Duration()), sound(t, good.Samples[:40000]), "wrong duration: 1.67 s, want 2.91 s within 0.15 s\n  metric  duration-off 1.243, want <= 0.1455 (s)"},
		{"samples", Samples(good.Frames()), sound(t, good.Samples[1:]), "wrong number of samples: 69839 of each channel, want 69840 (-1)"},
		{"pace", Pace(hello, 5, 30), sound(t, good.Samples[:12000]), "speech is too long or too short for its text: 29 characters in 0.50 s, characters a second 58, limit 30"},
		{"silent", NotSilent(), changed(t, good, func(int, float64) float64 { return 0 }), "sound is silent: RMS -120, at least -50 (dBFS); and 2 more"},
		{"long silence", NotSilent(), late, "sound is silent: longest silence 3.04, limit 2 (s)"},
		{"clipped", NotClipped(), changed(t, good, func(_ int, v float64) float64 { return max(-1, min(1, 12*v)) }), "sound is clipped: share of samples at full scale 0.3144, limit 0.001 (in runs of 3 and more)"},
		{"offset", Centred(), changed(t, good, func(_ int, v float64) float64 { return v + 0.03 }), "sound has a DC offset: mean 0.02999, limit 0.01 (of full scale)"},
		{"unvoiced", Voiced(), noise, "sound is no voice: harmonics to noise "},
		{"nothing voiced", Voiced(), changed(t, good, func(int, float64) float64 { return 0 }), "sound is no voice: no frame reaches 1 % of full scale, so there is nothing to judge\n  metric  hnr not measured, want >= 1 (dB)"},
		{"noise", NotNoise(), noise, "sound is noise: spectral flatness 0.5"},
		{"noise of silence", NotNoise(), changed(t, good, func(int, float64) float64 { return 0 }), "sound is noise: spectral flatness not measured, limit 0.35 (median, 1 is flat)"},
		{"loud floor", Quiet(), changed(t, good, func(_ int, v float64) float64 { return v + 0.05*(2*rng.Float64()-1) }), "sound has a loud noise floor: loud frames over pauses "},
		{"same", Same(good), changed(t, good, func(i int, v float64) float64 {
			if i == 48000 {
				return v + 0.25
			}
			return v
		}), "sound differs from the other one: 1 of 69840 samples, from 2.000 s on, by at most 0.25 of full scale"},
		{"same, cut", Same(good), sound(t, good.Samples[:100]), "sound differs from the other one: 100 samples, the other has 69840; the first 100 are equal"},
		{"like", Like(good), other, "sound differs from the other one: log-mel distance at "},
		{"like, cut", Like(good), sound(t, good.Samples[:40000]), "sound differs from the other one: it lasts 1.67 s, the other 2.91 s"},
		{"like, other rate", Like(good), with(t, good, Format{16000, 1, 16, false}), "sound differs from the other one: it is 16000 Hz, 1 channel, 16 bit, the other 24000 Hz, 1 channel, 16 bit"},
		{"like nothing", Like(Sound{}), good, "sound differs from the other one: there is no other sound to compare with"},
		{"no sound", Finite(), Sound{}, "sound holds what is no number: there is no sound (make one with ReadWAV, ReadPCM or Of)"},
		{"no samples", Finite(), sound(t, nil), "sound holds what is no number: it has no samples"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.check(c.bad)
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), c.says), "got  %s\nwant %s", err, c.says)
			if c.name == "like nothing" {
				return
			}
			assert.NoError(t, c.check(good), "silent on a healthy voice")
		})
	}
}

func with(t testing.TB, s Sound, f Format) Sound {
	t.Helper()
	out, err := Of(s.Samples, f)
	require.NoError(t, err)
	return out
}

// Both voices and both languages, slow and fast: no check may cry wolf.
func TestHealthyVoicesAreSilent(t *testing.T) {
	for _, text := range []string{hello, "今天天气很好，我们去公园走走。", "Room 1204, third floor.", "Yes."} {
		for _, voice := range dit.Voices {
			for _, speed := range []float64{0.7, 1, 1.6} {
				u := dit.Utterance{Text: text, Voice: voice, Speed: speed, Seed: 3}
				s := sound(t, floats(dit.Speak(u)))
				for _, c := range []Check{
					Is(voiceFormat), Finite(), Duration(u.Duration()), Samples(s.Frames()), NotSilent(), NotClipped(), Centred(), Voiced(),
					NotNoise(), Quiet(), Same(s), Like(s),
				} {
					assert.NoError(t, c(s), "%q %s %g", text, voice, speed)
				}
			}
		}
	}
}

func TestTwoChannels(t *testing.T) {
	mono := voiceOf(t, hello, "bass")
	var both []float32
	for _, v := range mono.Samples {
		both = append(both, v, v+0.05)
	}
	s, err := Of(both, Format{24000, 2, 16, false})
	require.NoError(t, err)
	assert.Equal(t, mono.Duration(), s.Duration())
	assert.NoError(t, NotSilent()(s))
	err = Centred()(s)
	require.Error(t, err)
	assert.Contains(t, err.Error(), "sound has a DC offset: mean of channel 1 0.0499")
	assert.NotContains(t, err.Error(), "channel 0")
}

// White noise has the flatness that theory gives, and a sine none.
func TestFlatnessOfWhiteNoise(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	x := make([]float64, 48000)
	for i := range x {
		x[i] = rng.NormFloat64() * 0.1
	}
	flat, frames := Flatness(x, 24000)
	assert.InDelta(t, math.Exp(-0.5772156649), flat, 0.03)
	assert.Equal(t, 80, frames)
	db, _ := HNR(x, 24000)
	assert.Less(t, db, -1.0, "white noise has no pitch")
	for i := range x {
		x[i] = 0.5 * math.Sin(2*math.Pi*200*float64(i)/24000)
	}
	flat, _ = Flatness(x, 24000)
	assert.Less(t, flat, 1e-4)
	db, _ = HNR(x, 24000)
	assert.Greater(t, db, 25.0, "a sine is all pitch")
}

// HNR by its meaning: a periodic signal of power 1 with noise of power 0.1 has 10 dB.
func TestHNRMeasuresTheRatio(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	for _, want := range []float64{3, 10} {
		x := make([]float64, 96000)
		for i := range x {
			p := 2 * math.Pi * 150 * float64(i) / 24000
			x[i] = 0.2*(math.Sin(p)+0.5*math.Sin(2*p)+0.3*math.Sin(3*p)) + rng.NormFloat64()*0.2*math.Sqrt((1+0.25+0.09)/2/math.Pow(10, want/10))
		}
		got, _ := HNR(x, 24000)
		assert.InDelta(t, want, got, 1.0)
		same, _ := HNR(repeated(x, 4), 96000)
		assert.InDelta(t, got, same, 1e-9, "a higher rate of the same sound")
	}
}

func repeated(x []float64, k int) (out []float64) {
	for _, v := range x {
		out = append(out, slices.Repeat([]float64{v}, k)...)
	}
	return out
}

func TestTranscript(t *testing.T) {
	s := voiceOf(t, hello, "alto")
	says := func(text string) Transcriber {
		return TranscriberFunc(func(_ context.Context, wav []byte) (string, error) {
			again, err := ReadWAV(wav, Limits{})
			assert.NoError(t, err, "the tool is given a whole file")
			assert.Equal(t, s.Frames(), again.Frames())
			return text, nil
		})
	}
	ctx := t.Context()
	assert.NoError(t, Transcript(ctx, says("Hello world! This is a test of speech."), hello)(s))
	err := Transcript(ctx, says("hello world, there was a cat"), hello)(s)
	require.Error(t, err)
	assert.Contains(t, err.Error(), `speech does not say the text: heard "hello world, there was a cat", want "hello world, this is a test of speech", likeness 0.4828, at least 0.9`)

	err = Transcript(ctx, nil, hello)(s)
	assert.ErrorIs(t, err, ErrNoTranscriber)
	assert.EqualError(t, err, "speech was not transcribed: there is no tool that hears\n  cause   no transcriber: name an endpoint that serves /v1/audio/transcriptions")
	down := errors.New("connection refused")
	err = Transcript(ctx, TranscriberFunc(func(context.Context, []byte) (string, error) { return "", down }), hello)(s)
	assert.ErrorIs(t, err, down)
	assert.ErrorContains(t, Transcript(ctx, says("x"), "?!")(s), `the text "?!" has nothing to say`)

	for _, c := range []struct {
		text, heard string
		want        float64
	}{
		{"今天", "好的，今天天气", 1}, {"今天", "今夭", 0.5}, {"Hi Tom", "hi, tom!", 1}, {"Hi Tom", "", 0}, {"a long sentence of words", "a long sentence", 1 - 7./20},
		{"a long sentence of words", "a long sentence of words and more", 1 - 7./20}, // said twice is wrong too
		{"ROOM 7", "the room 7 is free", 1},
	} {
		assert.InDelta(t, c.want, Likeness(c.text, c.heard), 1e-9, "%q heard %q", c.text, c.heard)
	}
	assert.True(t, math.IsNaN(Likeness("...", "x")))
}

// A failure leaves what a person needs: both sounds, the spectrograms side by side, the numbers, the request.
func TestEvidence(t *testing.T) {
	dir := t.TempDir()
	var observed []string
	c := Case{Name: "speech-en/../hello", Text: hello, Voice: "alto", Seed: 4, Stack: "lab", Repro: "curl x", Dir: dir, Key: Key{Engine: "reference"}, Observe: func(check string, m []Metric) {
		observed = append(observed, check)
		assert.NotEmpty(t, m)
	}}
	good, bad := voiceOf(t, hello, "alto"), voiceOf(t, "hello world, this is a text of speech", "alto").For(c)
	err := Like(good)(bad)
	var e *Error
	require.ErrorAs(t, err, &e)
	folder := filepath.Join(dir, "speech-en", "hello", "like")
	assert.Equal(t, Files{Dir: folder, Got: filepath.Join(folder, "actual.wav"), Golden: filepath.Join(folder, "expected.wav"),
		Diff: filepath.Join(folder, "side-by-side.png"), Replay: filepath.Join(folder, "repro.sh")}, e.Files)
	for _, line := range []string{
		"\n  case    speech-en/../hello   text \"hello world, this is a test of speech\"   voice alto   seed 4", "\n  key     engine reference", "\n  stack   lab", "\n  files   got " + folder,
	} {
		assert.Contains(t, err.Error(), line)
	}
	kept, readErr := os.ReadFile(e.Files.Golden)
	require.NoError(t, readErr)
	again, readErr := ReadWAV(kept, Limits{})
	require.NoError(t, readErr)
	assert.Equal(t, good.SHA256(), again.SHA256(), "16 bit samples survive the evidence")
	raw, readErr := os.ReadFile(filepath.Join(folder, "metrics.json"))
	require.NoError(t, readErr)
	assert.Contains(t, string(raw), `"name": "logmel-worst"`)
	assert.Contains(t, string(raw), `"direction": "\u003c="`)
	assert.Equal(t, []string{"like"}, observed)

	k := Keep([]byte("<html>"), ErrNotWAV, c)
	assert.ErrorIs(t, k, ErrNotWAV)
	assert.Contains(t, k.Error(), "sound does not read: 6 bytes")
	raw, readErr = os.ReadFile(k.Files.Got)
	require.NoError(t, readErr)
	assert.Equal(t, "<html>", string(raw))
}

func TestBoundsByCase(t *testing.T) {
	s := voiceOf(t, hello, "alto")
	strict := s.For(Case{Bounds: Bounds{MinRMS: -5, HNR: 39.9, DurationShare: -1, DurationSeconds: -1}})
	assert.ErrorContains(t, NotSilent()(strict), "at least -5 (dBFS)")
	assert.ErrorContains(t, Voiced()(strict), "at least 39.9 (dB)")
	assert.NoError(t, Duration(time.Duration(s.Frames())*time.Second/dit.SpeechRate)(strict), "exactly is 0, and 0 is kept")
	assert.Error(t, Duration(s.Duration()+time.Millisecond)(strict))
	assert.Error(t, Duration(0)(s), "no duration asked for is no pass")
	assert.Error(t, Pace("...", 1, 9)(s))
	assert.False(t, slices.ContainsFunc([]Metric{{Value: math.NaN(), Direction: "<="}, {Value: math.NaN(), Direction: ">="}}, Metric.OK), "not measured never passes")
}

// Bounds are chosen by key, and a failure says which were.
func TestBoundsByTable(t *testing.T) {
	table := Table{
		{Key{}, Bounds{HNR: 2}, "any"},
		{Key{Engine: "reference"}, Bounds{HNR: 39.5, SNR: 30}, "calibrate of the reference"},
		{Key{Engine: "reference", Voice: "bass"}, Bounds{HNR: 3}, "the bass alone"},
		{Key{Engine: "vllm-omni", GPU: "H100"}, Bounds{HNR: 4}, "run 7"},
		{Key{Seed: 5}, Bounds{HNR: 5}, "seed"},
	}
	for _, c := range []struct {
		key    Key
		hnr    float64
		source string
	}{
		{Key{}, 2, "any"}, {Key{Engine: "reference"}, 39.5, "calibrate of the reference"}, {Key{Engine: "reference", Voice: "bass"}, 3, "the bass alone"},
		{Key{Engine: "vllm-omni"}, 2, "any"}, {Key{Engine: "vllm-omni", GPU: "H100", Text: "x"}, 4, "run 7"}, {Key{Seed: 5}, 5, "seed"},
	} {
		b, source := table.For(c.key)
		assert.Equal(t, c.hnr, b.HNR, "%+v", c.key)
		assert.Equal(t, c.source, source)
	}
	b, source := Table(nil).For(Key{Engine: "x"})
	assert.Equal(t, Bounds{}, b)
	assert.Empty(t, source)

	s := voiceOf(t, hello, "alto")
	err := Voiced()(s.For(Case{Key: Key{Engine: "reference"}, Table: table}))
	require.Error(t, err)
	assert.Contains(t, err.Error(), "at least 39.5 (dB)")
	assert.Contains(t, err.Error(), "\n  key     engine reference\n  bounds  calibrate of the reference")
	assert.NoError(t, Voiced()(s.For(Case{Key: Key{Engine: "reference"}, Voice: "bass", Table: table})), "the case's voice is part of the key")
	assert.ErrorContains(t, Voiced()(s.For(Case{Bounds: Bounds{HNR: 39.9}, Table: table})), "bounds  the case's own")
}
