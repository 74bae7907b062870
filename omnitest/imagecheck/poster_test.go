package imagecheck

import (
	"bytes"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
	"golang.org/x/image/font/gofont/gobold"
	"golang.org/x/image/font/gofont/goitalic"
	"golang.org/x/image/font/gofont/gomedium"
	"golang.org/x/image/font/gofont/gomono"
	"golang.org/x/image/font/gofont/gomonobold"
	"golang.org/x/image/font/gofont/goregular"
	"golang.org/x/image/font/opentype"
	"golang.org/x/image/math/fixed"
)

var goFonts = [][]byte{gobold.TTF, goregular.TTF, gomedium.TTF, gomono.TTF, gomonobold.TTF, goitalic.TTF}

// poster is a picture with one line of text, drawn at known places so that the truth is known.
type poster struct {
	w, h  int
	text  string
	font  int
	px    float64
	panel bool
	scene uint64 // background
	dx    int    // the text is moved, its box is not
	dy    int
}

// draw paints the poster and tells where the text of reference stands. The box belongs to the reference text, so that a
// wrong text is looked for in the right place.
func (p poster) draw(tb testing.TB, reference string) (*image.RGBA, image.Rectangle) {
	tb.Helper()
	f, err := opentype.Parse(goFonts[p.font])
	require.NoError(tb, err)
	face, err := opentype.NewFace(f, &opentype.FaceOptions{Size: p.px, DPI: 72, Hinting: font.HintingNone})
	require.NoError(tb, err)
	img := image.NewRGBA(image.Rect(0, 0, p.w, p.h))
	background(img, p.scene)
	b, _ := font.BoundString(face, reference)
	box := image.Rect(b.Min.X.Floor(), b.Min.Y.Floor(), b.Max.X.Ceil(), b.Max.Y.Ceil())
	at := image.Pt((p.w-box.Dx())/2, (p.h-box.Dy())/3).Sub(box.Min)
	box = box.Add(at)
	ink := color.RGBA{250, 245, 230, 255}
	if p.panel {
		draw.Draw(img, box.Inset(-int(p.px/3)), image.NewUniform(color.RGBA{200, 40, 40, 255}), image.Point{}, draw.Src)
	} else {
		ink = color.RGBA{10, 10, 30, 255}
	}
	d := font.Drawer{Dst: img, Src: image.NewUniform(ink), Face: face, Dot: fixed.P(at.X+p.dx, at.Y+p.dy)}
	d.DrawString(p.text)
	return img, box
}

// background paints smooth waves and discs.
func background(img *image.RGBA, scene uint64) {
	r := rand.New(rand.NewPCG(scene, 99))
	w, h := img.Rect.Dx(), img.Rect.Dy()
	fx, fy, ph := 1+4*r.Float64(), 1+4*r.Float64(), 6*r.Float64()
	base := [3]float64{110 + 60*r.Float64(), 110 + 60*r.Float64(), 110 + 60*r.Float64()}
	amp := [3]float64{20 + 40*r.Float64(), 20 + 40*r.Float64(), 20 + 40*r.Float64()}
	type disc struct{ x, y, r, v float64 }
	var discs []disc
	for range 4 {
		discs = append(discs, disc{r.Float64() * float64(w), r.Float64() * float64(h), (0.05 + 0.15*r.Float64()) * float64(w), 120*r.Float64() - 60})
	}
	cos := make([]float64, h)
	for y := range cos {
		cos[y] = math.Cos(fy*2*math.Pi*float64(y)/float64(h) + ph)
	}
	for x := range w {
		s := math.Sin(fx*2*math.Pi*float64(x)/float64(w) + ph)
		for y := range h {
			v := s * cos[y]
			add := 0.0
			for _, d := range discs {
				if dx, dy := float64(x)-d.x, float64(y)-d.y; dx*dx+dy*dy < d.r*d.r {
					add += d.v
				}
			}
			o := img.PixOffset(x, y)
			for c := range 3 {
				img.Pix[o+c] = clamp(base[c] + amp[c]*v + add)
			}
			img.Pix[o+3] = 255
		}
	}
}

func clamp(v float64) uint8 { return uint8(min(max(v+0.5, 0), 255)) }

func clone(img *image.RGBA) *image.RGBA {
	out := *img
	out.Pix = append([]uint8(nil), img.Pix...)
	return &out
}

// noisy adds Gaussian noise to every channel.
func noisy(img *image.RGBA, sigma float64, seed uint64) *image.RGBA {
	r := rand.New(rand.NewPCG(seed, 7))
	out := clone(img)
	for i := range out.Pix {
		if i&3 != 3 {
			out.Pix[i] = clamp(float64(out.Pix[i]) + sigma*r.NormFloat64())
		}
	}
	return out
}

func gained(img *image.RGBA, gain float64) *image.RGBA {
	out := clone(img)
	for i := range out.Pix {
		if i&3 != 3 {
			out.Pix[i] = clamp(gain * float64(out.Pix[i]))
		}
	}
	return out
}

func jpegged(tb testing.TB, img *image.RGBA, quality int) *image.RGBA {
	tb.Helper()
	var b bytes.Buffer
	require.NoError(tb, jpeg.Encode(&b, img, &jpeg.Options{Quality: quality}))
	back, err := jpeg.Decode(&b)
	require.NoError(tb, err)
	return toRGBA(back)
}

// moved shifts the whole picture, repeating its border.
func moved(img *image.RGBA, dx, dy int) *image.RGBA {
	out := image.NewRGBA(img.Rect)
	w, h := img.Rect.Dx(), img.Rect.Dy()
	for y := range h {
		for x := range w {
			out.SetRGBA(x, y, img.RGBAAt(min(max(x-dx, 0), w-1), min(max(y-dy, 0), h-1)))
		}
	}
	return out
}

// patched draws a foreign patch: stripes, of about the mean brightness of what they cover so that only texture differs.
func patched(img *image.RGBA, r image.Rectangle) *image.RGBA {
	out := clone(img)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			v := uint8(60)
			if (x/16+y/16)%2 == 0 {
				v = 210
			}
			out.SetRGBA(x, y, color.RGBA{v, v / 2, 255 - v, 255})
		}
	}
	return out
}

// vaeLoss imitates what a VAE does to an untouched part: a slight low pass and grain, about 33 dB together.
func vaeLoss(img *image.RGBA, seed uint64) *image.RGBA {
	out := noisy(img, 5, seed)
	w, h := img.Rect.Dx(), img.Rect.Dy()
	for y := 1; y < h-1; y++ {
		for x := 1; x < w-1; x++ {
			o := out.PixOffset(x, y)
			for c := range 3 {
				i := o + c
				img0 := int(img.Pix[i])*4 + int(img.Pix[i-4]) + int(img.Pix[i+4]) + int(img.Pix[i-img.Stride]) + int(img.Pix[i+img.Stride])
				out.Pix[i] = clamp(float64(img0)/8 + float64(out.Pix[i]) - float64(img.Pix[i]))
			}
		}
	}
	return out
}
