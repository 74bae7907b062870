package imagecheck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// What can be wrong with a picture's file. Every one of them decodes to something, or is refused by a decoder in words of
// its own; a test asks by errors.Is which it was.
var (
	ErrNotAPicture = errors.New("no png, jpeg or webp")
	ErrTooLarge    = errors.New("larger than the limits, by its bytes or by the pixels its header claims")
	ErrNoPixels    = errors.New("a picture without pixels")
	ErrTruncated   = errors.New("the file ends before its picture does")
	ErrTrailing    = errors.New("bytes after the picture's end: two answers glued together")
	ErrBroken      = errors.New("does not decode")

	Err16Bit    = errors.New("16 bits a channel: comparisons see the upper 8")
	ErrPalette  = errors.New("palette of 256 colours or fewer: a model's picture was reduced")
	ErrGrey     = errors.New("grey file: one channel where three were asked for")
	ErrCMYK     = errors.New("CMYK: colours depend on who converts them")
	ErrAnimated = errors.New("animated: only the first picture would be judged")
	ErrRotated  = errors.New("EXIF orientation: viewers turn it, decoders do not")
	ErrAlpha    = errors.New("alpha channel")
)

// What is no property of a file but of the comparison.
var (
	ErrSize = errors.New("size mismatch")               // of two pictures, or of a picture and what was asked for
	ErrKey  = errors.New("golden of another key")       // see Key
	ErrLost = errors.New("no golden, or a damaged one") // see LoadGolden
)

// Inspect reads a picture's file without decoding its pixels and gives all that is unusual about it, each an error that
// wraps one of the variables above. Memory is bounded by the file. nil: a plain 8-bit RGB (or YCbCr) picture and nothing
// else. It reads headers and chunk lists; only decoding tells whether the pixels are whole ([Decode]).
func Inspect(file []byte, limits api.Limits) []error {
	im, err := api.ReadImage(file, limits)
	if err != nil {
		return []error{fmt.Errorf("%w: %w", refusal(err, file), err)}
	}
	var found []error
	add := func(e error, format string, args ...any) {
		if !slices.ContainsFunc(found, func(f error) bool { return errors.Is(f, e) }) {
			found = append(found, fmt.Errorf("%s file: %w (%s)", im.Format, e, fmt.Sprintf(format, args...)))
		}
	}
	switch n := im.Trailing(); {
	case n < 0:
		add(ErrTruncated, "%d bytes", len(file))
	case n > 0:
		add(ErrTrailing, "%d of %d bytes", n, len(file))
	}
	switch im.Format {
	case "png":
		inspectPNG(file, add)
	case "jpeg":
		inspectJPEG(file, add)
	case "webp":
		inspectWebP(file, add)
	}
	return found
}

// Plain demands that [Inspect] finds nothing but what is allowed: Plain(ErrAlpha) for a model that answers RGBA. A picture
// that never was a file fails.
func Plain(allow ...error) Check {
	return check("plain-file", "picture file is not plain", func(p Picture, f *finding) {
		if p.File.Raw == nil {
			f.fail("the picture never was a file")
			return
		}
		for _, e := range Inspect(p.File.Raw, api.Limits{}) {
			if !slices.ContainsFunc(allow, func(a error) bool { return errors.Is(e, a) }) {
				f.called(e)
				f.fail("%v", e)
			}
		}
	})
}

// refusal names what ReadImage refused.
func refusal(err error, file []byte) error {
	switch text := err.Error(); {
	case api.KindOf(err) == api.Limit:
		return ErrTooLarge
	case len(file) == 0 || strings.Contains(text, "is no png, jpeg or webp"):
		return ErrNotAPicture
	case strings.Contains(text, "header claims 0x") || strings.Contains(text, "x0 pixels") || strings.Contains(text, "non-positive dimension"):
		return ErrNoPixels
	case strings.Contains(text, "unexpected EOF") || strings.Contains(text, "broken header: EOF"):
		return ErrTruncated
	}
	return ErrBroken
}

