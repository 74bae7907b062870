package dit

import (
	"context"
	"fmt"
	"image"
	"image/draw"
	"math"
	"testing"
	"time"

	"github.com/corona10/goimagehash"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func render(t testing.TB, c Config, j Job) *Result {
	t.Helper()
	s, err := New(c)
	require.NoError(t, err)
	r, err := s.Render(t.Context(), j)
	require.NoError(t, err)
	return r
}

// extP is the Hamming distance of the 16x16 perceptual hashes: unrelated photographs differ by 108-146 of 256.
func extP(t testing.TB, a, b image.Image) int {
	t.Helper()
	ha, err := goimagehash.ExtPerceptionHash(a, 16, 16)
	require.NoError(t, err)
	hb, err := goimagehash.ExtPerceptionHash(b, 16, 16)
	require.NoError(t, err)
	d, err := ha.Distance(hb)
	require.NoError(t, err)
	return d
}

// crop copies a rectangle with a margin; copied, because hashes of views are wrong (goimagehash ignores the origin).
func crop(m *image.RGBA, r image.Rectangle, margin int) *image.RGBA {
	r = r.Inset(-margin).Intersect(m.Rect)
	out := image.NewRGBA(image.Rect(0, 0, r.Dx(), r.Dy()))
	draw.Draw(out, out.Rect, m, r.Min, draw.Src)
	return out
}

// rmse over the colour channels.
func rmse(a, b *image.RGBA, r image.Rectangle) float64 {
	sum, n := 0.0, 0
	for y := r.Min.Y; y < r.Max.Y; y++ {
		i, j := a.PixOffset(r.Min.X, y), b.PixOffset(r.Min.X, y)
		for k := range 4 * r.Dx() {
			if k%4 == 3 {
				continue
			}
			d := float64(a.Pix[i+k]) - float64(b.Pix[j+k])
			sum += d * d
			n++
		}
	}
	return math.Sqrt(sum / float64(n))
}

func psnr(rms float64) float64 { return 20 * math.Log10(255/rms) }

func TestRenderIsDeterministic(t *testing.T) {
	j := Job{Prompt: `a red cube by the sea, "OPEN 24 HOURS"`, W: 512, H: 384, Steps: 4, Seed: 7}
	a := render(t, Config{}, j)
	b := render(t, Config{MaxBatch: 4, Timing: Timing{Encode: time.Microsecond}}, j)
	assert.Equal(t, a.Image.Pix, b.Image.Pix, "same job, other server: other pixels")

	j.Seed = 8
	c := render(t, Config{}, j)
	assert.NotEqual(t, a.Image.Pix, c.Image.Pix)
	assert.LessOrEqual(t, extP(t, a.Image, c.Image), 12, "another seed changes the noise, not the picture")
	// Independent noise of equal strength adds in squares.
	assert.InDelta(t, math.Sqrt2*127.5*residual(4, leakGenerate), rmse(a.Image, c.Image, a.Image.Rect), 1)
}

// TestNoiseFallsWithSteps measures what is left of the noise and compares it with the formula. The plane prompt keeps
// away from 0 and 255, where clipping would hide noise.
func TestNoiseFallsWithSteps(t *testing.T) {
	const prompt = "a wall"
	sc := parse(prompt)
	clean := sc.paint(256, 256, sc.place(256, 256), nil)
	last := math.Inf(1)
	for _, n := range []int{1, 2, 4, 8, 20, 50} {
		got := rmse(render(t, Config{}, Job{Prompt: prompt, W: 256, H: 256, Steps: n}).Image, clean, clean.Rect)
		assert.Less(t, got, last, "%d steps", n)
		assert.InDelta(t, 127.5*residual(n, leakGenerate), got, 0.6, "%d steps", n)
		last = got
	}
	assert.Greater(t, 127.5*residual(1, leakGenerate), 20.0, "one step must be plainly noisy")
	assert.Less(t, 127.5*residual(20, leakGenerate), 3.5, "twenty steps must be nearly clean")
}

// TestEulerAgainstTheDefinition walks x += (t'-t) v with v from its definition, in double precision.
func TestEulerAgainstTheDefinition(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "steps")
		x0 := rapid.Float64Range(-1, 1).Draw(t, "x0")
		e := rapid.Float64Range(-3.5, 3.5).Draw(t, "noise")
		x := e
		for i := range n {
			from, to := float64(n-i)/float64(n), float64(n-i-1)/float64(n)
			predicted := x0 + leakGenerate*(x-(1-from)*x0)
			v := (x - predicted) / from
			x += (to - from) * v
		}
		got := []float32{float32(e)}
		denoise(got, []float32{float32(x0)}, euler(n, leakGenerate))
		if math.Abs(float64(got[0])-x) > 1e-5 {
			t.Fatalf("%d steps from %g to %g: %g, by definition %g", n, e, x0, got[0], x)
		}
		if want := x0 + e*residual(n, leakGenerate); math.Abs(x-want) > 1e-9 {
			t.Fatalf("residual formula gives %g, walk %g", want, x)
		}
	})
}

