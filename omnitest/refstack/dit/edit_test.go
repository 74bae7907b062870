package dit

import (
	"context"
	"image"
	"image/color"
	"image/draw"
	"math"
	"strings"
	"testing"

	"github.com/corona10/goimagehash"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestRegion(t *testing.T) {
	const w, h = 1024, 768
	for in, want := range map[string]image.Rectangle{
		"make the top left red":                        image.Rect(0, 0, 512, 384),
		"paint the upper-right blue":                   image.Rect(512, 0, 1024, 384),
		"add a red circle in the bottom left":          image.Rect(0, 384, 512, 768),
		"在右下加一个红色的圆":                                   image.Rect(512, 384, 1024, 768),
		"turn the left half green":                     image.Rect(0, 0, 512, 768),
		"右半变成蓝色":                                       image.Rect(512, 0, 1024, 768),
		"remove what is in the top half":               image.Rect(0, 0, 1024, 384),
		"下半涂成黄色":                                       image.Rect(0, 384, 1024, 768),
		"put a star in the centre, please, a red star": image.Rect(341, 256, 683, 512),
		"把中间变成红色":                                      image.Rect(341, 256, 683, 512),
		"make the sky orange":                          image.Rect(0, 0, 1024, 256),
		`change the text to "top left"`:                image.Rect(0, 576, 1024, 768), // quoted words name no region
		`write "HI" in the top half`:                   image.Rect(0, 0, 1024, 384),
		"make the fox blue":                            image.Rect(341, 256, 683, 512),
		"let it be":                                    image.Rect(341, 256, 683, 512),
		"in watercolor style":                          {},
		"改成水彩风格":                                       {},
		"make the left half a sketch":                  image.Rect(0, 0, 512, 768),
	} {
		assert.Equal(t, want, Region(in, w, h), in)
	}
	assert.Equal(t, image.Rect(0, 0, 248, 144), Region("top left", 500, 300), "of the size that is rendered")
	assert.True(t, Region("top left", 0, 10).Empty())
}

// tiles gives, for each 32 px tile of a rectangle, the mean absolute difference of the 8x8 box means of luma.
func tiles(a, b *image.RGBA, within image.Rectangle) map[image.Point]float64 {
	out := map[image.Point]float64{}
	for ty := 0; ty+32 <= a.Rect.Dy(); ty += 32 {
		for tx := 0; tx+32 <= a.Rect.Dx(); tx += 32 {
			if !image.Rect(tx, ty, tx+32, ty+32).In(within) {
				continue
			}
			sum := 0.0
			for by := ty; by < ty+32; by += 8 {
				for bx := tx; bx < tx+32; bx += 8 {
					d := 0.0
					for y := by; y < by+8; y++ {
						for x := bx; x < bx+8; x++ {
							i := a.PixOffset(x, y)
							d += float64(lumaOf(a.Pix[i:i+3]) - lumaOf(b.Pix[i:i+3]))
						}
					}
					sum += math.Abs(d) / 64
				}
			}
			out[image.Pt(tx, ty)] = sum / 16
		}
	}
	return out
}

func changedShare(m map[image.Point]float64) float64 {
	n := 0
	for _, v := range m {
		if v > 8 {
			n++
		}
	}
	return float64(n) / float64(len(m))
}

func worst(m map[image.Point]float64) float64 {
	w := 0.0
	for _, v := range m {
		w = max(w, v)
	}
	return w
}

// strips are the parts of a picture outside of a region.
func strips(pic, region image.Rectangle) []image.Rectangle {
	return []image.Rectangle{
		{pic.Min, image.Pt(pic.Max.X, region.Min.Y)}, {image.Pt(pic.Min.X, region.Max.Y), pic.Max},
		{image.Pt(pic.Min.X, region.Min.Y), image.Pt(region.Min.X, region.Max.Y)}, {image.Pt(region.Max.X, region.Min.Y), image.Pt(pic.Max.X, region.Max.Y)},
	}
}

// outsideOK checks the untouched part against what real edits show: about 33 dB, no tile at 4 or above.
func outsideOK(t *testing.T, in, out *image.RGBA, region image.Rectangle) {
	t.Helper()
	sum, n := 0.0, 0.0
	for _, s := range strips(in.Rect, region) {
		if s.Empty() {
			continue
		}
		r := rmse(in, out, s)
		sum += r * r * float64(s.Dx()*s.Dy())
		n += float64(s.Dx() * s.Dy())
		assert.Less(t, worst(tiles(in, out, s)), 4.0, "a tile outside of %v changed", region)
	}
	require.Positive(t, n)
	db := psnr(math.Sqrt(sum / n))
	assert.InDelta(t, 33.3, db, 1.5, "PSNR outside of %v", region)
}

var localEdits = []string{
	"make the top left red", "add a yellow circle in the top right", "在左下加一个红色的三角形", "remove the thing in the centre",
	`change the text to "CLOSED"`, "把右半变成蓝色", "do something", "make the sky orange", "add a black cube to the bottom half",
	"put the second picture into the bottom right", "add a white star in the left half",
}

func TestLocalEdits(t *testing.T) {
	in := render(t, Config{}, Job{Prompt: `a lake, a green cube, "HELLO"`, W: 768, H: 512}).Image
	second := render(t, Config{}, Job{Prompt: "desert, red star", W: 512, H: 512}).Image
	for _, p := range localEdits {
		for _, steps := range []int{4, 20} {
			t.Run(p, func(t *testing.T) {
				t.Parallel()
				r := render(t, Config{}, Job{Prompt: p, Inputs: []image.Image{in, second}, Steps: steps, Seed: 3})
				require.Equal(t, Region(p, 768, 512), r.Region)
				require.False(t, r.Region.Empty())
				assert.Greater(t, changedShare(tiles(in, r.Image, r.Region)), 0.25, "the region hardly changed")
				outsideOK(t, in, r.Image, r.Region)
			})
		}
	}
}

func TestStyles(t *testing.T) {
	for _, base := range []string{`a lake, a green cube, "HELLO"`, "snow", "night street"} {
		in := render(t, Config{}, Job{Prompt: base, W: 512, H: 384}).Image
		for _, p := range []string{"as a watercolor", "油画", "pencil sketch", "make it black and white", "动漫风格"} {
			t.Run(base+"/"+p, func(t *testing.T) {
				t.Parallel()
				r := render(t, Config{}, Job{Prompt: p, Inputs: []image.Image{in}})
				assert.True(t, r.Region.Empty())
				assert.Greater(t, changedShare(tiles(in, r.Image, in.Rect)), 0.30)
				a, err := goimagehash.PerceptionHash(in)
				require.NoError(t, err)
				b, err := goimagehash.PerceptionHash(r.Image)
				require.NoError(t, err)
				d, err := a.Distance(b)
				require.NoError(t, err)
				assert.LessOrEqual(t, d, 20, "the picture is not recognisable any more")
			})
		}
	}
}

func TestMaskBoundsTheEdit(t *testing.T) {
	in := testPicture(512, 512)
	mask := image.NewGray(image.Rect(0, 0, 256, 256)) // half size: scaled
	draw.Draw(mask, image.Rect(32, 48, 96, 112), image.White, image.Point{}, draw.Src)
	draw.Draw(mask, image.Rect(32, 48, 64, 80), image.Black, image.Point{}, draw.Src) // an L
	r := render(t, Config{}, Job{Prompt: "make the bottom right red", Inputs: []image.Image{in}, Mask: mask})
	assert.Equal(t, image.Rect(64, 96, 192, 224), r.Region, "the mask outranks the words")
	outsideOK(t, in, r.Image, r.Region)
	black, white := image.Rect(64, 96, 128, 160), image.Rect(128, 160, 192, 224)
	assert.Less(t, worst(tiles(in, r.Image, black)), 4.0, "black of the mask changed")
	assert.Equal(t, 1.0, changedShare(tiles(in, r.Image, white)))

	none := render(t, Config{}, Job{Prompt: "make the centre red", Inputs: []image.Image{in}, Mask: image.NewGray(in.Rect)})
	assert.Less(t, worst(tiles(in, none.Image, in.Rect)), 4.0, "a black mask lets nothing change")
}

func TestInsertShowsTheSecondPicture(t *testing.T) {
	in := testPicture(512, 512)
	second := render(t, Config{}, Job{Prompt: "desert, red star", W: 256, H: 256}).Image
	r := render(t, Config{}, Job{Prompt: "put the second picture into the top right", Inputs: []image.Image{in, second}})
	assert.LessOrEqual(t, extP(t, second, crop(r.Image, r.Region, 0)), 12)
	assert.Greater(t, extP(t, crop(in, r.Region, 0), crop(r.Image, r.Region, 0)), 60)
}

func TestEditTextBox(t *testing.T) {
	p := `change the text to "再见 BYE" in the top half`
	r := render(t, Config{}, Job{Prompt: p, Inputs: []image.Image{testPicture(512, 512)}})
	assert.Equal(t, EditTextBox(p, 512, 512), r.TextBox)
	assert.True(t, r.TextBox.In(r.Region))
	assert.GreaterOrEqual(t, r.TextBox.Dy(), 24)
	assert.True(t, EditTextBox("make it red", 512, 512).Empty())
}

// TestTurnsAddUp: errors of the turns of a dialogue are independent, so PSNR to the first picture falls by about
// 10 log10 k, and no tile runs away. With errors in phase the third turn would show tiles above 8.
func TestTurnsAddUp(t *testing.T) {
	first := testPicture(512, 512)
	pic := first
	for k := 1; k <= 4; k++ {
		pic = render(t, Config{}, Job{Prompt: "make the top left red", Inputs: []image.Image{pic}, Seed: 1}).Image
		half := image.Rect(256, 0, 512, 512)
		assert.InDelta(t, 33.3-10*math.Log10(float64(k)), psnr(rmse(first, pic, half)), 2, "turn %d", k)
		assert.Less(t, worst(tiles(first, pic, half)), 8.0, "turn %d", k)
	}
}

func TestInputsOfOtherKindsAndSizes(t *testing.T) {
	grey := image.NewGray(image.Rect(10, 10, 310, 210)) // an origin that is not 0,0
	draw.Draw(grey, grey.Rect, image.NewUniform(color.Gray{90}), image.Point{}, draw.Src)
	r := render(t, Config{}, Job{Prompt: "make the top left red", Inputs: []image.Image{grey}})
	assert.Equal(t, image.Rect(0, 0, 288, 192), r.Image.Rect)
	assert.InDelta(t, 90, float64(r.Image.RGBAAt(250, 150).R), 25)

	clear := image.NewNRGBA(image.Rect(0, 0, 64, 64)) // transparent: seen on white
	r = render(t, Config{}, Job{Prompt: "make the top left red", Inputs: []image.Image{clear}, W: 512, H: 256})
	assert.Equal(t, image.Rect(0, 0, 512, 256), r.Image.Rect)
	assert.Greater(t, r.Image.RGBAAt(500, 250).G, uint8(225))
	assert.Equal(t, uint8(255), r.Image.RGBAAt(500, 250).A)
}

// TestAnyEditOfAnySize: whatever the words, the mask and the sizes, an edit ends with a picture of the right size.
func TestAnyEditOfAnySize(t *testing.T) {
	s, err := New(Config{Faults: Faults{EditOutsideRegion: true}})
	require.NoError(t, err)
	words := []string{"add", "red", "circle", "star", "top left", "remove", "sketch", "anime", `"HI 你好"`, "second picture", "blue", "sky", "右下", "水彩", "\x00"}
	rapid.Check(t, func(t *rapid.T) {
		prompt := strings.Join(rapid.SliceOfN(rapid.SampledFrom(words), 0, 4).Draw(t, "prompt"), " ")
		side := rapid.IntRange(1, 70)
		j := Job{Prompt: prompt, Steps: 1, Inputs: []image.Image{testPicture(side.Draw(t, "w"), side.Draw(t, "h"))}}
		if rapid.Bool().Draw(t, "two") {
			j.Inputs = append(j.Inputs, testPicture(side.Draw(t, "w2"), side.Draw(t, "h2")))
		}
		if rapid.Bool().Draw(t, "resize") {
			j.W, j.H = side.Draw(t, "W"), side.Draw(t, "H")
		}
		if rapid.Bool().Draw(t, "mask") {
			m := image.NewGray(image.Rect(0, 0, side.Draw(t, "mw"), side.Draw(t, "mh")))
			at := rapid.IntRange(0, len(m.Pix)-1).Draw(t, "white")
			m.Pix[at] = 255
			j.Mask = m
		}
		r, err := s.Render(context.Background(), j)
		if err != nil {
			t.Fatal(err)
		}
		w, h := j.W, j.H
		if w == 0 {
			w, h = j.Inputs[0].Bounds().Dx(), j.Inputs[0].Bounds().Dy()
		}
		if want := image.Rect(0, 0, snap(w), snap(h)); r.Image.Rect != want {
			t.Fatalf("%v, want %v", r.Image.Rect, want)
		}
		if !r.Region.In(r.Image.Rect) || !r.TextBox.In(r.Image.Rect) {
			t.Fatalf("region %v, text %v", r.Region, r.TextBox)
		}
	})
}
