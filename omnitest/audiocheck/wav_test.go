package audiocheck

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// chunk is a RIFF chunk with its pad byte.
func chunk(id string, body []byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(id), uint32(len(body)))
	b = append(b, body...)
	if len(body)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func fmtChunk(tag int, f Format) []byte {
	le := binary.LittleEndian
	b := le.AppendUint16(nil, uint16(tag))
	b = le.AppendUint16(b, uint16(f.Channels))
	b = le.AppendUint32(b, uint32(f.Rate))
	b = le.AppendUint32(b, uint32(f.Rate*f.frame()))
	b = le.AppendUint16(b, uint16(f.frame()))
	return le.AppendUint16(b, uint16(f.Bits))
}

// extensible is the long form of the same.
func extensible(f Format) []byte {
	tag := tagPCM
	if f.Float {
		tag = tagFloat
	}
	b := fmtChunk(tagExtensible, f)
	b = binary.LittleEndian.AppendUint16(b, 22)
	b = binary.LittleEndian.AppendUint16(b, uint16(f.Bits))
	b = binary.LittleEndian.AppendUint32(b, 4) // front centre
	b = binary.LittleEndian.AppendUint16(b, uint16(tag))
	return append(b, mediaGUID...)
}

func riff(chunks ...[]byte) []byte {
	body := slices.Concat(chunks...)
	b := binary.LittleEndian.AppendUint32([]byte("RIFF"), uint32(4+len(body)))
	return append(append(b, "WAVE"...), body...)
}

// put writes a value from -1 to 1 as one sample.
func put(b []byte, v float64, f Format) []byte {
	le := binary.LittleEndian
	switch {
	case f.Float && f.Bits == 32:
		return le.AppendUint32(b, math.Float32bits(float32(v)))
	case f.Float:
		return le.AppendUint64(b, math.Float64bits(v))
	case f.Bits == 8:
		return append(b, uint8(int(math.Round(v*128))+128))
	}
	n := uint32(int32(math.Round(v * math.Pow(2, float64(f.Bits-1)))))
	for range f.Bits / 8 {
		b, n = append(b, byte(n)), n>>8
	}
	return b
}

var formats = []Format{
	{24000, 1, 8, false}, {24000, 1, 16, false}, {44100, 2, 24, false}, {48000, 1, 32, false}, {24000, 1, 32, true}, {16000, 2, 64, true},
}

func TestReadsEveryFormat(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(formats).Draw(t, "format")
		f.Channels = rapid.IntRange(1, 3).Draw(t, "channels")
		frames := rapid.IntRange(1, 40).Draw(t, "frames")
		var want []float64
		var data []byte
		for range frames * f.Channels {
			v := rapid.Float64Range(-1, 0.99).Draw(t, "v")
			want, data = append(want, v), put(data, v, f)
		}
		tag := tagPCM
		if f.Float {
			tag = tagFloat
		}
		head := chunk("fmt ", fmtChunk(tag, f))
		if rapid.Bool().Draw(t, "extensible") {
			head = chunk("fmt ", extensible(f))
		}
		file := []byte{}
		switch rapid.SampledFrom([]string{"plain", "lists", "open", "open zero", "unpatched", "no pad"}).Draw(t, "layout") {
		case "plain":
			file = riff(head, chunk("data", data))
		case "lists":
			file = riff(chunk("LIST", []byte("INFOodd")), head, chunk("fact", []byte{1, 2, 3, 4}), chunk("data", data), chunk("LIST", []byte("INFOISFT")))
		case "no pad": // written and counted without it, as Python's wave does
			file = riff(head, chunk("data", data)[:8+len(data)])
		default:
			file = append(riff(head, []byte("data\xff\xff\xff\xff")), data...)
			copy(file[4:], "\xff\xff\xff\xff")
		}
		s, err := ReadWAV(file, Limits{})
		require.NoError(t, err)
		assert.Equal(t, f, s.Format)
		require.Len(t, s.Samples, len(want))
		step := 1e-6
		if !f.Float {
			step = math.Pow(2, -float64(f.Bits-1)) + 1e-7
		}
		for i, v := range want {
			assert.InDelta(t, v, s.Samples[i], step)
		}
		pcm, err := ReadPCM(data, f, Limits{})
		require.NoError(t, err)
		assert.Equal(t, s.SHA256(), pcm.SHA256(), "a header changes no sample")
		assert.Equal(t, frames, pcm.Frames())
		assert.InDelta(t, float64(frames)/float64(f.Rate), pcm.Duration().Seconds(), 1e-8)
	})
}

// The known values of each integer width: both ends and the middle.
func TestFullScale(t *testing.T) {
	for _, c := range []struct {
		bits int
		raw  string
		want []float32
	}{
		{8, "\x00\x80\xff", []float32{-1, 0, 127. / 128}},
		{16, "\x00\x80\x00\x00\xff\x7f", []float32{-1, 0, 32767. / 32768}},
		{24, "\x00\x00\x80\x00\x00\x00\xff\xff\x7f", []float32{-1, 0, 8388607. / 8388608}},
		{32, "\x00\x00\x00\x80\x00\x00\x00\x00\x00\x00\x00\x40", []float32{-1, 0, 0.5}},
	} {
		s, err := ReadPCM([]byte(c.raw), Format{Rate: 8000, Channels: 1, Bits: c.bits}, Limits{})
		require.NoError(t, err)
		assert.Equal(t, c.want, s.Samples, "%d bit", c.bits)
	}
}

