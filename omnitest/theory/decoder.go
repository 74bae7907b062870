package theory

import (
	"math"
	"strings"
)

// Decoder is a decoder-only language model: Llama, Mistral, Mixtral, Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE, or the text half of Qwen2.5-VL.
type Decoder struct {
	Class                             string
	Layers, Hidden, Heads, KVHeads    int
	HeadDim, Intermediate, Vocabulary int
	Tied                              bool // the output head is the embedding
	QKVBias, OutBias, MLPBias, QKNorm bool

	Experts, ExpertsPerToken, ExpertIntermediate, SharedIntermediate int // Experts 0: dense
	MoELayers                                                        int

	DTypeBytes float64
	Quant      Quantization
}

// family is what a class fixes in its code and not in its config.
type family struct{ qkvBias, qkNorm, mha bool }

var families = map[string]family{
	"LlamaForCausalLM":    {mha: true},
	"MistralForCausalLM":  {},
	"MixtralForCausalLM":  {},
	"Qwen2ForCausalLM":    {qkvBias: true},
	"Qwen2MoeForCausalLM": {qkvBias: true},
	"Qwen3ForCausalLM":    {qkNorm: true},
	"Qwen3MoeForCausalLM": {qkNorm: true},

	"Qwen2_5_VLForConditionalGeneration": {qkvBias: true},
}

func readDecoder(class string, f fields, quant Quantization, dtype float64) (*Decoder, error) {
	kind := families[class]
	d := &Decoder{Class: class, DTypeBytes: dtype, Quant: quant,
		Layers: f.need("num_hidden_layers"), Hidden: f.need("hidden_size"), Heads: f.need("num_attention_heads"),
		Vocabulary: f.need("vocab_size"),
		QKVBias:    kind.qkvBias || f.flag("attention_bias"), OutBias: f.flag("attention_bias"), MLPBias: f.flag("mlp_bias"), QKNorm: kind.qkNorm,
		Tied: f.flag("tie_word_embeddings"), // the default of all these classes is false
	}
	if kind.mha && !f.has("num_key_value_heads") {
		d.KVHeads = d.Heads // LlamaConfig: without it, multi-head attention
	} else {
		d.KVHeads = f.need("num_key_value_heads")
	}
	switch {
	case f.has("head_dim"):
		d.HeadDim = f.need("head_dim")
	case kind.qkNorm:
		f.fail("has no head_dim, which Qwen3 does not derive from hidden_size")
	case d.Hidden%d.Heads != 0:
		f.fail("has hidden_size %d, which %d heads do not divide, and no head_dim", d.Hidden, d.Heads)
	default:
		d.HeadDim = d.Hidden / d.Heads
	}
	if d.KVHeads > 0 && d.Heads%d.KVHeads != 0 {
		f.fail("has %d heads for %d key-value heads, which is no whole group", d.Heads, d.KVHeads)
	}
	d.readExperts(f)
	if d.MoELayers < d.Layers {
		d.Intermediate = f.need("intermediate_size")
	}
	return d, *f.err
}

func (d *Decoder) readExperts(f fields) {
	switch {
	case d.Class == "MixtralForCausalLM":
		d.Experts, d.ExpertsPerToken, d.ExpertIntermediate = f.need("num_local_experts"), f.need("num_experts_per_tok"), f.need("intermediate_size")
		d.MoELayers = d.Layers
	case strings.Contains(d.Class, "Moe"):
		d.Experts, d.ExpertsPerToken, d.ExpertIntermediate = f.need("num_experts"), f.need("num_experts_per_tok"), f.need("moe_intermediate_size")
		if d.Class == "Qwen2MoeForCausalLM" {
			d.SharedIntermediate = f.need("shared_expert_intermediate_size")
		}
		dense := map[int]bool{}
		for _, l := range f.numbers("mlp_only_layers") {
			dense[int(l)] = true
		}
		step := f.or("decoder_sparse_step", 1)
		for l := range d.Layers { // as Qwen3MoeDecoderLayer decides it
			if !dense[l] && (l+1)%step == 0 {
				d.MoELayers++
			}
		}
	}
	if d.Experts > 0 && d.ExpertsPerToken > d.Experts {
		f.fail("has %d experts per token of %d", d.ExpertsPerToken, d.Experts)
	}
}

func (d *Decoder) attention() (linear, other float64) {
	h, q, kv := float64(d.Hidden), float64(d.Heads*d.HeadDim), float64(d.KVHeads*d.HeadDim)
	linear = h*q + 2*h*kv + q*h
	if d.QKVBias {
		other += q + 2*kv
	}
	if d.OutBias {
		other += h
	}
	if d.QKNorm {
		other += 2 * float64(d.HeadDim)
	}
	return linear, other + 2*h // and the two norms of a layer
}

func (d *Decoder) expert() float64 { return 3 * float64(d.Hidden*d.ExpertIntermediate) }

// parts are the parameters of the linear layers inside the blocks, all and those that one token uses, and of everything else.
func (d *Decoder) parts() (linear, active, embedding, head, other float64) {
	h := float64(d.Hidden)
	a, o := d.attention()
	linear, other = a*float64(d.Layers), o*float64(d.Layers)+h
	dense := 3 * h * float64(d.Intermediate) * float64(d.Layers-d.MoELayers)
	if d.MLPBias {
		other += (2*float64(d.Intermediate) + h) * float64(d.Layers-d.MoELayers)
	}
	linear += dense
	moe := float64(d.MoELayers)
	shared := 3 * h * float64(d.SharedIntermediate) * moe
	if d.SharedIntermediate > 0 {
		other += h * moe // the shared expert's gate
	}
	active = linear + shared + d.expert()*float64(d.ExpertsPerToken)*moe
	linear += shared + d.expert()*float64(d.Experts)*moe
	other += h * float64(d.Experts) * moe // routers
	embedding = float64(d.Vocabulary) * h
	if !d.Tied {
		head = embedding
	}
	return linear, active, embedding, head, other
}

