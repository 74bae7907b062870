package theory

import (
	"bytes"
	"math"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestImportsNothing: a program that only estimates carries no dependency.
func TestImportsNothing(t *testing.T) {
	for _, room := range []string{".", "../stats"} {
		out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", room).Output()
		require.NoError(t, err)
		assert.Len(t, strings.Fields(string(out)), 1, "beside %s itself: %s", room, out)
	}
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{range .Imports}}{{.}} {{end}}", ".").Output()
	require.NoError(t, err)
	for _, imported := range strings.Fields(string(out)) {
		assert.NotContains(t, []string{"os", "net", "net/http", "os/exec", "syscall", "time", "C"}, imported, "no files, no network, no clock, no cgo")
	}
}

// TestWorkOfLanguageModels counts Llama-3-8B by hand.
func TestWorkOfLanguageModels(t *testing.T) {
	m := builtinModel(t, "llama-3-8b")
	kv, err := m.Text.KV("")
	require.NoError(t, err)
	linear := 32 * (2*4096*4096 + 2*4096*1024 + 3*4096*14336) // of the blocks: 6 979 321 856
	head := 128256 * 4096

	w := m.Text.Prefill(2, 1000, kv)
	scores := 32 * 4 * 32 * 128 * 2 * 1000 * 1001 / 2 // layers x 4 x heads x head_dim x tokens x mean of the keys each sees
	assert.InDelta(t, float64(2*linear*2000+2*head*2+scores), w.FLOPs, 1e3)
	assert.Greater(t, w.Bytes, float64(2*linear+2*head)) // all weights but the embedding table, and
	assert.InEpsilon(t, float64(2*linear+2*head)+2000*(131072+32*2*(4*4096+2*(4096+2*1024)+3*14336)), w.Bytes, 1e-3)

	d := m.Text.DecodeStep(1, 999, kv)
	assert.InEpsilon(t, float64(2*(linear+head)+32*4*32*128*1000), d.FLOPs, 1e-6)
	assert.InEpsilon(t, float64(2*(linear+head)+1000*131072), d.Bytes, 1e-3)
	assert.Less(t, d.Intensity(), 1.1, "one operation a byte: decoding reads")

	// An H100 reads 15 GB in 4.5 ms: more than 222 tokens a second cannot come from one sequence.
	g, err := FindGPU("H100")
	require.NoError(t, err)
	seconds, limit := g.Bound(m.Text.DecodeStep(1, 0, kv), Quantization{})
	assert.Equal(t, "memory", limit)
	assert.InEpsilon(t, 15.01e9/3.35e12, seconds, 0.01)

	// Qwen3-30B-A3B: one token touches 8 of 128 experts, 64 tokens all but (1-1/16)^64 of them
	moe := builtinModel(t, "qwen3-30b-a3b").Text
	experts := 48 * 3 * 2048 * 768 * 2.0 // bytes of one expert in all layers
	assert.InEpsilon(t, experts*8, moe.readBytes(1)-(moe.readBytes(1e9)-experts*128), 1e-6)
	assert.InEpsilon(t, experts*128*(1-math.Pow(15.0/16, 64)), moe.readBytes(64)-(moe.readBytes(1e9)-experts*128), 1e-6)
	// a tied embedding is read as the head
	tied := builtinModel(t, "qwen3-0.6b").Text
	assert.InDelta(t, tied.WeightBytes(), tied.readBytes(1), 0.5)
}

