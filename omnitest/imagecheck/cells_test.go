package imagecheck

import (
	"image"
	"image/color"
	"image/draw"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// bars is a line of text reduced to what the cells see: ink at the given places of a 300x60 panel.
func bars(at ...int) *image.Gray {
	g := image.NewGray(image.Rect(0, 0, 300, 60))
	draw.Draw(g, g.Rect, image.NewUniform(color.Gray{220}), image.Point{}, draw.Src)
	for _, x := range at {
		draw.Draw(g, image.Rect(x, 10, x+6, 50), image.NewUniform(color.Gray{20}), image.Point{}, draw.Src)
		draw.Draw(g, image.Rect(x, 26, x+16, 32), image.NewUniform(color.Gray{20}), image.Point{}, draw.Src)
	}
	return g
}

// A word gap is judged too: ink that the reference does not have is a letter too many, ink that moved by 4 px is none.
func TestCellsOfAGap(t *testing.T) {
	box := image.Rect(20, 10, 280, 50)
	ref := bars(20, 50, 240, 264)
	gap := func(got *image.Gray) (worst Cell, flat int) {
		cells := CellNCC(ref, got, box, 1, 6)
		for _, c := range cells {
			if c.Flat {
				flat++
			}
		}
		return cells[worstCell(cells)], flat
	}
	c, flat := gap(bars(20, 50, 240, 264))
	assert.Equal(t, 1.0, c.NCC)
	assert.Greater(t, flat, 4)
	c, _ = gap(bars(24, 54, 244, 268))
	assert.Greater(t, c.NCC, 0.95, "moved by 4 px")

	c, _ = gap(bars(20, 50, 150, 240, 264))
	assert.Zero(t, c.NCC)
	assert.True(t, c.Flat, "a letter too many")
	assert.True(t, image.Pt(152, 30).In(c.Rect), "%v", c.Rect)

	c, _ = gap(bars(20, 240, 264))
	assert.Zero(t, c.NCC)
	assert.False(t, c.Flat, "a letter missing: its place is empty")

	assert.Nil(t, CellNCC(ref, ref, image.Rect(400, 0, 410, 10), 1, 6), "a box outside gives no cells")
	assert.Equal(t, -1, worstCell(nil))
}

// Where a cell was found is part of the result: evidence outlines it there.
func TestCellsTellTheMove(t *testing.T) {
	for _, c := range CellNCC(bars(40, 70, 100), bars(43, 73, 103), image.Rect(40, 10, 116, 50), 1, 6) {
		assert.Equal(t, 3, c.Move.X)
		assert.GreaterOrEqual(t, c.NCC, nccEnough)
	}
}

func TestSteps(t *testing.T) {
	assert.Equal(t, []int{0, 5, 10, 15, 17}, steps(0, 27, 10))
	assert.Equal(t, []int{3}, steps(3, 13, 10))
}

// The last column and row of tiles are narrower, and count by the boxes they have.
func TestTilesAtTheBorder(t *testing.T) {
	a, b := image.NewGray(image.Rect(0, 0, 40, 36)), image.NewGray(image.Rect(0, 0, 40, 36))
	draw.Draw(b, image.Rect(32, 32, 40, 36), image.NewUniform(color.Gray{50}), image.Point{}, draw.Src)
	tiles, err := TileMAD(a, b)
	require.NoError(t, err)
	assert.Equal(t, []float64{0, 0, 0, 50}, tiles.MAD)
	assert.Equal(t, image.Rect(32, 32, 40, 36), tiles.Rect(3))
	assert.Equal(t, []int{3, 0}, tiles.worst(2, nil))
	assert.Equal(t, 0.25, tiles.changed(8, nil))
}

func TestLumaIsOnWhite(t *testing.T) {
	img := scene(40, 30, 2)
	for i := 0; i < len(img.Pix); i += 4 * 3 {
		copy(img.Pix[i:], []uint8{20, 40, 10, 90})
	}
	assert.Equal(t, Luma(onWhite(img)), Luma(img))
	assert.Equal(t, uint8(255), Luma(image.NewRGBA(image.Rect(0, 0, 1, 1))).Pix[0])
}

func TestDiffPercentile(t *testing.T) {
	a, b := filled(100, 10, color.Black), filled(100, 10, color.Black)
	for i := range 9 { // 0.9 % of the values differ, by 200
		b.SetRGBA(i, 0, color.RGBA{200, 200, 200, 255})
	}
	d, err := Diff(a, b)
	require.NoError(t, err)
	assert.Equal(t, 0, d.P99)
	for i := range 3 {
		b.SetRGBA(i, 5, color.RGBA{30, 30, 30, 255})
	}
	d, err = Diff(a, b)
	require.NoError(t, err)
	assert.Equal(t, 30, d.P99)
	assert.Equal(t, 200, d.Max)
	assert.InDelta(t, (9*200+3*30)/1000.0, d.MeanAbs, 1e-12)
	b.SetRGBA(50, 5, color.RGBA{0, 0, 0, 155})
	d, err = Diff(a, b)
	require.NoError(t, err)
	assert.InDelta(t, 0.1, d.AlphaMA, 1e-12)
}

// In the heatmap of an edit the tiles that were not judged are blue, judged ones are not.
func TestHeatmapShowsWhatWasJudged(t *testing.T) {
	before := scene(256, 192, 1)
	region := image.Rect(32, 32, 128, 128)
	after := patched(before, region)
	_, outside, err := splitByRegion(region, 256, 192)
	require.NoError(t, err)
	tiles, err := TileMAD(Luma(before), Luma(after))
	require.NoError(t, err)
	blue := func(img *image.RGBA, x, y int) bool {
		c := img.RGBAAt(x, y)
		return c.B > 80 && c.B > c.R
	}
	judged := heatmap(tiles, Luma(after), outside, 1)
	assert.True(t, blue(judged, 4, 4), "next to the region")
	assert.False(t, blue(judged, 230, 170))
	assert.False(t, blue(heatmap(tiles, Luma(after), nil, 1), 4, 4))

	side := sideBySide(before, scene(100, 50, 1), nil, "expected")
	assert.Equal(t, 256+100+8, side.Rect.Dx(), "another size: no heatmap, still both pictures")
}

func TestEvidenceOfAnEditShowsTheRegion(t *testing.T) {
	before := scene(256, 192, 1)
	region := image.Rect(32, 32, 128, 128)
	p := ask(patched(patched(before, region), image.Rect(200, 150, 232, 182)))
	p.Case.Dir = t.TempDir()
	err := EditOutside(ask(before), region)(p)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Contains(t, err.Error(), "   input "+e.Files.Golden+"   diff ")
	_, outside, err := splitByRegion(region, 256, 192)
	require.NoError(t, err)
	want := sideBySide(before, p.Image, outside, "input")
	got, err := readPNG(os.DirFS(e.Files.Dir), "side-by-side.png")
	require.NoError(t, err)
	assert.Equal(t, PixelSHA256(want), PixelSHA256(got))
}
