package imagecheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/omnitest/suite/omnitest/measure"
)

// Store is a folder of goldens, one sub-folder each. This room never reads the environment: who wants OMNITEST_UPDATE=1 to
// mean Update sets the field.
type Store struct {
	Dir    string // where goldens are read from and, with Update, written to
	FS     fs.FS  // read-only goldens, embedded ones for instance; nil: Dir
	Update bool   // approve what comes instead of comparing; needs Dir
	Out    string // evidence of failures, if the picture's Case names no folder; with Update the old picture goes there
	// CropsOnly keeps no whole picture on Update, only hashes and text crops: small enough for many goldens, but a failure
	// then shows no heatmap.
	CropsOnly bool
}

func (s Store) fsys() fs.FS {
	if s.FS != nil {
		return s.FS
	}
	return os.DirFS(s.Dir)
}

// Check compares with the golden <name>, in this order: blank; size; the same pixels as an approved picture (passes at
// once); every text box as [Text], and what stands outside of them as [NoExtraText]; whole picture pHash64 <= 4 and ExtP256 <= 12, and no cell of its [ColourGrid] further off
// than 28 (a failure names the colour first where the hashes still see the same picture). Steps, size, seed and prompt that key
// leaves zero are taken from the picture's Case. Another key than the golden's is an error that names the difference.
// Without boxes the golden's own are used; with boxes they must be the golden's.
//
// With Update the picture is approved instead, if it is not blank and has the key's size. A picture that passes already
// only adds its pixels to the approved ones (several may be right: batch neighbours move low bits); else golden and crops
// are written anew and the old picture is kept as expected.prev.png in the evidence folder. Without Update a missing golden
// fails, and leaves the picture in the evidence folder.
func (s Store) Check(name string, key Key, boxes ...Box) Check {
	// One check judges thousands of answers under load: read the golden once.
	load := sync.OnceValues(func() (*Golden, error) { return LoadGolden(s.fsys(), name) })
	var updating sync.Mutex
	inner := check("golden", "image differs from golden", func(p Picture, f *finding) {
		key := key.from(p.Case)
		f.key = &key
		notBlank(p, f)
		if p.Size() != key.Size {
			f.called(ErrSize)
			f.fail("it is %s, the key says %s", p.Size(), key.Size)
		}
		if f.first != "" {
			f.prefix = "image cannot be compared with golden"
			if s.Update {
				f.prefix = "image cannot become golden"
			}
			return
		}
		if s.Update {
			updating.Lock()
			defer updating.Unlock()
			if err := s.approve(name, key, boxes, p); err != nil {
				f.prefix, f.cause = "golden was not written", err
				f.fail("%s", name)
			}
			return
		}
		g, err := load()
		if err != nil {
			f.prefix = "golden cannot be used"
			f.called(ErrLost)
			if errors.Is(err, fs.ErrNotExist) {
				f.prefix = "golden missing"
				f.remedy = "look at the picture; if it is right, run once with OMNITEST_UPDATE=1 and commit " + s.path(name, "")
			}
			f.cause = err
			f.fail("%s", name)
			return
		}
		s.compare(name, key, boxes, g, p, f)
	})
	return func(p Picture) error {
		if p.Case.Dir == "" {
			p.Case.Dir = s.Out
		}
		return inner(p)
	}
}

// compare judges a picture by a golden.
func (s Store) compare(name string, key Key, boxes []Box, g *Golden, p Picture, f *finding) {
	if d := key.Differs(g.Key); len(d) > 0 {
		f.prefix = "golden has another key"
		f.called(ErrKey)
		f.remedy = "compare like with like, or keep one golden for each set-up (put the engine into its name)"
		f.fail("%s", strings.Join(d, "; "))
		return
	}
	if len(boxes) > 0 && !slices.EqualFunc(boxes, g.Boxes, func(b Box, gb GoldenBox) bool { return b == gb.Box }) {
		f.prefix = "golden has other text boxes"
		f.remedy = "run once with OMNITEST_UPDATE=1 and review what changes"
		f.fail("%v, golden has %v", boxes, g.plainBoxes())
		return
	}
	same := slices.Contains(g.PixelSHA256, p.sha())
	f.metrics = append(f.metrics, Metric{Name: "pixels-approved", Value: oneIf(same), Note: fmt.Sprintf("SHA-256 %.12s, %d approved", p.sha(), len(g.PixelSHA256))})
	if same {
		return
	}
	moves := map[image.Point]bool{}
	for i, t := range g.texts { // first: a wrong letter explains more than a distance of whole pictures
		moves[f.text(i, t, p)] = true
	}
	if g.low != nil {
		f.elsewhere(*g.low, g.plainBoxes(), moves, p)
	}
	f.whole(g, p)
	if f.first == "" {
		return
	}
	f.golden = s.path(name, sidecar)
	img, err := g.picture(name)
	if err != nil {
		f.cause = err
	}
	if img != nil {
		f.expected, f.golden = img, s.path(name, g.PNG)
	}
}

