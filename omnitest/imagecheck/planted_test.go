package imagecheck

import (
	"context"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"image"
	"image/color"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// planted is one defect for a check.
type planted struct {
	check Check
	bad   Picture
	says  string   // the summary; {n} stands for a number that only the measurement tells
	files []string // beside actual.png, metrics.json and repro.sh
	key   string   // of its bounds; "": the defaults
}

var keepEvidence = flag.String("evidence", "", "folder that keeps the evidence of the planted defects, to be looked at")

// What evidence a check leaves by its kind.
var (
	compared = []string{"crop.png", "expected.png", "heatmap.png", "side-by-side.png"}
	edited   = []string{"crop.png", "heatmap.png", "input.png", "side-by-side.png"}
	masked   = append([]string{"mask.png"}, edited...)
	marked   = []string{"marked.png"}
	lettered = append([]string{"marked.png", "text-0.png"}, compared...)
)

// steps of grey, far from black and from white, so that a constant can be added exactly.
func stairs(w, h int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, w, h))
	for y := range h {
		for x := range w {
			v := uint8(90 + 10*(x/32%8) + 5*(y/32%3))
			img.SetRGBA(x, y, color.RGBA{v, v, v, 255})
		}
	}
	return img
}

// lifted adds a constant to a part: the PSNR of a whole picture lifted by d is 20*log10(255/d).
func lifted(img *image.RGBA, r image.Rectangle, d int) *image.RGBA {
	out := clone(img)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			for c := range 3 {
				out.Pix[out.PixOffset(x, y)+c] = uint8(int(out.Pix[out.PixOffset(x, y)+c]) + d)
			}
		}
	}
	return out
}

// misreads is a reader that is wrong.
type misreads string

func (m misreads) Read(context.Context, *image.RGBA, string, int, bool) (string, error) {
	return string(m), nil
}

