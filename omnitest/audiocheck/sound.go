package audiocheck

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"sync"
	"time"
)

// Format says how samples are stored.
type Format struct {
	Rate     int  `json:"rate"`            // samples per second of one channel, 4,000 to 768,000
	Channels int  `json:"channels"`        // 1 to 16
	Bits     int  `json:"bits"`            // of one sample: 8, 16, 24 or 32; float: 32 or 64
	Float    bool `json:"float,omitempty"` // IEEE 754, else integers (8 bit unsigned, the others signed, as WAVE has them)
}

// String gives "24000 Hz, 1 channel, 16 bit".
func (f Format) String() string {
	kind, s := "bit", "s"
	if f.Float {
		kind = "bit float"
	}
	if f.Channels == 1 {
		s = ""
	}
	return fmt.Sprintf("%d Hz, %d channel%s, %d %s", f.Rate, f.Channels, s, f.Bits, kind)
}

// frame is the bytes of one sample of every channel.
func (f Format) frame() int { return f.Channels * f.Bits / 8 }

// Sound is a read sound with the request it answers. Make one with [ReadWAV], [ReadPCM] or [Of]. Pass it by value: the
// copies share samples and what is derived from them. The samples must not be changed. Safe for concurrent use.
type Sound struct {
	Samples []float32 // interleaved, full scale is -1 to 1; a float file may go beyond, and may hold NaN
	Format  Format
	Raw     []byte // the file as received; nil for a sound that never was one
	Case    Case
	*derived
}

// derived is computed on first use.
type derived struct {
	mono func() []float64
	mel  func() Mel
	sha  func() string

	shifted func() []Mel
}

// Of wraps samples that are already decoded. They are used as they are. A Format that describes no sound, or samples that
// do not fill whole frames, are an error.
func Of(samples []float32, f Format) (Sound, error) {
	if err := f.check(); err != nil {
		return Sound{}, err
	}
	if len(samples)%f.Channels != 0 {
		return Sound{}, fmt.Errorf("%w: %d samples do not fill frames of %d channels", ErrHeader, len(samples), f.Channels)
	}
	s := Sound{Samples: samples, Format: f}
	d := &derived{}
	d.mono = sync.OnceValue(func() []float64 { return mixdown(samples, f.Channels) })
	d.mel = sync.OnceValue(func() Mel { return LogMel(d.mono(), f.Rate) })
	d.shifted = sync.OnceValue(func() []Mel { return shifted(d.mono(), f.Rate) })
	d.sha = sync.OnceValue(func() string { return sampleSHA(samples) })
	s.derived = d
	return s, nil
}

// For gives the sound with the request it answers.
func (s Sound) For(c Case) Sound {
	s.Case = c
	return s
}

// Frames is the number of samples of one channel.
func (s Sound) Frames() int {
	if s.Format.Channels == 0 {
		return 0
	}
	return len(s.Samples) / s.Format.Channels
}

// Duration is counted from the samples, never from what a header claims.
func (s Sound) Duration() time.Duration {
	if s.Format.Rate == 0 {
		return 0
	}
	return time.Duration(float64(s.Frames()) / float64(s.Format.Rate) * float64(time.Second))
}

// SHA256 is the hex SHA-256 of the samples as little-endian float32: headers and chunks do not count, so a streamed and a
// whole answer can be compared.
func (s Sound) SHA256() string {
	if s.derived == nil {
		return ""
	}
	return s.sha()
}

func sampleSHA(samples []float32) string {
	h := sha256.New()
	var block [4096]byte
	for len(samples) > 0 {
		n := min(len(samples), len(block)/4)
		for i, v := range samples[:n] {
			binary.LittleEndian.PutUint32(block[4*i:], math.Float32bits(v))
		}
		h.Write(block[:4*n])
		samples = samples[n:]
	}
	return hex.EncodeToString(h.Sum(nil))
}

// mixdown averages the channels. What is not a number counts as 0: [Finite] reports it, and one NaN must not hide what the
// other checks have to say.
func mixdown(samples []float32, channels int) []float64 {
	out := make([]float64, len(samples)/channels)
	for i := range out {
		var sum float64
		for _, v := range samples[i*channels:][:channels] {
			if x := float64(v); !math.IsNaN(x) && !math.IsInf(x, 0) {
				sum += x
			}
		}
		out[i] = sum / float64(channels)
	}
	return out
}
