package imagecheck

import (
	"image"
	"image/color"
	"image/draw"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	xdraw "golang.org/x/image/draw"

	"github.com/omnitest/suite/omnitest/api"
)

// painted draws a rectangle of one colour.
func painted(img *image.RGBA, r image.Rectangle, c color.RGBA) *image.RGBA {
	out := clone(img)
	draw.Draw(out, r, image.NewUniform(c), image.Point{}, draw.Src)
	return out
}

func channelsSwapped(img *image.RGBA) *image.RGBA {
	out := clone(img)
	for i := 0; i < len(out.Pix); i += 4 {
		out.Pix[i], out.Pix[i+2] = out.Pix[i+2], out.Pix[i]
	}
	return out
}

func grey(img *image.RGBA) *image.RGBA {
	out := clone(img)
	for i, v := range Luma(img).Pix {
		out.Pix[4*i], out.Pix[4*i+1], out.Pix[4*i+2] = v, v, v
	}
	return out
}

func scaledTo(img *image.RGBA, w, h int, k xdraw.Scaler) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	k.Scale(out, out.Rect, img, img.Rect, xdraw.Src, nil)
	return out
}

func named2(name string, p Picture) Picture {
	p.Case.Name = name
	return p
}

// Checks of colour and content: the right picture passes, the planted defect fails with these words.
func TestColourChecksCanFail(t *testing.T) {
	wall := filled(256, 192, color.Gray{150})
	spot := image.Rect(96, 64, 160, 128)
	inner := spot.Inset(8)
	red := noisy(painted(wall, spot, color.RGBA{214, 40, 40, 255}), 6, 1)
	harbour, desk := scene(200, 200, 21), scene(200, 200, 22)
	at := image.Rect(128, 0, 256, 96)
	with := func(p *image.RGBA) *image.RGBA {
		out := clone(scene(256, 192, 23))
		xdraw.BiLinear.Scale(out, at, p, p.Rect, xdraw.Src, nil)
		return vaeLoss(out, 3)
	}
	for _, c := range []struct {
		name      string
		check     Check
		good, bad Picture
		says      string
	}{
		{"wrong colour", Colour(inner, "red"), ask(red), ask(noisy(painted(wall, spot, color.RGBA{38, 84, 214, 255}), 6, 1)),
			"wrong colour: (104,72)-(152,120) is #2654d6, which is blue, want red; hue 124 degrees off, lightness -0.08\n" +
				"  metric  colour-distance 0.4442, want <= 0.01545 (to red; bound: to blue)" + askLines + stackLine},
		{"colour is missing", Colour(inner, "red"), ask(red), ask(wall),
			"wrong colour: (104,72)-(152,120) is #969696, which is grey, want red; one of them has no hue, lightness +0.09\n" +
				"  metric  colour-distance 1, want <= 0.006992 (to red; bound: to grey)" + askLines + stackLine},
		{"channels swapped", Colour(inner, "red"), ask(red), ask(channelsSwapped(red)), "...which is blue, want red; hue "},
		{"grey instead of colour", Colour(inner, "red"), ask(red), ask(grey(red)), "...want red; one of them has no hue"},
		{"unknown colour", Colour(inner, "crimson"), Picture{}, ask(red),
			`wrong colour: no colour is called "crimson"; there are red, green, blue, yellow, orange, purple, white, black, grey, brown, pink` + askLines + stackLine},
		{"place outside", Colour(image.Rect(200, 100, 300, 120), "red"), Picture{}, ask(red),
			"wrong colour: the place (200,100)-(300,120) is not inside the picture of 256x192" + askLines + stackLine},
		{"colour shown nowhere", Shows(red.Rect, "red"), ask(red), ask(wall),
			"colour is missing: none of the 256 cells inside (0,0)-(256,192) is red; the nearest, cell 0,0, is #969696\n  metric  cells-red 0, want >= 1" + askLines + stackLine},
		{"colour shown elsewhere", Shows(image.Rect(0, 0, 96, 192), "red"), Picture{}, ask(red), "...colour is missing: none of the 96 cells inside (0,0)-(96,192) is red; the nearest, cell "},
		{"a place below one cell", Shows(image.Rect(1, 1, 9, 9), "grey"), Picture{}, ask(wall),
			"colour is missing: no cell of the 16x16 lies inside (1,1)-(9,9), so nothing was measured" + askLines + stackLine},
		{"no such colour", Shows(red.Rect, "teal"), Picture{}, ask(red), "...no colour is called \"teal\"; there are red, green"},
		{"not removed", ColourLike(spot, image.Rect(0, 0, 64, 64)), ask(noisy(wall, 5, 1)), ask(red),
			"place does not look like its surroundings: (96,64)-(160,128) is #d62828, (0,0)-(64,64) is #969696, distance 110, limit 28\n  metric  colour 110, want <= 28" + askLines + stackLine},
		{"like a place outside", ColourLike(spot, image.Rect(0, 0, 64, 640)), Picture{}, ask(red),
			"place does not look like its surroundings: the place (0,0)-(64,640) is not inside the picture of 256x192" + askLines + stackLine},
		{"colour elsewhere", KeptColour(ask(red), image.Rect(0, 0, 256, 32), image.Rect(0, 160, 256, 192)), ask(noisy(wall, 5, 1)), ask(painted(red, image.Rect(0, 0, 256, 32), color.RGBA{150, 150, 250, 255})),
			"colour changed elsewhere: [(0,0)-(256,32) (0,160)-(256,192)] is #9696c8, it was #969696, distance 50, limit 28\n  metric  colour 50, want <= 28" + askLines + stackLine},
		{"no place elsewhere", KeptColour(ask(red)), Picture{}, ask(red), "colour changed elsewhere: no place was given" + askLines + stackLine},
		{"elsewhere outside", KeptColour(ask(red), image.Rectangle{}), Picture{}, ask(red), "colour changed elsewhere: the place (0,0)-(0,0) is not inside the picture of 256x192" + askLines + stackLine},
		{"elsewhere of another size", KeptColour(ask(red), spot), Picture{}, ask(scene(128, 192, 1)), "colour changed elsewhere: it is 128x192, the other picture is 256x192" + askLines + stackLine},
		{"greyscale", Greyscale(), ask(vaeLoss(grey(red), 2)), ask(noisy(painted(grey(red), image.Rect(0, 0, 64, 16), color.RGBA{160, 140, 130, 255}), 3, 1)),
			"...picture has colour: chroma of #"},
		{"black and white in colour", Greyscale(), ask(grey(red)), ask(painted(wall, spot, color.RGBA{214, 40, 40, 255})),
			"picture has colour: chroma of #d62828 at (152,120)-(160,128) is 174, limit 12 (99th percentile of 8x8 px boxes, 0-255)\n  metric  chroma-p99 174, want <= 12" + askLines + stackLine},
		{"another picture put in", Holds(at, named2("desk", Of(desk, Case{})), named2("harbour", Of(harbour, Case{}))), ask(with(desk)), ask(with(harbour)),
			"...another picture was put in: correlation of (128,0)-(256,96) with desk "},
		{"nothing put in", Holds(at, Of(desk, Case{})), ask(with(desk)), ask(scene(256, 192, 23)),
			"...another picture was put in: correlation of (128,0)-(256,96) with the wanted picture "},
		{"like both, more like the other", Holds(at, named2("desk", Of(noisy(desk, 20, 9), Case{})), named2("its original", Of(desk, Case{}))), Picture{}, ask(with(desk)),
			"...another picture was put in: (128,0)-(256,96) looks like its original (0.99"},
		{"flat place", Holds(at, Of(desk, Case{})), Picture{}, ask(wall),
			"another picture was put in: correlation of (128,0)-(256,96) with the wanted picture 0, at least 0.8 (NCC of 64x64 px)\n  metric  correlation 0, want >= 0.8" + askLines + stackLine},
		{"place of nothing", Holds(image.Rectangle{}, Of(desk, Case{})), Picture{}, ask(wall),
			"another picture was put in: the place (0,0)-(0,0) is not inside the picture of 256x192" + askLines + stackLine},
		{"no picture to look for", Holds(at, Picture{}), Picture{}, ask(wall), "another picture was put in: there is no picture to look for" + askLines + stackLine},
		{"no picture to tell apart", Holds(at, Of(desk, Case{}), Picture{}), Picture{}, ask(with(desk)), "another picture was put in: there is no other picture to tell apart" + askLines + stackLine},
		{"made at half size", LessNoise(ask(scaledTo(scaledTo(noisy(wall, 8, 1), 128, 96, xdraw.BiLinear), 256, 192, xdraw.BiLinear))), Picture{}, ask(noisy(wall, 2, 1)),
			"...more steps do not help: the picture with fewer steps (20) has no noise at full size, sigma 0."},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.good.Image != nil {
				require.NoError(t, c.check(c.good))
			}
			err := c.check(c.bad)
			require.Error(t, err)
			if c.says[:3] == "..." {
				assert.Contains(t, err.Error(), c.says[3:])
			} else {
				assert.Equal(t, c.says, err.Error())
			}
			assert.Error(t, c.check(Picture{}), "no picture is never a good one")
		})
	}
}

