package dit

import (
	"context"
	"image"
	"math"
)

// Flow matching with Euler steps, as Qwen-Image's scheduler does it without shift: x(t) = (1-t) x0 + t e, the model
// predicts the velocity v = e - x0, and a step from t to t' is x += (t'-t) v.
//
// With an exact v one step would reach x0. A model is not exact; ours takes a share `leak` of the noise it sees for
// picture. Written out, one step multiplies the noise by r + leak(1-r) with r = t'/t, so N uniform steps leave
//
//	residual(N) = leak x prod over k=2..N of (1 - (1-leak)/k)
//
// which falls about like N^-(1-leak): 25 levels (of 255) after 1 step, 9 after 4, 2.7 after 20 at leak 0.2.
const (
	leakGenerate = 0.20
	leakEdit     = 0.05 // conditioned on its clean input: the untouched part must come back at few steps too
	noiseLevels  = 127.5
)

// residual is the noise left after n steps, in standard deviations of the starting noise.
func residual(n int, leak float64) float64 {
	v := leak
	for k := 2; k <= n; k++ {
		v *= 1 - (1-leak)/float64(k)
	}
	return v
}

// step holds one Euler step as the linear map it is: x' = a x + b x0.
type step struct{ a, b float32 }

func euler(n int, leak float64) []step {
	s := make([]step, n)
	for i := range s {
		t, next := float64(n-i)/float64(n), float64(n-i-1)/float64(n)
		r := next / t
		// x0^ = x0 + leak (x - (1-t) x0); v = (x - x0^) / t; x' = x + (next - t) v = r x + (1-r) x0^
		s[i] = step{a: float32(r + (1-r)*leak), b: float32((1 - r) * (1 - leak*(1-t)))}
	}
	return s
}

// latentPool keeps the latents of finished pictures for the next ones: 12 MB at a megapixel. It is not a sync.Pool, which
// the collector empties: at one picture per two collections that would give back every buffer before its reuse.
type latentPool chan []float32

const keepLatents = 16 << 20 // floats; larger ones go back to the heap

func (p latentPool) get(n int) []float32 {
	select {
	case b := <-p:
		if cap(b) >= n {
			return b[:n]
		}
	default:
	}
	return make([]float32, n)
}

func (p latentPool) put(b []float32) {
	if cap(b) > keepLatents {
		return
	}
	select {
	case p <- b:
	default:
	}
}

const bandRows = 16 // rows between two looks at the context

// diffuse denoises from seeded noise to target; lat takes the latents, three floats a pixel. It goes band by band, all
// steps within a band, because a band stays in the cache; the result is the same as step by step over the picture.
func diffuse(ctx context.Context, lat []float32, target *image.RGBA, steps int, leak float64, k uint64) error {
	w, h := target.Rect.Dx(), target.Rect.Dy()
	walk := euler(steps, leak)
	goal := make([]float32, 3*w)
	for y := range h {
		if y%bandRows == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		x := lat[3*w*y : 3*w*(y+1)]
		normals(x, k, uint64(y))
		pix := target.Pix[y*target.Stride : y*target.Stride+4*w]
		for i := 0; i < w; i++ {
			p, g := pix[4*i:4*i+4:4*i+4], goal[3*i:3*i+3:3*i+3]
			g[0], g[1], g[2] = centred[p[0]], centred[p[1]], centred[p[2]]
		}
		denoise(x, goal, walk)
	}
	return nil
}

// centred maps a byte to the model's range -1..1.
var centred = func() (t [256]float32) {
	for i := range t {
		t[i] = (float32(i) - noiseLevels) / noiseLevels
	}
	return t
}()

// denoise walks x towards goal. Four values go through all steps together: they hide each other's latency and never
// leave the registers. The conversions to float32 forbid fused multiply-add, which would make pixels depend on the CPU.
func denoise(x, goal []float32, walk []step) {
	n := len(x) &^ 3
	goal = goal[:len(x)]
	for i := 0; i < n; i += 4 {
		xs, gs := x[i:i+4:i+4], goal[i:i+4:i+4]
		x0, x1, x2, x3 := xs[0], xs[1], xs[2], xs[3]
		g0, g1, g2, g3 := gs[0], gs[1], gs[2], gs[3]
		for _, s := range walk {
			x0 = float32(s.a*x0) + float32(s.b*g0)
			x1 = float32(s.a*x1) + float32(s.b*g1)
			x2 = float32(s.a*x2) + float32(s.b*g2)
			x3 = float32(s.a*x3) + float32(s.b*g3)
		}
		xs[0], xs[1], xs[2], xs[3] = x0, x1, x2, x3
	}
	for i := n; i < len(x); i++ {
		v := x[i]
		for _, s := range walk {
			v = float32(s.a*v) + float32(s.b*goal[i])
		}
		x[i] = v
	}
}

// VAE loss of an edit, in levels of 255. Qwen-Image's VAE gives its input back at about 33.4 dB (root mean square error
// 5.5), of which the part that survives 8x8 averaging stays below 4 on every 32 px tile (measured on published edits of Step1X-Edit:
// tile MAD p50 1.6, max 3.6). So: fine noise, and a smooth error whose amplitude is bounded.
const (
	vaeNoise  = 5.1
	vaeSmooth = 2.6
)

// decode turns latents into pixels, in place of m's. loss adds the VAE's error, keyed by k.
func decode(m *image.RGBA, lat []float32, loss bool, k uint64) {
	w, h := m.Rect.Dx(), m.Rect.Dy()
	var noise, wave []float32
	if loss {
		noise, wave = make([]float32, 3*w), make([]float32, w)
		phase := 2 * math.Pi * unit(k, 1)
		for x := range wave {
			wave[x] = float32(math.Sin(float64(x)/(9+4*unit(k, 2)) + phase))
		}
	}
	kn := key(k, 7)
	for y := range h {
		row := lat[3*w*y : 3*w*(y+1)]
		pix := m.Pix[y*m.Stride : y*m.Stride+4*w]
		if !loss {
			for x := range w {
				p, l := pix[4*x:4*x+4:4*x+4], row[3*x:3*x+3:3*x+3]
				p[0], p[1], p[2], p[3] = level(l[0]), level(l[1]), level(l[2]), 255
			}
			continue
		}
		normals(noise, kn, uint64(y))
		s := vaeSmooth * float32(math.Cos(float64(y)/(8+5*unit(k, 3))+2*math.Pi*unit(k, 4)))
		for x := range w {
			p, l, e := pix[4*x:4*x+4:4*x+4], row[3*x:3*x+3:3*x+3], noise[3*x:3*x+3:3*x+3]
			o := float32(s * wave[x])
			p[0] = clamp8(float32(l[0]*noiseLevels) + noiseLevels + o + float32(vaeNoise*e[0]))
			p[1] = clamp8(float32(l[1]*noiseLevels) + noiseLevels + o + float32(vaeNoise*e[1]))
			p[2] = clamp8(float32(l[2]*noiseLevels) + noiseLevels + o + float32(vaeNoise*e[2]))
			p[3] = 255
		}
	}
}

func level(v float32) uint8 { return clamp8(float32(v*noiseLevels) + noiseLevels) }