// TestWorkOfPipelines counts a forward of Qwen-Image by hand: 1376 x 768 pixels are 86 x 48 tokens.
func TestWorkOfPipelines(t *testing.T) {
	m := builtinModel(t, "qwen-image")
	assert.Equal(t, 86*48, m.DiT.Tokens(Size{1376, 768}, m.VAE.Compression))
	n := 86*48 + 64.0
	d := 3072.0
	blocks := 60 * (24*d*d*n + 2*12*d*d + 4*n*n*d) // linear on tokens, modulation, attention
	ends := 2 * (3584*d*64 + (64+64)*d*86*48)      // text in, picture in and out
	assert.InEpsilon(t, blocks+ends, m.DiT.Forward(1, 86*48, 64).FLOPs, 1e-9)
	assert.InEpsilon(t, 3.0, m.DiT.Forward(3, 4128, 64).FLOPs/m.DiT.Forward(1, 4128, 64).FLOPs, 1e-9)

	// CFG doubles the steps' forwards and encodes a second text.
	g, err := FindGPU("H100")
	require.NoError(t, err)
	plain, err := Predict(m, g, Request{Prompt: 1, Size: Size{1024, 1024}, Steps: 10}, Options{})
	require.NoError(t, err)
	guided, err := Predict(m, g, Request{Prompt: 1, Size: Size{1024, 1024}, Steps: 10, CFG: true}, Options{})
	require.NoError(t, err)
	a, _ := plain.Stage(Denoise)
	b, _ := guided.Stage(Denoise)
	assert.Equal(t, []int{10, 20}, []int{a.Calls, b.Calls})
	assert.InEpsilon(t, 2, b.Seconds/a.Seconds, 1e-9) // the blank prompt is as long as this one
	assert.Contains(t, guided.Assumptions, "the negative prompt is one blank token")

	// One convolution by hand: the decoder's last, 96 channels to 3, 3 x 3 pixels over three frames, for each pixel.
	c := &convnet{causal: true, pixels: 100, share: 1, size: 2}
	c.conv(96, 3, 3, false)
	assert.InDelta(t, 2*96*3*27*100, c.flops, 0)
	assert.InDelta(t, 96*3*27+3, c.params, 0)
	assert.InDelta(t, 96*100*2, c.cached, 0)

	// A picture of 1024 x 1024 is 37 x 37 tokens of 28 pixels to Qwen2.5-VL, one of 384 x 384 is 14 x 14.
	assert.Equal(t, 37*37, m.Vision.Tokens(Size{1024, 1024}))
	assert.Equal(t, 14*14, m.Vision.Tokens(Size{384, 384}))
	assert.Equal(t, Size{1376, 768}, Size{1376, 768}.area(1024*1024))
}

// TestPicturesToLook: a vision-language model reads a picture of 1024 x 1024 as 1369 more tokens.
func TestPicturesToLook(t *testing.T) {
	g, err := FindGPU("H100")
	require.NoError(t, err)
	m := builtinModel(t, "qwen2.5-vl-7b")
	blind, err := Predict(m, g, Request{Prompt: 100, Output: 10}, Options{})
	require.NoError(t, err)
	seeing, err := Predict(m, g, Request{Prompt: 100, Output: 10, InputImages: []Size{{1024, 1024}}}, Options{})
	require.NoError(t, err)
	assert.InDelta(t, 1369*57344, seeing.Memory.KV-blind.Memory.KV, 0)
	longer, err := Predict(m, g, Request{Prompt: 1469, Output: 10}, Options{})
	require.NoError(t, err)
	tower := m.Vision.Encode([]Size{{1024, 1024}})
	assert.InEpsilon(t, longer.Stages[0].Work.FLOPs+tower.FLOPs, seeing.Stages[0].Work.FLOPs, 1e-9)
	// 37 x 37 merged patches are 5476; 32 blocks, of which 4 attend to all and 28 to windows of 8 x 8
	n := 5476.0
	linear := 32*(4*1280*1280+3*1280*3420.0) + 3*2*14*14*1280
	assert.InEpsilon(t, 2*n*linear+2*n/4*(5120*5120+5120*3584)+4*n*1280*(4*n+28*64), tower.FLOPs, 1e-9)
}

// TestCallsOfStages: how often each stage runs, and for how many prompts.
func TestCallsOfStages(t *testing.T) {
	g, err := FindGPU("H100")
	require.NoError(t, err)
	text, err := Predict(builtinModel(t, "qwen3-8b"), g, Request{Prompt: 64, Output: 100}, Options{})
	require.NoError(t, err)
	s, _ := text.Stage(Decode)
	assert.Equal(t, 99, s.Calls, "the first token comes with the prefill")
	// prompts of a text-to-image batch are encoded each, the one prompt of an edit batch once
	for name, factor := range map[string]float64{"qwen-image": 4, "qwen-image-edit": 1} {
		r := Request{Batch: 1, Prompt: 2000, Size: Size{512, 512}, Steps: 1}
		if name == "qwen-image-edit" {
			r.InputImages = []Size{{1024, 1024}}
		}
		one, err := Predict(builtinModel(t, name), g, r, Options{})
		require.NoError(t, err)
		r.Batch = 4
		four, err := Predict(builtinModel(t, name), g, r, Options{})
		require.NoError(t, err)
		assert.InEpsilon(t, factor, four.Stages[0].Work.FLOPs/one.Stages[0].Work.FLOPs, 1e-9, name)
	}
	// what a pipeline is loaded as outranks what its text encoder says of itself
	files, err := Builtin("qwen-image")
	require.NoError(t, err)
	wide, err := Parse("qwen-image", files, "float32")
	require.NoError(t, err)
	assert.InDelta(t, 4*28849460275, wide.WeightBytes(), 0.5)
}