func TestNoiseIsNormal(t *testing.T) {
	x := make([]float32, 1<<20)
	for row := range 256 {
		normals(x[row<<12:(row+1)<<12], 5, uint64(row))
	}
	var m1, m2, m4, lag float64
	for i, v := range x {
		f := float64(v)
		m1 += f
		m2 += f * f
		m4 += f * f * f * f
		if i > 0 {
			lag += f * float64(x[i-1])
		}
	}
	n := float64(len(x))
	assert.InDelta(t, 0, m1/n, 0.005)
	assert.InDelta(t, 1, m2/n, 0.005)
	assert.InDelta(t, 3, m4/n, 0.05, "kurtosis")
	assert.InDelta(t, 0, lag/n, 0.005, "neighbours are correlated")
}

func TestOtherPromptsGiveOtherPictures(t *testing.T) {
	prompts := []string{
		`A poster that says "OPEN 24 HOURS"`, `A poster that says "OPEN 21 HOURS"`, `a neon sign "CLOSED"`,
		`一家咖啡店,招牌上写着“通义千问”`, "a red circle and a blue square", "a red circle and a green square",
		"a quiet lake at dawn", "a quiet lake at dusk", "\x00\xff\xfe garbage \x17",
	}
	var pics []image.Image
	for _, p := range prompts {
		pics = append(pics, render(t, Config{}, Job{Prompt: p, W: 256, H: 256}).Image)
	}
	for i := range pics {
		for k := range i {
			assert.Greater(t, extP(t, pics[i], pics[k]), 60, "%q and %q look alike", prompts[i], prompts[k])
		}
	}
}

// TestTextBoxIsTheInk: pictures with and without text differ inside of the box, up to its edges, and nowhere else.
func TestTextBoxIsTheInk(t *testing.T) {
	for _, p := range []string{
		`"OPEN 24 HOURS"`, `a cafe “通义千问 欢迎光临” at night`, `a red star "QX7-ZK9" "全场五折"`,
		`"The quick brown fox jumps over the lazy dog and keeps running through the forest until dawn"`, `"fox 🦊"`,
	} {
		for _, size := range [][2]int{{512, 512}, {1376, 768}, {500, 300}} {
			w, h := size[0], size[1]
			with := render(t, Config{}, Job{Prompt: p, W: w, H: h})
			without := render(t, Config{Faults: Faults{NoText: true}}, Job{Prompt: p, W: w, H: h})
			assert.Equal(t, TextBox(p, w, h), with.TextBox, "%s at %v", p, size)
			var diff image.Rectangle
			for y := range with.Image.Rect.Dy() {
				for x := range with.Image.Rect.Dx() {
					if with.Image.RGBAAt(x, y) != without.Image.RGBAAt(x, y) {
						diff = diff.Union(image.Rect(x, y, x+1, y+1))
					}
				}
			}
			assert.True(t, diff.In(with.TextBox), "%s at %v: ink %v leaves the box %v", p, size, diff, with.TextBox)
			assert.True(t, with.TextBox.Inset(2).In(diff), "%s at %v: box %v is wider than the ink %v", p, size, with.TextBox, diff)
		}
	}
	assert.True(t, TextBox("no text here", 512, 512).Empty())
	assert.True(t, TextBox(`an open quote "only`, 512, 512).Empty())
	assert.True(t, TextBox(`"x"`, 0, -1).Empty())
}

func TestInkIsLargeEnoughToRead(t *testing.T) {
	for _, text := range []string{"OPEN 24 HOURS", "SALE 50%", "通义千问", "A"} {
		assert.GreaterOrEqual(t, TextBox(`"`+text+`"`, 512, 512).Dy(), 24, text)
	}
}

