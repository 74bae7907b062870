package theory

// VAE is the autoencoder between pictures and latents: AutoencoderKLQwenImage (causal 3D convolutions, a picture is one frame) or
// AutoencoderKL (2D, Stable Diffusion and its kin).
type VAE struct {
	Class       string
	Channels    []int // of each resolution, finest first
	ResBlocks   int
	Latent      int
	temporal    []bool // which steps of resolution also halve the frames
	quantConv   bool
	in, out     int
	DTypeBytes  float64
	Compression int // pixels of a side that one latent stands for
}

func readVAE(class string, f fields, dtype float64) (*VAE, error) {
	v := &VAE{Class: class, DTypeBytes: dtype, in: 3, out: 3, quantConv: true}
	switch class {
	case "AutoencoderKLQwenImage":
		base := f.need("base_dim")
		for _, m := range f.needList("dim_mult") {
			v.Channels = append(v.Channels, base*m)
		}
		v.ResBlocks, v.Latent = f.need("num_res_blocks"), f.need("z_dim")
		flags, _ := f.values["temperal_downsample"].([]any)
		for _, b := range flags {
			on, _ := b.(bool)
			v.temporal = append(v.temporal, on)
		}
		if *f.err == nil && len(v.temporal) != len(v.Channels)-1 {
			f.fail("has %d entries in temperal_downsample for %d in dim_mult, and one less is needed", len(v.temporal), len(v.Channels))
		}
		if len(f.numbers("attn_scales")) > 0 {
			f.fail("has attn_scales, and attention outside the middle block is not counted here")
		}
	case "AutoencoderKL":
		v.Channels, v.ResBlocks, v.Latent = f.needList("block_out_channels"), f.need("layers_per_block"), f.need("latent_channels")
		v.in, v.out = f.or("in_channels", 3), f.or("out_channels", 3)
		v.temporal = make([]bool, len(v.Channels)-1)
		if on, ok := f.values["use_quant_conv"].(bool); ok {
			v.quantConv = on
		}
	}
	if len(v.Channels) > 8 {
		f.fail("has %d resolutions, and no more than 8 are believed", len(v.Channels))
	}
	v.Compression = 1 << (min(len(v.Channels), 8) - 1)
	return v, *f.err
}

// convnet walks through the layers and adds up. Pixels are those of the picture; share is the part of them at the current resolution.
type convnet struct {
	causal        bool
	pixels, share float64
	size          float64 // bytes of an element

	params, flops, traffic float64
	cached                 float64 // bytes kept: a causal convolution stores its input for the frame after, even if none comes
	peak                   float64 // bytes alive at the worst moment
}

// conv is a convolution with k x k pixels, over three frames where it is causal. Causal padding is carried out: two frames of zeros are joined
// to the one there is, so that 3 k² products are computed of which k² matter, and the padded input exists beside the plain one. cuDNN
// holds another copy of input and output in its own layout.
func (c *convnet) conv(in, out, k int, residual bool) {
	frames := 1.0
	if c.causal && k > 1 {
		frames = 3
	}
	i, o := float64(in), float64(out)
	px := c.pixels * c.share
	c.params += i*o*float64(k*k)*frames + o
	c.flops += 2 * i * o * float64(k*k) * frames * px
	c.traffic += (i*frames + o) * px * c.size
	padded := frames * i
	alive := i + 2*(padded+o)
	if residual {
		alive += o
	}
	if c.causal && k > 1 {
		c.cached += i * px * c.size
	}
	c.peak = max(c.peak, c.cached+alive*px*c.size)
}

func (c *convnet) norm(ch int) {
	if c.causal {
		c.params += float64(ch) // RMS: gamma alone
	} else {
		c.params += 2 * float64(ch) // GroupNorm
	}
	c.traffic += 4 * float64(ch) * c.pixels * c.share * c.size
}

func (c *convnet) resnet(in, out int) {
	c.norm(in)
	c.conv(in, out, 3, true)
	c.norm(out)
	c.conv(out, out, 3, true)
	if in != out {
		c.conv(in, out, 1, false)
	}
}