func TestHostFloor(t *testing.T) {
	g, err := FindGPU("H200")
	require.NoError(t, err)
	// diffusers needs 95 ms to launch one forward (recording: 512 x 512 and 256 x 256); at 1376 x 768 the GPU takes longer than that.
	o := Options{Efficiency: map[string]float64{"": 0.42}, Floor: map[string]float64{Denoise: 0.095}}
	for size, limit := range map[Size]string{{256, 256}: "host", {512, 512}: "host", {1376, 768}: "compute"} {
		p, err := Predict(builtinModel(t, "qwen-image"), g, Request{Prompt: 64, Size: size, Steps: 4}, o)
		require.NoError(t, err)
		s, _ := p.Stage(Denoise)
		assert.Equal(t, limit, s.Limit, size)
		assert.GreaterOrEqual(t, s.Each, 0.095)
	}
}

func TestBatchingGain(t *testing.T) {
	g, err := FindGPU("H200")
	require.NoError(t, err)
	// recording diffusers-0.38.0: batch 2 takes 1.96 times, batch 4 3.9 times as long: no gain
	image, err := BatchCurve(builtinModel(t, "qwen-image"), g, Request{Prompt: 512, Size: Size{1376, 768}, Steps: 8}, Options{}, []int{1, 2, 4})
	require.NoError(t, err)
	assert.InDelta(t, 1, image[0].Gain, 1e-9)
	assert.InDelta(t, 2/1.96, image[1].Gain, 0.05)
	assert.InDelta(t, 4/3.9, image[2].Gain, 0.05)
	text, err := BatchCurve(builtinModel(t, "qwen2.5-7b"), g, Request{Prompt: 16, Output: 500}, Options{}, []int{1, 16, 4096})
	require.NoError(t, err)
	assert.Greater(t, text[1].Gain, 13.0, "decoding shares the weights")
	assert.Less(t, text[2].Gain, 1000.0)
	_, err = BatchCurve(builtinModel(t, "qwen2.5-7b"), g, Request{Prompt: 16}, Options{}, []int{0})
	assert.EqualError(t, err, "cannot estimate the gain of batching because a batch of 0 was asked for")

	// bf16 weights: 2 P B operations overtake reading 2 P bytes at B = FLOPS / bandwidth, 989.4/4.8 = 206, and later by what each sequence moves
	// for itself: 57344 bytes of cache and 28 x 2 x (2 x (2 x 3584 + 36 x 128) + 3 x 18944) of hidden states, beside 2 x 7.07 billion.
	alone := 57344 + 28*2*(2*(2*3584+36*128)+3*18944)
	m := builtinModel(t, "qwen2.5-7b").Text
	kv, err := m.KV("")
	require.NoError(t, err)
	assert.InDelta(t, 206.1/(1-206.1*float64(alone)/(2*7.07e9)), Knee(m, g, 0, kv), 2)
	assert.Zero(t, Knee(builtinModel(t, "llama-2-7b").Text, g, 4096, KV{PerToken: 512 << 10}), "without grouped queries the cache is read for ever")
}

// TestLargestBatch: one more does not fit.
func TestLargestBatch(t *testing.T) {
	for gpu, want := range map[string]bool{"H100": true, "H200": true, "RTX4090": false} {
		g, err := FindGPU(gpu)
		require.NoError(t, err)
		m, r := builtinModel(t, "qwen-image"), Request{Prompt: 512, Size: Size{1376, 768}, Steps: 8}
		n, err := LargestBatch(m, g, r, Options{})
		require.NoError(t, err)
		assert.Equal(t, want, n > 0, gpu)
		r.Batch = n + 1
		p, err := Predict(m, g, r, Options{})
		require.NoError(t, err)
		assert.Greater(t, p.Memory.Total(), g.Memory)
		if n > 0 {
			r.Batch = n
			p, err = Predict(m, g, r, Options{})
			require.NoError(t, err)
			assert.LessOrEqual(t, p.Memory.Total(), g.Memory)
		}
	}
	// tensor parallel halves weights, cache and work of each GPU
	m := builtinModel(t, "llama-3.1-70b")
	g, err := FindGPU("H100")
	require.NoError(t, err)
	one, err := Predict(m, g, Request{Prompt: 1024, Output: 64}, Options{})
	require.NoError(t, err)
	four, err := Predict(m, g, Request{Prompt: 1024, Output: 64}, Options{TensorParallel: 4})
	require.NoError(t, err)
	assert.InEpsilon(t, 4, one.Memory.Weights/four.Memory.Weights, 1e-9)
	assert.InEpsilon(t, 4, one.Seconds/four.Seconds, 1e-9)
	assert.InEpsilon(t, 4, one.Memory.KV/four.Memory.KV, 1e-9)
	sixteen, err := Predict(m, g, Request{Prompt: 1024, Output: 64}, Options{TensorParallel: 16})
	require.NoError(t, err)
	assert.InEpsilon(t, 8, one.Memory.KV/sixteen.Memory.KV, 1e-9, "8 key-value heads cannot be cut further")
	assert.Contains(t, four.Assumptions, "tensor parallel over 4 GPUs: weights and work are cut evenly, the all-reduces between them are not counted")
}

