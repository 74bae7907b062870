package imagecheck

import (
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// ask is a case whose line is known, so that whole messages can be asserted.
func ask(img *image.RGBA) Picture {
	return Of(img, Case{Name: "unit/case", Prompt: "a harbour", Size: api.Size{W: 256, H: 192}, Steps: 20, Seed: 7, Stack: "reference stack (simulated)"})
}

const askLines = `
  case    unit/case   prompt "a harbour"   size 256x192  steps 20  seed 7`

const stackLine = `
  stack   reference stack (simulated)`

// Every check: the healthy picture passes, the planted defect fails, and the failure says this.
func TestEveryCheckCanFail(t *testing.T) {
	good := scene(256, 192, 1)
	grainy := vaeLoss(good, 1)
	region := image.Rect(32, 32, 128, 128)
	edited := patched(good, region)
	coarse := noisy(good, 12, 1)
	for _, c := range []struct {
		name  string
		check Check
		good  Picture
		bad   Picture
		says  string // the whole message, or with a leading ... a part of it
	}{
		{"size", Size(api.Size{W: 256, H: 192}), ask(good), withEcho(ask(crop(good, image.Rect(0, 0, 240, 192))), "256x192"),
			"wrong picture size: decoded 240x192, want 256x192; the answer's size field claims 256x192" + askLines + stackLine},
		{"size without echo", Size(api.Size{W: 256, H: 192}), ask(good), ask(crop(good, image.Rect(0, 0, 240, 192))),
			"wrong picture size: decoded 240x192, want 256x192; the answer claims no size" + askLines + stackLine},
		{"size not asked for", Size(api.Size{}), Picture{}, ask(good),
			"wrong picture size: no size was asked for (0x0), so none can be checked" + askLines + stackLine},
		{"format", Format("png"), file(ask(good), "png"), file(ask(good), "jpeg"),
			"wrong picture format: jpeg by its bytes, want png" + askLines + stackLine},
		{"format of no file", Format("png"), file(ask(good), "png"), ask(good),
			"wrong picture format: the picture never was a file, want png" + askLines + stackLine},
		{"opaque", Opaque(), ask(good), ask(withHole(good)),
			"picture has transparent parts: least alpha 0, at least 255 (of 255)\n  metric  alpha-min 0, want >= 255" + askLines + stackLine},
		{"flat", NotBlank(), ask(good), ask(filled(256, 192, color.Gray{128})),
			"picture is blank: luma standard deviation 0, at least 4 (0-255); and 1 more\n  metric  luma-stddev 0, want >= 4\n  metric  one-colour 1, want <= 0.985" + askLines + stackLine},
		{"flat but for noise", NotBlank(), ask(good), ask(noisy(filled(256, 192, color.Gray{128}), 2, 1)),
			"...picture is blank: luma standard deviation 1."},
		{"one colour but for a line", NotBlank(), ask(good), ask(patched(filled(256, 192, color.Black), image.Rect(0, 0, 256, 2))),
			"picture is blank: share of one colour #000000 0.9896, limit 0.985\n  metric  one-colour 0.9896, want <= 0.985" + askLines + stackLine},
		{"transparent", NotBlank(), ask(good), ask(image.NewRGBA(good.Rect)),
			"...picture is blank: every pixel is transparent; and 2 more\n"},
		{"same pixels", SamePixels(ask(good)), ask(clone(good)), ask(patched(good, image.Rect(0, 0, 1, 1))),
			"...pixels differ: SHA-256 "},
		{"same pixels, one value", SamePixels(ask(good)), ask(clone(good)), ask(patched(good, image.Rect(0, 0, 1, 1))),
			"...largest difference 1"},
		{"same pixels, other size", SamePixels(ask(good)), ask(good), ask(scene(128, 192, 1)),
			"pixels differ: it is 128x192, the other picture is 256x192" + askLines + stackLine},
		{"same under load", SameUnderLoad(ask(good)), ask(noisy(good, 0.6, 1)), ask(grainy), "...picture differs under load: PSNR 3"},
		{"parity", Parity(ask(good)), ask(noisy(good, 2, 1)), ask(moved(noisy(good, 8, 1), 8, 8)), "...picture differs from control: PSNR 19.3, at least 27 (dB); and 1 more\n"},
		{"parity, blurred structure", Parity(ask(good)), ask(noisy(good, 2, 1)), ask(noisy(good, 9, 1)), "..., at least 0.94 (mean of R, G, B)\n"},
		{"parity, many steps", Parity(ask(good)), withSteps(ask(moved(good, 3, 0)), 50), withSteps(ask(scene(256, 192, 9)), 50), "...picture differs from control: mean difference 0."},
		{"distinct", Distinct(ask(scene(256, 192, 2)), ask(scene(256, 192, 3))), ask(good), ask(noisy(scene(256, 192, 3), 3, 3)),
			"...pictures of different prompts are alike: distance "},
		{"distinct from nothing", Distinct(Picture{}), Picture{}, ask(good),
			"pictures of different prompts are alike: there is no picture 0 to compare with" + askLines + stackLine},
		{"less noise", LessNoise(ask(coarse)), ask(noisy(good, 4, 2)), ask(noisy(good, 12, 3)), "...more steps do not help: noise sigma 8.165 against 8.018 with fewer steps, ratio 1.018, limit 0.9 (Immerkaer, median)\n"},
		{"less noise than none", LessNoise(ask(good)), Picture{}, ask(good), "...more steps do not help: the picture with fewer steps (20) has no noise to compare with, sigma 0.3096\n"},
		{"edit ignored", EditInside(ask(good), region), ask(edited), ask(grainy),
			"edit did not happen: changed tiles of the region 0, at least 0.25 (tile MAD > 8)\n  metric  changed 0, want >= 0.25" + askLines + stackLine},
		{"edit ignored, no region", EditInside(ask(good), nil), ask(edited), ask(grainy),
			"edit did not happen: changed tiles of the picture 0, at least 0.005 (tile MAD > 8)\n  metric  changed 0, want >= 0.005" + askLines + stackLine},
		{"foreign 32 px patch outside", EditOutside(ask(good), region), ask(vaeLoss(edited, 4)), ask(vaeLoss(patched(edited, image.Rect(200, 150, 232, 182)), 4)),
			"...picture changed outside the region: tile MAD at (200,152)-(232,184) is "},
		{"tone drift outside", EditOutside(ask(good), region), ask(vaeLoss(edited, 4)), ask(gained(edited, 1.12)), "...picture changed outside the region: tile MAD at "},
		{"grain outside", EditOutside(ask(good), region), ask(vaeLoss(edited, 4)), ask(noisy(edited, 14, 4)), "...picture changed outside the region: PSNR 25."},
		{"blur outside", EditOutside(ask(texture(256, 192)), region), ask(vaeLoss(patched(texture(256, 192), region), 4)), ask(filled(256, 192, color.Gray{128})), "...\n  metric  SSIM 0."},
		{"no region", EditOutside(ask(good), nil), Picture{}, ask(edited), "picture changed outside the region: no region was given, so nothing lies outside it" + askLines + stackLine},
		{"all is region", EditOutside(ask(good), good.Rect), Picture{}, ask(edited), "picture changed outside the region: nothing lies outside the region and the tile around it, so nothing was measured" + askLines + stackLine},
		{"region elsewhere", EditInside(ask(good), image.Rect(900, 0, 950, 50)), Picture{}, ask(edited), "edit did not happen: the region has no pixel inside the picture of 256x192" + askLines + stackLine},
		{"mask of another size", EditOutside(ask(good), image.NewGray(image.Rect(0, 0, 64, 64))), Picture{}, ask(edited), "picture changed outside the region: the region is a mask of 64x64, the picture is 256x192" + askLines + stackLine},
		{"edit resized", EditOutside(ask(good), region), Picture{}, ask(scene(320, 192, 1)), "picture changed outside the region: it is 320x192, the picture before is 256x192" + askLines + stackLine},
		{"turns", KeptOverTurns(ask(good), 4, region), ask(noisy(edited, 14, 1)), ask(noisy(edited, 24, 1)), "...picture changed outside the regions of all turns: PSNR 20."},
		{"turns, region of one turn only", KeptOverTurns(ask(good), 2, region, image.Rect(192, 128, 256, 192)), ask(patched(edited, image.Rect(200, 140, 240, 180))),
			ask(patched(edited, image.Rect(200, 20, 240, 60))), "...picture changed outside the regions of all turns: tile MAD at (208,32)-(240,64) is 37.13, limit 11.31 (worst 32 px window, 0-255); and 2 more\n"},
		{"no turn", KeptOverTurns(ask(good), 0), Picture{}, ask(good), "picture changed outside the regions of all turns: turn 0 with 0 regions cannot be checked" + askLines + stackLine},
		{"style not changed", StyleChanged(ask(good)), ask(gained(good, 0.7)), ask(grainy),
			"...style transfer: changed tiles of the picture 0, at least 0.3 (tile MAD > 8)\n"},
		{"style lost the content", StyleChanged(ask(good)), ask(gained(good, 0.7)), ask(scene(256, 192, 5)), "...style transfer: content lost, distance to the source "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.good.Image != nil {
				require.NoError(t, c.check(c.good))
			}
			err := c.check(c.bad)
			require.Error(t, err)
			if part, is := strings.CutPrefix(c.says, "..."); is {
				assert.Contains(t, err.Error(), part)
			} else {
				assert.Equal(t, c.says, err.Error())
			}
			var e *Error
			require.ErrorAs(t, err, &e)
			assert.NotEmpty(t, e.Check)
			assert.Error(t, c.check(Picture{}), "no picture is never a good one")
		})
	}
}

