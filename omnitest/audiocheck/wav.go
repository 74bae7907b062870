package audiocheck

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// What can be wrong with a file. Every error of [ReadWAV], [ReadPCM] and [Of] wraps one of these.
var (
	ErrNotWAV    = errors.New("not a WAVE file")
	ErrHeader    = errors.New("wrong audio header")
	ErrFormat    = errors.New("audio format is not supported")
	ErrNoData    = errors.New("no audio samples")
	ErrTruncated = errors.New("audio is truncated")
	ErrTrailing  = errors.New("bytes follow the audio")
	ErrLimit     = errors.New("audio is larger than allowed")
)

// Limits bound what a file costs. They are checked before memory is spent: reading takes 4 bytes a sample, checks add 8, and the
// spectrograms of [Like] 7 at 24 kHz and at most 40 at the lowest rate.
type Limits struct {
	Bytes   int64 // of the file; 0: 64 MiB
	Samples int64 // of all channels; 0: 28,800,000, twenty minutes of mono at 24 kHz (115 MB)
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 64 << 20
	}
	if l.Samples <= 0 {
		l.Samples = 28_800_000
	}
	return l
}

// check refuses what no sound can be.
func (f Format) check() error {
	ok := f.Bits == 16 || f.Bits == 24 || f.Bits == 32 || f.Bits == 8 && !f.Float || f.Bits == 64 && f.Float
	if f.Float && f.Bits < 32 {
		ok = false
	}
	switch {
	case f.Channels < 1 || f.Channels > 16:
		return fmt.Errorf("%w: %d channels, want 1 to 16", ErrHeader, f.Channels)
	case f.Rate < 4000 || f.Rate > 768_000: // below, the log-mel spectrogram would outgrow the samples
		return fmt.Errorf("%w: sample rate %d Hz, want 4000 to 768000", ErrHeader, f.Rate)
	case !ok:
		return fmt.Errorf("%w: %s; integers of 8, 16, 24, 32 bit and floats of 32, 64 bit are", ErrFormat, f)
	}
	return nil
}

// WAVE format tags, from the registry in Microsoft's mmreg.h.
const (
	tagPCM        = 1
	tagFloat      = 3
	tagExtensible = 0xFFFE
)

// mediaGUID follows the two bytes of the tag in the sub-format of WAVE_FORMAT_EXTENSIBLE (KSDATAFORMAT_SUBTYPE_*).
const mediaGUID = "\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71"

// open is from where on a size is a placeholder for "not known yet" and not a claim: writers use 0xFFFFFFFF (vLLM-Omni,
// ffmpeg), 0x7FFFFFFF and a little less (sox), and no file of 2 GB gets through the limits.
const open = 0x7FFF_0000

// ReadWAV reads a RIFF/WAVE file: integers of 8, 16, 24 and 32 bit, floats of 32 and 64 bit, plain or
// WAVE_FORMAT_EXTENSIBLE, any other chunks before and after the samples, and the open sizes of a streamed file (0 or
// 0xFFFFFFFF: the samples go to the end). It is strict where a lax reader gives a wrong sound: fewer bytes than declared are
// ErrTruncated, bytes after the end ErrTrailing, a frame size that contradicts the format ErrHeader. The header's byte rate
// is not used, for it follows from the rest.
func ReadWAV(raw []byte, l Limits) (Sound, error) {
	l = l.withDefaults()
	switch {
	case int64(len(raw)) > l.Bytes:
		return Sound{}, fmt.Errorf("%w: file of %d bytes, limit %d", ErrLimit, len(raw), l.Bytes)
	case len(raw) == 0:
		return Sound{}, fmt.Errorf("%w: the file is empty", ErrNotWAV)
	case len(raw) < 12 || string(raw[:4]) != "RIFF" || string(raw[8:12]) != "WAVE":
		return Sound{}, fmt.Errorf("%w: it begins %.16q (%d bytes)", ErrNotWAV, raw, len(raw))
	}
	riff := int(binary.LittleEndian.Uint32(raw[4:]))
	end := len(raw) // of the RIFF form, as far as it is known
	streamed := riff >= open || riff == 0
	var format *Format
	for at := 12; ; {
		if at+8 > end {
			return Sound{}, lacking(raw, at, format)
		}
		id, size := string(raw[at:at+4]), int(binary.LittleEndian.Uint32(raw[at+4:]))
		body := at + 8
		switch id {
		case "fmt ":
			if size > len(raw)-body {
				return Sound{}, fmt.Errorf("%w: chunk \"fmt \" claims %d bytes, %d are there", ErrTruncated, size, len(raw)-body)
			}
			f, err := readFormat(raw[body : body+size])
			if err != nil {
				return Sound{}, err
			}
			format = &f
		case "data":
			if format == nil {
				return Sound{}, fmt.Errorf("%w: chunk \"data\" comes before chunk \"fmt \"", ErrHeader)
			}
			// A header that was written before the samples and never completed has 0, with a form that ends here.
			if size >= open || size == 0 && (streamed || 8+riff <= body) {
				return readData(raw[body:], raw, *format, l)
			}
			if size > len(raw)-body {
				return Sound{}, fmt.Errorf("%w: %d of %d bytes of samples are there", ErrTruncated, len(raw)-body, size)
			}
			if err := checkEnd(raw, riff, body+size, streamed); err != nil {
				return Sound{}, err
			}
			return readData(raw[body:body+size], raw, *format, l)
		}
		if size > len(raw)-body {
			return Sound{}, fmt.Errorf("%w: chunk %q claims %d bytes, %d are there", ErrTruncated, id, size, len(raw)-body)
		}
		at = body + size + size&1 // chunks begin at even offsets
	}
}

