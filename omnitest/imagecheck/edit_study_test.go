package imagecheck

import (
	"image"
	"image/color"
	"image/draw"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"

	"github.com/omnitest/suite/fixtures/fonts"
)

// foreign puts something of 32x32 px that does not belong there at r.Min: a checker, a disc, a hanzi, a piece of another
// picture. Each differs from what it covers in the mean of its 8x8 boxes; fine texture of the same mean is not promised.
func foreign(tb testing.TB, img *image.RGBA, r image.Rectangle, kind int) *image.RGBA {
	tb.Helper()
	switch kind % 4 {
	case 0:
		return patched(img, r)
	case 1:
		out := clone(img)
		for y := r.Min.Y; y < r.Max.Y; y++ {
			for x := r.Min.X; x < r.Max.X; x++ {
				if dx, dy := x-r.Min.X-16, y-r.Min.Y-16; dx*dx+dy*dy < 256 {
					out.SetRGBA(x, y, color.RGBA{230, 30, 30, 255})
				}
			}
		}
		return out
	case 2:
		out := clone(img)
		face, err := fonts.Face(32)
		require.NoError(tb, err)
		d := font.Drawer{Dst: out.SubImage(r).(*image.RGBA), Src: image.White, Face: face, Dot: fixed.P(r.Min.X, r.Max.Y-4)}
		if img.RGBAAt(r.Min.X+16, r.Min.Y+16).G > 128 {
			d.Src = image.Black
		}
		d.DrawString("国")
		return out
	}
	out := clone(img)
	inverse := clone(img) // the other picture with the greatest contrast to this one: an unlucky piece of a scene can be alike
	for i := range inverse.Pix {
		if i&3 != 3 {
			inverse.Pix[i] = uint8((int(inverse.Pix[i]) + 128) % 256)
		}
	}
	draw.Draw(out, r, inverse, image.Pt(r.Min.X, r.Min.Y), draw.Src)
	return out
}

// TestForeignPatchFortyOfForty: a foreign patch of 32 px outside the mask is caught each time, in a picture that went through
// a VAE; the same pictures without it are never suspected.
func TestForeignPatchFortyOfForty(t *testing.T) {
	r := rand.New(rand.NewPCG(40, 33))
	caught, alarms := 0, 0
	least, leastColour, most, mostColour, worstPSNR := 255.0, 255.0, 0.0, 0.0, 99.0
	for i := range 40 {
		before := scene(448, 320, uint64(i))
		mask := image.Rect(32*r.IntN(4), 32*r.IntN(3), 0, 0)
		mask.Max = mask.Min.Add(image.Pt(96, 96))
		edited := patched(before, mask)
		var at image.Rectangle
		for { // anywhere outside the mask and the tiles around it, aligned with nothing
			at = image.Rect(0, 0, 32, 32).Add(image.Pt(r.IntN(448-32), r.IntN(320-32)))
			if !at.Overlaps(mask.Inset(-TileSide * 2)) {
				break
			}
		}
		judge := func(img *image.RGBA) (tile, colour, psnr float64, err error) {
			c := Case{Observe: func(_ string, ms []Metric) {
				for _, m := range ms {
					switch m.Name {
					case "tile-MAD":
						tile = m.Value
					case "tile-colour":
						colour = m.Value
					case "PSNR":
						psnr = m.Value
					}
				}
			}}
			err = EditOutside(Of(before, Case{}), mask)(Of(img, c))
			return tile, colour, psnr, err
		}
		loss := vaeLoss(edited, uint64(i))
		tile, colour, psnr, err := judge(loss)
		if most, mostColour, worstPSNR = max(most, tile), max(mostColour, colour), min(worstPSNR, psnr); err != nil {
			alarms++
			t.Errorf("picture %d, nothing planted: %v", i, err)
		}
		assert.InDelta(t, 33.4, psnr, 1.5, "the loss is a VAE's, about 33 dB")
		tile, colour, _, err = judge(vaeLoss(foreign(t, edited, at, i), uint64(i)))
		least, leastColour = min(least, tile), min(leastColour, colour)
		onLuma := tile > 8
		if err == nil {
			t.Errorf("picture %d: foreign patch of kind %d at %v not seen, worst tile %.3g", i, i%4, at, tile)
			continue
		}
		caught++
		if onLuma {
			assert.Contains(t, err.Error(), "picture changed outside the region: tile MAD at (")
		} else {
			assert.Regexp(t, `^picture changed outside the region: (red|green|blue) at \(`, err.Error())
		}
	}
	t.Logf("caught %d of 40, the least at %.3g luma, %.3g colour; false alarms %d of 40, worst %.3g luma, %.3g colour, worst PSNR %.4g dB", caught, least, leastColour, alarms, most, mostColour, worstPSNR)
	assert.Equal(t, 40, caught)
	assert.Zero(t, alarms)
}