func TestCount(t *testing.T) {
	three := &api.Images{Items: make([]api.Image, 3)}
	require.NoError(t, Count(3)(three))
	three.Method, three.URL, three.Status, three.Size = "POST", "http://x/v1/images/generations", 200, "512x512"
	assert.EqualError(t, Count(2)(three), "wrong number of pictures: 3 pictures, asked for 2 (POST http://x/v1/images/generations, status 200)\n  metric  count 3, want <= 2")
	assert.ErrorContains(t, Count(4)(three), "3 pictures, asked for 4")
	assert.EqualError(t, Count(1)(nil), "wrong number of pictures: no answer, asked for 1")
}

// The patch is found wherever it lies, also across four tiles, as in section 8 of the study of edits: none missed from 32 px on.
func TestForeignPatchIsFoundAnywhere(t *testing.T) {
	good := scene(512, 384, 6)
	region := image.Rect(32, 32, 160, 160)
	edited := patched(good, region)
	check := EditOutside(ask(good), region)
	for y := 224; y+32 <= 384; y += 37 {
		for x := 224; x+32 <= 512; x += 41 {
			err := check(ask(vaeLoss(patched(edited, image.Rect(x, y, x+32, y+32)), uint64(x))))
			assert.ErrorContains(t, err, "tile MAD", "patch at %d,%d", x, y)
		}
	}
	for seed := range uint64(8) {
		assert.NoError(t, check(ask(vaeLoss(edited, seed))))
	}
}