func TestOpenSizes(t *testing.T) {
	f := Format{Rate: 24000, Channels: 1, Bits: 16}
	head, data := chunk("fmt ", fmtChunk(tagPCM, f)), []byte{1, 0, 2, 0, 3, 0}
	for name, sizes := range map[string][2]string{
		"vLLM-Omni and ffmpeg": {"\xff\xff\xff\xff", "\xff\xff\xff\xff"},
		"sox":                  {"\x24\x00\xff\x7f", "\x00\x00\xff\x7f"},
		"zero":                 {"\x00\x00\x00\x00", "\x00\x00\x00\x00"},
		"header never patched": {"\x24\x00\x00\x00", "\x00\x00\x00\x00"},
	} {
		file := append(riff(head, []byte("data"+sizes[1])), data...)
		copy(file[4:], sizes[0])
		s, err := ReadWAV(file, Limits{})
		require.NoError(t, err, name)
		assert.Len(t, s.Samples, 3, name)
	}
}

// Each bad file is a named error that says what is wrong.
func TestBadFiles(t *testing.T) {
	f := Format{Rate: 24000, Channels: 1, Bits: 16}
	head, data := chunk("fmt ", fmtChunk(tagPCM, f)), chunk("data", make([]byte, 20))
	good := riff(head, data)
	change := func(at int, s string) []byte {
		b := slices.Clone(good)
		copy(b[at:], s)
		return b
	}
	mulaw := fmtChunk(7, Format{Rate: 8000, Channels: 1, Bits: 8})
	strange := extensible(f)
	strange[30] ^= 1
	valid := extensible(f)
	valid[18] = 24
	for name, c := range map[string]struct {
		raw  []byte
		is   error
		says string
	}{
		"empty":              {nil, ErrNotWAV, "not a WAVE file: the file is empty"},
		"JSON":               {[]byte(`{"error":{"message":"no"}}`), ErrNotWAV, `not a WAVE file: it begins "{\"error\":{\"messa" (26 bytes)`},
		"WebP":               {[]byte("RIFF\x10\x00\x00\x00WEBPVP8 0000"), ErrNotWAV, "not a WAVE file"},
		"cut samples":        {good[:50], ErrTruncated, "audio is truncated: 6 of 20 bytes of samples are there"},
		"cut in a header":    {good[:41], ErrTruncated, "audio is truncated: it ends inside of a chunk header, at byte 36 of 41"},
		"cut format":         {good[:30], ErrTruncated, `audio is truncated: chunk "fmt " claims 16 bytes, 10 are there`},
		"cut list":           {riff(head, chunk("LIST", make([]byte, 9)))[:50], ErrTruncated, `audio is truncated: chunk "LIST" claims 9 bytes, 6 are there`},
		"form claims more":   {change(4, "\xf0\x00\x00\x00"), ErrTruncated, "audio is truncated: the form claims 248 bytes, 64 are there"},
		"form claims less":   {change(4, "\x30\x00\x00\x00"), ErrHeader, "wrong audio header: the form claims to end at byte 56, its samples at byte 64"},
		"garbage behind":     {append(slices.Clone(good), "garbage"...), ErrTrailing, "bytes follow the audio: 7 bytes after the form's end at byte 64"},
		"garbage in form":    {riff(head, data, []byte("abc")), ErrTrailing, "bytes follow the audio: 3 bytes that are no chunk, at byte 64"},
		"two files":          {slices.Concat(good, good), ErrTrailing, "bytes follow the audio: 64 bytes after the form's end"},
		"no samples":         {riff(head, chunk("data", nil)), ErrNoData, "no audio samples: 0 bytes of 24000 Hz, 1 channel, 16 bit"},
		"no data chunk":      {riff(head), ErrNoData, `no audio samples: no chunk "data"`},
		"no chunks":          {riff(), ErrHeader, `wrong audio header: neither chunk "fmt " nor chunk "data"`},
		"data before fmt":    {riff(data, head), ErrHeader, `wrong audio header: chunk "data" comes before chunk "fmt "`},
		"short fmt":          {riff(chunk("fmt ", make([]byte, 14)), data), ErrHeader, `wrong audio header: chunk "fmt " of 14 bytes, want 16 or more`},
		"short extensible":   {riff(chunk("fmt ", extensible(f)[:30]), data), ErrHeader, `wrong audio header: extensible chunk "fmt " of 30 bytes`},
		"mu-law":             {riff(chunk("fmt ", mulaw), data), ErrFormat, "audio format is not supported: WAVE format tag 0x0007; 1 (integers) and 3 (floats) are"},
		"strange sub-format": {riff(chunk("fmt ", strange), data), ErrFormat, "audio format is not supported: sub-format 0100"},
		"valid bits":         {riff(chunk("fmt ", valid), data), ErrHeader, "wrong audio header: 24 valid bits in samples of 16"},
		"12 bit":             {change(34, "\x0c"), ErrFormat, "audio format is not supported: 24000 Hz, 1 channel, 12 bit"},
		"frame size":         {change(32, "\x04"), ErrHeader, "wrong audio header: frames of 4 bytes, 24000 Hz, 1 channel, 16 bit needs 2"},
		"no channels":        {change(22, "\x00"), ErrHeader, "wrong audio header: 0 channels, want 1 to 16"},
		"no rate":            {change(24, "\x00\x00\x00\x00"), ErrHeader, "wrong audio header: sample rate 0 Hz"},
		"half a sample":      {riff(head, chunk("data", make([]byte, 19))), ErrTruncated, "audio is truncated: 19 bytes do not fill frames of 2"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ReadWAV(c.raw, Limits{})
			require.ErrorIs(t, err, c.is)
			assert.True(t, strings.HasPrefix(err.Error(), c.says), "got  %s\nwant %s", err, c.says)
		})
	}
	s, err := ReadWAV(good, Limits{})
	require.NoError(t, err)
	assert.Equal(t, 10, s.Frames())
	_, err = ReadWAV(append(slices.Clone(riff(chunk("fmt ", fmtChunk(tagPCM, Format{24000, 1, 8, false})), chunk("data", []byte{1, 2, 3})[:11])), 0), Limits{})
	assert.NoError(t, err, "a pad byte that was written and not counted")
}

