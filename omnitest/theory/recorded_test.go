package theory

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// run is one row of testdata/models/*-runs.json; see the README there.
type run struct {
	Pipeline string    `json:"pipeline"`
	Label    string    `json:"label"`
	Warmup   bool      `json:"warmup"`
	Batch    int       `json:"batch"`
	Prompt   int       `json:"prompt_tokens"`
	Steps    int       `json:"steps"`
	Width    int       `json:"width"`
	Height   int       `json:"height"`
	CFG      float64   `json:"true_cfg_scale"`
	Inputs   [][]int   `json:"input_images"`
	Stages   stageTime `json:"stages"` // diffusers: medians of one call
	Means    stageTime `json:"stages_mean"`
	Torch    float64   `json:"torch_peak_allocated_gib"`
	NVML     float64   `json:"nvml_mem_max_mib"`
	Busy     *float64  `json:"nvml_gpu_util_mean_pct"`
	Clock    *float64  `json:"nvml_sm_mhz_mean"`

	Diffuse  float64  `json:"diffuse_s"` // vLLM-Omni: all steps
	VAE      float64  `json:"vae_decode_s"`
	Slope    float64  `json:"slope_s"`
	Peak     float64  `json:"peak_memory_mib"`
	MemMax   float64  `json:"mem_max_mib"`
	BusyOmni *float64 `json:"gpu_util_median_pct"`
}

type stageTime struct {
	Forward float64 `json:"transformer_forward"`
	Decode  float64 `json:"vae_decode"`
}

func recorded(t *testing.T, engine string) []run {
	t.Helper()
	data, err := os.ReadFile("../../testdata/models/" + engine + "-runs.json")
	require.NoError(t, err)
	var file struct {
		Runs []run `json:"runs"`
	}
	require.NoError(t, json.Unmarshal(data, &file))
	require.NotEmpty(t, file.Runs)
	return file.Runs
}

func (r run) model(t *testing.T) *Model {
	return builtinModel(t, map[string]string{"QwenImagePipeline": "qwen-image", "QwenImageEditPipeline": "qwen-image-edit", "QwenImageEditPlusPipeline": "qwen-image-edit-plus"}[r.Pipeline])
}

func (r run) request() Request {
	q := Request{Batch: r.Batch, Prompt: r.Prompt, Size: Size{r.Width, r.Height}, Steps: r.Steps, CFG: r.CFG > 1}
	if r.Pipeline == "QwenImagePipeline" {
		// The pipeline of diffusers cuts the text: in the recording 1000 and 2048 tokens take the time of 512, to 1 %.
		q.Prompt = min(q.Prompt, 512-templateEnd)
	}
	inputs := r.Inputs
	if strings.HasPrefix(r.Label, "two-prompts") {
		inputs = inputs[:1] // one for each prompt
	}
	for _, s := range inputs {
		q.InputImages = append(q.InputImages, Size{s[0], s[1]})
	}
	return q
}

// forward is the measured time of one pass of the transformer: diffusers reports the median call (with CFG the mean of both kinds is taken); of vLLM-Omni it is all of diffuse, or the
// slope between 4 and 8 steps, over the number of passes.
func (r run) forward() float64 {
	perStep := 1.0
	if r.CFG > 1 {
		perStep = 2
	}
	switch {
	case r.Stages.Forward > 0 && r.CFG > 1: // the median would be the positive forward alone
		return r.Means.Forward
	case r.Stages.Forward > 0:
		return r.Stages.Forward
	case r.Slope > 0:
		return r.Slope / perStep
	}
	return r.Diffuse / float64(r.Steps) / perStep
}

func (r run) name() string {
	return fmt.Sprintf("%-22s %dx%d b%d t%d in%d cfg%v s%d", strings.TrimSuffix(strings.TrimPrefix(r.Pipeline, "QwenImage"), "Pipeline")+" "+r.Label, r.Width, r.Height, r.Batch, r.Prompt, len(r.Inputs), r.CFG, r.Steps)
}

// hostBound says which rows the roofline cannot explain: a transformer that is through with 1100 tokens before the host has launched the next
// kernels. The recordings show it as 40 to 55 % GPU utilisation, and as a forward at 256 x 256 that takes no less time than at 512 x 512.
func (r run) hostBound() bool { return r.Width*r.Height <= 512*512 && len(r.Inputs) == 0 }

func predictRun(t *testing.T, r run, fraction float64) *Prediction {
	t.Helper()
	g, err := FindGPU("H200")
	require.NoError(t, err)
	p, err := Predict(r.model(t), g, r.request(), Options{Efficiency: map[string]float64{Denoise: fraction}})
	require.NoError(t, err)
	return p
}