// lacking is the error of a file whose chunks end before the samples came.
func lacking(raw []byte, at int, format *Format) error {
	if at < len(raw) {
		return fmt.Errorf("%w: it ends inside of a chunk header, at byte %d of %d", ErrTruncated, at, len(raw))
	}
	if format == nil {
		return fmt.Errorf("%w: neither chunk \"fmt \" nor chunk \"data\"", ErrHeader)
	}
	return fmt.Errorf("%w: no chunk \"data\"", ErrNoData)
}

// checkEnd compares what the form claims with what is there. Chunks after the samples are the form's own; a pad byte that
// was written and not counted, or counted and not written, is common and harms nothing.
func checkEnd(raw []byte, riff, dataEnd int, streamed bool) error {
	if streamed {
		return walk(raw, dataEnd, len(raw))
	}
	form := 8 + riff
	switch pad := dataEnd & 1; {
	case form < dataEnd:
		return fmt.Errorf("%w: the form claims to end at byte %d, its samples at byte %d", ErrHeader, form, dataEnd)
	case form > len(raw)+pad:
		return fmt.Errorf("%w: the form claims %d bytes, %d are there", ErrTruncated, form, len(raw))
	case form+pad < len(raw), form < len(raw) && raw[form] != 0:
		return fmt.Errorf("%w: %d bytes after the form's end at byte %d", ErrTrailing, len(raw)-form, form)
	}
	return walk(raw, dataEnd, min(form, len(raw)))
}

// walk follows the chunks after the samples: what is none is garbage.
func walk(raw []byte, at, end int) error {
	at += at & 1
	for at < end {
		if at+8 > end {
			return fmt.Errorf("%w: %d bytes that are no chunk, at byte %d", ErrTrailing, end-at, at)
		}
		size := int(binary.LittleEndian.Uint32(raw[at+4:]))
		if size > end-at-8 {
			return fmt.Errorf("%w: chunk %.4q at byte %d claims %d bytes, %d are there", ErrTrailing, raw[at:], at, size, end-at-8)
		}
		at += 8 + size + size&1
	}
	return nil
}

