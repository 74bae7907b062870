package metrics

import (
	"encoding/binary"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// Sound is what is known of a received sound.
type Sound struct {
	Seconds float64 // its length; 0: unknown
	Rate    float64 // bytes per second of sound; 0: unknown
}

// PCM is the form of raw samples, which carry no header. The zero value is what vLLM-Omni's benchmark takes for granted:
// 24,000 Hz, one channel, 16 bits.
type PCM struct{ Hz, Channels, Bits int }

func (p PCM) bytesPerSecond() float64 {
	def := func(v, d int) float64 {
		if v > 0 {
			return float64(v)
		}
		return float64(d)
	}
	return def(p.Hz, 24000) * def(p.Channels, 1) * def(p.Bits, 16) / 8
}

// FromSpeech is the sample of a speech call. Its events are the arrivals of the sound, each with the bytes of samples that
// it brought (0: only the header of the file). raw is the form of samples without a header; a WAVE file says its own.
func FromSpeech(sp *api.Speech, raw PCM, err error) Sample {
	s := Sample{InputTokens: -1, OutputTokens: -1, Err: err}
	if sp == nil {
		return s.orNoAnswer()
	}
	s.Exchange, s.Start = sp.Exchange, sp.Exchange.Start
	header := 0
	switch sp.Format {
	case "wav":
		header, s.Sound.Rate = waveForm(sp.Raw)
	case "pcm":
		s.Sound.Rate = raw.bytesPerSecond()
	}
	if s.Sound.Rate > 0 {
		s.Sound.Seconds = float64(max(0, len(sp.Raw)-header)) / s.Sound.Rate
	}
	s.Exchange.Events = nil
	for i, c := range sp.Chunks {
		head := min(header, len(c.Data))
		header -= head
		s.Exchange.Events = append(s.Exchange.Events, api.Event{At: c.At, Bytes: len(c.Data) - head, Read: i, Tokens: -1, Usage: -1, Has: api.HasAudio})
	}
	return s
}

// waveForm reads the "fmt " chunk of a WAVE file and finds where its samples begin. A stream's header claims a length that
// nobody knew when it was written, so the claim is not looked at.
func waveForm(raw []byte) (header int, bytesPerSecond float64) {
	if len(raw) < 12 || string(raw[:4]) != "RIFF" || string(raw[8:12]) != "WAVE" {
		return 0, 0
	}
	for at := 12; at+8 <= len(raw); {
		size := int64(binary.LittleEndian.Uint32(raw[at+4:]))
		switch string(raw[at : at+4]) {
		case "fmt ":
			if at+20 <= len(raw) {
				bytesPerSecond = float64(binary.LittleEndian.Uint32(raw[at+16:]))
			}
		case "data":
			return at + 8, bytesPerSecond
		}
		next := int64(at) + 8 + size + size%2
		if next > int64(len(raw)) {
			break
		}
		at = int(next)
	}
	return 0, 0
}

// waveSeconds is the length of the sound in WAVE files that follow each other, as a chat answer streams them. Files of another
// form than the first are left out, as vLLM-Omni's client leaves them out.
func waveSeconds(raw []byte) Sound {
	var s Sound
	bytes := 0
	for len(raw) >= 12 {
		header, rate := waveForm(raw)
		if header == 0 || rate == 0 {
			break
		}
		size := int64(binary.LittleEndian.Uint32(raw[header-4:]))
		end := len(raw)
		if next := int64(header) + size + size%2; next < int64(end) {
			end = int(next)
		}
		if s.Rate == 0 {
			s.Rate = rate
		}
		if rate == s.Rate {
			bytes += min(end-header, int(size))
		}
		raw = raw[end:]
	}
	if s.Rate > 0 {
		s.Seconds = float64(bytes) / s.Rate
	}
	return s
}

// rtf is the real-time factor: time until the sound was there over the time that it lasts. Below 1 it comes faster than it
// is played.
func (s Sound) rtf(at time.Duration) Value {
	if s.Seconds <= 0 {
		return Absent("the length of the sound is unknown")
	}
	return Of(at.Seconds() / s.Seconds)
}

// ContinuityBudget is the longest silence, in ms, that a streamed sound may have and still count as continuous: vLLM-Omni's
// VLLM_OMNI_BENCH_AUDIO_CONTINUITY_THRESHOLD_S of 0.1 s.
const ContinuityBudget = 100

// underrun is the longest time in ms that a player was starved which starts with the first chunk and plays in real time
// (vllm_omni/benchmarks/audio_continuity.py): at the arrival of each chunk, what was played by then less what had come.
func (s Sound) underrun(events []api.Event) Value {
	if s.Rate <= 0 {
		return Absent("the bytes per second of the sound are unknown")
	}
	worst, received := 0.0, 0
	for i := range events {
		if i > 0 {
			played := (events[i].At - events[0].At).Seconds() * s.Rate
			worst = max(worst, (played-float64(received))/s.Rate*1e3)
		}
		received += events[i].Bytes
	}
	return Of(worst)
}