// VAE-like loss in these tests is what the field reports, about 33 dB.
func TestVAELossIsLikeAVAE(t *testing.T) {
	d, err := Diff(scene(512, 384, 6), vaeLoss(scene(512, 384, 6), 1))
	require.NoError(t, err)
	assert.InDelta(t, 33.4, d.PSNR(), 1.5)
}

func TestBounds(t *testing.T) {
	d := Bounds{}.withDefaults()
	assert.Equal(t, 4, d.PHash64)
	assert.Equal(t, 0.95, d.TextCellNCC)
	own := Bounds{PHash64: -1, TileMAD: 12}.withDefaults()
	assert.Equal(t, 0, own.PHash64, "negative: exactly 0")
	assert.Equal(t, 12.0, own.TileMAD)
	assert.Equal(t, 0.0, Bounds{TileMAD: -1}.withDefaults().TileMAD)
	assert.Equal(t, 8.0, d.TileMAD)

	good := scene(256, 192, 1)
	p := ask(vaeLoss(good, 1))
	p.Case.Bounds = Bounds{MinLumaStdDev: 120}
	assert.ErrorContains(t, NotBlank()(p), "at least 120")

	for k, want := range map[int]float64{1: 28, 2: 24.99, 4: 21.98} {
		assert.InDelta(t, want, TurnPSNR(28, k), 0.005)
	}
}