// TestTenTurns: ten edits, each through a VAE. The error budget holds on every turn without an alarm; a tone that drifts by
// one part in a hundred per turn keeps that budget and is caught by its direction.
func TestTenTurns(t *testing.T) {
	first := scene(512, 384, 9)
	run := func(drift float64, each func(k int, p Picture, regions []image.Rectangle)) {
		img := first
		var regions []image.Rectangle
		for k := 1; k <= 10; k++ {
			region := image.Rect(32*(k%3), 32*(k%2), 32*(k%3)+96, 32*(k%2)+96)
			regions = append(regions, region)
			img = vaeLoss(patched(img, region), uint64(k))
			if drift != 1 {
				img = gained(img, drift)
			}
			each(k, Of(img, Case{}), regions)
		}
	}
	run(1, func(k int, p Picture, regions []image.Rectangle) {
		p.Case.Observe = func(_ string, ms []Metric) {
			if k == 10 {
				t.Log(ms)
			}
		}
		assert.NoError(t, KeptOverTurns(Of(first, Case{}), k, regions...)(p), "turn %d", k)
		assert.NoError(t, NoDrift(Of(first, Case{}), k, regions...)(p), "turn %d", k)
	})
	var last error
	caughtAt := 0
	run(1.01, func(k int, p Picture, regions []image.Rectangle) {
		if last = NoDrift(Of(first, Case{}), k, regions...)(p); last != nil && caughtAt == 0 {
			caughtAt = k
		}
	})
	t.Logf("drift of 1 %% a turn is caught at turn %d", caughtAt)
	require.ErrorContains(t, last, "picture drifted over the turns: mean of ")
	assert.LessOrEqual(t, caughtAt, 6)
}

// TestOverEditing: the edit that did nothing and the one that redrew everything are both caught where no region is known, and
// a real local edit is not.
func TestOverEditing(t *testing.T) {
	before := scene(256, 192, 1)
	local := vaeLoss(patched(before, image.Rect(32, 32, 128, 96)), 3)
	both := func(img *image.RGBA) (did, kept error) {
		return EditInside(ask(before), nil)(ask(img)), EditLocal(ask(before))(ask(img))
	}
	did, kept := both(local)
	assert.NoError(t, did)
	assert.NoError(t, kept)

	did, kept = both(vaeLoss(before, 1))
	assert.EqualError(t, did, "edit did not happen: changed tiles of the picture 0, at least 0.005 (tile MAD > 8)\n  metric  changed 0, want >= 0.005"+askLines+stackLine)
	assert.NoError(t, kept, "what did nothing kept everything")

	did, kept = both(scene(256, 192, 5))
	assert.NoError(t, did)
	assert.ErrorContains(t, kept, "edit redrew more than it was asked for: changed tiles of the picture 1, limit 0.4 (tile MAD > 8); and 1 more")

	_, kept = both(noisy(patched(before, image.Rect(32, 32, 128, 96)), 14, 2))
	assert.ErrorContains(t, kept, "edit redrew more than it was asked for: PSNR of the rest 25.")
	_, kept = both(filled(256, 192, color.Black))
	assert.ErrorContains(t, kept, "edit redrew more than it was asked for: changed tiles of the picture 1, limit 0.4 (tile MAD > 8); and 1 more")
	assert.EqualError(t, EditLocal(ask(before))(ask(scene(320, 192, 1))), "edit redrew more than it was asked for: it is 320x192, the picture before is 256x192"+askLines+stackLine)

	assert.NoError(t, ParityEdit(ask(local))(ask(noisy(local, 2, 1))))
	assert.ErrorContains(t, ParityEdit(ask(local))(ask(noisy(local, 10.3, 1))), "edit differs from control: PSNR 27.89, at least 28 (dB); and 1 more")
	assert.EqualError(t, NoDrift(ask(before), 0)(ask(local)), "picture drifted over the turns: turn 0 with 0 regions cannot be checked"+askLines+stackLine)
	assert.EqualError(t, NoDrift(ask(before), 1, before.Rect)(ask(local)), "picture drifted over the turns: nothing lies outside the regions and the tiles around them, so nothing was measured"+askLines+stackLine)
}
