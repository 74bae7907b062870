package theory

// DiT is QwenImageTransformer2DModel, a diffusion transformer with two streams, text and picture, that attend to each other.
type DiT struct {
	Layers, Heads, HeadDim         int
	InChannels, OutChannels, Patch int
	TextDim                        int // width of the text encoder
	Guidance                       bool
	DTypeBytes                     float64
	Quant                          Quantization
	mlpRatio, frequencies          int
}

func readDiT(f fields, dtype float64, quant Quantization) (*DiT, error) {
	d := &DiT{Layers: f.need("num_layers"), Heads: f.need("num_attention_heads"), HeadDim: f.need("attention_head_dim"),
		InChannels: f.need("in_channels"), OutChannels: f.need("out_channels"), Patch: f.need("patch_size"), TextDim: f.need("joint_attention_dim"),
		Guidance: f.flag("guidance_embeds"), DTypeBytes: dtype, Quant: quant,
		mlpRatio: 4, frequencies: 256} // fixed in the class: FeedForward's default, and Timesteps(num_channels=256)
	if *f.err == nil && d.Guidance {
		return nil, cannot(f.what, "%s has guidance_embeds, which the published Qwen-Image models do not use", f.file)
	}
	return d, *f.err
}

// Width of the hidden states.
func (d *DiT) Width() float64 { return float64(d.Heads * d.HeadDim) }

// parts counts: in each block and stream 4 d² of attention (q, k, v, out) and 8 d² of MLP for every token, and 6 d² of modulation for a
// picture; around the blocks the embeddings of time, picture and text and the way out.
func (d *DiT) parts() (perToken, perImage, other float64) {
	w, layers := d.Width(), float64(d.Layers)
	mlp := float64(d.mlpRatio)
	perToken = layers * (4 + 2*mlp) * w * w // of one stream
	perImage = layers * 2 * 6 * w * w
	bias := layers * (2*(6*w) + 8*w + 2*(mlp+1)*w + 4*float64(d.HeadDim))
	time := float64(d.frequencies)*w + w + w*w + w
	text := float64(d.TextDim) + float64(d.TextDim)*w + w
	picture := float64(d.InChannels)*w + w
	out := 2*w*w + 2*w + (w+1)*float64(d.Patch*d.Patch*d.OutChannels)
	return perToken, perImage, bias + time + text + picture + out
}

// Params counts all parameters.
func (d *DiT) Params() float64 { t, i, o := d.parts(); return 2*t + i + o }

// WeightBytes is the size of the weights in memory.
func (d *DiT) WeightBytes() float64 {
	t, i, o := d.parts()
	per := d.DTypeBytes
	if d.Quant.Bytes > 0 {
		per = d.Quant.Bytes
	}
	return (2*t+i)*per + o*d.DTypeBytes
}

// Forward is the work of one pass over batch pictures of image tokens each (those of the input pictures included) beside text tokens. With
// true classifier-free guidance a denoising step is two of them.
func (d *DiT) Forward(batch, image, text int) Work {
	perToken, perImage, _ := d.parts()
	b, n, w := float64(batch), float64(image+text), d.Width()
	ends := float64(d.TextDim)*w*float64(text) + w*float64(d.InChannels+d.Patch*d.Patch*d.OutChannels)*float64(image)
	return Work{
		FLOPs: b * (2*perToken*n + 2*perImage + 2*ends + 4*n*n*w*float64(d.Layers)),
		Bytes: d.WeightBytes() + b*n*float64(d.Layers)*max(d.DTypeBytes, 2)*w*float64(2*(1+3+1+1)+3*d.mlpRatio),
	}
}

// Activations is the peak of intermediate results of Forward: hidden state, its normed copy, q, k and v twice (apart and joined) and the fp32
// copies that the rotary embedding makes of q and k, in each token's width.
func (d *DiT) Activations(batch, image, text int) float64 {
	return float64(batch) * float64(image+text) * d.Width() * (8*max(d.DTypeBytes, 2) + 2*4)
}

// Tokens of a picture: latents are an eighth of its sides, and Patch x Patch of them are one token.
func (d *DiT) Tokens(s Size, compression int) int {
	return (s.Width / (compression * d.Patch)) * (s.Height / (compression * d.Patch))
}
