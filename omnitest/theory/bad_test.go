package theory

import (
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// edited is a built-in config with keys changed; nil takes a key out.
func edited(t require.TestingT, name string, changes map[string]any) []byte {
	files, err := Builtin(name)
	require.NoError(t, err)
	var values map[string]any
	require.NoError(t, json.Unmarshal(files["config.json"], &values))
	for k, v := range changes {
		if v == nil {
			delete(values, k)
		} else {
			values[k] = v
		}
	}
	data, err := json.Marshal(values)
	require.NoError(t, err)
	return data
}

func parseEdited(t *testing.T, name string, changes map[string]any) (*Model, error) {
	t.Helper()
	return Parse("m", Files{"config.json": edited(t, name, changes)}, "")
}

func TestBadConfigs(t *testing.T) {
	type keys = map[string]any
	const known = "AutoencoderKL, AutoencoderKLQwenImage, LlamaForCausalLM, MistralForCausalLM, MixtralForCausalLM, Qwen2ForCausalLM, Qwen2MoeForCausalLM, Qwen2_5_VLForConditionalGeneration, Qwen3ForCausalLM, Qwen3MoeForCausalLM, QwenImageTransformer2DModel"
	for _, c := range []struct {
		name    string
		changes keys
		want    string
	}{
		{"qwen2.5-7b", keys{"num_key_value_heads": nil}, "cannot estimate model because config.json has no num_key_value_heads"},
		{"qwen2.5-7b", keys{"vocab_size": nil}, "cannot estimate model because config.json has no vocab_size"},
		{"qwen3-8b", keys{"head_dim": nil}, "cannot estimate model because config.json has no head_dim, which Qwen3 does not derive from hidden_size"},
		{"qwen2.5-7b", keys{"hidden_size": 3585}, "cannot estimate model because config.json has hidden_size 3585, which 28 heads do not divide, and no head_dim"},
		{"qwen2.5-7b", keys{"num_key_value_heads": 5}, "cannot estimate model because config.json has 28 heads for 5 key-value heads, which is no whole group"},
		{"qwen2.5-7b", keys{"num_hidden_layers": -3}, "cannot estimate model because config.json has num_hidden_layers -3, and a whole number from 1 to 1000000 is needed"},
		{"qwen2.5-7b", keys{"num_hidden_layers": 2.5}, "cannot estimate model because config.json has num_hidden_layers 2.5, and a whole number from 1 to 1000000 is needed"},
		{"qwen2.5-7b", keys{"num_hidden_layers": "28"}, "cannot estimate model because config.json has num_hidden_layers 28, and a whole number from 1 to 1000000 is needed"},
		{"qwen3-30b-a3b", keys{"num_experts_per_tok": 129}, "cannot estimate model because config.json has 129 experts per token of 128"},
		{"qwen3-30b-a3b", keys{"moe_intermediate_size": nil}, "cannot estimate model because config.json has no moe_intermediate_size"},
		{"qwen2.5-7b", keys{"torch_dtype": nil}, "cannot estimate the bytes of model because config.json has neither dtype nor torch_dtype, and none was given"},
		{"qwen2.5-7b", keys{"torch_dtype": "int3"}, `cannot estimate bytes because the dtype "int3" is not known here (known: float32, bfloat16, float16, float8_e4m3fn)`},
		{"qwen2.5-7b", keys{"architectures": []string{"GPT2LMHeadModel"}}, `cannot estimate model because the architecture "GPT2LMHeadModel" of config.json is not known here (known: ` + known + `)`},
		{"qwen2.5-7b", keys{"architectures": nil}, "cannot estimate model because config.json names 0 architectures, and one is needed"},
		{"qwen2.5-vl-7b", keys{"vision_config": nil}, "cannot estimate model because config.json has no vision_config"},
		{"qwen2.5-vl-7b", keys{"vision_config": keys{"depth": 32}}, "cannot estimate model because config.json has no hidden_size"},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "mxfp4"}}, `cannot estimate weight bytes because quant_method "mxfp4" is not known here (known: fp8, gptq, awq, bitsandbytes, compressed-tensors)`},
		{"qwen2.5-7b", keys{"quantization_config": "fp8"}, "cannot estimate model because config.json has a quantization_config that is not an object"},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "gptq", "bits": 4}}, "cannot estimate weight bytes because quantization_config of gptq has no bits or no group_size"},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "bitsandbytes"}}, "cannot estimate weight bytes because quantization_config of bitsandbytes has neither load_in_4bit nor load_in_8bit"},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "fp8", "modules_to_not_convert": []string{"model.layers.0.mlp.down_proj"}}}, `cannot estimate weight bytes because quantization_config leaves "model.layers.0.mlp.down_proj" as it is, and single layers are not told apart here`},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "gptq", "bits": 4, "group_size": 128, "lm_head": true}}, "cannot estimate weight bytes because quantization_config quantises lm_head, which is counted at the dtype here"},
		{"qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "compressed-tensors"}}, "cannot estimate weight bytes because quantization_config of compressed-tensors has 0 config_groups, and one is needed to know how each weight is stored"},
		{"sd-vae", keys{"torch_dtype": "bfloat16", "block_out_channels": nil}, "cannot estimate model because config.json has no block_out_channels"},
	} {
		_, err := parseEdited(t, c.name, c.changes)
		assert.EqualError(t, err, c.want)
		var typed *CannotError
		assert.ErrorAs(t, err, &typed)
	}
	for text, want := range map[string]string{
		"null": "cannot estimate model because config.json is not a JSON object: null",
		"{":    "cannot estimate model because config.json is not a JSON object: unexpected EOF",
		"[1]":  "cannot estimate model because config.json is not a JSON object: json: cannot unmarshal array into Go value of type map[string]interface {}",
	} {
		_, err := Parse("m", Files{"config.json": []byte(text)}, "")
		assert.EqualError(t, err, want)
	}
	_, err := Parse("empty", Files{}, "")
	assert.EqualError(t, err, `cannot estimate the model because "empty" has neither config.json nor model_index.json`)
}