// readFormat reads a "fmt " chunk.
func readFormat(b []byte) (Format, error) {
	if len(b) < 16 {
		return Format{}, fmt.Errorf("%w: chunk \"fmt \" of %d bytes, want 16 or more", ErrHeader, len(b))
	}
	le := binary.LittleEndian
	tag := int(le.Uint16(b))
	f := Format{Channels: int(le.Uint16(b[2:])), Rate: int(min(le.Uint32(b[4:]), 1<<30)), Bits: int(le.Uint16(b[14:]))}
	if tag == tagExtensible {
		if len(b) < 40 {
			return f, fmt.Errorf("%w: extensible chunk \"fmt \" of %d bytes, want 40 or more", ErrHeader, len(b))
		}
		if string(b[26:40]) != mediaGUID {
			return f, fmt.Errorf("%w: sub-format %x", ErrFormat, b[24:40])
		}
		if valid := int(le.Uint16(b[18:])); valid > f.Bits {
			return f, fmt.Errorf("%w: %d valid bits in samples of %d", ErrHeader, valid, f.Bits)
		}
		tag = int(le.Uint16(b[24:]))
	}
	switch tag {
	case tagPCM:
	case tagFloat:
		f.Float = true
	default:
		return f, fmt.Errorf("%w: WAVE format tag 0x%04x; 1 (integers) and 3 (floats) are", ErrFormat, tag)
	}
	if err := f.check(); err != nil {
		return f, err
	}
	if align := int(le.Uint16(b[12:])); align != f.frame() {
		return f, fmt.Errorf("%w: frames of %d bytes, %s needs %d", ErrHeader, align, f, f.frame())
	}
	return f, nil
}

// ReadPCM reads samples without a header, little-endian, as response_format "pcm" sends them. Nothing in them says what they
// are: the format is the caller's knowledge (vLLM-Omni's voices: 24000 Hz, 1 channel, 16 bit).
func ReadPCM(raw []byte, f Format, l Limits) (Sound, error) {
	l = l.withDefaults()
	if err := f.check(); err != nil {
		return Sound{}, err
	}
	if int64(len(raw)) > l.Bytes {
		return Sound{}, fmt.Errorf("%w: %d bytes, limit %d", ErrLimit, len(raw), l.Bytes)
	}
	return readData(raw, raw, f, l)
}

// readData converts the samples.
func readData(data, file []byte, f Format, l Limits) (Sound, error) {
	width := f.Bits / 8
	n := len(data) / width
	switch {
	case len(data) == 0:
		return Sound{}, fmt.Errorf("%w: 0 bytes of %s", ErrNoData, f)
	case len(data)%f.frame() != 0:
		return Sound{}, fmt.Errorf("%w: %d bytes do not fill frames of %d (%s)", ErrTruncated, len(data), f.frame(), f)
	case int64(n) > l.Samples:
		return Sound{}, fmt.Errorf("%w: %d samples, limit %d", ErrLimit, n, l.Samples)
	}
	out := make([]float32, n)
	le := binary.LittleEndian
	for i := range out {
		b := data[i*width:][:width]
		switch {
		case f.Float && width == 4:
			out[i] = math.Float32frombits(le.Uint32(b))
		case f.Float:
			out[i] = float32(math.Float64frombits(le.Uint64(b)))
		case width == 1:
			out[i] = (float32(b[0]) - 128) / 128
		case width == 2:
			out[i] = float32(int16(le.Uint16(b))) / (1 << 15)
		case width == 3:
			out[i] = float32(int32(uint32(b[0])<<8|uint32(b[1])<<16|uint32(b[2])<<24)) / (1 << 31)
		default:
			out[i] = float32(int32(le.Uint32(b))) / (1 << 31)
		}
	}
	s, err := Of(out, f)
	s.Raw = file
	return s, err
}

// WAV writes a sound as a file of 16 bit integers, for evidence and for tools that listen. What is not a number becomes 0,
// what is beyond full scale is clipped.
func (s Sound) WAV() []byte {
	le := binary.LittleEndian
	n := 2 * len(s.Samples)
	b := make([]byte, 0, 44+n)
	b = le.AppendUint32(append(b, "RIFF"...), uint32(36+n))
	b = le.AppendUint32(append(b, "WAVEfmt "...), 16)
	b = le.AppendUint16(le.AppendUint16(b, tagPCM), uint16(s.Format.Channels))
	b = le.AppendUint32(le.AppendUint32(b, uint32(s.Format.Rate)), uint32(2*s.Format.Channels*s.Format.Rate))
	b = le.AppendUint16(le.AppendUint16(b, uint16(2*s.Format.Channels)), 16)
	b = le.AppendUint32(append(b, "data"...), uint32(n))
	for _, v := range s.Samples {
		x := math.Round(float64(v) * (1 << 15))
		if math.IsNaN(x) {
			x = 0
		}
		b = le.AppendUint16(b, uint16(int16(max(-1<<15, min(1<<15-1, x)))))
	}
	return b
}
