package imagecheck

import (
	"errors"
	"image"
	"image/draw"

	"github.com/omnitest/suite/omnitest/measure"
)

// evidenceDir is one folder a case and check: <dir>/<case>/<check>.
func evidenceDir(c Case, check string) string { return measure.Path(c.Dir, c.Name, "picture", check) }

// inputFile is the picture that was given to be edited.
const inputFile = "input.png"

// keep writes the evidence of a failure and puts its paths into the error:
//
//	actual.png        the picture
//	expected.png      what it was compared with; input.png where that is the picture before an edit
//	side-by-side.png  both with their difference; heatmap.png the difference alone, crop.png the place that decided, enlarged
//	mask.png          white where an edit may change something
//	marked.png        the picture with the places that were judged
//	text-N.png        crops of a text: expected and actual with the worst glyph cell, or what a reader read
//	metrics.json, repro.sh
//
// What fails to be written does not stop the rest.
func (f *finding) keep(p Picture, e *Error) error {
	dir, err := measure.Open(evidenceDir(p.Case, f.check))
	if err != nil {
		return err
	}
	e.Files.Dir = dir.Dir
	sha := map[string]string{"actual": p.sha()}
	e.Files.Got = dir.PNG("actual.png", p.Image)
	if f.expected != nil {
		label, name := "expected", "expected.png"
		if f.input {
			label, name = "input", inputFile
		}
		sha[label] = PixelSHA256(f.expected)
		file := dir.PNG(name, f.expected)
		if e.Files.Golden == "" {
			e.Files.Golden = file
		}
		e.Files.Diff = dir.PNG("side-by-side.png", sideBySide(f.expected, p.Image, f.judged, label))
		f.keepDifference(dir, p, label)
	}
	if len(f.regions) > 0 {
		dir.PNG("mask.png", maskOf(f.regions, p.Image.Rect))
	}
	if len(f.marks) > 0 {
		dir.PNG("marked.png", drawMarks(p.opaque(), f.marks))
	}
	for _, t := range f.texts {
		file := dir.PNG(t.name+".png", t.draw("expected"))
		if e.Files.Diff == "" {
			e.Files.Diff = file
		}
	}
	for _, r := range f.readings {
		file := dir.PNG(r.name+".png", r.draw())
		if e.Files.Diff == "" {
			e.Files.Diff = file
		}
	}
	e.Files.Replay = dir.Script(p.Case.Repro)
	dir.Metrics(e.document(sha))
	return dir.Err()
}

// keepDifference writes the heatmap, and the place that decided: the one that the check names, else the worst window.
func (f *finding) keepDifference(dir *measure.Folder, p Picture, label string) {
	t, err := TileMAD(Luma(p.Image), Luma(f.expected))
	if err != nil {
		return // of another size: side by side is all there is to see
	}
	dir.PNG("heatmap.png", heatmap(t, p.luma(), f.judged, max(1, p.Image.Rect.Dy()/400)))
	at := f.worst
	if at.Empty() {
		mad, window := t.worstWindow(f.judged)
		if !(mad >= 1) { // what was judged is alike, and what was not failed it by its extent
			mad, window = t.worstWindow(nil)
		}
		if !(mad >= 1) {
			return
		}
		at = window
	}
	frame := at.Inset(-TileSide).Intersect(p.Image.Rect)
	v := textView{name: "crop", want: crop(onWhite(f.expected), frame), got: crop(p.opaque(), frame), cell: at.Sub(frame.Min), moved: at.Sub(frame.Min),
		caption: "actual, at " + at.String()}
	dir.PNG("crop.png", v.draw(label))
}

// maskOf draws where an edit may change something: white on black.
func maskOf(regions []image.Image, r image.Rectangle) *image.Gray {
	out := image.NewGray(r)
	for _, region := range regions {
		if at, ok := region.(image.Rectangle); ok {
			draw.Draw(out, at, image.White, image.Point{}, draw.Src)
			continue
		}
		draw.Draw(out, r, region, region.Bounds().Min, draw.Over)
	}
	return out
}

// keepRaw writes the bytes of a file that does not decode.
func (e *Error) keepRaw(raw []byte) {
	if e.Case.Dir == "" {
		return
	}
	dir, err := measure.Open(evidenceDir(e.Case, e.Check))
	if err != nil {
		e.Err = errors.Join(e.Err, err)
		return
	}
	e.Files.Dir = dir.Dir
	e.Files.Got = dir.Write("raw.bin", raw)
	e.Files.Replay = dir.Script(e.Case.Repro)
	dir.Metrics(e.document(nil))
	if err := dir.Err(); err != nil {
		e.Err = errors.Join(e.Err, err)
	}
}

// document is metrics.json: what the check measured, with everything needed to judge it again.
func (e *Error) document(sha map[string]string) any {
	type request struct {
		Name   string `json:"name"`
		Prompt string `json:"prompt"`
		Size   string `json:"size"`
		Echo   string `json:"size_claimed,omitempty"`
		Steps  int    `json:"steps"`
		Seed   int64  `json:"seed"`
		Stack  string `json:"stack,omitempty"`
		Engine string `json:"engine,omitempty"`
		Model  string `json:"model,omitempty"`
		GPU    string `json:"gpu,omitempty"`
		DType  string `json:"dtype,omitempty"`
	}
	versions := measure.Versions()
	versions["hash"] = HashLib
	doc := struct {
		Check    string            `json:"check"`
		Summary  string            `json:"summary"`
		Metrics  []Metric          `json:"metrics"`
		Cause    string            `json:"cause,omitempty"`
		Case     request           `json:"case"`
		Key      *jsonKey          `json:"key,omitempty"`
		SHA256   map[string]string `json:"pixel_sha256,omitempty"`
		Versions map[string]string `json:"versions"`
	}{
		Check: e.Check, Summary: e.Summary, Metrics: e.Metrics, SHA256: sha,
		Case: request{e.Case.Name, e.Case.Prompt, e.Case.Size.String(), e.Case.Echo, e.Case.Steps, e.Case.Seed, e.Case.Stack,
			e.Case.Setup.Engine, e.Case.Setup.Model, e.Case.Setup.GPU, e.Case.Setup.DType},
		Versions: versions,
	}
	if k := e.Key; k != nil {
		doc.Key = &jsonKey{k.Engine, k.Model, k.GPU, k.DType, k.Attention, k.Steps, k.Size.String(), k.Seed, k.Prompt}
	}
	if e.Err != nil {
		doc.Cause = e.Err.Error()
	}
	return doc
}
