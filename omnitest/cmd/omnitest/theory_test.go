package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheory(t *testing.T) {
	// as the README writes it, with one dash; pipelines and language models
	status, out, errs := command(t, nil, "theory", "-model", "Qwen/Qwen-Image", "-gpu", "H100", "-batch", "1,2,4", "-out", "1376x768")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "Qwen/Qwen-Image (QwenImagePipeline) on H100: 989.4 TFLOPS bf16 dense, 3.35 TB/s, 79.2 GiB\n")
	assert.Contains(t, out, "transformer   QwenImageTransformer2DModel         20430401088  38.05  as loaded\n")
	assert.Contains(t, out, "assumed: 50 denoising steps, the pipelines' default\n")
	assert.Regexp(t, `(?m)^4 +\d+\.\d+ .* yes$`, out)
	status, out, errs = command(t, nil, "theory", "--model", "llama-3-8b", "--gpu", "A100", "--out", "64", "--fraction", "decode=0.6;all=0.5", "--kv-dtype", "fp8")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "KV cache: 65536 bytes a token")
	assert.Regexp(t, `(?m)^prefill .* 0\.50 `, out)
	assert.Regexp(t, `(?m)^decode .* 0\.60 `, out)
	assert.NotContains(t, out, "a bound and no forecast")

	status, out, errs = command(t, nil, "theory", "-model", "qwen3-8b", "-gpu", "mine", "-tflops", "100", "-bandwidth", "1000", "-memory", "24")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "qwen3-8b (Qwen3ForCausalLM) on mine: 100 TFLOPS bf16 dense, 1 TB/s, 24.0 GiB\nas given\n")
	assert.Contains(t, out, "prefill to decode: cannot estimate a transfer over NVLink because mine has none\n")
	status, _, errs = command(t, nil, "theory", "-model", "qwen3-8b", "-gpu", "mine", "-tflops", "100")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, `cannot estimate times and memory because GPU "mine" has no Bandwidth`)

	// a folder, as downloaded
	dir := t.TempDir()
	config := []byte(`{"architectures":["Qwen2ForCausalLM"],"hidden_size":896,"intermediate_size":4864,"num_attention_heads":14,"num_hidden_layers":24,"num_key_value_heads":2,"tie_word_embeddings":true,"torch_dtype":"bfloat16","vocab_size":151936}`)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "tokenizer.json"), []byte(`{}`), 0o600))
	status, out, errs = command(t, nil, "theory", "--model", dir, "--gpu", "RTX 4090")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "494032768")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors.index.json"), []byte(`{"metadata":{"total_size":5}}`), 0o600))
	status, _, errs = command(t, nil, "theory", "--model", dir, "--gpu", "RTX 4090")
	assert.Equal(t, 1, status)
	assert.Contains(t, errs, "omnitest: cannot estimate weight bytes because model.safetensors.index.json says 5 bytes and the config makes 988065536")

	status, out, _ = command(t, nil, "theory", "--model", "list", "--gpu", "list")
	assert.Zero(t, status)
	assert.Contains(t, out, "model qwen-image-edit\n")
	assert.Contains(t, out, "gpu   B200          NVIDIA DGX B200 data sheet")

	status, out, errs = command(t, nil, "theory", "--model", "list")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "model qwen-image-edit\n")
	assert.NotContains(t, out, "gpu ")
	status, out, errs = command(t, nil, "theory", "--gpu", "list")
	require.Zero(t, status, errs)
	assert.Contains(t, out, "gpu   B200 ")
	assert.NotContains(t, out, "model ")

	// without --out a language model makes 128 tokens
	qwen := []string{"theory", "--model", "qwen3-8b", "--gpu", "H100"}
	_, unset, _ := command(t, nil, qwen...)
	_, said, _ := command(t, nil, append(qwen, "--out", "128")...)
	_, other, _ := command(t, nil, append(qwen, "--out", "127")...)
	assert.Equal(t, said, unset)
	assert.NotEqual(t, other, unset)
	_, out, _ = command(t, nil, "theory", "--help")
	assert.Contains(t, strings.Join(strings.Fields(out), " "), "tokens of a language model (unset: 128).")

	for want, args := range map[string][]string{
		`no built-in model is called "none"`:                                                          {"--model", "none", "--gpu", "H100"},
		`no GPU "TPU" is in the table`:                                                                {"--model", "qwen3-8b", "--gpu", "TPU"},
		`--out: "12" is no size; WIDTHxHEIGHT in pixels is needed, for instance 1376x768`:             {"--model", "qwen-image", "--gpu", "H100", "--out", "12"},
		`--out: "12x8x4" is no size; WIDTHxHEIGHT in pixels is needed, for instance 1376x768`:         {"--model", "qwen-image", "--gpu", "H100", "--out", "12x8x4"},
		`--out "64x64": a language model makes tokens, a number is needed`:                            {"--model", "qwen3-8b", "--gpu", "H100", "--out", "64x64"},
		`--image: "big" is no size`:                                                                   {"--model", "qwen-image-edit", "--gpu", "H100", "--out", "64x64", "--image", "big"},
		`a batch of -1 was asked for`:                                                                 {"--model", "qwen3-8b", "--gpu", "H100", "--batch=-1"},
		`cannot estimate a pipeline on several GPUs because its files do not say how the transformer`: {"--model", "qwen-image", "--gpu", "H100", "--out", "64x64", "--tp", "2"},
		`missing flags: --model=DIR|NAME; --model=list lists the built-in ones`:                       {"--gpu", "H100"},
		`missing flags: --gpu=NAME; --gpu=list lists the table of GPUs`:                               {"--model", "qwen3-8b"},
	} {
		status, _, errs := command(t, nil, append([]string{"theory"}, args...)...)
		assert.NotZero(t, status, want)
		assert.Contains(t, errs, want)
	}
}
