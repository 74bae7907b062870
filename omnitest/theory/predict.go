package theory

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Request is what is asked of the model. Zero fields: a batch of 1, 50 denoising steps, one output token.
type Request struct {
	Batch  int `json:"batch"`  // requests that run together
	Prompt int `json:"prompt"` // tokens of the prompt, without a pipeline's own template
	Output int `json:"output"` // tokens to generate; for language models

	Size        Size   `json:"size"`                   // of the picture to make; for pipelines
	Steps       int    `json:"steps"`                  // denoising steps
	CFG         bool   `json:"cfg"`                    // true classifier-free guidance: two forwards a step
	InputImages []Size `json:"input_images,omitempty"` // pictures to edit, or to look at
}

// Options state what the hardware's data sheet does not.
type Options struct {
	Efficiency map[string]float64 // achieved fraction of the roofline by stage, "" for all others; missing: 1, that is the bound itself
	Floor      map[string]float64 // seconds that one call of a stage takes at least, whatever its size: launching kernels from the host

	TensorParallel int     // GPUs that share each layer; 0: 1. For language models
	KVDType        string  // "": as the weights
	ChunkTokens    int     // tokens that a prefill computes at once; 0: 8192, vLLM's max_num_batched_tokens on large GPUs
	Sequences      int     // sequences whose logits exist at once; 0: the batch
	Allocator      float64 // share of the activations that the allocator holds beyond them; 0: DefaultAllocator
	Context        float64 // bytes of CUDA context, driver and libraries; 0: DefaultContext
	Link           *Link   // over which KV, or the text's hidden states, travel between instances; nil: one instance
}

// Stage names of predictions.
const (
	TextEncode = "text_encode"
	VAEEncode  = "vae_encode"
	Denoise    = "denoise" // one call is one forward: one a step, two with CFG
	VAEDecode  = "vae_decode"
	Prefill    = "prefill"
	Decode     = "decode" // one call is one token of every sequence
	Transfer   = "transfer"
)

var stageNames = []string{TextEncode, VAEEncode, Denoise, VAEDecode, Prefill, Decode}

// Stage is the prediction for one stage.
type Stage struct {
	Name       string  `json:"name"`
	Calls      int     `json:"calls"`
	Work       Work    `json:"work"`       // of one call
	Bound      float64 `json:"bound"`      // seconds of one call by the roofline
	Limit      string  `json:"limit"`      // "compute", "memory", "host" or "link": what sets the time
	Efficiency float64 `json:"efficiency"` // achieved fraction that Each was computed with; 1: none was stated
	Each       float64 `json:"each"`       // seconds of one call
	Seconds    float64 `json:"seconds"`    // of all calls
}

// Prediction is what theory puts beside a measurement.
type Prediction struct {
	Model       string   `json:"model"`
	GPU         string   `json:"gpu"`
	Request     Request  `json:"request"`
	Stages      []Stage  `json:"stages,omitempty"`
	Seconds     float64  `json:"seconds"` // sum of the stages, one after the other
	Memory      Memory   `json:"memory"`
	KV          *KV      `json:"kv,omitempty"` // nil for pipelines
	Assumptions []string `json:"assumptions,omitempty"`
}

// Stage finds a stage by name.
func (p *Prediction) Stage(name string) (Stage, bool) {
	i := slices.IndexFunc(p.Stages, func(s Stage) bool { return s.Name == name })
	if i < 0 {
		return Stage{}, false
	}
	return p.Stages[i], true
}

// Predict estimates times and memory of r on g.
func Predict(m *Model, g GPU, r Request, o Options) (*Prediction, error) {
	if err := g.check(); err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if r.Batch == 0 {
		r.Batch = 1
	}
	for stage, e := range o.Efficiency {
		if stage != "" && !slices.Contains(stageNames, stage) {
			return nil, cannot("times", "a fraction is given for %q, which is no stage (%s)", stage, strings.Join(stageNames, ", "))
		}
		if !(e > 0 && e <= 1) {
			return nil, cannot("times", "the achieved fraction of stage %q is %v, and it lies above 0 and not above 1", stage, e)
		}
	}
	for stage, floor := range o.Floor {
		if !slices.Contains(stageNames, stage) || !(floor >= 0) {
			return nil, cannot("times", "a floor of %v s is given for %q, and the stages are %s", floor, stage, strings.Join(stageNames, ", "))
		}
	}
	p := &Prediction{Model: m.Name, GPU: g.Name, Request: r, Assumptions: slices.Clone(m.Assumptions)}
	var err error
	if m.DiT != nil {
		err = m.predictPipeline(p, g, o)
	} else {
		err = m.predictText(p, g, o)
	}
	if err != nil {
		return nil, err
	}
	for _, s := range p.Stages {
		p.Seconds += s.Seconds
	}
	return p, nil
}

