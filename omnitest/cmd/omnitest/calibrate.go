package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/imagecheck"
)

type calibrateCommand struct {
	URL    string        `required:"" name:"url" help:"Base URL of the engine to calibrate for, without /v1." placeholder:"URL"`
	Arms   []string      `name:"arm" help:"Base URLs of further arms: the same model in another set-up, the control." placeholder:"URL"`
	Seeds  int           `help:"Seeds for each prompt." default:"3"`
	Prompt []string      `help:"Prompts; unset: the scenes and the first posters of fixtures." placeholder:"TEXT"`
	Size   string        `help:"Size of the pictures." default:"512x512"`
	Steps  int           `help:"Denoising steps." default:"20"`
	Margin float64       `help:"How far beyond the worst pair a bound lies, in distances from worst to median." default:"0.5"`
	Limit  time.Duration `help:"Longest that one request may take." default:"5m"`
	Key    string        `env:"OPENAI_API_KEY" help:"Bearer token for all of them." placeholder:"KEY"`

	Engine string `help:"Name of the engine, for the row that is printed."`
	Model  string `help:"Model to ask for."`
	GPU    string `name:"gpu" help:"Class of the GPU, for the row."`
	DType  string `name:"dtype" help:"Type of the weights, for the row."`
}

// Run makes every picture of a prompt and a seed twice alone and once beside all other seeds, once by each further arm, and
// compares: what must be equal, and, for contrast, pictures of different seeds and prompts. Bounds that are printed without a
// warning can be put into an imagecheck.Table; each names this run.
func (c *calibrateCommand) Run(ctx context.Context, out io.Writer) error {
	size, err := api.ParseSize(c.Size)
	if err != nil {
		return err
	}
	if c.Seeds < 1 || c.Steps < 1 {
		return errors.New("calibrate: --seeds and --steps want 1 or more")
	}
	prompts := c.Prompt
	if len(prompts) == 0 {
		for _, s := range fixtures.Scenes {
			prompts = append(prompts, s.Prompt)
		}
		for _, p := range fixtures.Posters[:4] {
			prompts = append(prompts, p.Prompt)
		}
	}
	started := time.Now()
	client := func(base string) *api.Client {
		return &api.Client{BaseURL: base, APIKey: c.Key, Model: c.Model, Timeout: c.Limit}
	}
	paint := func(on *api.Client, prompt string, seed int64) (imagecheck.Picture, error) {
		answer, err := on.Generate(ctx, api.ImageRequest{Prompt: prompt, ImageParams: api.ImageParams{Size: size, Steps: c.Steps, Seed: seed}})
		if err != nil {
			return imagecheck.Picture{}, err
		}
		if err := imagecheck.Count(1)(answer); err != nil {
			return imagecheck.Picture{}, err
		}
		p, err := imagecheck.Decode(answer.Items[0], imagecheck.Case{Prompt: prompt, Size: size, Steps: c.Steps, Seed: seed})
		if err != nil {
			return p, err
		}
		return p, errors.Join(imagecheck.Size(size)(p), imagecheck.NotBlank()(p)) // a blank picture calibrates nothing
	}
	main := client(c.URL)
	var set imagecheck.Calibration
	var firsts []imagecheck.Picture // of each prompt
	for i, prompt := range prompts {
		alone := make([]imagecheck.Picture, c.Seeds)
		for k := range alone {
			seed := int64(k + 1)
			if alone[k], err = paint(main, prompt, seed); err != nil {
				return err
			}
			again, err := paint(main, prompt, seed)
			if err == nil {
				err = set.Add(imagecheck.PairRepeat, alone[k], again)
			}
			if err != nil {
				return err
			}
			for _, arm := range c.Arms {
				other, err := paint(client(arm), prompt, seed)
				if err == nil {
					err = set.Add(imagecheck.PairArm, other, alone[k])
				}
				if err != nil {
					return fmt.Errorf("arm %s: %w", arm, err)
				}
			}
		}
		if c.Seeds > 1 { // with one seed nobody stands beside it
			beside, errs := make([]imagecheck.Picture, c.Seeds), make([]error, c.Seeds)
			var all sync.WaitGroup
			for k := range beside {
				all.Go(func() { beside[k], errs[k] = paint(main, prompt, int64(k+1)) })
			}
			all.Wait()
			if err := errors.Join(errs...); err != nil {
				return err
			}
			for k := range beside {
				if err := set.Add(imagecheck.PairLoad, alone[k], beside[k]); err != nil {
					return err
				}
			}
			for k := 1; k < c.Seeds; k++ {
				if err := set.Add(imagecheck.PairOther, alone[0], alone[k]); err != nil {
					return err
				}
			}
		}
		for _, f := range firsts {
			if err := set.Add(imagecheck.PairOther, f, alone[0]); err != nil {
				return err
			}
		}
		firsts = append(firsts, alone[0])
		fmt.Fprintf(os.Stderr, "calibrate: prompt %d of %d\n", i+1, len(prompts))
	}
	run := fmt.Sprintf("calibrate %s: %d prompts, %d seeds, %d arms, %s, %d steps, margin %g", started.UTC().Format(time.DateOnly), len(prompts), c.Seeds, 1+len(c.Arms), size, c.Steps, c.Margin)
	fmt.Fprintf(out, "%s\n\n", run)
	if err := set.Report(out, c.Margin); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "\nA row for imagecheck.Table, of the bounds without a warning (add Steps and Size if they are to hold for these alone):\n%s",
		imagecheck.GoRow(imagecheck.Setup{Engine: c.Engine, Model: c.Model, GPU: c.GPU, DType: c.DType}, run, set.Propose(c.Margin)))
	return err
}
