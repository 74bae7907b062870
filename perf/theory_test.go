package perf

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/report"
	"github.com/omnitest/suite/omnitest/theory"
)

// bounds predicts what a GPU allows a model to do, for each row.
type bounds struct {
	model *theory.Model
	gpu   theory.GPU
}

// boundsOf reads -theory-model and -theory-gpu; nil when neither is given.
func boundsOf(model, gpu, dtype string) (*bounds, error) {
	switch {
	case model == "" && gpu == "":
		return nil, nil
	case model == "" || gpu == "":
		return nil, fmt.Errorf("-theory-gpu=%s and -theory-model=%s: a prediction needs both", gpu, model)
	}
	g, err := theory.FindGPU(gpu)
	if err != nil {
		return nil, fmt.Errorf("-theory-gpu=%s: %w", gpu, err)
	}
	files, err := modelFiles(model)
	if err != nil {
		return nil, fmt.Errorf("-theory-model=%s: %w", model, err)
	}
	m, err := theory.Parse(filepath.Base(model), files, dtype)
	if err != nil {
		return nil, fmt.Errorf("-theory-model=%s: %w", model, err)
	}
	return &bounds{m, g}, nil
}

// modelFiles reads a folder's JSON files, or finds a built-in model.
func modelFiles(name string) (theory.Files, error) {
	if info, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return theory.Builtin(name)
	} else if err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, errors.New("it is no folder")
	}
	return theory.ReadFiles(os.DirFS(name))
}

// beside is the prediction for a row and what was measured of it.
func (b *bounds) beside(row *report.Row, simulated bool) *report.Theory {
	if b == nil {
		return nil
	}
	noRatio := ""
	if simulated {
		noRatio = "simulated: no comparison"
	}
	r, notes := b.request(row)
	stage := b.stage(row)
	device := row.Hardware.Stages[stage].GPU
	o := theory.Options{}
	if device != nil {
		o.TensorParallel = len(device.GPUs)
	}
	source := fmt.Sprintf("%s on %s, batch %d", b.model.Name, b.gpu.Name, r.Batch)
	p, err := theory.Predict(b.model, b.gpu, r, o)
	if err != nil {
		return &report.Theory{Source: source, Absent: err.Error()}
	}
	lines := theory.Compare(p, b.measured(row, stage, device))
	if b.model.DiT == nil && r.Batch > 1 && row.Mode == report.Online {
		// Requests that overlap in decode are prefilled one by one, as they come.
		r.Batch = 1
		one, err := theory.Predict(b.model, b.gpu, r, o)
		if err != nil {
			return &report.Theory{Source: source, Absent: err.Error()}
		}
		lines[0] = theory.Compare(one, b.measured(row, stage, device)[:1])[0]
		notes = append(notes, "prompts are prefilled one by one")
	}
	t := report.Beside(source, p, lines, noRatio)
	t.Notes = append(t.Notes, notes...)
	return t
}

// request is the row as theory asks it. A closed loop decodes as many sequences together as were in flight.
func (b *bounds) request(row *report.Row) (r theory.Request, notes []string) {
	r = theory.Request{Batch: row.Batch, Prompt: row.PromptTokens, Output: row.OutputTokens, Steps: row.Steps}
	if row.Mode == report.Online {
		r.Batch = 1
		if b.model.DiT == nil {
			r.Batch = max(1, int(math.Round(row.MeanInFlight)))
		} else {
			notes = append(notes, "the DiT takes one picture after the other")
		}
	}
	if r.Prompt == 0 && b.model.DiT != nil {
		notes = append(notes, "the length of the prompt was not told: counted as 0 tokens")
	}
	size := func(text string) (theory.Size, bool) {
		s, err := api.ParseSize(text)
		return theory.Size{Width: s.W, Height: s.H}, err == nil
	}
	r.Size, _ = size(row.OutputSize)
	if s, ok := size(row.InputSize); ok {
		r.InputImages = []theory.Size{s}
	}
	return r, notes
}

// stage is the one whose GPUs the prediction speaks of.
func (b *bounds) stage(row *report.Row) string {
	switch {
	case row.Mode == report.Offline:
		return "offline"
	case b.model.DiT != nil:
		return "dit"
	}
	for _, stage := range []string{"decode", "prefill"} {
		if _, there := row.Hardware.Stages[stage]; there {
			return stage
		}
	}
	return "decode"
}