// inspectPNG walks the chunks: length, type, data, CRC.
func inspectPNG(file []byte, add func(error, string, ...any)) {
	for i := int64(8); i+12 <= int64(len(file)); {
		n := int64(binary.BigEndian.Uint32(file[i:]))
		data := file[i+8 : min(i+8+n, int64(len(file)))]
		switch kind := string(file[i+4 : i+8]); kind {
		case "IHDR":
			if len(data) < 13 {
				return
			}
			if data[8] == 16 {
				add(Err16Bit, "IHDR says bit depth %d", data[8])
			}
			switch data[9] {
			case 0:
				add(ErrGrey, "colour type 0")
			case 3:
				add(ErrPalette, "colour type 3")
			case 4:
				add(ErrGrey, "colour type 4")
				add(ErrAlpha, "colour type 4")
			case 6:
				add(ErrAlpha, "colour type 6")
			}
		case "tRNS":
			add(ErrAlpha, "tRNS chunk")
		case "acTL":
			frames := uint32(0)
			if len(data) >= 4 {
				frames = binary.BigEndian.Uint32(data)
			}
			add(ErrAnimated, "acTL chunk of %d frames", frames)
		case "eXIf":
			orientation(data, add)
		case "IEND":
			return
		}
		i += 12 + n
	}
}

// inspectJPEG walks the segments up to the scan.
func inspectJPEG(file []byte, add func(error, string, ...any)) {
	for i := 2; i+4 <= len(file); {
		if file[i] != 0xff {
			return
		}
		m := file[i+1]
		if m == 0xff { // fill byte
			i++
			continue
		}
		n := int(binary.BigEndian.Uint16(file[i+2:]))
		data := file[i+4 : max(i+4, min(i+2+n, len(file)))]
		switch {
		case m == 0xda: // scan: the header is over
			return
		case m >= 0xc0 && m <= 0xcf && m != 0xc4 && m != 0xc8 && m != 0xcc:
			if len(data) >= 6 {
				switch data[5] {
				case 1:
					add(ErrGrey, "1 component")
				case 4:
					add(ErrCMYK, "4 components")
				}
			}
		case m == 0xe1 && bytes.HasPrefix(data, []byte("Exif\x00\x00")):
			orientation(data[6:], add)
		}
		i += 2 + n
	}
}

// inspectWebP walks the RIFF chunks.
func inspectWebP(file []byte, add func(error, string, ...any)) {
	for i := int64(12); i+8 <= int64(len(file)); {
		n := int64(binary.LittleEndian.Uint32(file[i+4:]))
		data := file[i+8 : min(i+8+n, int64(len(file)))]
		switch kind := string(file[i : i+4]); kind {
		case "VP8X":
			if len(data) > 0 && data[0]&0x10 != 0 {
				add(ErrAlpha, "VP8X flag")
			}
			if len(data) > 0 && data[0]&0x02 != 0 {
				add(ErrAnimated, "VP8X flag")
			}
		case "ANIM", "ANMF":
			add(ErrAnimated, "%s chunk", kind)
		case "ALPH":
			add(ErrAlpha, "ALPH chunk")
		case "VP8L":
			if len(data) >= 5 && data[0] == 0x2f && data[4]&0x10 != 0 {
				add(ErrAlpha, "VP8L header")
			}
		case "EXIF":
			orientation(bytes.TrimPrefix(data, []byte("Exif\x00\x00")), add)
		}
		i += 8 + n + n&1
	}
}

// orientation reads tag 0x112 of a TIFF block's first directory; 1 is upright.
func orientation(tiff []byte, add func(error, string, ...any)) {
	var order binary.ByteOrder
	switch {
	case bytes.HasPrefix(tiff, []byte("II*\x00")):
		order = binary.LittleEndian
	case bytes.HasPrefix(tiff, []byte("MM\x00*")):
		order = binary.BigEndian
	default:
		return
	}
	if len(tiff) < 8 {
		return
	}
	at := int64(order.Uint32(tiff[4:]))
	if at+2 > int64(len(tiff)) {
		return
	}
	n := int64(order.Uint16(tiff[at:]))
	for k := range n {
		e := at + 2 + 12*k
		if e+12 > int64(len(tiff)) {
			return
		}
		if order.Uint16(tiff[e:]) == 0x112 {
			if v := order.Uint16(tiff[e+8:]); v != 1 {
				add(ErrRotated, "orientation %d", v)
			}
			return
		}
	}
}