func (r Request) check() error {
	for _, v := range []struct {
		name  string
		value int
	}{{"batch", r.Batch}, {"prompt", r.Prompt}, {"output", r.Output}, {"steps", r.Steps}, {"width", r.Size.Width}, {"height", r.Size.Height}} {
		if v.value < 0 || v.value > 1e8 {
			return cannot("the request", "its %s is %d", v.name, v.value)
		}
	}
	for _, s := range r.InputImages {
		if s.Width < 1 || s.Height < 1 {
			return cannot("the request", "an input picture has %d x %d pixels", s.Width, s.Height)
		}
	}
	return nil
}

// add appends a stage with its time: the bound over the achieved fraction, but not less than the host's floor.
func (p *Prediction) add(g GPU, o Options, name string, calls int, w Work, quant Quantization) {
	s := Stage{Name: name, Calls: calls, Work: w, Efficiency: 1}
	s.Bound, s.Limit = g.Bound(w, quant)
	if e, ok := o.Efficiency[name]; ok {
		s.Efficiency = e
	} else if e, ok := o.Efficiency[""]; ok {
		s.Efficiency = e
	}
	s.Each = s.Bound / s.Efficiency
	if floor := o.Floor[name]; floor > s.Each {
		s.Each, s.Limit = floor, "host"
	}
	s.Seconds = s.Each * float64(calls)
	if quant.computesFP8() && g.FP8 == 0 {
		p.assume("%s has no fp8 tensor cores: fp8 weights are computed in bf16", g.Name)
	}
	p.Stages = append(p.Stages, s)
}

func (p *Prediction) assume(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(p.Assumptions, text) {
		p.Assumptions = append(p.Assumptions, text)
	}
}

// Templates of the Qwen-Image pipelines in diffusers (pipeline_qwenimage*.py): tokens before the prompt, which the text encoder sees and the
// DiT does not, and behind it.
const (
	generateTemplate, editTemplate, templateEnd = 34, 64, 5
	pictureLabel                                = 6 // "Picture 1: <|vision_start|>...<|vision_end|>" of the edit-plus pipeline
)

// conditions is what the input pictures become: their size for the text encoder, their size for the VAE, and how many tokens of text they add.
func (m *Model) conditions(r Request) (see, latents []Size, tokens int) {
	for _, s := range r.InputImages {
		switch m.Class {
		case "QwenImageEditPipeline": // one megapixel for both
			see = append(see, s.area(1024*1024))
			latents = append(latents, s.area(1024*1024))
			tokens += m.Vision.Tokens(s.area(1024 * 1024))
		case "QwenImageEditPlusPipeline":
			see = append(see, s.area(384*384))
			latents = append(latents, s.area(1024*1024))
			tokens += m.Vision.Tokens(s.area(384*384)) + pictureLabel
		}
	}
	return see, latents, tokens
}

// area keeps the ratio of sides and rounds them to multiples of 32, as calculate_dimensions of those pipelines does.
func (s Size) area(px float64) Size {
	ratio := float64(s.Width) / float64(s.Height)
	w := math.Sqrt(px * ratio)
	return Size{max(32, 32*int(math.Round(w/32))), max(32, 32*int(math.Round(w/ratio/32)))}
}

// pipelineShape is a request in the units of the models.
type pipelineShape struct {
	batch, image, text, negative, encoded int // tokens: picture (inputs included), text of the DiT, blank negative prompt, text encoder
	see, latents                          []Size
}

func (m *Model) shape(r Request) (pipelineShape, error) {
	if r.Size.Width == 0 || r.Size.Height == 0 {
		return pipelineShape{}, cannot("times", "no size of the picture is given")
	}
	if m.edit() != (len(r.InputImages) > 0) {
		return pipelineShape{}, cannot("times", "%s was given %d input pictures", m.Class, len(r.InputImages))
	}
	if m.edit() && m.Vision == nil {
		return pipelineShape{}, cannot("times", "the text encoder of %s has no vision tower", m.Class)
	}
	s := pipelineShape{batch: r.Batch}
	var pictures int
	s.see, s.latents, pictures = m.conditions(r)
	s.text = r.Prompt + pictures + templateEnd
	s.negative = 1 + pictures + templateEnd
	before := generateTemplate
	if m.edit() {
		before = editTemplate
	}
	s.encoded = s.text + before
	s.image = m.DiT.Tokens(r.Size, m.VAE.Compression)
	for _, l := range s.latents {
		s.image += m.DiT.Tokens(l, m.VAE.Compression)
	}
	if s.image == 0 {
		return s, cannot("times", "a picture of %d x %d pixels has no latent", r.Size.Width, r.Size.Height)
	}
	return s, nil
}

