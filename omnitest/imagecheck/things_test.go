package imagecheck

import (
	"image"
	"image/color"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// discs paints discs of 40 px radius at the given places on grey waves.
func discs(c color.RGBA, at ...image.Point) *image.RGBA {
	img := filled(512, 384, color.RGBA{200, 205, 210, 255})
	for _, m := range at {
		for y := -40; y <= 40; y++ {
			for x := -40; x <= 40; x++ {
				if x*x+y*y <= 1600 {
					img.SetRGBA(m.X+x, m.Y+y, c)
				}
			}
		}
	}
	return vaeLoss(img, 3)
}

func TestThings(t *testing.T) {
	red := color.RGBA{214, 40, 40, 255}
	three := Of(discs(red, image.Pt(90, 90), image.Pt(300, 100), image.Pt(400, 300)), Case{})
	topLeft, bottomRight := image.Rect(0, 0, 256, 192), image.Rect(256, 192, 512, 384)
	require.NoError(t, Things(3, "red")(three))
	require.NoError(t, Things(3, "red", topLeft, bottomRight)(three))
	require.NoError(t, Things(0, "blue")(three))
	assert.EqualError(t, Things(2, "red")(three), "wrong number or place of things: 3 things are red, want 2 ((48,48)-(128,128), (256,56)-(344,144), (360,256)-(440,344))\n  metric  count 3, want <= 2")
	assert.ErrorContains(t, Things(4, "red")(three), "3 things are red, want 4 (")
	assert.ErrorContains(t, Things(1, "green")(three), "wrong number or place of things: 0 things are green, want 1 (none)")
	assert.ErrorContains(t, Things(3, "red", topLeft, topLeft)(three), "no thing that is red has its middle in (0,0)-(256,192) (")
	assert.ErrorContains(t, Things(3, "red", image.Rect(0, 192, 256, 384))(three), "no thing that is red has its middle in (0,192)-(256,384)")
	assert.ErrorContains(t, Things(1, "red", topLeft, bottomRight)(three), "1 things at 2 places cannot be checked")
	assert.ErrorContains(t, Things(1, "mauve")(three), `no colour is called "mauve"`)
	assert.ErrorContains(t, Things(3, "red", image.Rect(500, 0, 600, 10))(three), "is not inside the picture")
	assert.ErrorContains(t, Things(2, "red")(Of(discs(red, image.Pt(100, 100), image.Pt(170, 100)), Case{})), "1 things are red, want 2", "things that touch are one")
	speck := discs(red, image.Pt(100, 100))
	for i := range 64 {
		speck.SetRGBA(400+i%8, 200+i/8, red)
	}
	require.NoError(t, Things(1, "red")(Of(speck, Case{})), "a speck is no thing")

	require.NoError(t, Aspect(4, 3)(three))
	assert.EqualError(t, Aspect(16, 9)(three), "wrong aspect ratio: it is 512x384, asked for 16:9, off by 0.25, limit 0.02 (of the ratio)\n  metric  aspect-off 0.25, want <= 0.02")
	assert.ErrorContains(t, Aspect(0, 1)(three), "no ratio was asked for (0:1)")
}