// Params counts all parameters, tied embeddings once.
func (d *Decoder) Params() float64 {
	linear, _, embedding, head, other := d.parts()
	return linear + embedding + head + other
}

// ActiveParams counts those that one token passes through, the way model cards do: of the experts only the chosen ones.
func (d *Decoder) ActiveParams() float64 {
	_, active, embedding, head, other := d.parts()
	return active + embedding + head + other
}

// WeightBytes is the size of the weights in memory.
func (d *Decoder) WeightBytes() float64 {
	linear, _, embedding, head, other := d.parts()
	per := d.DTypeBytes
	if d.Quant.Bytes > 0 {
		per = d.Quant.Bytes
	}
	return linear*per + (embedding+head+other)*d.DTypeBytes
}

// readBytes is what one pass over so many tokens has to fetch: everything but the embedding table, and of the experts those that are hit.
// With uniform routing a token leaves an expert out with 1 - k/E, so of E experts E*(1-(1-k/E)^tokens) are hit.
func (d *Decoder) readBytes(tokens float64) float64 {
	linear, _, embedding, head, other := d.parts()
	per := d.DTypeBytes
	if d.Quant.Bytes > 0 {
		per = d.Quant.Bytes
	}
	if d.Experts > 0 {
		e := float64(d.Experts)
		unused := math.Pow(1-float64(d.ExpertsPerToken)/e, tokens)
		linear -= d.expert() * e * float64(d.MoELayers) * unused
	}
	if d.Tied {
		head = embedding
	}
	return linear*per + (head+other)*d.DTypeBytes
}

// KV is the size of the cache of one token.
type KV struct {
	PerToken    float64 `json:"bytes_per_token"`                // bytes: 2 x layers x key-value heads x head_dim x bytes of an element
	ByHiddenDim float64 `json:"bytes_per_token_by_hidden_size"` // bytes by 2 x layers x hidden_size x bytes, a formula in wide use that is right only without grouped queries
}

// Overstated is how many times too large the formula with hidden_size is.
func (k KV) Overstated() float64 { return k.ByHiddenDim / k.PerToken }

// KV gives the cache of one token for a cache dtype ("": that of the weights).
func (d *Decoder) KV(dtype string) (KV, error) {
	size := d.DTypeBytes
	if dtype != "" && dtype != "auto" {
		var err error
		if size, err = dtypeBytes(dtype); err != nil {
			return KV{}, err
		}
	}
	return KV{2 * float64(d.Layers*d.KVHeads*d.HeadDim) * size, 2 * float64(d.Layers*d.Hidden) * size}, nil
}

// attend is the operations of scores and weighted sum for q queries that each see on average ctx keys.
func (d *Decoder) attend(q, ctx float64) float64 {
	return 4 * q * ctx * float64(d.Heads*d.HeadDim*d.Layers)
}

// Prefill is the work of batch prompts of n tokens, with the head for the last token alone. A causal mask leaves half of the scores.
func (d *Decoder) Prefill(batch, n int, kv KV) Work {
	_, active, _, _, _ := d.parts()
	tokens := float64(batch) * float64(n)
	head := float64(d.Vocabulary) * float64(d.Hidden)
	return Work{
		FLOPs: 2*active*tokens + 2*head*float64(batch) + d.attend(tokens, (float64(n)+1)/2),
		Bytes: d.readBytes(tokens) + tokens*(kv.PerToken+d.activationTraffic()),
	}
}

// DecodeStep is the work of one new token for each of batch sequences whose cache holds ctx tokens.
func (d *Decoder) DecodeStep(batch int, ctx float64, kv KV) Work {
	_, active, _, _, _ := d.parts()
	b := float64(batch)
	head := float64(d.Vocabulary) * float64(d.Hidden)
	return Work{
		FLOPs: 2*(active+head)*b + d.attend(b, ctx+1),
		Bytes: d.readBytes(b) + b*(ctx+1)*kv.PerToken + b*d.activationTraffic(),
	}
}

// activationTraffic is what one token's hidden state moves: read and written once by each of the four groups of a block's linear layers.
func (d *Decoder) activationTraffic() float64 {
	wide := d.Intermediate
	if d.MoELayers > 0 {
		wide = max(wide, d.ExpertIntermediate*d.ExpertsPerToken+d.SharedIntermediate)
	}
	return float64(d.Layers) * d.elementBytes() * float64(2*(2*d.Hidden+(d.Heads+2*d.KVHeads)*d.HeadDim)+3*wide)
}

func (d *Decoder) elementBytes() float64 { return max(d.DTypeBytes, 2) }

// Activations is the peak of intermediate results for so many tokens at once and sequences that are sampled: gate, up and product of an MLP
// with the hidden states around them, or the logits in the dtype and their copy in fp32, whichever is larger.
func (d *Decoder) Activations(tokens, sequences int) float64 {
	wide := d.Intermediate
	if d.MoELayers > 0 {
		wide = max(wide, d.ExpertIntermediate*d.ExpertsPerToken+d.SharedIntermediate)
	}
	hidden := float64(tokens) * float64(2*d.Hidden) * d.elementBytes()
	mlp := float64(tokens) * float64(3*wide) * d.elementBytes()
	logits := float64(sequences) * float64(d.Vocabulary) * (d.elementBytes() + 4)
	return hidden + max(mlp, logits)
}