func plantedDefects(t *testing.T) map[string]planted {
	base := stairs(256, 192)
	whole := base.Rect
	region := image.Rect(32, 32, 96, 96)
	square := func(c color.Color) *image.RGBA { return withSquare(base, image.Rect(64, 64, 128, 128), c) }
	red := color.RGBA{0xe5, 0, 0, 255}
	store, right, box := approved(t, Store{})
	wrong := wrongLetter(t)
	extra := withSquare(right.Image, image.Rect(16, 336, 48, 368), color.Black)
	return map[string]planted{
		"Size":           {Size(api.Size{W: 512, H: 192}), ask(base), "wrong picture size: decoded 256x192, want 512x192; the answer claims no size", nil, ""},
		"Format":         {Format("png"), file(ask(base), "jpeg"), "wrong picture format: jpeg by its bytes, want png", nil, ""},
		"Opaque":         {Opaque(), ask(withHole(base)), "picture has transparent parts: least alpha 0, at least 255 (of 255)", nil, ""},
		"NotBlank":       {NotBlank(), ask(filled(256, 192, color.Gray{128})), "picture is blank: luma standard deviation 0, at least 4 (0-255)", nil, ""},
		"Plain":          {Plain(), file(ask(base), "png"), `picture file is not plain: no png, jpeg or webp: protocol: image file of 5 bytes is no png, jpeg or webp: it begins "bytes"`, nil, ""},
		"Aspect":         {Aspect(1, 1), ask(base), "wrong aspect ratio: it is 256x192, asked for 1:1, off by 0.3333, limit 0.02 (of the ratio)", nil, ""},
		"SamePixels":     {SamePixels(ask(base)), ask(lifted(base, whole, 8)), "pixels differ: SHA-256 {any}, want {any}; PSNR 30.07 dB, largest difference 8, 99 % of the values within 8", compared, ""},
		"SameUnderLoad":  {SameUnderLoad(ask(base)), ask(lifted(base, whole, 4)), "picture differs under load: PSNR 36.09, at least 40 (dB)", compared, ""},
		"Parity":         {Parity(ask(base)), ask(lifted(base, whole, 12)), "picture differs from control: PSNR 26.55, at least 27 (dB)", compared, ""},
		"ParityEdit":     {ParityEdit(ask(base)), ask(lifted(base, whole, 11)), "edit differs from control: PSNR 27.3, at least 28 (dB)", compared, ""},
		"Distinct":       {Distinct(ask(scene(256, 192, 3))), ask(noisy(scene(256, 192, 3), 3, 3)), `pictures of different prompts are alike: distance {n}, at least 10 (pHash64), and {n}, at least 40 (ExtP256), to the picture of prompt "a harbour"`, []string{"expected.png", "heatmap.png", "side-by-side.png"}, ""},
		"LessNoise":      {LessNoise(ask(noisy(base, 12, 1))), ask(noisy(base, 12, 2)), "more steps do not help: noise sigma {n} against {n} with fewer steps, ratio {n}, limit 0.9 (Immerkaer, median)", compared, ""},
		"EditInside":     {EditInside(ask(base), region), ask(lifted(base, region, 5)), "edit did not happen: changed tiles of the region 0, at least 0.25 (tile MAD > 8)", masked, ""},
		"EditOutside":    {EditOutside(ask(base), region), ask(lifted(base, image.Rect(192, 128, 224, 160), 40)), "picture changed outside the region: tile MAD at (192,128)-(224,160) is 40, limit 8 (worst 32 px window, 0-255)", masked, ""},
		"EditLocal":      {EditLocal(ask(base)), ask(lifted(base, image.Rect(0, 0, 256, 96), 40)), "edit redrew more than it was asked for: changed tiles of the picture 0.5, limit 0.4 (tile MAD > 8)", edited, ""},
		"KeptOverTurns":  {KeptOverTurns(ask(base), 4, region), ask(lifted(base, image.Rect(192, 128, 224, 160), 40)), "picture changed outside the regions of all turns: tile MAD at (192,128)-(224,160) is 40, limit 16 (worst 32 px window, 0-255)", masked, ""},
		"NoDrift":        {NoDrift(ask(base), 4, region), ask(lifted(base, whole, 7)), "picture drifted over the turns: mean of red moved by 7, limit 5 (0-255)", masked, ""},
		"StyleChanged":   {StyleChanged(ask(base)), ask(lifted(base, whole, 7)), "style transfer: changed tiles of the picture 0, at least 0.3 (tile MAD > 8)", edited, ""},
		"Greyscale":      {Greyscale(), ask(square(red)), "picture has colour: chroma of #e50000 at (120,120)-(128,128) is 229, limit 12 (99th percentile of 8x8 px boxes, 0-255)", nil, ""},
		"Colour":         {Colour(image.Rect(64, 64, 128, 128), "blue"), ask(square(red)), "wrong colour: (64,64)-(128,128) is #e50000, which is red, want blue; hue {n} degrees off, lightness {any}", marked, ""},
		"Shows":          {Shows(image.Rect(0, 0, 256, 192), "blue"), ask(square(red)), "colour is missing: none of the 256 cells inside (0,0)-(256,192) is blue; the nearest, cell {any}, is #{any}", marked, ""},
		"ColourLike":     {ColourLike(image.Rect(64, 64, 128, 128), image.Rect(192, 64, 224, 96)), ask(square(red)), "place does not look like its surroundings: (64,64)-(128,128) is #e50000, (192,64)-(224,96) is #{any}, distance {n}, limit 28", marked, ""},
		"KeptColour":     {KeptColour(ask(base), image.Rect(0, 0, 64, 64)), ask(lifted(base, whole, 30)), "colour changed elsewhere: [(0,0)-(64,64)] is #{any}, it was #{any}, distance 30, limit 28", append(marked, compared...), ""},
		"Things":         {Things(2, "red"), ask(square(red)), "wrong number or place of things: 1 things are red, want 2 ((64,64)-(128,128))", marked, keyRequest},
		"Holds":          {Holds(image.Rect(0, 0, 128, 96), ask(scene(128, 96, 3))), ask(base), "another picture was put in: correlation of (0,0)-(128,96) with unit/case {n}, at least 0.8 (NCC of 64x64 px)", []string{"expected.png", "marked.png", "side-by-side.png"}, ""},
		"Text":           {Text(right, box), wrong, "text differs: text crop distance {n}, limit 10 (ExtP256)", lettered, ""},
		"NoExtraText":    {NoExtraText(right, box), Of(extra, goldenCase), "picture shows more than the golden: outside the text boxes, at ({n},{n})-({n},{n}), the difference is {n}, limit {n} (worst 16 px tile, 0-255)", append(marked, compared...), ""},
		"Reads":          {Reads(t.Context(), misreads("OPEN 24 H0URS"), box), right, `text cannot be read: "OPEN 24 HOURS" is read as "OPEN 24 H0URS", character accuracy 0.9091, at least 1 (on a plain ground, best of 4 scales)`, []string{"marked.png", "text-0.png"}, ""},
		"ReadsSomewhere": {ReadsSomewhere(t.Context(), misreads("夜市"), "夜市今天"), right, `text is not in the picture: of "夜市今天" the recall of characters is 0.5, at least 0.75 (read: {any})`, []string{"text.png"}, ""},
		"Store.Check":    {store.Check("open-24-hours", goldenKey, box), wrong, "image differs from golden: text crop distance {n}, limit 10 (ExtP256)", lettered, ""},
	}
}