// Every name is found from paints of that name which are not the survey's own.
func TestColourNames(t *testing.T) {
	for name, paints := range map[string][]color.RGBA{
		"red":    {{255, 0, 0, 255}, {178, 34, 34, 255}, {220, 20, 60, 255}},
		"green":  {{0, 128, 0, 255}, {0, 255, 0, 255}, {46, 139, 87, 255}, {110, 205, 140, 255}, {113, 185, 134, 255}},
		"blue":   {{0, 0, 255, 255}, {65, 105, 225, 255}, {30, 100, 200, 255}, {104, 122, 159, 255}},
		"yellow": {{255, 255, 0, 255}, {255, 215, 0, 255}, {250, 230, 90, 255}},
		"orange": {{255, 140, 0, 255}, {255, 127, 80, 255}},
		"purple": {{128, 0, 128, 255}, {148, 0, 211, 255}, {102, 51, 153, 255}, {187, 146, 209, 255}},
		"white":  {{250, 250, 250, 255}, {245, 245, 220, 255}},
		"black":  {{10, 10, 12, 255}, {35, 35, 40, 255}, {41, 41, 44, 255}},
		"grey":   {{128, 128, 128, 255}, {169, 169, 169, 255}, {112, 128, 144, 255}},
		"brown":  {{139, 69, 19, 255}, {101, 67, 33, 255}, {122, 78, 44, 255}},
		"pink":   {{255, 105, 180, 255}, {255, 182, 193, 255}},
	} {
		for _, c := range paints {
			assert.NoError(t, Colour(image.Rect(0, 0, 32, 32), name)(Of(filled(32, 32, c), Case{})), "%v", c)
		}
	}
	assert.Len(t, named, 11)
}

