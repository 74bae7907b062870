package theory

// Memory is where a GPU's bytes go at the peak.
type Memory struct {
	Weights     float64 `json:"weights"`
	KV          float64 `json:"kv"`          // cache of all sequences at their full length; language models
	Latents     float64 `json:"latents"`     // diffusion states and text embeddings; pipelines
	Activations float64 `json:"activations"` // intermediate results of the stage that needs most
	Peak        string  `json:"peak"`        // that stage
	Allocator   float64 `json:"allocator"`   // what the caching allocator holds beyond what is in use, because its blocks do not fit each other
	Context     float64 `json:"context"`     // CUDA context, kernels, libraries, driver
}

// Allocated is what the framework's tensors occupy (torch.cuda.max_memory_allocated).
func (m Memory) Allocated() float64 { return m.Weights + m.KV + m.Latents + m.Activations }

// Total is what the driver shows as used (NVML).
func (m Memory) Total() float64 { return m.Allocated() + m.Allocator + m.Context }

// Overheads as recorded on an H200 with diffusers 0.38 (recording diffusers-0.38.0): beyond the allocator's reserve NVML showed 1.3 GiB, of which
// 618 MiB were there before the process; and the reserve exceeded the tensors by 16 to 24 % of the activations.
const (
	DefaultContext   = 1.3 * gib
	DefaultAllocator = 0.2 // of the activations
)

func (m *Memory) overheads(o Options) {
	share := o.Allocator
	if share == 0 {
		share = DefaultAllocator
	}
	m.Allocator = share * m.Activations
	m.Context = o.Context
	if m.Context == 0 {
		m.Context = DefaultContext
	}
}

func (m *Memory) stage(name string, bytes float64) {
	if bytes > m.Activations {
		m.Activations, m.Peak = bytes, name
	}
}

func (m *Model) pipelineMemory(s pipelineShape, r Request, o Options) (out Memory) {
	out.Weights = m.WeightBytes()
	latent := func(px Size) float64 {
		c := float64(m.VAE.Compression)
		return px.pixels() / (c * c) * float64(m.VAE.Latent) * m.VAE.DTypeBytes
	}
	states := 3.0 // latents, predicted noise, and the step's result
	prompts := 1.0
	if r.CFG {
		states, prompts = 4, 2
	}
	out.Latents = states * latent(r.Size) * float64(r.Batch)
	for _, l := range s.latents {
		out.Latents += latent(l) * float64(r.Batch)
	}
	out.Latents += prompts * TextStateBytes(s.text, m.Text.Hidden, m.Text.elementBytes()) * float64(r.Batch)
	// the text encoder keeps the hidden states of all layers (output_hidden_states=True)
	out.stage(TextEncode, m.Text.Activations(s.encoded, 1)+float64(m.Text.Layers+1)*TextStateBytes(s.encoded, m.Text.Hidden, m.Text.elementBytes()))
	for _, l := range s.latents {
		out.stage(VAEEncode, m.VAE.EncodeActivations(1, l))
	}
	out.stage(Denoise, m.DiT.Activations(r.Batch, s.image, s.text))
	out.stage(VAEDecode, m.VAE.DecodeActivations(r.Batch, r.Size))
	out.overheads(o)
	return out
}

func (m *Model) textMemory(batch, prompt, output int, kv KV, o Options) (out Memory) {
	tp := max(o.TensorParallel, 1)
	chunk := o.ChunkTokens
	if chunk == 0 {
		chunk = 8192
	}
	sequences := o.Sequences
	if sequences == 0 {
		sequences = batch
	}
	out.Weights = m.WeightBytes() / float64(tp)
	// with fewer key-value heads than GPUs each head is held more than once
	out.KV = kv.PerToken * float64(batch) * float64(prompt+output) / float64(min(tp, m.Text.KVHeads))
	out.stage(Prefill, m.Text.Activations(min(chunk, batch*prompt), sequences)/float64(tp))
	out.overheads(o)
	return out
}

// LargestBatch is the largest batch whose peak fits into the GPU's memory, 0 if not even one request does.
func LargestBatch(m *Model, g GPU, r Request, o Options) (int, error) {
	fits := func(batch int) (bool, error) {
		r.Batch = batch
		p, err := Predict(m, g, r, o)
		if err != nil {
			return false, err
		}
		return p.Memory.Total() <= g.Memory, nil
	}
	low, high := 0, 1
	for {
		ok, err := fits(high)
		if err != nil {
			return 0, err
		}
		if !ok {
			break
		}
		low, high = high, 2*high
		if high > 1<<20 {
			return low, nil
		}
	}
	for high-low > 1 {
		middle := (low + high) / 2
		ok, err := fits(middle)
		if err != nil {
			return 0, err
		}
		if ok {
			low = middle
		} else {
			high = middle
		}
	}
	return low, nil
}