// measured are the row's figures by the names of theory, the prefill or the whole first, in seconds and bytes.
func (b *bounds) measured(row *report.Row, stage string, device *hw.StageGPU) []theory.Measured {
	figure := func(name string, v metrics.Value, per float64) theory.Measured {
		if x, ok := v.Per(per).Get(); ok {
			return theory.Measured{Stage: name, Value: &x}
		}
		return theory.Measured{Stage: name, WhyNot: v.Reason()}
	}
	took := func(stage string, or metrics.Value) metrics.Value { // ms of a request
		i := slices.IndexFunc(row.Stages, func(s report.StageTime) bool { return s.Stage == stage && s.Mean.OK() })
		if i < 0 {
			return or
		}
		return row.Stages[i].Mean
	}
	var all []theory.Measured
	if b.model.DiT != nil {
		whole := row.Summary.E2EL.Mean
		if row.Mode == report.Online {
			whole = took("dit", whole)
		}
		all = append(all, figure("total", whole, 1e3), theory.Measured{Stage: theory.Denoise, WhyNot: "no engine tells how long its steps took"})
	} else {
		all = append(all, figure(theory.Prefill, took("prefill", row.Summary.TTFT.Mean), 1e3), figure(theory.Decode, row.Summary.TPOT.Mean, 1e3))
	}
	memory := metrics.Absent(cmp.Or(row.Hardware.GPU.Absent, "the GPUs of "+stage+" are not known"))
	if device != nil {
		memory = device.PeakMemory
		if device.Absent != "" {
			memory = metrics.Absent(device.Absent)
		}
		if n := len(device.GPUs); n > 0 {
			memory = memory.Per(float64(n))
			if busy, ok := device.MeanUtil.Per(float64(n)).Get(); ok {
				for i := range all {
					all[i].Busy = &busy
				}
			}
		}
	}
	return append(all, figure("memory", memory, 1))
}

func TestTheoryFlags(t *testing.T) {
	s, err := parse("-theory-gpu=h200", "-theory-model=Qwen/Qwen3-8B")
	require.NoError(t, err)
	assert.Equal(t, "H200", s.theory.gpu.Name)
	f := flag.NewFlagSet("perf", flag.ContinueOnError)
	s = register(f)
	require.NoError(t, f.Parse([]string{"-theory-model=/home/me/models/mine"}))
	assert.Equal(t, []string{"-theory-model=mine"}, s.lines(f), "a result is made to be passed on: it records no folder")
	s, err = parse()
	require.NoError(t, err)
	assert.Nil(t, s.theory)
	assert.Nil(t, s.theory.beside(&report.Row{}, false))
	_, err = parse("-theory-gpu=H2000", "-theory-model=qwen3-8b")
	assert.ErrorContains(t, err, `-theory-gpu=H2000: cannot estimate times and memory because no GPU "H2000" is in the table; known: H20, H100, `)
	_, err = parse("-theory-gpu=H200", "-theory-model=qwen9")
	assert.ErrorContains(t, err, `-theory-model=qwen9: cannot estimate the model because no built-in model is called "qwen9" (known: `)
	_, err = parse("-theory-gpu=H200", "-theory-model="+t.TempDir())
	assert.ErrorContains(t, err, "-theory-model=")
	_, err = parse("-theory-gpu=H200", "-theory-model=theory_test.go")
	assert.EqualError(t, err, "-theory-model=theory_test.go: it is no folder")
}

// theoryRow decodes 64 tokens of 4 sequences together.
func theoryRow(tpot float64) *report.Row {
	row := &report.Row{Mode: report.Online, Concurrency: 4, MeanInFlight: 3.8, PromptTokens: 512, OutputTokens: 64}
	row.Summary.TTFT.Mean, row.Summary.TPOT.Mean = metrics.Absent("the answer was not streamed"), metrics.Of(tpot)
	row.Hardware.Stages = map[string]hw.Series{"decode": {GPU: &hw.StageGPU{GPUs: []int{1}, PeakMemory: metrics.Of(20e9), MeanUtil: metrics.Of(0.5)}}}
	return row
}

func TestTheoryOfARow(t *testing.T) {
	b, err := boundsOf("qwen3-8b", "H200", "")
	require.NoError(t, err)
	step, err := theory.Predict(b.model, b.gpu, theory.Request{Batch: 4, Prompt: 512, Output: 64}, theory.Options{})
	require.NoError(t, err)
	decode, _ := step.Stage(theory.Decode)
	got := b.beside(theoryRow(decode.Each*1.3*1e3), false)
	assert.Equal(t, "qwen3-8b on H200, batch 4", got.Source)
	require.Len(t, got.Bounds, 3)
	assert.Equal(t, "not measured: the answer was not streamed", got.Bounds[0].Reason)
	ratio, ok := got.Bounds[1].Ratio.Get()
	require.True(t, ok)
	assert.InDelta(t, 1.3, ratio, 1e-9)
	assert.True(t, got.Bounds[1].Off)
	assert.Equal(t, "predicted is the bound: no achieved fraction was stated for decode (this measurement makes it 0.77); "+
		"the GPU was busy for 50 % of the time: the host did not launch work fast enough", got.Bounds[1].Reason)
	memory, ok := got.Bounds[2].Measured.Get()
	require.True(t, ok)
	assert.InDelta(t, 20, memory, 1e-9)
	assert.False(t, b.beside(theoryRow(decode.Each*1.1*1e3), false).Bounds[1].Off)

	got = b.beside(theoryRow(decode.Each*1.3*1e3), true)
	assert.Equal(t, metrics.Absent("simulated: no comparison"), got.Bounds[1].Ratio)
	assert.False(t, got.Bounds[1].Off)
	assert.True(t, got.Bounds[1].Value.OK())

	got = b.beside(&report.Row{Mode: report.Online, OutputSize: "1376x768"}, false)
	assert.Equal(t, "cannot estimate times because no length of the prompt is given", got.Absent)
}