// White, mid grey and the primaries in OKLab, by the table in Ottosson's article.
func TestOKLab(t *testing.T) {
	for _, c := range []struct {
		rgb     [3]uint8
		l, a, b float64
	}{
		{[3]uint8{255, 255, 255}, 1, 0, 0}, {[3]uint8{0, 0, 0}, 0, 0, 0},
		{[3]uint8{255, 0, 0}, 0.628, 0.225, 0.126}, {[3]uint8{0, 255, 0}, 0.866, -0.234, 0.179}, {[3]uint8{0, 0, 255}, 0.452, -0.032, -0.312},
	} {
		got := toLab(c.rgb)
		assert.InDelta(t, c.l, got.l, 1e-3)
		assert.InDelta(t, c.a, got.a, 1e-3)
		assert.InDelta(t, c.b, got.b, 1e-3)
	}
}

// A golden sees what hashes of luma do not: the very same luma in other colours.
func TestGoldenSeesColour(t *testing.T) {
	base := painted(scene(320, 320, 4), image.Rect(100, 100, 220, 220), color.RGBA{214, 40, 40, 255})
	c := Case{Name: "colour", Prompt: "a red square", Size: api.Size{W: 320, H: 320}, Steps: 20}
	store := Store{Dir: t.TempDir(), CropsOnly: true, Update: true}
	require.NoError(t, store.Check("red", Key{Engine: "e"})(Of(base, c)))
	store.Update = false
	golden := store.Check("red", Key{Engine: "e"})
	for what, img := range map[string]*image.RGBA{
		"noise": noisy(base, 5, 1), "jpeg": jpegged(t, base, 80), "gain": gained(base, 1.1), "vae": vaeLoss(base, 1), "moved": moved(base, 1, 1),
	} {
		assert.NoError(t, golden(Of(img, c)), what)
	}
	// A green of exactly red's luma: pHash64 and ExtP256 cannot move.
	green := painted(base, image.Rect(100, 100, 220, 220), color.RGBA{20, 132, 80, 255})
	assert.EqualError(t, golden(Of(green, c)), `colour differs from golden: cell 5,5 is #148450, golden #d62828, distance 194, limit 28
  metric  colour 194, want <= 28 (worst of 16x16 cells, 0-255)
  case    colour   prompt "a red square"   size 320x320  steps 20  seed 0
  key     engine=e steps=20 size=320x320 seed=0
  golden  `+store.path("red", "golden.json"))
	assert.ErrorContains(t, golden(Of(grey(base), c)), "colour differs from golden: cell ")
	assert.ErrorContains(t, golden(Of(channelsSwapped(base), c)), "colour differs from golden: cell ")
	// Another picture altogether: there the hash explains more, and the colours are still listed.
	err := golden(Of(scene(320, 320, 9), c))
	assert.ErrorContains(t, err, "image differs from golden: whole picture distance ")
	assert.ErrorContains(t, err, "\n  metric  colour ")
}