func fitOn(t *testing.T, r run) float64 {
	t.Helper()
	s, ok := predictRun(t, r, 1).Stage(Denoise)
	require.True(t, ok)
	e, err := Fit(s.Bound, r.forward())
	require.NoError(t, err)
	return e
}

// TestDenoiseTimeAgainstRecordings fits one fraction on one row of an engine and predicts all rows of another size, batch, prompt or number of
// input pictures with it, within 15 %. Rows that the host holds up are predicted too, and must be told from the others by their evidence.
func TestDenoiseTimeAgainstRecordings(t *testing.T) {
	for _, c := range []struct {
		engine string
		fit    func(run) bool
		host   int
	}{
		{"diffusers-0.38.0", func(r run) bool {
			return r.Pipeline == "QwenImagePipeline" && r.Batch == 2 && r.Steps == 8 && r.CFG == 1
		}, 6},
		{"vllm-omni-0.26.0", func(r run) bool { return r.Width == 1024 && r.Steps == 8 }, 2},
	} {
		rows := slices.DeleteFunc(recorded(t, c.engine), func(r run) bool { return r.Warmup })
		at := slices.IndexFunc(rows, c.fit)
		require.GreaterOrEqual(t, at, 0)
		fraction := fitOn(t, rows[at])
		t.Logf("%s: achieved fraction %.3f, fitted on %s", c.engine, fraction, rows[at].name())
		var host, other int
		var worst float64
		for i, r := range rows {
			p := predictRun(t, r, fraction)
			s, _ := p.Stage(Denoise)
			busy := r.Busy
			if busy == nil {
				busy = r.BusyOmni
			}
			if busy != nil {
				share := *busy / 100
				busy = &share
			}
			measured, top := r.forward(), 1980.0
			line := Compare(p, []Measured{{Stage: Denoise, Value: &measured, Busy: busy, Clock: r.Clock, Maximum: &top}})[0]
			t.Logf("%-62s predicted %7.1f ms, measured %7.1f ms, ratio %.2f %s", r.name(), 1e3*s.Each, 1e3*measured, *line.Ratio, line.Reason)
			switch {
			case i == at:
				assert.InDelta(t, 1, *line.Ratio, 1e-9)
			case r.hostBound():
				host++
				assert.True(t, line.Off, r.name())
				assert.Contains(t, line.Reason, "the host did not launch work fast enough", r.name())
			default:
				other++
				worst = max(worst, math.Abs(*line.Ratio-1))
				assert.InDelta(t, 1, *line.Ratio, 0.15, r.name())
			}
		}
		t.Logf("%s: %d rows predicted, worst %.1f %%; %d rows bound by the host", c.engine, other, 100*worst, host)
		assert.GreaterOrEqual(t, other, 6, "rows that were really predicted")
		assert.Equal(t, c.host, host, "rows that the host holds up")
	}
}

// TestDenoiseFitFromAnyRow says how much the choice of the row matters: from every row to every other of the same engine.
func TestDenoiseFitFromAnyRow(t *testing.T) {
	for _, engine := range []string{"diffusers-0.38.0", "vllm-omni-0.26.0"} {
		rows := slices.DeleteFunc(recorded(t, engine), func(r run) bool { return r.Warmup || r.hostBound() })
		var pairs, within int
		var worst float64
		for i, from := range rows {
			fraction := fitOn(t, from)
			for j, to := range rows {
				if i == j || from.request().Size == to.request().Size && from.Batch == to.Batch && from.Pipeline == to.Pipeline {
					continue
				}
				s, _ := predictRun(t, to, fraction).Stage(Denoise)
				off := math.Abs(to.forward()/s.Each - 1)
				pairs, worst = pairs+1, max(worst, off)
				if off <= 0.15 {
					within++
				}
			}
		}
		t.Logf("%s: %d of %d pairs of another size, batch or pipeline within 15 %%, worst %.1f %%", engine, within, pairs, 100*worst)
		assert.Greater(t, float64(within)/float64(pairs), 0.90)
		assert.Less(t, worst, 0.30)
	}
}

