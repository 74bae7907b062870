package imagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// headerPNG is a file that claims a size and has no pixels.
func headerPNG(w, h uint32) []byte {
	b := []byte("\x89PNG\r\n\x1a\n")
	chunk := func(kind string, data []byte) {
		b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
		start := len(b)
		b = append(append(b, kind...), data...)
		b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[start:]))
	}
	ihdr := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, w), h)
	chunk("IHDR", append(ihdr, 8, 2, 0, 0, 0))
	chunk("IDAT", []byte{0x78, 0x9c, 0x03})
	chunk("IEND", nil)
	return b
}

func stored(tb testing.TB, name string) []byte {
	tb.Helper()
	raw, err := os.ReadFile("testdata/files/" + name)
	require.NoError(tb, err)
	return raw
}

// Every bad file has a name, and no other than that.
func TestBadFiles(t *testing.T) {
	plain := stored(t, "plain.png")
	var deep, grey bytes.Buffer
	require.NoError(t, png.Encode(&deep, image.NewNRGBA64(image.Rect(0, 0, 8, 8))))
	require.NoError(t, png.Encode(&grey, image.NewGray(image.Rect(0, 0, 8, 8))))
	flipped := bytes.Clone(plain)
	flipped[bytes.Index(plain, []byte("IDAT"))+8] ^= 0x55
	for _, c := range []struct {
		name   string
		raw    []byte
		want   []error
		decode error  // what Decode calls it; nil: it decodes
		says   string // text of the first finding
	}{
		{"plain png", plain, nil, nil, ""},
		{"plain jpeg", stored(t, "plain.jpg"), nil, nil, ""},
		{"plain webp", stored(t, "plain.webp"), nil, nil, ""},
		{"bomb", headerPNG(20000, 20000), []error{ErrTooLarge}, ErrTooLarge, "larger than the limits, by its bytes or by the pixels its header claims: limit: png header of a 60-byte file claims 20000x20000 = 400000000 pixels, limit 16777216 (Limits.Pixels)"},
		{"0x0", headerPNG(0, 0), []error{ErrNoPixels}, ErrNoPixels, "a picture without pixels: protocol: png file of 60 bytes has a broken header: png: invalid format: non-positive dimension"},
		{"empty", nil, []error{ErrNotAPicture}, ErrNotAPicture, "no png, jpeg or webp: protocol: image file is empty"},
		{"html", []byte("<html>502 Bad Gateway</html>"), []error{ErrNotAPicture}, ErrNotAPicture, `no png, jpeg or webp: protocol: image file of 28 bytes is no png, jpeg or webp: it begins "<html>502 Bad Ga"`},
		{"cut in the header", plain[:20], []error{ErrTruncated}, ErrTruncated, "the file ends before its picture does: protocol: png file of 20 bytes has a broken header: unexpected EOF"},
		{"cut in the pixels", plain[:len(plain)/2], []error{ErrTruncated}, ErrTruncated, fmt.Sprintf("png file: the file ends before its picture does (%d bytes)", len(plain)/2)},
		{"jpeg cut", stored(t, "plain.jpg")[:700], []error{ErrTruncated}, ErrTruncated, "jpeg file: the file ends before its picture does (700 bytes)"},
		{"trailing", append(bytes.Clone(plain), "more"...), []error{ErrTrailing}, nil, fmt.Sprintf("png file: bytes after the picture's end: two answers glued together (4 of %d bytes)", len(plain)+4)},
		{"broken pixels", flipped, nil, ErrBroken, ""},
		{"16 bit", deep.Bytes(), []error{Err16Bit, ErrAlpha}, nil, "png file: 16 bits a channel: comparisons see the upper 8 (IHDR says bit depth 16)"},
		{"grey", grey.Bytes(), []error{ErrGrey}, nil, "png file: grey file: one channel where three were asked for (colour type 0)"},
		{"grey jpeg", stored(t, "grey.jpg"), []error{ErrGrey}, nil, "jpeg file: grey file: one channel where three were asked for (1 component)"},
		{"palette", stored(t, "palette.png"), []error{ErrPalette}, nil, "png file: palette of 256 colours or fewer: a model's picture was reduced (colour type 3)"},
		{"cmyk", stored(t, "cmyk.jpg"), []error{ErrCMYK}, nil, "jpeg file: CMYK: colours depend on who converts them (4 components)"},
		{"alpha", stored(t, "alpha.png"), []error{ErrAlpha}, nil, "png file: alpha channel (colour type 6)"},
		{"alpha webp", stored(t, "alpha.webp"), []error{ErrAlpha}, nil, ""},
		{"alpha webp, lossy", stored(t, "alpha-lossy.webp"), []error{ErrAlpha}, nil, "webp file: alpha channel (VP8X flag)"},
		{"animated webp", stored(t, "animated.webp"), []error{ErrAnimated}, ErrAnimated, "webp file: animated: only the first picture would be judged (VP8X flag)"},
		{"animated png", stored(t, "animated.png"), []error{ErrAnimated}, nil, "png file: animated: only the first picture would be judged (acTL chunk of 2 frames)"},
		{"turned jpeg", stored(t, "turned.jpg"), []error{ErrRotated}, nil, "jpeg file: EXIF orientation: viewers turn it, decoders do not (orientation 6)"},
		{"turned png", stored(t, "turned.png"), []error{ErrRotated}, nil, "png file: EXIF orientation: viewers turn it, decoders do not (orientation 6)"},
		{"turned webp", stored(t, "turned.webp"), []error{ErrRotated}, nil, "webp file: EXIF orientation: viewers turn it, decoders do not (orientation 6)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			found := Inspect(c.raw, api.Limits{})
			assert.Len(t, found, len(c.want), "%v", found)
			for i, want := range c.want {
				if i < len(found) {
					assert.ErrorIs(t, found[i], want)
				}
			}
			if c.says != "" && assert.NotEmpty(t, found) {
				assert.EqualError(t, found[0], c.says)
			}
			p, err := Decode(api.Image{Raw: c.raw}, Case{Name: "file"})
			if c.decode == nil {
				require.NoError(t, err)
				err := Plain()(p)
				assert.Equal(t, len(c.want) > 0, err != nil, "%v", err)
				assert.NoError(t, Plain(c.want...)(p))
				for _, want := range c.want {
					assert.ErrorIs(t, err, want)
				}
				return
			}
			require.Error(t, err)
			assert.ErrorIs(t, err, c.decode, "%v", err)
			assert.Contains(t, err.Error(), "picture does not decode: ")
		})
	}
}

