package theory

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Write prints what theory says of a model on a GPU for batches of the given sizes, without running anything: parameters and bytes by component,
// the stages of the first batch with the largest detail, the curve over the batches, the largest batch that fits, caches, transfers, assumptions.
func Write(w io.Writer, m *Model, g GPU, r Request, o Options, batches []int) error {
	curve, err := BatchCurve(m, g, r, o, batches)
	if err != nil {
		return err
	}
	largest, err := LargestBatch(m, g, r, o)
	if err != nil {
		return err
	}
	if len(batches) > 0 {
		r.Batch = batches[0]
	}
	p, err := Predict(m, g, r, o)
	if err != nil {
		return err
	}
	t := &table{out: w}
	t.printf("%s (%s) on %s: %.4g TFLOPS bf16 dense, %.4g TB/s, %.1f GiB\n%s\n\n", m.Name, m.Class, g.Name, g.FLOPS/tera, g.Bandwidth/tera, g.Memory/gib, g.Source)
	t.components(m)
	t.stages(p)
	t.memory(p)
	t.curve(curve)
	t.printf("largest batch that fits: %d\n", largest)
	t.caches(m, g, p, r)
	for _, a := range p.Assumptions {
		t.printf("assumed: %s\n", a)
	}
	if len(o.Efficiency) == 0 {
		t.printf("fraction 1.00 is the roofline itself, a bound and no forecast: fit the achieved fraction on one measurement\n")
	}
	return t.err
}

type table struct {
	out io.Writer
	err error
}

func (t *table) printf(format string, args ...any) {
	if t.err == nil {
		_, t.err = fmt.Fprintf(t.out, format, args...)
	}
}

// columns aligns the lines that fill writes, cells parted by tabs, and leaves a blank line behind.
func (t *table) columns(fill func(line func(format string, args ...any))) {
	w := tabwriter.NewWriter(t.out, 0, 0, 2, ' ', 0)
	fill(func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) })
	if err := w.Flush(); t.err == nil {
		t.err = err
	}
	t.printf("\n")
}

func (t *table) components(m *Model) {
	t.columns(func(line func(string, ...any)) {
		line("component\tclass\tparameters\tGiB\tstored")
		for _, c := range m.Components {
			stored := "as loaded"
			if c.Quant.Method != "" {
				stored = c.Quant.Method + ", " + c.Quant.Detail
			}
			line("%s\t%s\t%.0f\t%.2f\t%s", c.Name, c.Class, c.Params, c.Bytes/gib, stored)
		}
		line("all\t\t%.0f\t%.2f\t", m.Params(), m.WeightBytes()/gib)
	})
}

func (t *table) stages(p *Prediction) {
	t.columns(func(line func(string, ...any)) {
		line("stage (batch %d)\tcalls\tTFLOP a call\tGB moved\tbound ms\tset by\tfraction\tms a call\ts in all", p.Request.Batch)
		for _, s := range p.Stages {
			line("%s\t%d\t%.3f\t%.3f\t%.2f\t%s\t%.2f\t%.2f\t%.3f", s.Name, s.Calls, s.Work.FLOPs/tera, s.Work.Bytes/giga, 1e3*s.Bound, s.Limit, s.Efficiency, 1e3*s.Each, s.Seconds)
		}
		line("all\t\t\t\t\t\t\t\t%.3f", p.Seconds)
		longest := p.longest()
		share := longest.Seconds / p.Seconds
		line("longest: %s, %.0f %% of a request; twice as fast it makes requests %.2f times as fast", longest.Name, 100*share, Speedup(share, 2))
		if help := helps[longest.Limit]; help != "" {
			line("%s %s", longest.Name, help)
		}
	})
}

func (t *table) memory(p *Prediction) {
	m := p.Memory
	t.columns(func(line func(string, ...any)) {
		line("GiB at the peak (batch %d)\tweights\tKV cache\tlatents and text\tactivations\tallocator\tcontext\tall", p.Request.Batch)
		line("peak in %s\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f", m.Peak, m.Weights/gib, m.KV/gib, m.Latents/gib, m.Activations/gib, m.Allocator/gib, m.Context/gib, m.Total()/gib)
	})
}

func (t *table) curve(curve []BatchPoint) {
	t.columns(func(line func(string, ...any)) {
		line("batch\ts\trequests/s\tgain\tset by\tGiB\tfits")
		for _, c := range curve {
			fits := "yes"
			if !c.Fits {
				fits = "no"
			}
			line("%d\t%.3f\t%.3f\t%.2f\t%s\t%.1f\t%s", c.Batch, c.Seconds, c.PerSecond, c.Gain, c.Limit, c.Memory/gib, fits)
		}
	})
}

func (t *table) caches(m *Model, g GPU, p *Prediction, r Request) {
	bytes, what := 0.0, ""
	if p.KV != nil {
		t.printf("KV cache: %.0f bytes a token (2 x layers x key-value heads x head_dim x bytes); by 2 x layers x hidden_size x bytes it were %.0f, %.1f times too many\n", p.KV.PerToken, p.KV.ByHiddenDim, p.KV.Overstated())
		if knee := Knee(m.Text, g, r.Prompt, *p.KV); knee > 0 {
			t.printf("decoding is bound by memory up to a batch of %d at %d tokens of context\n", knee-1, r.Prompt)
		} else {
			t.printf("decoding is bound by memory at every batch at %d tokens of context: each sequence brings a cache of its own to read\n", r.Prompt)
		}
		bytes, what = KVBytes(*p.KV, r.Prompt, 16)*float64(p.Request.Batch), "prefill to decode"
	} else if s, err := m.shape(p.Request); err == nil {
		bytes, what = TextStateBytes(s.text, m.Text.Hidden, m.Text.elementBytes())*float64(p.Request.Batch), "text encoder to DiT"
	}
	for _, of := range []func(GPU) (Link, error){NVLinkOf, PCIeOf} {
		if l, err := of(g); err == nil {
			t.printf("%s: %.2f MB, %.3f ms over %s at its peak\n", what, bytes/1e6, 1e3*l.Seconds(bytes), l.Name)
		} else {
			t.printf("%s: %v\n", what, err)
		}
	}
}