// TestMemoryAgainstRecordings: peaks within 10 %; of the tensors alone, where the weights are nine tenths, also the activations by themselves.
func TestMemoryAgainstRecordings(t *testing.T) {
	loaded := 53.79 // GiB, recording diffusers-0.38.0, loads[0].torch_allocated_gib
	high := map[string]float64{}
	var worst, worstActivations, worstDriver float64
	for _, r := range recorded(t, "diffusers-0.38.0") {
		p := predictRun(t, r, 1)
		m := p.Memory
		off := r.Torch*gib/m.Allocated() - 1
		worst = max(worst, math.Abs(off))
		assert.InDelta(t, 0, off, 0.10, r.name())
		above := (r.Torch - loaded) * gib
		predicted := m.Activations + m.Latents
		if r.Width*r.Height > 512*512 { // smaller ones are a few hundred MiB, beside which rounding and workspaces count
			worstActivations = max(worstActivations, math.Abs(above/predicted-1))
			assert.InDelta(t, 1, above/predicted, 0.10, r.name())
		}
		t.Logf("%-62s allocated: predicted %.2f, measured %.2f GiB (%+.1f %%); above the weights %.2f, %.2f GiB; peak in %s", r.name(), m.Allocated()/gib, r.Torch, 100*off, predicted/gib, above/gib, m.Peak)
		// NVML shows the process's high-water mark, which only falls where the recording script emptied the cache: compare it for the first pipeline
		high[r.Pipeline] = max(high[r.Pipeline], m.Total())
		if r.Pipeline == "QwenImagePipeline" {
			offDriver := r.NVML*(1<<20)/high[r.Pipeline] - 1
			worstDriver = max(worstDriver, math.Abs(offDriver))
			if r.Prompt == 512 && r.CFG == 1 && r.Steps == 4 { // the first of each batch sets the mark: what the driver shows beyond the tensors
				assert.InEpsilon(t, r.NVML*(1<<20)-r.Torch*gib, m.Allocator+m.Context, 0.25, r.name())
			}
			assert.InDelta(t, 0, offDriver, 0.10, r.name())
		}
	}
	t.Logf("diffusers: tensors worst %.1f %%, activations worst %.1f %%, driver worst %.1f %%", 100*worst, 100*worstActivations, 100*worstDriver)
	mark := map[string]float64{} // by server: one served each pipeline
	for _, r := range recorded(t, "vllm-omni-0.26.0") {
		mark[r.Pipeline] = max(mark[r.Pipeline], predictRun(t, r, 1).Memory.Total())
		off := r.MemMax*(1<<20)/mark[r.Pipeline] - 1
		t.Logf("vllm-omni %-52s driver: predicted %.0f, measured %.0f MiB (%+.1f %%)", r.name(), mark[r.Pipeline]/(1<<20), r.MemMax, 100*off)
		assert.InDelta(t, 0, off, 0.10, r.name())
	}
}

// TestMemoryUsersSaw: 57 to 70 GB for Qwen-Image-Edit in bf16, and 75 GB for Qwen-Image at 2048 x 2048.
func TestMemoryUsersSaw(t *testing.T) {
	g, err := FindGPU("H100")
	require.NoError(t, err)
	for _, size := range []Size{{512, 512}, {1024, 1024}, {1376, 768}} {
		p, err := Predict(builtinModel(t, "qwen-image-edit"), g, Request{Prompt: 512, Size: size, Steps: 40, InputImages: []Size{{1024, 1024}}}, Options{})
		require.NoError(t, err)
		gb := p.Memory.Total() / 1e9
		t.Logf("Qwen-Image-Edit %d x %d: %.1f GB", size.Width, size.Height, gb)
		assert.Greater(t, gb, 57.0)
		assert.Less(t, gb, 70.0)
	}
	// huggingface/diffusers issue 12900, comment of 2025-12-29: "it uses 75GB of VRAM with torch 2.8", on an A100 that shows 81920 MiB
	p, err := Predict(builtinModel(t, "qwen-image"), g, Request{Prompt: 64, Size: Size{2048, 2048}, Steps: 50}, Options{})
	require.NoError(t, err)
	assert.InEpsilon(t, 75, p.Memory.Total()/gib, 0.10)
}

// TestDecodeVAEAgainstRecordings fits on 1024 x 1024 and predicts another shape and four pictures.
func TestDecodeVAEAgainstRecordings(t *testing.T) {
	rows := recorded(t, "diffusers-0.38.0")
	find := func(batch, width int) run {
		i := slices.IndexFunc(rows, func(r run) bool {
			return r.Pipeline == "QwenImagePipeline" && !r.Warmup && r.Batch == batch && r.Width == width && r.Steps == 8
		})
		require.GreaterOrEqual(t, i, 0)
		return rows[i]
	}
	of := func(r run) Stage {
		s, ok := predictRun(t, r, 1).Stage(VAEDecode)
		require.True(t, ok)
		return s
	}
	base := find(1, 1024)
	fraction, err := Fit(of(base).Bound, base.Stages.Decode)
	require.NoError(t, err)
	for _, r := range []run{find(1, 1376), find(4, 1376)} {
		predicted := of(r).Bound / fraction
		t.Logf("%s: VAE decode predicted %.1f ms, measured %.1f ms (fraction %.3f)", r.name(), 1e3*predicted, 1e3*r.Stages.Decode, fraction)
		assert.InEpsilon(t, r.Stages.Decode, predicted, 0.15)
	}
}