func (m *Model) predictPipeline(p *Prediction, g GPU, o Options) error {
	r := p.Request
	if r.Steps == 0 {
		r.Steps = 50
		p.Request = r
		p.assume("50 denoising steps, the pipelines' default")
	}
	if o.TensorParallel > 1 {
		return cannot("a pipeline on several GPUs", "its files do not say how the transformer is cut (tensor, Ulysses, ring or CFG parallel)")
	}
	s, err := m.shape(r)
	if err != nil {
		return err
	}
	kv, err := m.Text.KV(o.KVDType)
	if err != nil {
		return err
	}
	encodes, forwards := 1, r.Steps
	forward := m.DiT.Forward(r.Batch, s.image, s.text)
	if r.CFG { // the mean of the two forwards: the negative prompt is shorter
		encodes, forwards = 2, 2*r.Steps
		forward = forward.Plus(m.DiT.Forward(r.Batch, s.image, s.negative)).Times(0.5)
		p.assume("the negative prompt is one blank token")
	}
	prompts := r.Batch
	if m.edit() {
		prompts = 1 // the edit pipelines make a batch of one prompt
		p.assume("a batch is several pictures of one prompt, which is encoded once")
	}
	encode := m.Text.Prefill(prompts, s.encoded, kv)
	if m.Vision != nil {
		encode = encode.Plus(m.Vision.Encode(s.see))
	}
	p.add(g, o, TextEncode, encodes, encode, m.Text.Quant)
	for _, l := range s.latents {
		p.add(g, o, VAEEncode, 1, m.VAE.Encode(1, l), Quantization{})
	}
	if o.Link != nil {
		p.addTransfer(o.Link, TextStateBytes(s.text, m.Text.Hidden, m.Text.elementBytes())*float64(r.Batch))
	}
	p.add(g, o, Denoise, forwards, forward, m.DiT.Quant)
	p.add(g, o, VAEDecode, 1, m.VAE.Decode(r.Batch, r.Size), Quantization{})
	p.Memory = m.pipelineMemory(s, r, o)
	return nil
}

func (m *Model) predictText(p *Prediction, g GPU, o Options) error {
	if m.Text == nil {
		return cannot("times", "%s is neither a language model nor a pipeline", m.Class)
	}
	r := p.Request
	if r.Output == 0 {
		r.Output = 1
	}
	if r.Prompt == 0 {
		return cannot("times", "no length of the prompt is given")
	}
	kv, err := m.Text.KV(o.KVDType)
	if err != nil {
		return err
	}
	prompt := r.Prompt
	var see Work
	if len(r.InputImages) > 0 {
		if m.Vision == nil {
			return cannot("times", "%s has no vision tower for %d input pictures", m.Class, len(r.InputImages))
		}
		see = m.Vision.Encode(r.InputImages)
		for _, s := range r.InputImages {
			prompt += m.Vision.Tokens(s)
		}
	}
	share, err := m.Text.shard(o.TensorParallel)
	if err != nil {
		return err
	}
	cut := func(w Work) Work { return w.Times(share) }
	if share < 1 {
		p.assume("tensor parallel over %d GPUs: weights and work are cut evenly, the all-reduces between them are not counted", o.TensorParallel)
	}
	p.add(g, o, Prefill, 1, cut(m.Text.Prefill(r.Batch, prompt, kv).Plus(see.Times(float64(r.Batch)))), m.Text.Quant)
	if o.Link != nil {
		p.addTransfer(o.Link, kv.PerToken*float64(prompt*r.Batch))
	}
	if r.Output > 1 { // the first token comes with the prefill
		middle := float64(prompt) + float64(r.Output)/2
		p.add(g, o, Decode, r.Output-1, cut(m.Text.DecodeStep(r.Batch, middle, kv)), m.Text.Quant)
	}
	p.KV = &kv
	p.Memory = m.textMemory(r.Batch, prompt, r.Output, kv, o)
	return nil
}

// shard is the part of the work that one of n GPUs does.
func (d *Decoder) shard(n int) (float64, error) {
	if n <= 1 {
		return 1, nil
	}
	if d.Heads%n != 0 || d.KVHeads%n != 0 && n%d.KVHeads != 0 {
		return 0, cannot("tensor parallel", "%d GPUs do not divide %d heads and %d key-value heads", n, d.Heads, d.KVHeads)
	}
	return 1 / float64(n), nil
}
