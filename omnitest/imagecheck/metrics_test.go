package imagecheck

import (
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Every metric against scikit-image 0.26, numpy and Pillow on stored pictures (testdata/skimage/make.py).
func TestMetricsAgreeWithScikitImage(t *testing.T) {
	raw, err := os.ReadFile("testdata/skimage/expected.json")
	require.NoError(t, err)
	var doc struct {
		Cases []struct {
			Name     string
			PSNRRGB  float64 `json:"psnr_rgb"`
			SSIMGray float64 `json:"ssim_gray"`
			SSIMRGB  float64 `json:"ssim_rgb"`
			MaxDiff  int     `json:"max_diff"`
			MeanAbs  float64 `json:"mean_abs"`
			LumaMean float64 `json:"luma_mean"`
			LumaStd  float64 `json:"luma_stddev"`
			TileMAD0 float64 `json:"tile_mad_0"`
			CellNCC  float64 `json:"cell_ncc"`
			SHA256   string  `json:"sha256_rgba"`
		}
	}
	require.NoError(t, json.Unmarshal(raw, &doc))
	require.Len(t, doc.Cases, 5)
	dir := os.DirFS("testdata/skimage")
	base, err := readPNG(dir, "base.png")
	require.NoError(t, err)
	for _, c := range doc.Cases {
		t.Run(c.Name, func(t *testing.T) {
			img, err := readPNG(dir, c.Name+".png")
			require.NoError(t, err)
			d, err := Diff(base, img)
			require.NoError(t, err)
			assert.InDelta(t, c.PSNRRGB, d.PSNR(), 1e-9)
			assert.Equal(t, c.MaxDiff, d.Max)
			assert.InDelta(t, c.MeanAbs, d.MeanAbs, 1e-9)
			v, err := SSIMRGB(base, img)
			require.NoError(t, err)
			assert.InDelta(t, c.SSIMRGB, v, 1e-9)
			a, b := Luma(base), Luma(img)
			v, err = SSIM(a, b)
			require.NoError(t, err)
			assert.InDelta(t, c.SSIMGray, v, 1e-9)
			mean, dev := LumaStats(b)
			assert.InDelta(t, c.LumaMean, mean, 1e-9, "Luma is Pillow's convert(L)")
			assert.InDelta(t, c.LumaStd, dev, 1e-9)
			tiles, err := TileMAD(a, b)
			require.NoError(t, err)
			assert.InDelta(t, c.TileMAD0, tiles.MAD[0], 1e-9)
			assert.Equal(t, c.SHA256, PixelSHA256(img), "the hash that Python's tobytes gives")
			// One cell that never stops early: its exhaustive best equals match_template's maximum over the window.
			cells := CellNCC(a, b, image.Rect(20, 10, 34, 34), 0, 6)
			require.Len(t, cells, 1, "0.6 x 24 = 14 px wide")
			cell := bestCell(a, b, newIntegral(b, image.Rect(14, 4, 46, 40)), image.Rect(14, 4, 46, 40), image.Rect(20, 10, 40, 34), 6, image.Point{})
			assert.InDelta(t, c.CellNCC, cell.NCC, 0.001)
			if c.CellNCC < nccEnough {
				assert.InDelta(t, c.CellNCC, cell.NCC, 1e-9)
			}
		})
	}
}

func TestMetricsOfEqualPictures(t *testing.T) {
	img := scene(70, 50, 1)
	d, err := Diff(img, img)
	require.NoError(t, err)
	assert.True(t, math.IsInf(d.PSNR(), 1))
	assert.Zero(t, d.Max)
	v, err := SSIM(Luma(img), Luma(img))
	require.NoError(t, err)
	assert.InDelta(t, 1, v, 1e-12)
	tiles, err := TileMAD(Luma(img), Luma(img))
	require.NoError(t, err)
	assert.Equal(t, 3*2, len(tiles.MAD))
	assert.Zero(t, tiles.changed(8, nil))
}

// Not measured is never 0 and never passes.
func TestNotMeasured(t *testing.T) {
	v, err := SSIM(Luma(scene(10, 40, 1)), Luma(scene(10, 40, 2)))
	require.NoError(t, err)
	assert.True(t, math.IsNaN(v), "no 11x11 window fits")
	assert.True(t, math.IsNaN(Noise(image.NewGray(image.Rect(0, 0, 2, 9)))))
	_, err = Diff(scene(10, 10, 1), scene(10, 11, 1))
	assert.EqualError(t, err, "compare 10x10 with 10x11 pixels: the sizes must be equal and not empty")
	_, err = TileMAD(image.NewGray(image.Rectangle{}), image.NewGray(image.Rectangle{}))
	assert.Error(t, err)
	for _, dir := range []string{"<=", ">="} {
		m := Metric{Name: "SSIM", Value: math.NaN(), Bound: 0.8, Direction: dir}
		assert.False(t, m.OK())
		assert.Equal(t, "SSIM not measured, want "+dir+" 0.8", m.String())
		raw, err := json.Marshal(m)
		require.NoError(t, err)
		assert.JSONEq(t, fmt.Sprintf(`{"name":"SSIM","value":"not measured","bound":0.8,"direction":%q,"ok":false}`, dir), string(raw))
	}
}

// The mean must not depend on how many bands it was computed in.
func TestSSIMOverTilesIsTheMeanOfThePart(t *testing.T) {
	a, b := Luma(scene(160, 128, 1)), Luma(noisy(scene(160, 128, 1), 9, 1))
	all := &tileSet{cols: 5, rows: 4, in: make([]bool, 20)}
	var sum, n float64
	for i := range all.in {
		one := &tileSet{cols: 5, rows: 4, in: make([]bool, 20)}
		one.in[i], all.in[i] = true, true
		v := ssim(plane{a.Pix, a.Stride, 1}, plane{b.Pix, b.Stride, 1}, 160, 128, one)
		r := Tiles{W: 160, H: 128, Cols: 5}.Rect(i).Intersect(image.Rect(5, 5, 155, 123))
		sum += v * float64(r.Dx()*r.Dy())
		n += float64(r.Dx() * r.Dy())
	}
	whole, err := SSIM(a, b)
	require.NoError(t, err)
	assert.InDelta(t, whole, sum/n, 1e-12)
	assert.Equal(t, whole, ssim(plane{a.Pix, a.Stride, 1}, plane{b.Pix, b.Stride, 1}, 160, 128, all))
}

// Noise finds the sigma that was planted, also where edges and text are in the way, and 0 in a clean picture.
func TestNoise(t *testing.T) {
	p := poster{w: 640, h: 400, text: "OPEN 24 HOURS", px: 60, panel: true, scene: 4}
	clean, _ := p.draw(t, p.text)
	assert.Less(t, Noise(Luma(clean)), 0.3)
	last := 0.0
	for _, sigma := range []float64{1, 2, 4, 8, 16} {
		r := rand.New(rand.NewPCG(5, uint64(sigma)))
		g := Luma(clean)
		for i := range g.Pix {
			g.Pix[i] = clamp(float64(g.Pix[i]) + sigma*r.NormFloat64())
		}
		got := Noise(g)
		assert.InEpsilon(t, sigma, got, 0.12, "sigma %v", sigma)
		assert.Greater(t, got, last)
		last = got
	}
}

// Every pixel of a region is either in a tile that belongs to it, or at least not in a tile that is judged as outside.
func TestSplitByRegion(t *testing.T) {
	const w, h = 200, 170 // 7 x 6 tiles, the last ones narrower
	region := image.Rect(70, 40, 130, 90)
	inside, outside, err := splitByRegion(region, w, h)
	require.NoError(t, err)
	mask := image.NewGray(image.Rect(0, 0, w, h))
	alpha := image.NewAlpha(image.Rect(0, 0, w, h))
	for y := region.Min.Y; y < region.Max.Y; y++ {
		for x := region.Min.X; x < region.Max.X; x++ {
			mask.SetGray(x, y, color.Gray{255})
			alpha.SetAlpha(x, y, color.Alpha{255})
		}
	}
	for _, m := range []image.Image{mask, alpha} {
		in, out, err := splitByRegion(m, w, h)
		require.NoError(t, err)
		assert.Equal(t, inside, in)
		assert.Equal(t, outside, out)
	}
	grown := region.Inset(-TileSide)
	for i := range outside.in {
		r := Tiles{W: w, H: h, Cols: 7}.Rect(i)
		assert.Equal(t, !r.Overlaps(grown), outside.in[i], "tile %v", r)
	}
	assert.Equal(t, 4, inside.count(), "(64..128)x(32..96): those at least half covered")

	small, _, err := splitByRegion(image.Rect(10, 10, 14, 14), w, h)
	require.NoError(t, err)
	assert.Equal(t, 1, small.count(), "smaller than half a tile: the tile it touches")
	_, _, err = splitByRegion(image.Rect(300, 0, 310, 10), w, h)
	assert.EqualError(t, err, "the region has no pixel inside the picture of 200x170")
	_, _, err = splitByRegion(image.NewGray(image.Rect(0, 0, 100, 100)), w, h)
	assert.EqualError(t, err, "the region is a mask of 100x100, the picture is 200x170")
}
