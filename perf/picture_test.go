package perf

import (
	"bytes"
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

// editAsk is an instruction whose result can be checked: something happens, and not everywhere. The colour is one that the input does not
// have there.
func editAsk(input image.Image) string {
	return ": add a large " + newColour(input) + " circle in the centre"
}

var colours = []string{"red", "blue", "green", "yellow", "purple", "orange", "black", "white"}

// newColour is a colour that the centre of a picture does not show; "": it shows all of them.
func newColour(input image.Image) string {
	p := imagecheck.Of(stretched(input, input.Bounds()), imagecheck.Case{Name: "input"})
	for _, name := range colours {
		if imagecheck.Shows(centre(p.Image.Rect), name)(p) != nil {
			return name
		}
	}
	return ""
}

// centre is the middle third of both sides.
func centre(r image.Rectangle) image.Rectangle {
	w, h := r.Dx(), r.Dy()
	return image.Rect(w/3, h/3, w-w/3, h-h/3)
}

func stretched(input image.Image, to image.Rectangle) *image.RGBA {
	out := image.NewRGBA(image.Rect(0, 0, to.Dx(), to.Dy()))
	draw.BiLinear.Scale(out, out.Rect, input, input.Bounds(), draw.Src, nil)
	return out
}

func decodeInput(data []byte) (image.Image, error) {
	file, err := api.ReadImage(data, api.Limits{})
	if err != nil {
		return nil, err
	}
	p, err := imagecheck.Decode(file, imagecheck.Case{Name: "input"})
	return p.Image, err
}

// pictureTask makes pictures, or edits them.
type pictureTask struct {
	client *api.Client
	params api.ImageParams
	input  api.Size // zero: generation; else edits of one picture of this size
	known  bool     // the reference stack: its plan is its prompt, and it edits what it is told to edit

	first    int
	requests func(i int) api.EditRequest // a generation is one without pictures
	answers  []pictureAnswer
	files    *spool
	last     imagecheck.Picture // the one that was judged before
}

type pictureAnswer struct {
	images *api.Images
	err    error
}

func (t *pictureTask) prepare(seed uint64, from, to int) error {
	t.first, t.answers, t.files, t.last = from, make([]pictureAnswer, to-from), &spool{}, imagecheck.Picture{}
	edits, err := workload.Edits{Words: workload.Fixed(1), InputSize: t.input, Params: t.params}.Requests(seed)
	if err != nil {
		return err
	}
	pictures, err := workload.Pictures{Words: workload.Fixed(1), Params: t.params}.Requests(seed)
	if err != nil {
		return err
	}
	var bad error
	t.requests = workload.Ahead(func(i int) api.EditRequest {
		var r api.EditRequest
		if t.input != (api.Size{}) {
			r = edits(i)
			input, err := decodeInput(r.Images[0].Data)
			if err != nil {
				bad = err
				return r
			}
			r.Prompt = nonceOf(r.Prompt) + editAsk(input)
		} else {
			p := pictures(i)
			n := len(fixtures.Scenes)
			r.Prompt, r.ImageParams = nonceOf(p.Prompt)+": "+fixtures.Scenes[(i%n+n)%n].Prompt, p.ImageParams
		}
		r.RequestID = requestID(seed, i)
		return r
	}, from, to)
	return bad
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
	s := metrics.FromImages(a.images, a.err)
	if a.images != nil {
		t.files.keep(a.images)
	}
	return s, a.err
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
	if err := errors.Join(imagecheck.Count(1)(a), t.files.back(a)); err != nil {
		return err
	}
	defer func() { a.Items = nil }() // judged
	all, err := imagecheck.DecodeAll(a, imagecheck.Case{Name: "measured", Prompt: r.Prompt, Steps: r.Steps, Seed: r.Seed})
	if err != nil {
		return err
	}
	p := all[0]
	err = sound(p, r.Size)
	switch {
	case err != nil:
	case t.input != (api.Size{}) && t.known:
		var input image.Image
		if input, err = decodeInput(r.Images[0].Data); err == nil {
			err = edited(p, input)
		}
	case t.input != (api.Size{}):
		var input image.Image
		if input, err = decodeInput(r.Images[0].Data); err == nil {
			err = happened(p, t.last, input)
		}
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

// edited demands that the picture is its input with a circle in the centre: the colour there that was not there before, and the rest as it
// was. An engine that makes another shape of it has stretched it.
func edited(p imagecheck.Picture, input image.Image) error {
	before := imagecheck.Of(stretched(input, p.Image.Rect), imagecheck.Case{Name: "input"})
	happened := error(nil)
	if colour := newColour(input); colour != "" {
		happened = imagecheck.Shows(centre(p.Image.Rect), colour)(p)
	}
	if err := errors.Join(happened, imagecheck.EditOutside(before, centre(p.Image.Rect))(p)); err != nil {
		return fmt.Errorf("edit: %w", err)
	}
	return nil
}

// happened is what can be asked of the edits of any engine, whatever it makes of the instruction: that the picture is not its input,
// and not the edit before, pixel for pixel. No two requests have the same input, so a picture that comes twice is of neither.
func happened(p, last imagecheck.Picture, input image.Image) error {
	before := imagecheck.Of(stretched(input, p.Image.Rect), imagecheck.Case{Name: "input"})
	err := imagecheck.EditInside(before, nil)(p)
	if last.Image != nil && last.Image.Rect == p.Image.Rect && bytes.Equal(last.Image.Pix, p.Image.Pix) {
		err = errors.Join(err, errors.New("the edits of two different pictures are the same, pixel for pixel"))
	}
	if err != nil {
		return fmt.Errorf("edit: %w", err)
	}
	return nil
}

func (t *pictureTask) settle() error { return t.files.wait() }
func (t *pictureTask) done() error   { return t.files.close() }

func (t *pictureTask) tokens(int, int) (int, bool) { return 0, false } // the image routes tell none

func (t *pictureTask) verdicts(e *handoff.Evidence) []handoff.Verdict {
	if t.known {
		return []handoff.Verdict{handoff.Proven(e), handoff.PayloadProven(e)}
	}
	return []handoff.Verdict{handoff.Moved(e), handoff.PayloadProven(e)}
}
