package perf

import (
	"context"
	"errors"
	"fmt"
	"image"
	"strings"

	"golang.org/x/image/draw"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/metrics"
	"github.com/omnitest/suite/omnitest/workload"
)

// editAsk is an instruction whose result can be checked: something happens, and not everywhere.
const editAsk = ": add a large red circle in the centre"

// pictureTask makes pictures, or edits them.
type pictureTask struct {
	client *api.Client
	params api.ImageParams
	input  api.Size // zero: generation; else edits of one picture of this size
	known  bool     // the reference stack: its plan is its prompt, and it edits what it is told to edit

	first    int
	requests func(i int) api.EditRequest // a generation is one without pictures
	answers  []pictureAnswer
	last     imagecheck.Picture // the one that was judged before
}

type pictureAnswer struct {
	images *api.Images
	err    error
}

func (t *pictureTask) prepare(seed uint64, from, to int) error {
	t.first, t.answers, t.last = from, make([]pictureAnswer, to-from), imagecheck.Picture{}
	edits, err := workload.Edits{Words: workload.Fixed(1), InputSize: t.input, Params: t.params}.Requests(seed)
	if err != nil {
		return err
	}
	pictures, err := workload.Pictures{Words: workload.Fixed(1), Params: t.params}.Requests(seed)
	if err != nil {
		return err
	}
	t.requests = workload.Ahead(func(i int) api.EditRequest {
		var r api.EditRequest
		if t.input != (api.Size{}) {
			r = edits(i)
			r.Prompt = nonceOf(r.Prompt) + editAsk
		} else {
			p := pictures(i)
			n := len(fixtures.Scenes)
			r.Prompt, r.ImageParams = fixtures.Scenes[(i%n+n)%n].Prompt+" "+nonceOf(p.Prompt), p.ImageParams
		}
		r.RequestID = requestID(seed, i)
		return r
	}, from, to)
	return nil
}

// nonceOf is the first word of a prompt of package workload, which no other has.
func nonceOf(prompt string) string { return strings.Fields(prompt)[0] }

func (t *pictureTask) call(ctx context.Context, i int) (metrics.Sample, error) {
	r := t.requests(i)
	var a pictureAnswer
	if len(r.Images) > 0 {
		a.images, a.err = t.client.Edit(ctx, r)
	} else {
		a.images, a.err = t.client.Generate(ctx, api.ImageRequest{Prompt: r.Prompt, RequestID: r.RequestID, ImageParams: r.ImageParams})
	}
	t.answers[i-t.first] = a
	return metrics.FromImages(a.images, a.err), a.err
}

func (t *pictureTask) observe(i int) handoff.Observation {
	a, r := t.answers[i-t.first], t.requests(i)
	o := handoff.Observation{RequestID: r.RequestID, Prompt: r.Prompt, Err: a.err}
	if a.images != nil {
		o.Took = a.images.End
	}
	if t.known {
		o.Want, o.WantFrom = r.Prompt, "known answer: the reference model repeats its prompt"
	}
	return o
}

// judge decodes the picture: that takes as long as a request of the reference stack, so it waits until the load is over.
func (t *pictureTask) judge(i int) error {
	a, r := t.answers[i-t.first].images, t.requests(i)
	if err := imagecheck.Count(1)(a); err != nil {
		return err
	}
	all, err := imagecheck.DecodeAll(a, imagecheck.Case{Name: "measured", Prompt: r.Prompt, Steps: r.Steps, Seed: r.Seed})
	if err != nil {
		return err
	}
	p := all[0]
	err = sound(p, r.Size)
	switch {
	case err != nil:
	case t.input != (api.Size{}) && t.known:
		err = edited(p, r.Images[0].Data)
	case t.input == (api.Size{}) && t.last.Image != nil:
		err = imagecheck.Distinct(t.last)(p)
	}
	t.last = p
	return err
}

// sound are the checks that every picture must pass.
func sound(p imagecheck.Picture, size api.Size) error {
	return errors.Join(imagecheck.Size(size)(p), imagecheck.NotBlank()(p))
}

// edited demands that the picture is its input, with something changed and not everything. An engine that made another size of it has
// stretched it.
func edited(p imagecheck.Picture, input []byte) error {
	file, err := api.ReadImage(input, api.Limits{})
	if err != nil {
		return err
	}
	before, err := imagecheck.Decode(file, imagecheck.Case{Name: "input"})
	if err != nil {
		return err
	}
	return editedFrom(p, before.Image)
}

func editedFrom(p imagecheck.Picture, input image.Image) error {
	scaled := image.NewRGBA(p.Image.Rect)
	draw.BiLinear.Scale(scaled, scaled.Rect, input, input.Bounds(), draw.Src, nil)
	before := imagecheck.Of(scaled, imagecheck.Case{Name: "input"})
	if err := errors.Join(imagecheck.EditInside(before, nil)(p), imagecheck.EditLocal(before)(p)); err != nil {
		return fmt.Errorf("edit: %w", err)
	}
	return nil
}

func (t *pictureTask) tokens(int, int) (int, bool) { return 0, false } // the image routes tell none

func (t *pictureTask) verdicts(e *handoff.Evidence) []handoff.Verdict {
	if t.known {
		return []handoff.Verdict{handoff.Proven(e), handoff.PayloadProven(e)}
	}
	return []handoff.Verdict{handoff.Moved(e), handoff.PayloadProven(e)}
}