func TestLimitsOfFiles(t *testing.T) {
	f := Format{Rate: 24000, Channels: 1, Bits: 8}
	file := riff(chunk("fmt ", fmtChunk(tagPCM, f)), chunk("data", make([]byte, 1000)))
	_, err := ReadWAV(file, Limits{Bytes: 1043})
	assert.EqualError(t, err, "audio is larger than allowed: file of 1044 bytes, limit 1043")
	_, err = ReadWAV(file, Limits{Samples: 999})
	assert.EqualError(t, err, "audio is larger than allowed: 1000 samples, limit 999")
	_, err = ReadPCM(make([]byte, 1000), f, Limits{Bytes: 999})
	assert.ErrorIs(t, err, ErrLimit)
	_, err = ReadPCM(make([]byte, 1001), Format{Rate: 24000, Channels: 1, Bits: 16}, Limits{})
	assert.ErrorIs(t, err, ErrTruncated)
	_, err = ReadPCM(nil, Format{Rate: 24000, Channels: 1, Bits: 16}, Limits{})
	assert.ErrorIs(t, err, ErrNoData)
	_, err = ReadPCM(make([]byte, 4), Format{}, Limits{})
	assert.ErrorIs(t, err, ErrHeader)
	_, err = Of(make([]float32, 3), Format{Rate: 24000, Channels: 2, Bits: 16})
	assert.ErrorIs(t, err, ErrHeader)
}

// FuzzReadWAV: no file panics, each is a sound or one of the named errors, and no more memory is spent than the limits say.
func FuzzReadWAV(f *testing.F) {
	for _, format := range formats {
		tag := tagPCM
		if format.Float {
			tag = tagFloat
		}
		f.Add(riff(chunk("fmt ", fmtChunk(tag, format)), chunk("LIST", []byte("odd")), chunk("data", make([]byte, 4*format.frame()))))
	}
	f.Add(riff(chunk("fmt ", extensible(formats[1])), []byte("data\xff\xff\xff\xff"), make([]byte, 64)))
	named := []error{ErrNotWAV, ErrHeader, ErrFormat, ErrNoData, ErrTruncated, ErrTrailing, ErrLimit}
	checks := []Check{Finite(), NotSilent(), NotClipped(), Centred(), Voiced(), NotNoise(), Quiet(), Pace("abc", 1, 30), Duration(1)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		limits := Limits{Bytes: 1 << 16, Samples: 1 << 14}
		s, err := ReadWAV(raw, limits)
		if err != nil {
			if !slices.ContainsFunc(named, func(n error) bool { return errors.Is(err, n) }) {
				t.Fatalf("an error without a name: %v", err)
			}
			return
		}
		if int64(len(s.Samples)) > limits.Samples || s.Frames()*s.Format.Channels != len(s.Samples) || s.Frames() == 0 {
			t.Fatalf("%d samples in %d frames of %s", len(s.Samples), s.Frames(), s.Format)
		}
		for _, c := range checks {
			_ = c(s)
		}
		_ = Like(s)(s)
		again, err := ReadWAV(s.WAV(), limits)
		if err != nil && !errors.Is(err, ErrLimit) {
			t.Fatalf("what it writes it does not read: %v", err)
		}
		if err == nil && again.Frames() != s.Frames() {
			t.Fatalf("%d frames written, %d read", s.Frames(), again.Frames())
		}
	})
}