func TestBadPipelines(t *testing.T) {
	whole, err := Builtin("qwen-image")
	require.NoError(t, err)
	for _, c := range []struct {
		file, data, want string
	}{
		{"vae/config.json", "", "cannot estimate vae because vae/config.json is not there"},
		{"transformer/config.json", `{"_class_name":"QwenImageTransformer2DModel"}`, "cannot estimate transformer because transformer/config.json has no num_layers"},
		{"vae/config.json", string(whole["transformer/config.json"]), "cannot estimate vae because vae/config.json is of no autoencoder"},
		{"model_index.json", `{"_class_name":"FluxPipeline"}`, `cannot estimate the pipeline because its class "FluxPipeline" is not known here (known: QwenImagePipeline, QwenImageEditPipeline, QwenImageEditPlusPipeline)`},
		{"model_index.json", `{"_class_name":"QwenImagePipeline"}`, "cannot estimate text_encoder because model_index.json does not name its library and class"},
		{"vae/config.json", strings.Replace(string(whole["vae/config.json"]), `"attn_scales": []`, `"attn_scales": [0.25]`, 1), "cannot estimate vae because vae/config.json has attn_scales, and attention outside the middle block is not counted here"},
	} {
		files := maps.Clone(whole)
		if c.data == "" {
			delete(files, c.file)
		} else {
			files[c.file] = []byte(c.data)
		}
		_, err := Parse("p", files, "")
		assert.EqualError(t, err, c.want)
	}
}

