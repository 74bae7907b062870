package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/omnitest/suite/omnitest/theory"
)

type theoryCommand struct {
	Model  string             `help:"A folder with config.json or model_index.json, or the name of a built-in model; 'list' lists those." placeholder:"DIR|NAME"`
	GPU    string             `name:"gpu" help:"Name from the table of GPUs; 'list' lists it. Any other name with --tflops, --bandwidth and --memory." placeholder:"NAME"`
	TFLOPS float64            `name:"tflops" help:"Dense bf16 TFLOPS of a GPU that is not in the table."`
	Band   float64            `name:"bandwidth" help:"Its memory bandwidth in GB/s."`
	Memory float64            `help:"Its memory in GiB."`
	Batch  []int              `default:"1" help:"Requests that run together; the first is shown in detail." placeholder:"N,..."`
	Out    string             `help:"What to make: WxH pixels (unset: 1376x768), or tokens of a language model (unset: 128)." placeholder:"WxH|TOKENS"`
	Prompt int                `default:"512" help:"Tokens of the prompt."`
	Steps  int                `help:"Denoising steps; unset: 50."`
	CFG    bool               `name:"cfg" help:"True classifier-free guidance: two forwards a step."`
	Image  []string           `help:"Sizes of input pictures; unset: one of 1024x1024 for a pipeline that edits." placeholder:"WxH,..."`
	DType  string             `name:"dtype" help:"How weights are loaded where the files do not say it." placeholder:"NAME"`
	KVType string             `name:"kv-dtype" help:"Element of the KV cache; unset: as the weights." placeholder:"NAME"`
	TP     int                `name:"tp" default:"1" help:"GPUs that share each layer (tensor parallel)."`
	Eff    map[string]float64 `name:"fraction" help:"Achieved fraction of the roofline by stage, fitted on a measurement; 'all' for the others. Unset: 1, the bound." placeholder:"STAGE=X;..."`
}

// answerTokens is what a language model makes where --out does not say it: the decode stage needs more than one token to show.
const answerTokens = 128

// Validate refuses a command line that names no model or no GPU. To list the ones it wants only the other.
func (c *theoryCommand) Validate() error {
	switch {
	case c.Model == "list" || c.GPU == "list":
		return nil
	case c.Model == "":
		return errors.New("missing flags: --model=DIR|NAME; --model=list lists the built-in ones")
	case c.GPU == "":
		return errors.New("missing flags: --gpu=NAME; --gpu=list lists the table of GPUs")
	}
	return nil
}

// Run prints the table; it runs no model and asks no GPU.
func (c *theoryCommand) Run(out io.Writer) error {
	if c.Model == "list" || c.GPU == "list" {
		return c.list(out)
	}
	g := theory.GPU{Name: c.GPU, FLOPS: c.TFLOPS * 1e12, Bandwidth: c.Band * 1e9, Memory: c.Memory * (1 << 30), Source: "as given"}
	if c.TFLOPS == 0 && c.Band == 0 && c.Memory == 0 {
		var err error
		if g, err = theory.FindGPU(c.GPU); err != nil {
			return err
		}
	}
	files, err := modelFiles(c.Model)
	if err != nil {
		return err
	}
	m, err := theory.Parse(c.Model, files, c.DType)
	if err != nil {
		return err
	}
	r, err := c.request(m)
	if err != nil {
		return err
	}
	o := theory.Options{TensorParallel: c.TP, KVDType: c.KVType, Efficiency: map[string]float64{}}
	for stage, x := range c.Eff {
		o.Efficiency[strings.TrimPrefix(stage, "all")] = x
	}
	return theory.Write(out, m, g, r, o, c.Batch)
}

func (c *theoryCommand) request(m *theory.Model) (theory.Request, error) {
	r := theory.Request{Prompt: c.Prompt, Steps: c.Steps, CFG: c.CFG}
	if m.DiT == nil {
		r.Output = answerTokens
		if c.Out != "" {
			if _, err := fmt.Sscanf(c.Out, "%d", &r.Output); err != nil || strings.ContainsAny(c.Out, "xX") {
				return r, fmt.Errorf("--out %q: a language model makes tokens, a number is needed", c.Out)
			}
		}
	} else if err := parseSize(cmp.Or(c.Out, "1376x768"), &r.Size); err != nil {
		return r, fmt.Errorf("--out: %w", err)
	}
	images := c.Image
	if len(images) == 0 && m.DiT != nil && strings.Contains(m.Class, "Edit") {
		images = []string{"1024x1024"}
	}
	for _, text := range images {
		var s theory.Size
		if err := parseSize(text, &s); err != nil {
			return r, fmt.Errorf("--image: %w", err)
		}
		r.InputImages = append(r.InputImages, s)
	}
	return r, nil
}

func parseSize(text string, s *theory.Size) error {
	var rest string
	n, _ := fmt.Sscanf(text, "%dx%d%s", &s.Width, &s.Height, &rest)
	if n != 2 || s.Width < 1 || s.Height < 1 {
		return fmt.Errorf("%q is no size; WIDTHxHEIGHT in pixels is needed, for instance 1376x768", text)
	}
	return nil
}

// modelFiles reads a folder's JSON files, or finds a built-in model.
func modelFiles(name string) (theory.Files, error) {
	if info, err := os.Stat(name); errors.Is(err, fs.ErrNotExist) {
		return theory.Builtin(name)
	} else if err != nil {
		return nil, err
	} else if !info.IsDir() {
		return nil, fmt.Errorf("%s is no folder", name)
	}
	return theory.ReadFiles(os.DirFS(name))
}

// list prints what was asked for: models, GPUs or both.
func (c *theoryCommand) list(out io.Writer) error {
	var lines []string
	if c.Model == "list" {
		for _, name := range theory.BuiltinNames() {
			lines = append(lines, "model "+name+"\n")
		}
	}
	if c.GPU == "list" {
		for _, g := range theory.GPUs() {
			lines = append(lines, fmt.Sprintf("gpu   %-13s %s\n", g.Name, g.Source))
		}
	}
	_, err := io.WriteString(out, strings.Join(lines, ""))
	return err
}

// longFlags lets theory's flags also be written with one dash, as in "omnitest theory -model qwen-image -gpu H100 -batch 1,2,4 -out 1376x768".
func longFlags(args []string) []string {
	if len(args) == 0 || args[0] != "theory" {
		return args
	}
	var all []string
	for _, a := range args {
		if len(a) > 2 && a[0] == '-' && a[1] >= 'a' && a[1] <= 'z' {
			a = "-" + a
		}
		all = append(all, a)
	}
	return all
}
