package imagecheck

import (
	"encoding/json"
	"image"
	"image/color"
	"image/draw"
	"os"
	"strings"
	"testing"

	"github.com/corona10/goimagehash"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func scene(w, h int, n uint64) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	background(img, n)
	return img
}

// The wrapper adds guards and a text form; the bits are the library's.
func TestHashIsTheLibrarys(t *testing.T) {
	for n := range uint64(6) {
		img := scene(320, 200, n)
		ours, err := PHash64(img)
		require.NoError(t, err)
		theirs, err := goimagehash.PerceptionHash(img)
		require.NoError(t, err)
		assert.Equal(t, theirs.ToString(), ours.String())

		ours, err = ExtP256(img)
		require.NoError(t, err)
		ext, err := goimagehash.ExtPerceptionHash(img, 16, 16)
		require.NoError(t, err)
		assert.Equal(t, ext.ToString(), ours.String())

		back, err := ParseHash(ours.String())
		require.NoError(t, err)
		assert.Equal(t, ours, back)

		other, err := ExtP256(scene(320, 200, n+1))
		require.NoError(t, err)
		extOther, err := goimagehash.ExtPerceptionHash(scene(320, 200, n+1), 16, 16)
		require.NoError(t, err)
		want, err := ext.Distance(extOther)
		require.NoError(t, err)
		got, err := ours.Distance(other)
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}

// HashLib is stored with goldens: it must be the version that is linked.
func TestHashLibIsTheVersionInUse(t *testing.T) {
	mod, err := os.ReadFile("../../go.mod")
	require.NoError(t, err)
	assert.Contains(t, string(mod), "github.com/corona10/"+HashLib)
}

// Each defect of goimagehash v1.1.0 is shown on the library itself, then that the wrapper does not have it. If a row fails
// on the library's side, the library was changed and goldens must be made again.
func TestDefectsAndGuards(t *testing.T) {
	t.Run("nil distance panics", func(t *testing.T) {
		h, err := goimagehash.PerceptionHash(scene(64, 64, 1))
		require.NoError(t, err)
		assert.Panics(t, func() { _, _ = h.Distance(nil) })
		mine, err := PHash64(scene(64, 64, 1))
		require.NoError(t, err)
		_, err = mine.Distance(Hash{})
		assert.EqualError(t, err, "distance to a hash that was never computed")
	})
	t.Run("width greater than height is silently wrong", func(t *testing.T) {
		a, err := goimagehash.ExtPerceptionHash(scene(256, 256, 1), 32, 8)
		require.NoError(t, err)
		tail := a.GetHash()[len(a.GetHash())-1]
		assert.Zero(t, tail, "the rows overlap and the tail stays zero")
		mine, err := ExtP256(scene(256, 256, 1))
		require.NoError(t, err)
		assert.NotZero(t, mine.w[3])
	})
	t.Run("width less than height panics", func(t *testing.T) {
		assert.Panics(t, func() { _, _ = goimagehash.ExtPerceptionHash(scene(256, 256, 1), 8, 32) })
	})
	t.Run("sub-image of the working size", func(t *testing.T) {
		whole := scene(256, 256, 3)
		sub := whole.SubImage(image.Rect(90, 70, 154, 134)).(*image.RGBA) // 64x64, what pHash resizes to
		copied := crop(whole, sub.Rect)
		a, err := goimagehash.PerceptionHash(sub)
		require.NoError(t, err)
		b, err := goimagehash.PerceptionHash(copied)
		require.NoError(t, err)
		assert.NotEqual(t, b.ToString(), a.ToString(), "the library reads the sub-image at the wrong place")
		mineSub, err := PHash64(sub)
		require.NoError(t, err)
		mineCopy, err := PHash64(copied)
		require.NoError(t, err)
		assert.Equal(t, mineCopy, mineSub)
		assert.Equal(t, b.ToString(), mineSub.String())
	})
	t.Run("flat pictures share one hash", func(t *testing.T) {
		white, gray := filled(64, 64, color.White), filled(64, 64, color.Gray{90})
		a, err := goimagehash.PerceptionHash(white)
		require.NoError(t, err)
		b, err := goimagehash.PerceptionHash(gray)
		require.NoError(t, err)
		assert.Equal(t, a.ToString(), b.ToString())
		for _, img := range []*image.RGBA{white, gray} {
			_, err := PHash64(img)
			assert.ErrorIs(t, err, ErrFlat)
			_, err = ExtP256(img)
			assert.ErrorIs(t, err, ErrFlat)
		}
	})
	t.Run("transparent counts as black", func(t *testing.T) {
		// A glyph-like square on white, and the same picture with the white made transparent.
		opaque := filled(128, 128, color.White)
		draw.Draw(opaque, image.Rect(30, 40, 80, 110), image.NewUniform(color.RGBA{60, 60, 60, 255}), image.Point{}, draw.Src)
		clear := image.NewRGBA(opaque.Rect)
		draw.Draw(clear, image.Rect(30, 40, 80, 110), image.NewUniform(color.RGBA{60, 60, 60, 255}), image.Point{}, draw.Src)
		a, err := goimagehash.PerceptionHash(opaque)
		require.NoError(t, err)
		b, err := goimagehash.PerceptionHash(clear)
		require.NoError(t, err)
		assert.NotEqual(t, a.ToString(), b.ToString())
		mine, err := PHash64(opaque)
		require.NoError(t, err)
		mineClear, err := PHash64(clear)
		require.NoError(t, err)
		assert.Equal(t, mine, mineClear)
	})
	t.Run("text form", func(t *testing.T) {
		z, err := goimagehash.ImageHashFromString("z:00000000000000ff")
		require.NoError(t, err, "the library takes any prefix")
		assert.Equal(t, goimagehash.Unknown, z.GetKind())
		for _, bad := range []string{"", "p", "z:00000000000000ff", "p:ff", "p:00000000000000fg", "p:00000000000000ff00", "00000000000000ff"} {
			_, err := ParseHash(bad)
			assert.EqualError(t, err, `hash "`+bad+`": want p: and 16 or 64 hex digits`)
		}
	})
	t.Run("empty picture", func(t *testing.T) {
		_, err := goimagehash.PerceptionHash(image.NewRGBA(image.Rectangle{}))
		require.NoError(t, err, "the library gives nothing a hash")
		_, err = PHash64(image.NewRGBA(image.Rectangle{}))
		assert.ErrorIs(t, err, ErrNoPicture)
		_, err = ExtP256(nil)
		assert.ErrorIs(t, err, ErrNoPicture)
	})
	t.Run("lengths", func(t *testing.T) {
		a, err := PHash64(scene(64, 64, 1))
		require.NoError(t, err)
		b, err := ExtP256(scene(64, 64, 1))
		require.NoError(t, err)
		_, err = a.Distance(b)
		assert.EqualError(t, err, "distance between hashes of 64 and 256 bits")
	})
}

func TestHashInJSON(t *testing.T) {
	h, err := ExtP256(scene(100, 80, 5))
	require.NoError(t, err)
	raw, err := json.Marshal(h)
	require.NoError(t, err)
	assert.Len(t, string(raw), 2+2+64)
	var back Hash
	require.NoError(t, json.Unmarshal(raw, &back))
	assert.Equal(t, h, back)
	assert.ErrorContains(t, json.Unmarshal([]byte(strings.ToUpper(`"q`)+string(raw)[2:]), &back), "want p:")
}

func filled(w, h int, c color.Color) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(img, img.Rect, image.NewUniform(c), image.Point{}, draw.Src)
	return img
}