func withSquare(img *image.RGBA, r image.Rectangle, c color.Color) *image.RGBA {
	out := clone(img)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			out.Set(x, y, c)
		}
	}
	return out
}

// Every exported check has a defect here that trips it, with its words, with a key on each bound, and with all of its evidence.
func TestEveryCheckIsPlanted(t *testing.T) {
	all := plantedDefects(t)
	assert.Equal(t, exportedChecks(t), slices.Sorted(maps.Keys(all)), "a check without a planted defect is a test that nobody has seen fail")
	dir := t.TempDir()
	if *keepEvidence != "" {
		dir = *keepEvidence
	}
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			key := c.key
			if key == "" {
				key = "default"
			}
			bad := c.bad
			bad.Case.Name, bad.Case.Dir, bad.Case.Repro = name, dir, "curl x"
			bad.Case.Observe = func(_ string, ms []Metric) {
				for _, m := range ms {
					if m.Direction != "" {
						assert.Equal(t, key, m.Key, m.Name)
					}
				}
			}
			err := c.check(bad)
			var e *Error
			require.ErrorAs(t, err, &e)
			says := strings.NewReplacer(`\{n\}`, `-?[0-9.]+`, `\{any\}`, `.+`).Replace(regexp.QuoteMeta(c.says))
			assert.Regexp(t, "^"+says+"(; and [0-9]+ more)?$", e.Summary)
			want := slices.Sorted(slices.Values(append([]string{"actual.png", "metrics.json", "repro.sh"}, c.files...)))
			assert.Equal(t, want, listed(t, e.Files.Dir))
		})
	}
}

func listed(t *testing.T, dir string) (names []string) {
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range list {
		names = append(names, f.Name())
	}
	return names
}

// exportedChecks are the exported functions and methods of this room that return a Check, sorted. Count, which judges an answer
// before any picture is decoded, is TestCount's.
func exportedChecks(t *testing.T) (names []string) {
	files, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		require.NoError(t, err)
		for _, d := range f.Decls {
			fn, is := d.(*ast.FuncDecl)
			if !is || !fn.Name.IsExported() || fn.Type.Results == nil || len(fn.Type.Results.List) != 1 {
				continue
			}
			if id, is := fn.Type.Results.List[0].Type.(*ast.Ident); !is || id.Name != "Check" {
				continue
			}
			name := fn.Name.Name
			if fn.Recv != nil {
				name = fn.Recv.List[0].Type.(*ast.Ident).Name + "." + name
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// A value between its bound and its warn level passes, and is shown.
func TestWarnLevels(t *testing.T) {
	base := stairs(256, 192)
	region := image.Rect(0, 0, 64, 64)
	judge := func(check Check, img *image.RGBA, b Bounds) (warned []string, err error) {
		p := ask(img)
		p.Case.Bounds = b
		p.Case.Observe = func(_ string, ms []Metric) {
			for _, m := range ms {
				if m.Warned() {
					warned = append(warned, m.Name)
				}
			}
		}
		err = check(p)
		return warned, err
	}
	warned, err := judge(Parity(ask(base)), lifted(base, base.Rect, 9), Bounds{}) // 29.05 dB
	assert.NoError(t, err)
	assert.Equal(t, []string{"PSNR"}, warned)
	warned, err = judge(Parity(ask(base)), lifted(base, base.Rect, 8), Bounds{}) // 30.07 dB
	assert.NoError(t, err)
	assert.Empty(t, warned)
	warned, err = judge(Parity(ask(base)), lifted(base, base.Rect, 9), Bounds{WarnParityPSNR: -1})
	assert.NoError(t, err)
	assert.Empty(t, warned, "none")
	warned, err = judge(EditOutside(ask(base), region), noisy(base, 5, 1), Bounds{OutsideSSIM: .4}) // grain on flat parts
	assert.NoError(t, err)
	assert.Equal(t, []string{"SSIM"}, warned)
	// Beside a failure a warning is told too.
	_, err = judge(Parity(ask(base)), lifted(base, base.Rect, 9), Bounds{ParitySSIM: 1})
	assert.ErrorContains(t, err, "\n  warn    PSNR 29.05, want >= 27, better >= 30")
}