// Observe sees the metrics of checks that pass: that is how bounds are calibrated.
func TestObserve(t *testing.T) {
	p := ask(scene(256, 192, 1))
	seen := map[string][]Metric{}
	p.Case.Observe = func(check string, m []Metric) { seen[check] = m }
	require.NoError(t, NotBlank()(p))
	require.NoError(t, SameUnderLoad(ask(noisy(p.Image, 0.6, 1)))(p))
	require.Len(t, seen["not-blank"], 2)
	assert.Equal(t, "luma-stddev", seen["not-blank"][0].Name)
	require.Len(t, seen["same-under-load"], 2)
	assert.True(t, seen["same-under-load"][0].OK())
}

// One picture, many goroutines: derived planes are computed once and shared.
func TestChecksInParallel(t *testing.T) {
	p, before := ask(vaeLoss(scene(256, 192, 1), 1)), ask(scene(256, 192, 1))
	done := make(chan error)
	const n = 8
	for range n {
		go func() {
			done <- errors.Join(NotBlank()(p), EditOutside(before, image.Rect(0, 0, 64, 64))(p), Size(api.Size{W: 256, H: 192})(p))
		}()
	}
	for range n {
		assert.NoError(t, <-done)
	}
	assert.Same(t, p.luma(), p.luma())
}

func TestOfCopiesASubImageToTheOrigin(t *testing.T) {
	whole := scene(256, 192, 1)
	sub := whole.SubImage(image.Rect(10, 20, 110, 90)).(*image.RGBA)
	p := Of(sub, Case{})
	assert.Equal(t, image.Rect(0, 0, 100, 70), p.Image.Rect)
	assert.Equal(t, whole.RGBAAt(10, 20), p.Image.RGBAAt(0, 0))
	assert.Equal(t, api.Size{}, Of(nil, Case{}).Size())
	assert.ErrorContains(t, NotBlank()(Of(nil, Case{})), "there is no picture")
	assert.ErrorContains(t, NotBlank()(Of(image.NewRGBA(image.Rectangle{}), Case{})), "it is empty")
}

func TestNumbersInMessages(t *testing.T) {
	for v, want := range map[float64]string{14: "14", 0.953123: "0.9531", 33.4172: "33.42", math.Inf(1): "inf", 0: "0", 1e-7: "1e-07"} {
		assert.Equal(t, want, number(v))
	}
	assert.Equal(t, "not measured", number(math.NaN()))
	long := Case{Prompt: strings.Repeat("长", 200)}.line()
	assert.Equal(t, fmt.Sprintf(`prompt "%s..."   seed 0`, strings.Repeat("长", 77)), long)
}

func withEcho(p Picture, echo string) Picture { p.Case.Echo = echo; return p }

func withSteps(p Picture, n int) Picture { p.Case.Steps = n; return p }

func file(p Picture, format string) Picture {
	p.File = api.Image{Raw: []byte("bytes"), Format: format}
	return p
}

func withHole(img *image.RGBA) *image.RGBA {
	out := clone(img)
	draw.Draw(out, image.Rect(5, 5, 9, 9), image.Transparent, image.Point{}, draw.Src)
	return out
}

// texture has much fine structure: checks of 4 px.
func texture(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := uint8(123)
			if (x/4+y/4)%2 == 0 {
				v = 133
			}
			img.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
	return img
}
