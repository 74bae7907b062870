package dit

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"math/rand/v2"
	"time"
)

const (
	defaultSide  = 1024 // recorded: Qwen-Image without a size
	defaultSteps = 20
	maxSteps     = 10_000 // far beyond use; keeps a slip of the keyboard from filling the memory
	grid         = 16     // recorded: 500x300 comes back as 496x288, 15x15 as 16x16
	maxPixels    = 7680 * 4320
)

// snap rounds a side down to the grid of the latents.
func snap(n int) int { return max(grid, n/grid*grid) }

// Render runs one job on the caller's goroutine. Deterministic in (Job): same job, same pixels, on any machine.
// It looks at ctx between bands of rows and during planted waits.
func (s *Server) Render(ctx context.Context, j Job) (*Result, error) {
	w, h := j.W, j.H
	if w == 0 && h == 0 {
		w, h = defaultSide, defaultSide
		if len(j.Inputs) > 0 {
			b := j.Inputs[0].Bounds()
			w, h = b.Dx(), b.Dy()
		}
	}
	if w <= 0 || h <= 0 || w*h > maxPixels {
		return nil, fmt.Errorf("dit: size %dx%d: want positive sides and at most %d pixels", w, h, maxPixels)
	}
	w, h = snap(w), snap(h)
	steps := j.Steps
	if steps == 0 {
		steps = defaultSteps
	}
	if steps < 0 {
		return nil, fmt.Errorf("Number of samples, %d, must be non-negative.", j.Steps) // the words of torch
	}
	if steps > maxSteps {
		return nil, fmt.Errorf("dit: %d steps: at most %d", steps, maxSteps)
	}
	if err := checkPrompt(j.Prompt); err != nil {
		return nil, err
	}
	j.Prompt = s.cfg.Faults.read(j.Prompt)
	if s.cfg.Faults.FewSteps {
		steps = min(steps, 4)
	}
	if s.cfg.Faults.WrongSize {
		w = max(grid, w-grid)
	}
	r := &Result{Stages: make(map[string]time.Duration, 4)}
	clock := stopwatch{timing: s.cfg.Timing, stages: r.Stages, last: time.Now()}

	var target *image.RGBA
	leak, k := leakGenerate, key(hashString(j.Prompt), uint64(j.Seed))
	if len(j.Inputs) == 0 {
		sc := s.cfg.Faults.seen(parse(j.Prompt))
		p := sc.place(w, h)
		if err := clock.lap(ctx, "text_encoder", s.cfg.Timing.Encode); err != nil {
			return nil, err
		}
		var lines []string
		if p.text != nil {
			r.TextBox, lines = p.text.ink, s.spelled(p.text.lines)
		}
		target = sc.paint(w, h, p, lines)
		if s.cfg.Faults.ExtraText {
			extraSign(target, p)
		}
	} else {
		e := parseEdit(j.Prompt)
		if err := clock.lap(ctx, "text_encoder", s.cfg.Timing.Encode); err != nil {
			return nil, err
		}
		inputs := make([]*image.RGBA, len(j.Inputs))
		for i, in := range j.Inputs {
			if b := in.Bounds(); b.Empty() {
				return nil, fmt.Errorf("dit: input %d is empty", i)
			}
			if i == 0 {
				inputs[i] = scaled(in, w, h)
			} else {
				inputs[i] = rgba(in)
			}
		}
		leak = leakEdit
		k = key(k, hashPixels(inputs[0])) // errors of the turns of a dialogue must not add up in phase
		if err := clock.lap(ctx, "vae.encode", 0); err != nil {
			return nil, err
		}
		target = s.edit(e, inputs, maskOf(j.Mask, w, h), r)
		if s.cfg.Faults.EditRedraws {
			sc := parse(j.Prompt)
			target = sc.paint(w, h, sc.place(w, h), nil)
		}
		if s.cfg.Faults.EditDrift {
			brighten(target, 1.012)
		}
	}
	if s.cfg.Faults.Blank {
		// Recorded: a picture of NaN latents is black.
		draw.Draw(target, target.Rect, image.NewUniform(color.RGBA{0, 0, 0, 255}), image.Point{}, draw.Src)
	}

	lat := s.latents.get(3 * w * h)
	defer s.latents.put(lat)
	if err := diffuse(ctx, lat, target, steps, leak, k); err != nil {
		return nil, fmt.Errorf("dit: diffuse: %w", err)
	}
	perStep := float64(s.cfg.Timing.PerStep) * float64(w*h) / 1e6 * float64(steps)
	if j.TrueCFG > 1 {
		perStep *= 2
	}
	if err := clock.lap(ctx, "diffuse", time.Duration(perStep)); err != nil {
		return nil, err
	}
	if !s.cfg.Faults.Blank { // NaN stays NaN: no noise, no loss
		decode(target, lat, len(j.Inputs) > 0, key(k, 99))
	}
	r.Image = target
	return r, clock.lap(ctx, "vae.decode", 0)
}

// spelled gives the lines that are really painted.
func (s *Server) spelled(lines []string) []string {
	switch {
	case s.cfg.Faults.NoText:
		return nil
	case s.cfg.Faults.WrongLetter:
		return misspell(lines)
	}
	return lines
}

// TextBox tells where Render will paint the text of a prompt, without painting it: tests crop goldens with it.
// It is the ink of the glyphs, in pixels of a picture that was asked for as w x h. Empty: the prompt quotes no text.
func TextBox(prompt string, w, h int) image.Rectangle {
	if w <= 0 || h <= 0 {
		return image.Rectangle{}
	}
	s := parse(prompt)
	if p := s.place(snap(w), snap(h)); p.text != nil {
		return p.text.ink
	}
	return image.Rectangle{}
}

// stopwatch measures stages and fills them up to their planted length: a planted 50 ms is 50 ms as long as the work
// itself takes less, so what a measuring side reports can be compared with what was planted.
type stopwatch struct {
	timing Timing
	stages map[string]time.Duration
	last   time.Time
}

func (c *stopwatch) lap(ctx context.Context, stage string, planted time.Duration) error {
	if planted > 0 {
		if j := c.timing.Jitter; j > 0 {
			planted = time.Duration(float64(planted) * (1 + j*(2*rand.Float64()-1)))
		}
		if rest := planted - time.Since(c.last); rest > 0 {
			t := time.NewTimer(rest)
			defer t.Stop()
			select {
			case <-t.C:
			case <-ctx.Done():
				return fmt.Errorf("dit: %s: %w", stage, context.Cause(ctx))
			}
		}
	}
	now := time.Now()
	c.stages[stage] += now.Sub(c.last)
	c.last = now
	return nil
}