// TestLayoutNeverOverflows: whatever is quoted, the sign stays in the picture, away from the shapes, and no character is
// lost. Text at the smallest font may be cut off by its panel, which takes thousands of characters.
func TestLayoutNeverOverflows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringOfN(rapid.RuneFrom([]rune("ABCxyz019 -!营业中通义千问,。🦊")), 1, 120, -1).Draw(t, "text")
		w, h := 16*rapid.IntRange(16, 90).Draw(t, "w"), 16*rapid.IntRange(16, 90).Draw(t, "h")
		shapes := rapid.SampledFrom([]string{"", "red circle ", "red circle blue cube green star "}).Draw(t, "shapes")
		sc := parse(shapes + `"` + text + `"`)
		p := sc.place(w, h)
		pic := image.Rect(0, 0, w, h)
		for _, r := range p.shapes {
			if !r.In(pic) {
				t.Fatalf("shape %v leaves %v", r, pic)
			}
			if p.text != nil && r.Overlaps(p.text.panel) {
				t.Fatalf("shape %v on the sign %v", r, p.text.panel)
			}
		}
		if p.text == nil {
			if len(sc.texts) > 0 {
				t.Fatalf("text %q has no place", text)
			}
			return
		}
		if !p.text.panel.In(pic) || !p.text.ink.In(p.text.panel) {
			t.Fatalf("ink %v, panel %v, picture %v", p.text.ink, p.text.panel, pic)
		}
		want, got := "", ""
		for _, s := range sc.texts {
			want += s
		}
		for _, s := range p.text.lines {
			got += s
		}
		if strip(want) != strip(got) {
			t.Fatalf("lines %q lost something of %q", p.text.lines, want)
		}
	})
}

func strip(s string) string {
	out := []rune{}
	for _, r := range s {
		if r != ' ' {
			out = append(out, r)
		}
	}
	return string(out)
}

func TestSizesAreRoundedDown(t *testing.T) {
	for _, c := range []struct{ w, h, wantW, wantH int }{{500, 300, 496, 288}, {15, 15, 16, 16}, {16, 16, 16, 16}, {0, 0, 1024, 1024}} {
		r := render(t, Config{}, Job{Prompt: `fox "A"`, W: c.w, H: c.h, Steps: 1})
		assert.Equal(t, image.Rect(0, 0, c.wantW, c.wantH), r.Image.Rect, fmt.Sprint(c.w, "x", c.h))
	}
}

func TestRenderRefuses(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	long := make([]byte, 4*maxPromptTokens+1)
	for _, c := range []struct {
		job  Job
		want string
	}{
		{Job{Prompt: "x", W: -1, H: 512}, "dit: size -1x512: want positive sides"},
		{Job{Prompt: "x", W: 1 << 20, H: 1 << 20}, "dit: size 1048576x1048576: want positive sides and at most 33177600 pixels"},
		{Job{Prompt: "x", Steps: -1}, "Number of samples, -1, must be non-negative."},
		{Job{Prompt: "x", Steps: 1e9}, "at most 10000"},
		{Job{Prompt: string(long)}, "got 1025 tokens, but `max_sequence_length` is 1024"},
		{Job{Prompt: "x", Inputs: []image.Image{image.NewRGBA(image.Rectangle{})}, W: 64, H: 64}, "dit: input 0 is empty"},
	} {
		_, err := s.Render(t.Context(), c.job)
		assert.ErrorContains(t, err, c.want)
	}
	_, err = s.Render(t.Context(), Job{Prompt: string(make([]byte, 2560)), W: 64, H: 64})
	assert.NoError(t, err, "a prompt of 2,560 bytes is 640 tokens")
	_, err = New(Config{MaxBatch: -1})
	assert.ErrorContains(t, err, "MaxBatch -1")
	_, err = New(Config{Timing: Timing{Jitter: 2}})
	assert.ErrorContains(t, err, "Jitter 2")
}

func TestRenderHonoursItsContext(t *testing.T) {
	s, err := New(Config{Timing: Timing{PerStep: time.Hour}})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = s.Render(ctx, Job{Prompt: "x", W: 64, H: 64})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.ErrorContains(t, err, "dit: diffuse")

	done, stop := context.WithCancel(t.Context())
	stop()
	_, err = s.Render(done, Job{Prompt: "x"})
	assert.ErrorIs(t, err, context.Canceled)
}
