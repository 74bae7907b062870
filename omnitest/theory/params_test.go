package theory

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func builtinModel(t *testing.T, name string) *Model {
	t.Helper()
	files, err := Builtin(name)
	require.NoError(t, err)
	m, err := Parse(name, files, "bfloat16")
	require.NoError(t, err)
	return m
}

// TestParameterCounts holds counts against published ones. Exact figures: num_parameters() of the loaded models, as the hub's safetensors
// metadata, model registries and the recordings of real engines print them; rounded ones: the model cards.
func TestParameterCounts(t *testing.T) {
	exact := map[string]float64{
		"llama-2-7b":   6_738_415_616,  // huggingface.co/meta-llama/Llama-2-7b-hf
		"llama-3-8b":   8_030_261_248,  // huggingface.co/meta-llama/Meta-Llama-3-8B
		"qwen2.5-0.5b": 494_032_768,    // huggingface.co/Qwen/Qwen2.5-0.5B-Instruct; tied embeddings
		"qwen2.5-1.5b": 1_543_714_304,  // tied
		"qwen2.5-7b":   7_615_616_512,  // card: 7.61B, 6.53B without embeddings
		"qwen2.5-72b":  72_706_203_648, // card: 72.7B
		"qwen3-0.6b":   596_049_920,    // tied
		"qwen3-8b":     8_190_735_360,  // card: 8.2B

		"llama-3.1-70b": 70_553_706_496, // huggingface.co/meta-llama/Llama-3.1-70B
		"qwen3-30b-a3b": 30_532_122_624, // card: 30.5B, of which 3.3B active
		"mixtral-8x7b":  46_702_792_704, // card: 46.7B, of which 12.9B active
		"sd-vae":        83_653_863,     // AutoencoderKL of Stable Diffusion 1 and 2 and SDXL

		"qwen2.5-vl-7b": 8_292_166_656,                                // recording diffusers-0.38.0, params.text_encoder
		"qwen-image":    20_430_401_088 + 8_292_166_656 + 126_892_531, // same recording: transformer, text_encoder, vae
	}
	for name, want := range exact {
		assert.InDelta(t, want, builtinModel(t, name).Params(), 0.5, name)
	}
	for _, c := range builtinModel(t, "qwen-image").Components {
		want := map[string]float64{"transformer": 20_430_401_088, "vae": 126_892_531}[c.Name]
		if want > 0 {
			assert.InDelta(t, want, c.Params, 0.5, c.Name)
		}
	}
	cards := []struct {
		name          string
		total, active float64
	}{{"qwen2.5-7b", 7.61e9, 7.61e9}, {"qwen3-8b", 8.2e9, 8.2e9}, {"qwen3-30b-a3b", 30.5e9, 3.353e9}, {"mixtral-8x7b", 46.7e9, 12.88e9}, {"qwen2.5-72b", 72.7e9, 72.7e9}, {"llama-3-8b", 8.03e9, 8.03e9}}
	for _, c := range cards {
		m := builtinModel(t, c.name)
		assert.InEpsilon(t, c.total, m.Params(), 0.01, c.name)
		assert.InEpsilon(t, c.active, m.Text.ActiveParams(), 0.01, c.name)
	}
}

// TestParameterCountsByHand writes one model of each kind out, so that the table above is not the only witness.
func TestParameterCountsByHand(t *testing.T) {
	// Qwen2.5-0.5B: 24 layers, width 896, 14 heads of 64, 2 key-value heads, MLP 4864, vocabulary 151936, tied.
	layer := 896*896 + 896 + // q and its bias
		2*(896*128+128) + // k, v
		896*896 + // o
		3*896*4864 + // gate, up, down
		2*896 // norms
	assert.InDelta(t, float64(24*layer+896+151936*896), builtinModel(t, "qwen2.5-0.5b").Params(), 0.5)

	// Qwen3-30B-A3B: 48 layers, width 2048, 32 heads of 128, 4 key-value heads, 128 experts of 768, 8 of them for a token.
	attention := 2*2048*4096 + 2*2048*512 + 2*128 + 2*2048
	total := 48*(attention+2048*128+128*3*2048*768) + 2048 + 2*151936*2048
	m := builtinModel(t, "qwen3-30b-a3b")
	assert.InDelta(t, float64(total), m.Params(), 0.5)
	assert.InDelta(t, float64(total-48*120*3*2048*768), m.Text.ActiveParams(), 0.5)
}

