package theory

import "math"

// VisionTower is the image encoder of Qwen2.5-VL.
type VisionTower struct {
	Depth, Hidden, Heads, Intermediate   int
	Patch, TemporalPatch, Merge, Channel int
	Out                                  int // width of the language model
	Window                               int // pixels of a side within which all but FullAttention blocks attend
	FullAttention                        int // blocks that attend to the whole picture
	DTypeBytes                           float64
	Quant                                Quantization
}

func readVision(f fields, dtype float64, quant Quantization) (*VisionTower, error) {
	v := &VisionTower{Depth: f.need("depth"), Hidden: f.need("hidden_size"), Heads: f.need("num_heads"), Intermediate: f.need("intermediate_size"),
		Patch: f.need("patch_size"), TemporalPatch: f.or("temporal_patch_size", 2), Merge: f.need("spatial_merge_size"), Out: f.need("out_hidden_size"),
		Window: f.or("window_size", 112), FullAttention: len(f.numbers("fullatt_block_indexes")), DTypeBytes: dtype, Quant: quant}
	v.Channel = f.or("in_channels", f.or("in_chans", 3))
	if quant.keepsVision() {
		v.Quant = Quantization{}
	}
	return v, *f.err
}

// blockLinear counts qkv, proj, gate, up and down of a block; the merger is two layers of merge² x hidden.
func (v *VisionTower) blockLinear() float64 {
	h, i := float64(v.Hidden), float64(v.Intermediate)
	return 4*h*h + 3*h*i
}

func (v *VisionTower) mergerLinear() float64 {
	m := float64(v.Hidden * v.Merge * v.Merge)
	return m*m + m*float64(v.Out)
}

func (v *VisionTower) patchLinear() float64 {
	return float64(v.Channel*v.TemporalPatch) * float64(v.Patch*v.Patch) * float64(v.Hidden)
}

func (v *VisionTower) parts() (linear, other float64) {
	h, i, d := float64(v.Hidden), float64(v.Intermediate), float64(v.Depth)
	linear = d*v.blockLinear() + v.mergerLinear()
	other = d*(4*h+2*i+h+2*h) + v.patchLinear() + h + float64(v.Hidden*v.Merge*v.Merge) + float64(v.Out)
	return linear, other
}

// Params counts all parameters.
func (v *VisionTower) Params() float64 { l, o := v.parts(); return l + o }

// WeightBytes is the size of the weights in memory.
func (v *VisionTower) WeightBytes() float64 {
	l, o := v.parts()
	per := v.DTypeBytes
	if v.Quant.Bytes > 0 {
		per = v.Quant.Bytes
	}
	return l*per + o*v.DTypeBytes
}

// Tokens is how many tokens a picture becomes in the language model: sides rounded to whole merged patches, as smart_resize does.
func (v *VisionTower) Tokens(s Size) int {
	unit := float64(v.Patch * v.Merge)
	side := func(px int) int { return max(1, int(math.Round(float64(px)/unit))) }
	return side(s.Width) * side(s.Height)
}

// Encode is the work for the pictures of one request.
func (v *VisionTower) Encode(images []Size) (w Work) {
	if len(images) == 0 {
		return w
	}
	for _, s := range images {
		n := float64(v.Tokens(s) * v.Merge * v.Merge) // patches
		window := math.Min(n, math.Pow(float64(v.Window/v.Patch), 2))
		h := float64(v.Hidden)
		full := float64(v.FullAttention)
		w.FLOPs += 2*n*(float64(v.Depth)*v.blockLinear()+v.patchLinear()) + 2*n/float64(v.Merge*v.Merge)*v.mergerLinear() +
			4*n*h*(full*n+(float64(v.Depth)-full)*window)
		w.Bytes += n * float64(v.Depth) * 2 * (8*h + 3*float64(v.Intermediate))
	}
	w.Bytes += v.WeightBytes()
	return w
}