// Benign changes of 20 posters stay far below the bound, lost colours of the fixtures far above it.
func TestColourGridMargins(t *testing.T) {
	benign, gain := 0, 0
	r := rand.New(rand.NewPCG(20, 26))
	for i := range 20 {
		p := randomPoster(r, i)
		img, _ := p.draw(t, p.text)
		g := must(Colours(img))
		for _, v := range []*image.RGBA{noisy(img, 5, 1), jpegged(t, img, 80), vaeLoss(img, 3)} {
			o := must(Colours(v))
			_, d := g.Farthest(&o)
			benign = max(benign, d)
		}
		o := must(Colours(gained(img, 1.1)))
		_, d := g.Farthest(&o)
		gain = max(gain, d)
	}
	t.Logf("noise, JPEG, VAE %d; gain 1.1 %d", benign, gain)
	assert.LessOrEqual(t, benign, 8)
	assert.LessOrEqual(t, gain, 25)
	least := 255
	for _, name := range []string{"harbour-512", "desk-512"} {
		img, err := readPNG(os.DirFS("../../fixtures/images"), name+".png")
		require.NoError(t, err)
		g, o := must(Colours(img)), must(Colours(grey(img)))
		_, d := g.Farthest(&o)
		least = min(least, d)
	}
	assert.Greater(t, least, 35)
}

// Grids of pictures smaller than the grid, with an origin, and transparent ones.
func TestColourGridEdges(t *testing.T) {
	g := must(Colours(filled(5, 3, color.RGBA{1, 2, 3, 255})))
	assert.Equal(t, [3]uint8{1, 2, 3}, g[0])
	assert.Equal(t, [3]uint8{1, 2, 3}, g[255])
	sub := painted(filled(64, 64, color.Black), image.Rect(32, 32, 64, 64), color.RGBA{9, 8, 7, 255}).SubImage(image.Rect(32, 32, 64, 64)).(*image.RGBA)
	assert.Equal(t, "#090807", must2(Colours(sub)).At(image.Pt(0, 0)))
	assert.Equal(t, "#ffffff", must2(Colours(image.NewRGBA(image.Rect(0, 0, 32, 32)))).At(image.Pt(15, 15)), "transparent is white")
	_, err := Colours(nil)
	assert.ErrorIs(t, err, ErrNoPicture)
	same, d := g.Farthest(&g)
	assert.Zero(t, d)
	assert.Zero(t, same)
	back, err := parseGrid(g.lines())
	require.NoError(t, err)
	assert.Equal(t, g, *back)
}

func must2(g ColourGrid, err error) *ColourGrid {
	if err != nil {
		panic(err)
	}
	return &g
}