// TestKVBytesPerToken: vLLM's own figures, exactly.
func TestKVBytesPerToken(t *testing.T) {
	decoder := func(layers, hidden, heads, kv int, element float64) *Decoder {
		return &Decoder{Layers: layers, Hidden: hidden, Heads: heads, KVHeads: kv, HeadDim: hidden / heads, DTypeBytes: element}
	}
	for _, c := range []struct {
		name   string
		model  *Decoder
		want   float64
		factor float64 // by which the formula with hidden_size overstates it
	}{
		// recording vllm-gpu-pd-0.26.0: nixl_bytes_transferred 786432 for 64 tokens, 12582912 for 1024
		{"random Qwen2 of the GPU recording", decoder(12, 1024, 8, 2, 2), 12582912 / 1024, 4},
		// recording vllm-0.32.0: nixl_bytes_transferred 131072 for a block of 32 tokens, float32
		{"tiny Qwen2 of the CPU recording", decoder(4, 256, 4, 2, 4), 131072 / 32, 2},
		{"llama-3-8b", builtinModel(t, "llama-3-8b").Text, 128 << 10, 4},
		{"qwen2.5-7b", builtinModel(t, "qwen2.5-7b").Text, 56 << 10, 7},
		{"qwen2.5-1.5b", builtinModel(t, "qwen2.5-1.5b").Text, 28 << 10, 6},
		{"llama-2-7b", builtinModel(t, "llama-2-7b").Text, 512 << 10, 1},
	} {
		kv, err := c.model.KV("")
		require.NoError(t, err)
		assert.InDelta(t, c.want, kv.PerToken, 1e-9, c.name)
		assert.InDelta(t, c.factor, kv.Overstated(), 1e-9, c.name)
	}
	// Where vLLM prints "# CPU blocks", they are 4 GiB of swap space in blocks of 16 tokens, rounded down.
	for name, blocks := range map[string]int{
		"llama-3-8b":   2048, // vLLM issue 12330: "# GPU blocks: 5691, # CPU blocks: 2048"
		"qwen2.5-7b":   4681, // vLLM issue 13882: "# CPU blocks: 4681"
		"qwen2.5-1.5b": 9362, // a log of vLLM for CPUs with Qwen/Qwen2.5-1.5B-Instruct: "# cpu blocks: 9362", 4 GiB of KV space
	} {
		kv, err := builtinModel(t, name).Text.KV("")
		require.NoError(t, err)
		assert.Equal(t, blocks, int(4*gib/(16*kv.PerToken)), name)
	}
	// issue 12330 also says what the GPU blocks are cut from: 11.12 GiB.
	kv, err := builtinModel(t, "llama-3-8b").Text.KV("auto")
	require.NoError(t, err)
	assert.InDelta(t, 11.12, 5691*16*kv.PerToken/gib, 0.01)
	// recording vllm-gpu-pd-0.26.0, P.log: "Available KV cache memory: 2.71 GiB", "GPU KV cache size: 236,976 tokens", at 12288 bytes a token
	assert.InDelta(t, 2.71, 236976*12288.0/gib, 0.005)
	fp8, err := builtinModel(t, "llama-3-8b").Text.KV("fp8")
	require.NoError(t, err)
	assert.InDelta(t, 64<<10, fp8.PerToken, 0)
	_, err = builtinModel(t, "llama-3-8b").Text.KV("int3")
	assert.EqualError(t, err, `cannot estimate bytes because the dtype "int3" is not known here (known: float32, bfloat16, float16, float8_e4m3fn)`)
}

// TestWeightBytes: what vLLM printed after loading, within 2 %.
func TestWeightBytes(t *testing.T) {
	assert.InEpsilon(t, 14.9595, builtinModel(t, "llama-3-8b").WeightBytes()/gib, 0.02) // vLLM issue 12330: "Loading model weights took 14.9595 GB"
	// recording diffusers-0.38.0: torch_allocated_gib after loading
	assert.InEpsilon(t, 53.791, builtinModel(t, "qwen-image").WeightBytes()/gib, 0.02)
	// recording diffusers-0.38.0, make_random_weights.log: 40.86, 16.58 and 0.25 GB on disk
	for _, c := range builtinModel(t, "qwen-image").Components {
		switch c.Name {
		case "transformer":
			assert.InDelta(t, 40.86e9, c.Bytes, 0.005e9)
		case "vae":
			assert.InDelta(t, 0.25e9, c.Bytes, 0.005e9)
		}
	}
	// recording vllm-gpu-pd-0.26.0, P.log: "Checkpoint size: 0.54 GiB", "Model loading took 0.55 GiB"; tied embeddings
	random := &Decoder{Layers: 12, Hidden: 1024, Heads: 8, KVHeads: 2, HeadDim: 128, Intermediate: 2816, Vocabulary: 152064, Tied: true, QKVBias: true, DTypeBytes: 2}
	assert.InEpsilon(t, 0.55, random.WeightBytes()/gib, 0.02)
}