// TestTransfers against the recording vllm-gpu-pd-0.26.0 (driver.log, vllm:nixl_xfer_time_seconds_sum of one transfer each).
func TestTransfers(t *testing.T) {
	seconds := map[int]float64{64: 0.003663, 256: 0.011164, 512: 0.018538, 1024: 0.037425, 2048: 0.068408}
	kv := KV{PerToken: 12288}
	sample := func(tokens int) Sample { return Sample{KVBytes(kv, tokens, 16), seconds[tokens]} }
	link, err := FitLink("UCX on one H100", []Sample{sample(64), sample(1024)})
	require.NoError(t, err)
	for _, tokens := range []int{256, 512, 2048} {
		predicted := link.Seconds(KVBytes(kv, tokens, 16))
		t.Logf("%d tokens: predicted %.1f ms, measured %.1f ms", tokens, 1e3*predicted, 1e3*seconds[tokens])
		assert.InEpsilon(t, seconds[tokens], predicted, 0.15)
	}
	assert.InDelta(t, 196608, KVBytes(kv, 8, 16), 0) // recording: 8 tokens move a whole block of 16
	assert.InDelta(t, 12288*8, KVBytes(kv, 8, 0), 0)

	_, err = FitLink("x", []Sample{sample(64), sample(64)})
	assert.EqualError(t, err, "cannot estimate the link because 2 samples of one size do not part latency from rate")
	_, err = FitLink("x", []Sample{{1, 2}, {2, 1}})
	assert.EqualError(t, err, "cannot estimate the link because larger transfers took no longer in these samples")
	_, err = FitLink("x", []Sample{{0, 2}})
	assert.EqualError(t, err, "cannot estimate the link because a sample has 0 bytes in 2 s")
	g, err := FindGPU("L40S")
	require.NoError(t, err)
	_, err = NVLinkOf(g)
	assert.EqualError(t, err, "cannot estimate a transfer over NVLink because L40S has none")

	// in a prediction: prefill to decode, and text encoder to DiT (64+5 tokens x 3584 x 2 bytes)
	p, err := Predict(builtinModel(t, "qwen2.5-7b"), g, Request{Prompt: 100, Output: 2}, Options{Link: &Link{Rate: 1e9, Latency: 0.01}})
	require.NoError(t, err)
	s, ok := p.Stage(Transfer)
	require.True(t, ok)
	assert.InDelta(t, 0.01+100*57344/1e9, s.Seconds, 1e-9)
	p, err = Predict(builtinModel(t, "qwen-image"), g, Request{Prompt: 64, Size: Size{512, 512}, Steps: 1}, Options{Link: &Link{Rate: 1e9}})
	require.NoError(t, err)
	s, _ = p.Stage(Transfer)
	assert.InDelta(t, 69*3584*2, s.Work.Bytes, 0)
}

func TestWriteTable(t *testing.T) {
	g, err := FindGPU("H20")
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, Write(&b, builtinModel(t, "qwen2.5-7b"), g, Request{Prompt: 1024, Output: 2}, Options{}, []int{1, 2}))
	for _, want := range []string{
		"qwen2.5-7b (Qwen2ForCausalLM) on H20: 148 TFLOPS bf16 dense, 4 TB/s, 94.6 GiB\n",
		"KV cache: 57344 bytes a token (2 x layers x key-value heads x head_dim x bytes); by 2 x layers x hidden_size x bytes it were 401408, 7.0 times too many\n",
		"prefill to decode: 58.72 MB, 0.130 ms over NVLink at its peak\n", // 1024 x 57344 bytes at 450 GB/s
		"fraction 1.00 is the roofline itself, a bound and no forecast: fit the achieved fraction on one measurement\n",
	} {
		assert.Contains(t, b.String(), want)
	}
	assert.Error(t, Write(&b, builtinModel(t, "qwen-image"), g, Request{}, Options{}, []int{1}))
	assert.ErrorContains(t, Write(full{}, builtinModel(t, "qwen2.5-7b"), g, Request{Prompt: 8}, Options{}, []int{1}), "no room")
}

type full struct{}

func (full) Write([]byte) (int, error) { return 0, &CannotError{"writing", "no room"} }