// A comparison that cannot be made is an error with a name, and never a number.
func TestNamedMismatches(t *testing.T) {
	small, good := ask(scene(128, 192, 1)), ask(scene(256, 192, 1))
	region := image.Rect(0, 0, 64, 64)
	for name, check := range map[string]Check{
		"same": SamePixels(good), "load": SameUnderLoad(good), "parity": Parity(good), "parity of edits": ParityEdit(good), "edit": EditInside(good, region),
		"outside": EditOutside(good, region), "local": EditLocal(good), "style": StyleChanged(good), "turns": KeptOverTurns(good, 1, region), "drift": NoDrift(good, 1, region),
		"text": Text(good, Box{Rect: region}), "extra": NoExtraText(good), "size": Size(good.Size()), "colour": KeptColour(good, region),
	} {
		assert.ErrorIs(t, check(small), ErrSize, name)
	}
	store, right, box := approved(t, Store{})
	other := goldenKey
	other.Engine = "another"
	err := store.Check("open-24-hours", other, box)(right)
	assert.ErrorIs(t, err, ErrKey)
	assert.NotErrorIs(t, err, ErrSize)
	assert.ErrorIs(t, store.Check("never-made", goldenKey)(right), ErrLost)
	assert.EqualError(t, Plain()(good), "picture file is not plain: the picture never was a file"+askLines+stackLine)
}

func FuzzInspect(f *testing.F) {
	list, err := os.ReadDir("testdata/files")
	require.NoError(f, err)
	for _, e := range list {
		raw, err := os.ReadFile("testdata/files/" + e.Name())
		require.NoError(f, err)
		f.Add(raw)
	}
	f.Add(headerPNG(20000, 20000))
	f.Add(headerPNG(0, 0))
	named := []error{ErrNotAPicture, ErrTooLarge, ErrNoPixels, ErrTruncated, ErrTrailing, ErrBroken, Err16Bit, ErrPalette, ErrGrey, ErrCMYK, ErrAnimated, ErrRotated, ErrAlpha}
	f.Fuzz(func(t *testing.T, raw []byte) {
		limits := api.Limits{Pixels: 1 << 16}
		found := Inspect(raw, limits)
		for _, e := range found {
			is := false
			for _, n := range named {
				is = is || errors.Is(e, n)
			}
			if !is {
				t.Fatalf("a finding without a name: %v", e)
			}
		}
		im, err := api.ReadImage(raw, limits)
		if err != nil {
			if len(found) == 0 {
				t.Fatalf("refused by the reader, not by Inspect: %v", err)
			}
			return
		}
		p, err := Decode(im, Case{})
		if err != nil {
			return
		}
		if got := p.Size(); got.W*got.H > 1<<16 {
			t.Fatalf("%v pixels beyond the limit", got)
		}
		_ = NotBlank()(p)
		_ = Plain()(p)
	})
}