// whole compares whole pictures: hashes and colours. Where the hashes still see the same picture (by the bounds of
// [Distinct]) a wrong colour is the better explanation and comes first.
func (f *finding) whole(g *Golden, p Picture) {
	h, x, err := distances(g.PHash64, g.ExtP256, p)
	if err != nil {
		f.fail("hashes: %v", err)
	}
	same := err != nil || h < f.bounds.DistinctPHash64 && x < f.bounds.DistinctExtP256
	if same {
		f.colours(g, p)
	}
	if err == nil {
		f.atMost("pHash64", float64(h), float64(f.bounds.PHash64), "whole picture distance", "pHash64")
		f.atMost("ExtP256", float64(x), float64(f.bounds.ExtP256), "whole picture distance", "ExtP256")
	}
	if !same {
		f.colours(g, p)
	}
}

// colours compares the colour grid.
func (f *finding) colours(g *Golden, p Picture) {
	grid, err := p.colours()
	if err != nil {
		f.fail("colours: %v", err)
		return
	}
	cell, off := g.Colours.Farthest(&grid)
	m := Metric{Name: "colour", Value: float64(off), Bound: float64(f.bounds.GridColour), Direction: "<=", Note: "worst of 16x16 cells, 0-255"}
	f.metrics = append(f.metrics, m)
	if m.OK() {
		return
	}
	f.mark(gridCell(cell.Y*GridSide+cell.X, p.Image.Rect), grid.At(cell)+", golden "+g.Colours.At(cell))
	if f.first == "" {
		f.prefix = "colour differs from golden"
	}
	f.fail("cell %d,%d is %s, golden %s, distance %d, limit %d", cell.X, cell.Y, grid.At(cell), g.Colours.At(cell), off, f.bounds.GridColour)
}

// approve writes the picture as golden.
func (s Store) approve(name string, key Key, boxes []Box, p Picture) error {
	if s.Dir == "" {
		return errors.New("Update needs Store.Dir: an fs.FS cannot be written")
	}
	g, err := newGolden(name, key, p, boxes)
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Dir, filepath.FromSlash(name))
	old, err := LoadGolden(os.DirFS(s.Dir), name)
	if err == nil {
		if len(boxes) == 0 && len(old.Boxes) > 0 {
			if g, err = newGolden(name, key, p, old.plainBoxes()); err != nil {
				return err
			}
		}
		f := &finding{}
		f.bounds, _ = p.Case.bounds()
		s.compare(name, key, boxes, old, p, f)
		if f.first == "" {
			if slices.Contains(old.PixelSHA256, p.sha()) {
				return nil
			}
			old.PixelSHA256 = append(old.PixelSHA256, p.sha())
			return writeSidecar(dir, old)
		}
		if err := s.keepPrevious(name, old, p); err != nil {
			return err
		}
	} // else: none yet, or one that cannot be used: it is replaced
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for i, t := range g.texts {
		var b bytes.Buffer
		if err := png.Encode(&b, t.crop); err != nil {
			return err
		}
		if err := measure.WriteFile(filepath.Join(dir, g.Boxes[i].Crop), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if g.low != nil {
		var b bytes.Buffer
		if err := png.Encode(&b, g.low.gray()); err != nil {
			return err
		}
		if err := measure.WriteFile(filepath.Join(dir, lowPassFile), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	if !s.CropsOnly {
		g.PNG = "golden.png"
		var b bytes.Buffer
		if err := png.Encode(&b, p.Image); err != nil {
			return err
		}
		if err := measure.WriteFile(filepath.Join(dir, g.PNG), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return writeSidecar(dir, g) // last: a golden exists when its sidecar does
}

// keepPrevious saves the picture that is about to be replaced.
func (s Store) keepPrevious(name string, old *Golden, p Picture) error {
	if p.Case.Dir == "" || old.PNG == "" {
		return nil
	}
	raw, err := fs.ReadFile(os.DirFS(s.Dir), path.Join(name, old.PNG))
	if err != nil {
		return err
	}
	dir := evidenceDir(p.Case, "golden")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return measure.WriteFile(filepath.Join(dir, "expected.prev.png"), raw, 0o644)
}

func writeSidecar(dir string, g *Golden) error {
	raw, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return err
	}
	return measure.WriteFile(filepath.Join(dir, sidecar), append(raw, '\n'), 0o644)
}

func (g *Golden) plainBoxes() []Box {
	var out []Box
	for _, b := range g.Boxes {
		out = append(out, b.Box)
	}
	return out
}

// from fills what the request knows.
func (k Key) from(c Case) Key {
	if k.Steps == 0 {
		k.Steps = c.Steps
	}
	if k.Size.W == 0 {
		k.Size = c.Size
	}
	if k.Seed == 0 {
		k.Seed = c.Seed
	}
	if k.Prompt == "" {
		k.Prompt = c.Prompt
	}
	return k
}

// path of a golden's file, for people.
func (s Store) path(name, file string) string {
	if s.Dir == "" {
		return path.Join(name, file)
	}
	return filepath.Join(s.Dir, filepath.FromSlash(name), file)
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