// TestQuantisedWeights writes the bytes out by hand, and holds one of them against a log.
func TestQuantisedWeights(t *testing.T) {
	type keys = map[string]any
	// Qwen2.5-7B: the linear layers of 28 blocks; embeddings and head of 152064 x 3584; biases and norms
	linear := 28 * (2*3584*3584 + 2*3584*512 + 3*3584*18944)
	rest := 2*152064*3584 + 28*(3584+2*512+2*3584) + 3584
	for _, c := range []struct {
		config keys
		per    float64
		detail string
	}{
		{keys{"quant_method": "fp8", "weight_block_size": []int{128, 128}, "modules_to_not_convert": []string{"lm_head"}}, 1 + 4.0/16384, "8 bit, blocks of 128 x 128"},
		{keys{"quant_method": "awq", "bits": 4, "group_size": 128}, 0.5 + (2+0.5)/128, "4 bit, groups of 128"},
		{keys{"quant_method": "gptq", "bits": 8, "group_size": 128}, 1 + 3.0/128, "8 bit, groups of 128"},
		{keys{"quant_method": "gptq", "bits": 4, "group_size": -1}, 0.5, "4 bit, one group a column"},
		{keys{"quant_method": "bitsandbytes", "load_in_8bit": true}, 1, "8 bit, one scale a row"},
		{keys{"load_in_4bit": true}, 0.5625, "4 bit, blocks of 64"},
		{keys{"quant_method": "compressed-tensors", "ignore": []string{"lm_head"}, "config_groups": keys{"group_0": keys{"weights": keys{"num_bits": 4, "group_size": 128}}}}, 0.5 + 2.0/128, "4 bit, groups of 128"},
	} {
		m, err := parseEdited(t, "qwen2.5-7b", keys{"quantization_config": c.config})
		require.NoError(t, err)
		assert.InDelta(t, float64(linear)*c.per+2*float64(rest), m.WeightBytes(), 1)
		assert.Equal(t, c.detail, m.Components[0].Quant.Detail)
		assert.InDelta(t, 7615616512, m.Params(), 0.5, "quantisation changes bytes, not parameters")
	}
	// vLLM issue 13882, Qwen2.5-7B-Instruct-bnb-4bit: "Loading model weights took 5.2032 GB"
	m, err := parseEdited(t, "qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "bitsandbytes", "load_in_4bit": true, "bnb_4bit_use_double_quant": true}})
	require.NoError(t, err)
	assert.InEpsilon(t, 5.2032, m.WeightBytes()/gib, 0.02)

	// fp8 is computed in fp8 where the GPU can, and said to be computed in bf16 where it cannot
	m, err = parseEdited(t, "qwen2.5-7b", keys{"quantization_config": keys{"quant_method": "fp8"}})
	require.NoError(t, err)
	plain := builtinModel(t, "qwen2.5-7b")
	for gpu, factor := range map[string]float64{"H100": 2, "A100": 1} {
		g, err := FindGPU(gpu)
		require.NoError(t, err)
		r := Request{Prompt: 4096}
		a, err := Predict(plain, g, r, Options{})
		require.NoError(t, err)
		b, err := Predict(m, g, r, Options{})
		require.NoError(t, err)
		assert.InEpsilon(t, factor, a.Stages[0].Bound/b.Stages[0].Bound, 1e-3)
		assert.Equal(t, gpu == "A100", slices.Contains(b.Assumptions, "A100 has no fp8 tensor cores: fp8 weights are computed in bf16"))
	}
}

// TestShardedCheckpoints: the index of a checkpoint in shards either confirms the count or stops it.
func TestShardedCheckpoints(t *testing.T) {
	files, err := Builtin("qwen2.5-7b")
	require.NoError(t, err)
	files["model.safetensors.index.json"] = []byte(`{"metadata":{"total_size":15231233024},"weight_map":{}}`) // as published: 2 x 7615616512
	_, err = Parse("m", files, "")
	require.NoError(t, err)
	files["model.safetensors.index.json"] = []byte(`{"metadata":{"total_size":30462466048}}`)
	_, err = Parse("m", files, "")
	assert.EqualError(t, err, "cannot estimate weight bytes because model.safetensors.index.json says 30462466048 bytes and the config makes 15231233024 (-50.0 %): other weights, or another dtype on disk than in memory")
	files["model.safetensors.index.json"] = []byte(`{}`)
	_, err = Parse("m", files, "")
	assert.EqualError(t, err, "cannot estimate the size of the checkpoint because model.safetensors.index.json has no metadata.total_size")

	pipeline, err := Builtin("qwen-image")
	require.NoError(t, err)
	pipeline["transformer/diffusion_pytorch_model.safetensors.index.json"] = []byte(`{"metadata":{"total_size":40860802176}}`)
	pipeline["text_encoder/model.safetensors.index.json"] = []byte(`{"metadata":{"total_size":16584333312}}`)
	_, err = Parse("p", pipeline, "")
	require.NoError(t, err)
}

func TestBadRequests(t *testing.T) {
	h100, err := FindGPU("nvidia H100")
	require.NoError(t, err)
	text, image, edit := builtinModel(t, "qwen2.5-7b"), builtinModel(t, "qwen-image"), builtinModel(t, "qwen-image-edit")
	size := Size{1024, 1024}
	for _, c := range []struct {
		m    *Model
		g    GPU
		r    Request
		o    Options
		want string
	}{
		{image, h100, Request{Prompt: 8}, Options{}, "cannot estimate times because no size of the picture is given"},
		{image, h100, Request{Prompt: 8, Size: Size{8, 8}}, Options{}, "cannot estimate times because a picture of 8 x 8 pixels has no latent"},
		{image, h100, Request{Size: size, InputImages: []Size{size}}, Options{}, "cannot estimate times because QwenImagePipeline was given 1 input pictures"},
		{edit, h100, Request{Size: size}, Options{}, "cannot estimate times because QwenImageEditPipeline was given 0 input pictures"},
		{edit, h100, Request{Size: size, InputImages: []Size{{0, 4}}}, Options{}, "cannot estimate the request because an input picture has 0 x 4 pixels"},
		{image, h100, Request{Size: size}, Options{TensorParallel: 2}, "cannot estimate a pipeline on several GPUs because its files do not say how the transformer is cut (tensor, Ulysses, ring or CFG parallel)"},
		{text, h100, Request{}, Options{}, "cannot estimate times because no length of the prompt is given"},
		{text, h100, Request{Prompt: 8, Batch: -1}, Options{}, "cannot estimate the request because its batch is -1"},
		{text, h100, Request{Prompt: 8}, Options{TensorParallel: 3}, "cannot estimate tensor parallel because 3 GPUs do not divide 28 heads and 4 key-value heads"},
		{text, h100, Request{Prompt: 8, InputImages: []Size{size}}, Options{}, "cannot estimate times because Qwen2ForCausalLM has no vision tower for 1 input pictures"},
		{text, h100, Request{Prompt: 8}, Options{Efficiency: map[string]float64{Decode: 1.2}}, `cannot estimate times because the achieved fraction of stage "decode" is 1.2, and it lies above 0 and not above 1`},
		{text, h100, Request{Prompt: 8}, Options{Efficiency: map[string]float64{"denoising": 0.5}}, `cannot estimate times because a fraction is given for "denoising", which is no stage (text_encode, vae_encode, denoise, vae_decode, prefill, decode)`},
		{text, h100, Request{Prompt: 8}, Options{Floor: map[string]float64{"dit": 1}}, `cannot estimate times because a floor of 1 s is given for "dit", and the stages are text_encode, vae_encode, denoise, vae_decode, prefill, decode`},
		{text, GPU{Name: "mine", FLOPS: 1e12, Memory: 1e9}, Request{Prompt: 8}, Options{}, `cannot estimate times and memory because GPU "mine" has no Bandwidth`},
		{builtinModel(t, "sd-vae"), h100, Request{Prompt: 8}, Options{}, "cannot estimate times because AutoencoderKL is neither a language model nor a pipeline"},
	} {
		_, err := Predict(c.m, c.g, c.r, c.o)
		assert.EqualError(t, err, c.want)
	}
	_, err = FindGPU("TPU v5")
	assert.ErrorContains(t, err, `cannot estimate times and memory because no GPU "TPU v5" is in the table; known: H20, H100,`)
	_, err = Fit(0.2, 0.1)
	assert.EqualError(t, err, "cannot estimate the achieved fraction because 0.1 s measured is less than the bound of 0.2 s: work that is not done was counted, or it is another GPU or model")
	_, err = Fit(0.2, math.NaN())
	assert.EqualError(t, err, "cannot estimate the achieved fraction because the measured time is NaN s")
	_, err = Builtin("gpt-2")
	assert.ErrorContains(t, err, `cannot estimate the model because no built-in model is called "gpt-2" (known: llama-2-7b,`)
}

// TestAnyConfigIsCountedOrRefused: whatever a key is changed to, the answer is an error or a finite count, never a panic, NaN or less than nothing.
func TestAnyConfigIsCountedOrRefused(t *testing.T) {
	names := BuiltinNames()
	names = slices.DeleteFunc(names, func(n string) bool { return strings.HasPrefix(n, "qwen-image") })
	g, err := FindGPU("H100")
	require.NoError(t, err)
	rapid.Check(t, func(rt *rapid.T) {
		name := rapid.SampledFrom(names).Draw(rt, "model")
		files, err := Builtin(name)
		require.NoError(rt, err)
		var values map[string]any
		require.NoError(rt, json.Unmarshal(files["config.json"], &values))
		key := rapid.SampledFrom(slices.Sorted(maps.Keys(values))).Draw(rt, "key")
		value := rapid.OneOf(
			rapid.Just[any](nil), rapid.Just[any](map[string]any{}), rapid.Just[any]([]any{}), rapid.Just[any](true), rapid.Just[any]([]any{0, -1}),
			rapid.Custom(func(rt *rapid.T) any { return rapid.Float64Range(-1e12, 1e12).Draw(rt, "float") }),
			rapid.Custom(func(rt *rapid.T) any { return rapid.IntRange(-2, 1<<40).Draw(rt, "int") }),
			rapid.Custom(func(rt *rapid.T) any { return rapid.StringN(0, 5, 20).Draw(rt, "text") }),
		).Draw(rt, "value")
		m, err := Parse("m", Files{"config.json": edited(rt, name, map[string]any{key: value})}, "bfloat16")
		if err != nil {
			var typed *CannotError
			require.ErrorAs(rt, err, &typed)
			return
		}
		require.Greater(rt, m.Params(), 0.0)
		require.False(rt, math.IsInf(m.WeightBytes(), 0) || math.IsNaN(m.WeightBytes()))
		if p, err := Predict(m, g, Request{Prompt: 128, Output: 16}, Options{}); err == nil {
			require.Greater(rt, p.Seconds, 0.0)
			require.False(rt, math.IsInf(p.Seconds, 0) || math.IsNaN(p.Seconds))
		}
	})
}
