package imagecheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// Key is where a golden comes from. Under another key pixels are allowed to differ, so a comparison is refused.
type Key struct {
	Engine    string // "reference", "vllm-omni", "diffusers"
	Model     string
	GPU       string // class, "NVIDIA H100"; "cpu"
	DType     string // "bfloat16"
	Attention string // back end, "FLASH_ATTN"
	Steps     int
	Size      api.Size
	Seed      int64
	Prompt    string
}

// keyField is one field by its name in JSON and in messages.
type keyField struct{ name, value string }

func (k Key) fields() []keyField {
	size := ""
	if k.Size != (api.Size{}) {
		size = k.Size.String()
	}
	return []keyField{
		{"engine", k.Engine}, {"model", k.Model}, {"gpu", k.GPU}, {"dtype", k.DType}, {"attention", k.Attention},
		{"steps", strconv.Itoa(k.Steps)}, {"size", size}, {"seed", strconv.FormatInt(k.Seed, 10)}, {"prompt", k.Prompt},
	}
}

// String gives "engine=reference model=reference-dit steps=20 size=1024x1024 seed=7": empty fields and the prompt left out.
func (k Key) String() string {
	var out []string
	for _, f := range k.fields() {
		if f.value != "" && f.name != "prompt" {
			out = append(out, f.name+"="+f.value)
		}
	}
	return strings.Join(out, " ")
}

// Differs lists what is not equal: `steps 20, golden has 50`.
func (k Key) Differs(golden Key) []string {
	var out []string
	g := golden.fields()
	for i, f := range k.fields() {
		if f.value != g[i].value {
			out = append(out, fmt.Sprintf("%s %s, golden has %s", f.name, orNone(f.value), orNone(g[i].value)))
		}
	}
	return out
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return clip(s, 60)
}

// jsonKey is the key on disk, its size in the form that people read.
type jsonKey struct {
	Engine    string `json:"engine"`
	Model     string `json:"model"`
	GPU       string `json:"gpu,omitempty"`
	DType     string `json:"dtype,omitempty"`
	Attention string `json:"attention,omitempty"`
	Steps     int    `json:"steps"`
	Size      string `json:"size"`
	Seed      int64  `json:"seed"`
	Prompt    string `json:"prompt,omitempty"`
}

// Golden is an approved picture: a sidecar golden.json with its hashes and colours, the crops of its text and, if kept, the
// whole PNG.
type Golden struct {
	Name        string
	Key         Key
	Width       int // pixels
	Height      int
	Format      string   // of the file it was made from: "png"; "" for one that never was a file
	PixelSHA256 []string // approved pixels (see PixelSHA256 the function); any of them passes at once
	PHash64     Hash     // whole picture
	ExtP256     Hash
	HashLib     string // HashLib when it was made
	Colours     *ColourGrid
	Boxes       []GoldenBox
	PNG         string // file name in the golden's folder; "": only crops were kept

	texts []textRef
	low   *lowPass // what stands outside the text; nil without boxes
	fsys  fs.FS
}

// GoldenBox is one line of text with its crop.
type GoldenBox struct {
	Box
	ExtP256 Hash   // of the crop with its margin
	Crop    string // file name, "text-0.png"
}

type jsonBox struct {
	Text    string `json:"text"`
	Rect    [4]int `json:"rect"` // x0, y0, x1, y1
	Lines   int    `json:"lines,omitempty"`
	ExtP256 Hash   `json:"extp256"`
	Crop    string `json:"crop"`
}

type jsonGolden struct {
	Name        string    `json:"name"`
	Key         jsonKey   `json:"key"`
	Width       int       `json:"width"`
	Height      int       `json:"height"`
	Format      string    `json:"format,omitempty"`
	PixelSHA256 []string  `json:"pixel_sha256"`
	PHash64     Hash      `json:"phash64"`
	ExtP256     Hash      `json:"extp256"`
	HashLib     string    `json:"hash_lib"`
	Colours     []string  `json:"colours,omitempty"` // 16 lines of 16 RRGGBB
	Boxes       []jsonBox `json:"boxes,omitempty"`
	PNG         string    `json:"png,omitempty"`
}

