package imagecheck

import (
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"math/bits"

	"github.com/corona10/goimagehash"
)

// HashLib is what computes the hashes. It is stored with every golden: the same algorithm in another library, or in
// another version of this one, gives other bits.
const HashLib = "goimagehash v1.1.0"

// ErrFlat: a picture of one colour has no perceptual hash. All of them share one value, so that white would equal gray.
var ErrFlat = errors.New("flat picture: all flat pictures share one hash")

// ErrNoPicture: nil or without pixels. goimagehash gives an empty picture a hash, and no error.
var ErrNoPicture = errors.New("no picture to hash")

// Hash is a perceptual hash (DCT) of 64 or 256 bits. The zero Hash is none. Comparable with ==.
type Hash struct {
	n int // 64 or 256
	w [4]uint64
}

// PHash64 is the classic 8x8 perceptual hash: a gate for "the same picture?", blind to text.
func PHash64(img *image.RGBA) (Hash, error) {
	img, err := hashable(img)
	if err != nil {
		return Hash{}, err
	}
	h, err := goimagehash.PerceptionHash(img)
	if err != nil {
		return Hash{}, err
	}
	return Hash{n: 64, w: [4]uint64{h.GetHash()}}, nil
}

// ExtP256 is the 16x16 perceptual hash. Over a crop of a text box it sees a wrong letter.
func ExtP256(img *image.RGBA) (Hash, error) {
	img, err := hashable(img)
	if err != nil {
		return Hash{}, err
	}
	// Square, and nothing else: width > height is silently wrong in goimagehash, width < height panics.
	h, err := goimagehash.ExtPerceptionHash(img, 16, 16)
	if err != nil {
		return Hash{}, err
	}
	words := h.GetHash()
	if len(words) != 4 {
		return Hash{}, fmt.Errorf("%s gave %d words for a 256 bit hash", HashLib, len(words))
	}
	return Hash{n: 256, w: [4]uint64(words)}, nil
}

// hashable applies the guards: nil, empty, flat, transparent, and an origin other than 0,0.
func hashable(img *image.RGBA) (*image.RGBA, error) {
	if img == nil || img.Rect.Empty() {
		return nil, ErrNoPicture
	}
	if img.Rect.Min != (image.Point{}) {
		img = crop(img, img.Rect)
	}
	img = onWhite(img)
	if flat(img) {
		return nil, ErrFlat
	}
	return img, nil
}

// flat is true if no channel of any pixel differs by more than 2 from the first pixel.
func flat(img *image.RGBA) bool {
	w := 4 * img.Rect.Dx()
	for y := range img.Rect.Dy() {
		row := img.Pix[y*img.Stride:][:w]
		for i, v := range row {
			if d := int(v) - int(img.Pix[i&3]); d > 2 || d < -2 {
				return false
			}
		}
	}
	return true
}

// Bits gives 64 or 256, 0 for the zero Hash.
func (h Hash) Bits() int { return h.n }

// Distance is the number of differing bits. Hashes of different length cannot be compared.
func (h Hash) Distance(o Hash) (int, error) {
	if h.n == 0 || o.n == 0 {
		return 0, errors.New("distance to a hash that was never computed")
	}
	if h.n != o.n {
		return 0, fmt.Errorf("distance between hashes of %d and %d bits", h.n, o.n)
	}
	d := 0
	for i := range h.w {
		d += bits.OnesCount64(h.w[i] ^ o.w[i])
	}
	return d, nil
}

// String gives the text form that goldens store: "p:" and 16 or 64 hex digits. "" for the zero Hash.
func (h Hash) String() string {
	if h.n == 0 {
		return ""
	}
	s := "p:"
	for _, w := range h.w[:h.n/64] {
		s += fmt.Sprintf("%016x", w)
	}
	return s
}

// ParseHash reads the text form strictly. goimagehash's own parser takes any prefix, and turns short hashes into 64 bits.
func ParseHash(s string) (Hash, error) {
	bad := func() (Hash, error) {
		return Hash{}, fmt.Errorf("hash %q: want p: and 16 or 64 hex digits", s)
	}
	if len(s) < 2 || s[:2] != "p:" {
		return bad()
	}
	raw, err := hex.DecodeString(s[2:])
	if err != nil || len(raw) != 8 && len(raw) != 32 {
		return bad()
	}
	h := Hash{n: 8 * len(raw)}
	for i, b := range raw {
		h.w[i/8] |= uint64(b) << (56 - 8*(i%8))
	}
	return h, nil
}

// MarshalText is String.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText is ParseHash.
func (h *Hash) UnmarshalText(text []byte) (err error) {
	*h, err = ParseHash(string(text))
	return err
}