func (c *convnet) middle(ch int) {
	c.resnet(ch, ch)
	f := float64(ch)
	c.norm(ch)
	c.params += 4*f*f + 4*f
	n := c.pixels * c.share
	c.flops += 2*4*f*f*n + 4*n*n*f
	c.traffic += 8 * f * n * c.size
	c.resnet(ch, ch)
}

// resample halves or doubles the sides. AutoencoderKLQwenImage also has a convolution over time there, which a single frame does not run.
func (c *convnet) resample(in, out int, up, temporal bool) {
	if up {
		c.share *= 4
		c.peak = max(c.peak, c.cached+(float64(in)*(4+c.size))*c.pixels*c.share) // interpolated in fp32, then cast
	} else {
		c.share /= 4
	}
	causal := c.causal
	c.causal = false // a plain convolution in either class
	c.conv(in, out, 3, false)
	c.causal = causal
	if temporal {
		wide := float64(in)
		if up {
			wide *= 2
		}
		c.params += float64(in)*wide*3 + wide
	}
}

func (v *VAE) causal() bool { return v.Class == "AutoencoderKLQwenImage" }

func (v *VAE) encoder(pixels float64) *convnet {
	c := &convnet{causal: v.causal(), pixels: pixels, share: 1, size: v.DTypeBytes}
	ch := v.Channels[0]
	c.conv(v.in, ch, 3, false)
	for level, out := range v.Channels {
		for range v.ResBlocks {
			c.resnet(ch, out)
			ch = out
		}
		if level < len(v.Channels)-1 {
			c.resample(ch, ch, false, v.temporal[level])
		}
	}
	c.middle(ch)
	c.norm(ch)
	c.conv(ch, 2*v.Latent, 3, false)
	if v.quantConv {
		c.conv(2*v.Latent, 2*v.Latent, 1, false)
	}
	return c
}

func (v *VAE) decoder(pixels float64) *convnet {
	levels := len(v.Channels)
	c := &convnet{causal: v.causal(), pixels: pixels, share: 1, size: v.DTypeBytes}
	for range levels - 1 {
		c.share /= 4
	}
	ch := v.Channels[levels-1]
	if v.quantConv {
		c.conv(v.Latent, v.Latent, 1, false)
	}
	c.conv(v.Latent, ch, 3, false)
	c.middle(ch)
	for level := levels - 1; level >= 0; level-- {
		out := v.Channels[level]
		for range v.ResBlocks + 1 {
			c.resnet(ch, out)
			ch = out
		}
		if level > 0 {
			to := out
			if v.causal() {
				to = out / 2 // and the next level begins with half the channels
			}
			c.resample(out, to, true, v.temporal[level-1])
			ch = to
		}
	}
	c.norm(ch)
	c.conv(ch, v.out, 3, false)
	return c
}

// Params counts all parameters.
func (v *VAE) Params() float64 { return v.encoder(0).params + v.decoder(0).params }

// WeightBytes is the size of the weights in memory.
func (v *VAE) WeightBytes() float64 { return v.Params() * v.DTypeBytes }

// Decode is the work of turning the latents of batch pictures into pixels.
func (v *VAE) Decode(batch int, s Size) Work {
	c := v.decoder(s.pixels())
	return Work{FLOPs: c.flops, Bytes: c.traffic}.Times(float64(batch)).Plus(Work{Bytes: c.params * v.DTypeBytes})
}

// Encode is the work of turning batch pictures into latents.
func (v *VAE) Encode(batch int, s Size) Work {
	c := v.encoder(s.pixels())
	return Work{FLOPs: c.flops, Bytes: c.traffic}.Times(float64(batch)).Plus(Work{Bytes: c.params * v.DTypeBytes})
}

// DecodeActivations and EncodeActivations are peaks in bytes; the batch is decoded at once, without slicing or tiling.
func (v *VAE) DecodeActivations(batch int, s Size) float64 {
	return float64(batch) * v.decoder(s.pixels()).peak
}

// EncodeActivations is the peak of Encode.
func (v *VAE) EncodeActivations(batch int, s Size) float64 {
	return float64(batch) * v.encoder(s.pixels()).peak
}