// MarshalJSON writes the sidecar.
func (g *Golden) MarshalJSON() ([]byte, error) {
	k := g.Key
	j := jsonGolden{g.Name, jsonKey{k.Engine, k.Model, k.GPU, k.DType, k.Attention, k.Steps, k.Size.String(), k.Seed, k.Prompt},
		g.Width, g.Height, g.Format, g.PixelSHA256, g.PHash64, g.ExtP256, g.HashLib, g.Colours.lines(), nil, g.PNG}
	for _, b := range g.Boxes {
		r := b.Rect
		j.Boxes = append(j.Boxes, jsonBox{b.Text, [4]int{r.Min.X, r.Min.Y, r.Max.X, r.Max.Y}, b.Lines, b.ExtP256, b.Crop})
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads a sidecar strictly: an unknown field is a typing error.
func (g *Golden) UnmarshalJSON(raw []byte) error {
	var j jsonGolden
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return err
	}
	size, err := api.ParseSize(j.Key.Size)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	var grid *ColourGrid // LoadGolden refuses a sidecar without
	if j.Colours != nil {
		if grid, err = parseGrid(j.Colours); err != nil {
			return err
		}
	}
	k := j.Key
	*g = Golden{Name: j.Name, Key: Key{k.Engine, k.Model, k.GPU, k.DType, k.Attention, k.Steps, size, k.Seed, k.Prompt},
		Width: j.Width, Height: j.Height, Format: j.Format, PixelSHA256: j.PixelSHA256, PHash64: j.PHash64, ExtP256: j.ExtP256,
		HashLib: j.HashLib, Colours: grid, PNG: j.PNG}
	for _, b := range j.Boxes {
		r := b.Rect
		g.Boxes = append(g.Boxes, GoldenBox{Box{b.Text, image.Rectangle{Min: image.Pt(r[0], r[1]), Max: image.Pt(r[2], r[3])}, b.Lines}, b.ExtP256, b.Crop})
	}
	return nil
}

// sidecar is the file name of a golden's JSON in its folder.
const sidecar = "golden.json"

// LoadGolden reads <name>/golden.json with its crops. fs.ErrNotExist (by errors.Is) if there is none. Hashes of another
// library version, and crops that are not what the sidecar says, are errors.
func LoadGolden(fsys fs.FS, name string) (*Golden, error) {
	file := path.Join(name, sidecar)
	raw, err := fs.ReadFile(fsys, file)
	if err != nil {
		return nil, fmt.Errorf("golden %s: %w", name, err)
	}
	g := &Golden{}
	if err := json.Unmarshal(raw, g); err != nil {
		return nil, fmt.Errorf("golden %s: %w", file, err)
	}
	g.fsys = fsys
	if g.HashLib != HashLib {
		return nil, fmt.Errorf("golden %s: its hashes are %s, this is %s, and other versions give other bits: make it again", file, orNone(g.HashLib), HashLib)
	}
	if len(g.PixelSHA256) == 0 || g.PHash64.Bits() != 64 || g.ExtP256.Bits() != 256 {
		return nil, fmt.Errorf("golden %s: not complete: %d pixel hashes, phash64 of %d bits, extp256 of %d bits", file, len(g.PixelSHA256), g.PHash64.Bits(), g.ExtP256.Bits())
	}
	if g.Colours == nil { // hashes alone let wrong colours pass
		return nil, fmt.Errorf("golden %s: no colours: it was made before colours were compared; run once with OMNITEST_UPDATE=1 and review what changes", file)
	}
	for _, b := range g.Boxes {
		t, err := loadText(fsys, path.Join(name, b.Crop), b, image.Rect(0, 0, g.Width, g.Height))
		if err != nil {
			return nil, fmt.Errorf("golden %s: %w", file, err)
		}
		g.texts = append(g.texts, t)
	}
	if len(g.Boxes) > 0 { // a golden of text that does not see a second text is none
		img, err := readPNG(fsys, path.Join(name, lowPassFile))
		if errors.Is(err, fs.ErrNotExist) {
			err = errNoLowPass
		}
		if err != nil {
			return nil, fmt.Errorf("golden %s: %w", file, err)
		}
		l, err := lowPassOf(img, g.Width, g.Height)
		if err != nil {
			return nil, fmt.Errorf("golden %s: %s: %w", file, lowPassFile, err)
		}
		g.low = &l
	}
	return g, nil
}

func loadText(fsys fs.FS, file string, b GoldenBox, picture image.Rectangle) (textRef, error) {
	frame, err := textFrame(b.Box, picture)
	if err != nil {
		return textRef{}, err
	}
	img, err := readPNG(fsys, file)
	if err != nil {
		return textRef{}, err
	}
	if img.Rect.Size() != frame.Size() {
		return textRef{}, fmt.Errorf("%s is %v, the box with its margin %v", file, img.Rect.Size(), frame.Size())
	}
	h, err := ExtP256(img)
	if err != nil {
		return textRef{}, fmt.Errorf("%s: %w", file, err)
	}
	if h != b.ExtP256 {
		return textRef{}, fmt.Errorf("%s has hash %s, the sidecar says %s", file, h, b.ExtP256)
	}
	return textRef{Box: b.Box, frame: frame, crop: img, hash: h}, nil
}

// picture reads the whole approved picture; nil if only crops were kept.
func (g *Golden) picture(name string) (*image.RGBA, error) {
	if g.PNG == "" || g.fsys == nil {
		return nil, nil
	}
	img, err := readPNG(g.fsys, path.Join(name, g.PNG))
	if err != nil {
		return nil, err
	}
	// Translucent pixels lose low bits on their way through PNG and back to premultiplied RGBA: no SHA-256 survives that.
	if sha := PixelSHA256(img); img.Opaque() && !slices.Contains(g.PixelSHA256, sha) {
		return nil, fmt.Errorf("golden %s: pixels of %s have SHA-256 %.12s, which the sidecar does not approve", name, g.PNG, sha)
	}
	return img, nil
}

func readPNG(fsys fs.FS, file string) (*image.RGBA, error) {
	raw, err := fs.ReadFile(fsys, file)
	if err != nil {
		return nil, err
	}
	img, err := png.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return toRGBA(img), nil
}

// toRGBA converts to RGBA at origin 0,0.
func toRGBA(img image.Image) *image.RGBA {
	if rgba, ok := img.(*image.RGBA); ok && rgba.Rect.Min == (image.Point{}) {
		return rgba
	}
	b := img.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(out, out.Rect, img, b.Min, draw.Src)
	return out
}

// newGolden measures a picture for approval.
func newGolden(name string, key Key, p Picture, boxes []Box) (*Golden, error) {
	g := &Golden{Name: name, Key: key, Width: p.Size().W, Height: p.Size().H, Format: p.File.Format,
		PixelSHA256: []string{p.sha()}, HashLib: HashLib}
	var err1, err2 error
	g.PHash64, err1 = p.phash()
	g.ExtP256, err2 = p.extp()
	grid, err3 := p.colours()
	g.Colours = &grid
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	for i, b := range boxes {
		t, err := cutText(p.opaque(), b)
		if err != nil {
			return nil, err
		}
		g.texts = append(g.texts, t)
		g.Boxes = append(g.Boxes, GoldenBox{b, t.hash, fmt.Sprintf("text-%d.png", i)})
	}
	if len(boxes) > 0 {
		l := boxMeans(p.luma(), image.Point{})
		g.low = &l
	}
	return g, nil
}
