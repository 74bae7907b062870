package imagecheck

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

var (
	goldenPoster = poster{w: 640, h: 384, text: "OPEN 24 HOURS", px: 60, panel: true, scene: 11}
	goldenKey    = Key{Engine: "reference", Model: "reference-dit", GPU: "cpu"}
	goldenCase   = Case{Name: "poster-en/open-24-hours", Prompt: `a sign that says "OPEN 24 HOURS"`, Size: api.Size{W: 640, H: 384},
		Steps: 20, Seed: 7, Stack: "disaggregated (simulated)", Repro: "curl -s http://127.0.0.1:8000/v1/images/generations -d '{}'"}
)

// approved makes a store with one golden in it.
func approved(t *testing.T, s Store) (Store, Picture, Box) {
	t.Helper()
	img, rect := goldenPoster.draw(t, goldenPoster.text)
	box := Box{Text: goldenPoster.text, Rect: rect}
	s.Dir = t.TempDir()
	p := Of(img, goldenCase)
	update := s
	update.Update = true
	require.NoError(t, update.Check("open-24-hours", goldenKey, box)(p))
	return s, p, box
}

// wrongLetter is the same poster with one letter wrong.
func wrongLetter(t *testing.T) Picture {
	t.Helper()
	q := goldenPoster
	q.text = "OPEN 24 H0URS"
	img, _ := q.draw(t, goldenPoster.text)
	return Of(img, goldenCase)
}

func TestGoldenAcceptsAndRefuses(t *testing.T) {
	store, right, box := approved(t, Store{})
	golden := store.Check("open-24-hours", goldenKey, box)
	require.NoError(t, golden(right))
	require.NoError(t, golden(Of(noisy(right.Image, 3, 1), goldenCase)))
	require.NoError(t, store.Check("open-24-hours", goldenKey)(right), "without boxes: those of the golden")

	wrong := wrongLetter(t)
	err := golden(wrong)
	assert.EqualError(t, err, `image differs from golden: text crop distance 34, limit 10 (ExtP256); and 4 more
  metric  text-0.ExtP256 34, want <= 10 ("OPEN 24 HOURS")
  metric  text-0.cell-NCC 0.06702, want >= 0.95 ("OPEN 24 HOURS")
  metric  text-0.contour 1.888, want <= 0.15 ("OPEN 24 HOURS")
  metric  colour 38, want <= 28 (worst of 16x16 cells, 0-255)
  metric  ExtP256 16, want <= 12
  case    poster-en/open-24-hours   prompt "a sign that says \"OPEN 24 HOURS\""   size 640x384  steps 20  seed 7
  key     engine=reference model=reference-dit gpu=cpu steps=20 size=640x384 seed=7
  golden  `+filepath.Join(store.Dir, "open-24-hours", "golden.png")+`
  stack   disaggregated (simulated)`)

	q := goldenPoster
	q.text = ""
	none, _ := q.draw(t, goldenPoster.text)
	assert.ErrorContains(t, golden(Of(none, goldenCase)), `image differs from golden: text crop of "OPEN 24 HOURS" has no hash, the text is missing: flat picture`)

	other := goldenPoster
	other.scene = 12
	img, _ := other.draw(t, goldenPoster.text)
	assert.ErrorContains(t, golden(Of(img, goldenCase)), "metric  pHash64 ")
	assert.ErrorContains(t, golden(Of(filled(640, 384, color.Gray{9}), goldenCase)), "image cannot be compared with golden: luma standard deviation 0, at least 4")
	assert.ErrorContains(t, golden(Of(scene(640, 368, 1), goldenCase)), "image cannot be compared with golden: it is 640x368, the key says 640x384")
}

// The evidence lies there before the error is returned, and the message says where.
func TestEvidence(t *testing.T) {
	out := t.TempDir()
	store, right, box := approved(t, Store{Out: out})
	err := store.Check("open-24-hours", goldenKey, box)(wrongLetter(t))
	dir := filepath.Join(out, "poster-en", "open-24-hours", "golden")
	want := fmt.Sprintf("\n  got     %s   golden %s   diff %s   replay %s\n", filepath.Join(dir, "actual.png"),
		filepath.Join(store.Dir, "open-24-hours", "golden.png"), filepath.Join(dir, "side-by-side.png"), filepath.Join(dir, "repro.sh"))
	require.ErrorContains(t, err, want)
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, dir, e.Files.Dir)

	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, f := range list {
		names = append(names, f.Name())
	}
	assert.Equal(t, []string{"actual.png", "crop.png", "expected.png", "heatmap.png", "marked.png", "metrics.json", "repro.sh", "side-by-side.png", "text-0.png"}, names, "and no temporary file")

	actual, err := readPNG(os.DirFS(dir), "actual.png")
	require.NoError(t, err)
	assert.Equal(t, wrongLetter(t).sha(), PixelSHA256(actual))
	expected, err := readPNG(os.DirFS(dir), "expected.png")
	require.NoError(t, err)
	assert.Equal(t, right.sha(), PixelSHA256(expected))
	side, err := readPNG(os.DirFS(dir), "side-by-side.png")
	require.NoError(t, err)
	assert.Equal(t, 3*640+2*8, side.Rect.Dx())
	script, err := os.ReadFile(filepath.Join(dir, "repro.sh"))
	require.NoError(t, err)
	assert.Equal(t, "#!/bin/sh\ncurl -s http://127.0.0.1:8000/v1/images/generations -d '{}'\n", string(script))
	info, err := os.Stat(filepath.Join(dir, "repro.sh"))
	require.NoError(t, err)
	assert.NotZero(t, info.Mode()&0o100)

	raw, err := os.ReadFile(filepath.Join(dir, "metrics.json"))
	require.NoError(t, err)
	var doc struct {
		Check, Summary string
		Metrics        []struct {
			Name      string
			Value     float64
			Bound     *float64
			Direction string
			OK        bool
		}
		Case     map[string]any
		Key      map[string]any
		SHA256   map[string]string `json:"pixel_sha256"`
		Versions map[string]string
	}
	require.NoError(t, json.Unmarshal(raw, &doc))
	assert.Equal(t, "golden", doc.Check)
	failed := map[string]bool{}
	for _, m := range doc.Metrics {
		failed[m.Name] = !m.OK
	}
	assert.Equal(t, map[string]bool{"luma-stddev": false, "one-colour": false, "pixels-approved": false,
		"text-0.ExtP256": true, "text-0.cell-NCC": true, "text-0.contour": true, "gain": false, "elsewhere": false, "colour": true, "pHash64": false, "ExtP256": true}, failed, "everything measured, not only what failed")
	assert.Equal(t, HashLib, doc.Versions["hash"])
	assert.Equal(t, "reference", doc.Key["engine"])
	assert.Equal(t, "640x384", doc.Case["size"])
	assert.Equal(t, right.sha(), doc.SHA256["expected"])
}

func TestEvidenceThatCannotBeWritten(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(blocked, nil, 0o644))
	p := wrongLetter(t)
	p.Case.Dir = blocked
	err := Size(api.Size{W: 1, H: 1})(p)
	assert.ErrorContains(t, err, "wrong picture size: decoded 640x384, want 1x1")
	assert.ErrorContains(t, err, "\n  cause   evidence not complete: ")
}

func TestEvidenceFolder(t *testing.T) {
	for name, want := range map[string]string{
		"":                       "out/picture/size",
		"a/b":                    "out/a/b/size",
		"../../etc/passwd":       "out/etc/passwd/size",
		"prompt: \"x\" 通义/..":    "out/prompt---x--通义/size",
		"/abs":                   "out/abs/size",
		strings.Repeat("n", 200): "out/" + strings.Repeat("n", 80) + "/size",
	} {
		assert.Equal(t, filepath.FromSlash(want), evidenceDir(Case{Dir: "out", Name: name}, "size"))
	}
}

// A missing golden fails, keeps the picture, and says what to do.
func TestMissingGolden(t *testing.T) {
	out := t.TempDir()
	store := Store{Dir: t.TempDir(), Out: out}
	_, right, box := approved(t, Store{})
	err := store.Check("new-one", goldenKey, box)(right)
	require.ErrorContains(t, err, "golden missing: new-one\n")
	assert.ErrorContains(t, err, "\n  remedy  look at the picture; if it is right, run once with OMNITEST_UPDATE=1 and commit "+filepath.Join(store.Dir, "new-one")+"\n")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	assert.FileExists(t, filepath.Join(out, "poster-en", "open-24-hours", "golden", "actual.png"))
	_, err = os.Stat(filepath.Join(store.Dir, "new-one"))
	assert.ErrorIs(t, err, fs.ErrNotExist, "nothing is written without Update")
}

func TestAnotherKeyIsNoComparison(t *testing.T) {
	store, right, box := approved(t, Store{})
	key := goldenKey
	key.Engine, key.Steps, key.DType = "vllm-omni", 50, "bfloat16"
	err := store.Check("open-24-hours", key, box)(right)
	assert.ErrorContains(t, err, "golden has another key: engine vllm-omni, golden has reference; dtype bfloat16, golden has none; steps 50, golden has 20\n")
	other := right
	other.Case.Prompt = "another prompt"
	assert.ErrorContains(t, store.Check("open-24-hours", goldenKey, box)(other), `golden has another key: prompt another prompt, golden has a sign that says`)
	box.Rect.Max.X--
	assert.ErrorContains(t, store.Check("open-24-hours", goldenKey, box)(right), "golden has other text boxes: ")
}

// Update: what already passes adds its pixels, anything else replaces the golden and keeps the old picture.
func TestUpdate(t *testing.T) {
	out := t.TempDir()
	store, right, box := approved(t, Store{Out: out})
	update := store
	update.Update = true

	benign := Of(noisy(right.Image, 2, 1), goldenCase)
	require.NoError(t, update.Check("open-24-hours", goldenKey, box)(benign))
	g, err := LoadGolden(os.DirFS(store.Dir), "open-24-hours")
	require.NoError(t, err)
	assert.Equal(t, []string{right.sha(), benign.sha()}, g.PixelSHA256)
	require.NoError(t, update.Check("open-24-hours", goldenKey, box)(benign))
	var seen []Metric
	benign.Case.Observe = func(_ string, m []Metric) { seen = m }
	require.NoError(t, store.Check("open-24-hours", goldenKey, box)(benign))
	assert.Equal(t, "pixels-approved", seen[len(seen)-1].Name, "approved pixels pass at once")

	wrong := wrongLetter(t)
	require.Error(t, store.Check("open-24-hours", goldenKey, box)(wrong))
	require.NoError(t, update.Check("open-24-hours", goldenKey, box)(wrong))
	require.NoError(t, store.Check("open-24-hours", goldenKey, box)(wrong))
	require.Error(t, store.Check("open-24-hours", goldenKey, box)(right))
	prev, err := readPNG(os.DirFS(filepath.Join(out, "poster-en", "open-24-hours", "golden")), "expected.prev.png")
	require.NoError(t, err)
	assert.Equal(t, right.sha(), PixelSHA256(prev))

	assert.ErrorContains(t, update.Check("blank", goldenKey)(Of(filled(640, 384, color.White), goldenCase)), "image cannot become golden: luma standard deviation 0")
	assert.ErrorContains(t, update.Check("small", goldenKey)(Of(scene(64, 64, 1), goldenCase)), "image cannot become golden: it is 64x64, the key says 640x384")
	assert.ErrorContains(t, update.Check("box", goldenKey, Box{Text: "X", Rect: image.Rect(600, 0, 700, 30)})(right),
		`cause   text box (600,0)-(700,30) "X" is not inside the picture of 640x384`)
	sign := image.Rect(box.Rect.Min.X-11, box.Rect.Min.Y-11, box.Rect.Min.X-9, box.Rect.Min.Y-9)
	flat := Of(filled(640, 384, color.Gray{200}), goldenCase)
	for x := range 640 { // not blank as a whole, but empty in the box
		for y := 300; y < 384; y++ {
			flat.Image.SetRGBA(x, y, color.RGBA{uint8(x), uint8(y), 0, 255})
		}
	}
	assert.ErrorContains(t, update.Check("empty", goldenKey, Box{Text: "X", Rect: sign})(flat), "flat picture")
	assert.ErrorContains(t, Store{FS: fstest.MapFS{}, Update: true}.Check("x", goldenKey)(right), "cause   Update needs Store.Dir")
	for _, name := range []string{"blank", "small", "box", "empty"} {
		_, err := os.Stat(filepath.Join(store.Dir, name, sidecar))
		assert.ErrorIs(t, err, fs.ErrNotExist, name)
	}
}

// A golden is text that people review: this is how it looks.
func TestSidecar(t *testing.T) {
	store, right, box := approved(t, Store{})
	raw, err := os.ReadFile(filepath.Join(store.Dir, "open-24-hours", "golden.json"))
	require.NoError(t, err)
	h, x, grid := must(right.phash()), must(right.extp()), must(right.colours())
	crop := must(ExtP256(crop(right.Image, box.Rect.Inset(-8))))
	assert.Equal(t, fmt.Sprintf(`{
  "name": "open-24-hours",
  "key": {
    "engine": "reference",
    "model": "reference-dit",
    "gpu": "cpu",
    "steps": 20,
    "size": "640x384",
    "seed": 7,
    "prompt": "a sign that says \"OPEN 24 HOURS\""
  },
  "width": 640,
  "height": 384,
  "pixel_sha256": [
    "%s"
  ],
  "phash64": "%s",
  "extp256": "%s",
  "hash_lib": "goimagehash v1.1.0",
  "colours": [
    "%s"
  ],
  "boxes": [
    {
      "text": "OPEN 24 HOURS",
      "rect": [
        %d,
        %d,
        %d,
        %d
      ],
      "extp256": "%s",
      "crop": "text-0.png"
    }
  ],
  "png": "golden.png"
}
`, right.sha(), h, x, strings.Join(grid.lines(), "\",\n    \""), box.Rect.Min.X, box.Rect.Min.Y, box.Rect.Max.X, box.Rect.Max.Y, crop), string(raw))
}

// Every way in which a stored golden can be damaged is an error, never a comparison.
func TestDamagedGoldens(t *testing.T) {
	store, right, box := approved(t, Store{})
	good := fstest.MapFS{}
	for _, f := range []string{"golden.json", "golden.png", "luma-8.png", "text-0.png"} {
		raw, err := os.ReadFile(filepath.Join(store.Dir, "open-24-hours", f))
		require.NoError(t, err)
		good["open-24-hours/"+f] = &fstest.MapFile{Data: raw}
	}
	require.NoError(t, Store{FS: good}.Check("open-24-hours", goldenKey, box)(right), "goldens can be embedded")
	g, err := LoadGolden(good, "open-24-hours")
	require.NoError(t, err)
	firstLine := g.Colours.lines()[0]
	g.Colours = nil // as sidecars were before colours
	old, err := json.Marshal(g)
	require.NoError(t, err)
	otherCrop := pngOf(t, scene(box.Rect.Dx()+16, box.Rect.Dy()+16, 3))
	for name, c := range map[string]struct {
		file, from, to, says string
		data                 []byte
		remove               bool
	}{
		"hash library":                 {file: "golden.json", from: "v1.1.0", to: "v0.1.0", says: "its hashes are goimagehash v0.1.0, this is goimagehash v1.1.0, and other versions give other bits: make it again"},
		"typing error":                 {file: "golden.json", from: `"phash64"`, to: `"phash46"`, says: `unknown field "phash46"`},
		"bad hash":                     {file: "golden.json", from: `"phash64": "p:`, to: `"phash64": "z:`, says: "want p: and 16 or 64 hex digits"},
		"no JSON":                      {file: "golden.json", data: []byte("{"), says: "unexpected end of JSON input"},
		"not complete":                 {file: "golden.json", data: []byte(`{"key":{"size":"1x1"},"hash_lib":"goimagehash v1.1.0"}`), says: "not complete: 0 pixel hashes"},
		"no colours":                   {file: "golden.json", data: old, says: "no colours: it was made before colours were compared; run once with OMNITEST_UPDATE=1 and review what changes"},
		"colour line":                  {file: "golden.json", from: firstLine, to: firstLine[2:], says: "colours: line 0: want 96 hex digits"},
		"colour digit":                 {file: "golden.json", from: firstLine, to: "x" + firstLine[1:], says: "colours: line 0: want 96 hex digits"},
		"colour lines":                 {file: "golden.json", from: "\"" + firstLine + "\",", to: "", says: "colours: 15 lines, want 16"},
		"size":                         {file: "golden.json", from: `"size": "640x384"`, to: `"size": "big"`, says: `size "big": want WxH`},
		"another crop":                 {file: "text-0.png", data: otherCrop, says: "text-0.png has hash p:"},
		"crop size":                    {file: "text-0.png", data: pngOf(t, scene(40, 40, 3)), says: "text-0.png is (40,40), the box with its margin "},
		"crop no PNG":                  {file: "text-0.png", data: []byte("not a png"), says: "text-0.png: png: invalid format"},
		"no surroundings":              {file: "luma-8.png", remove: true, says: "no luma-8.png: it was made before extra text was looked for; run once with OMNITEST_UPDATE=1"},
		"surroundings of another size": {file: "luma-8.png", data: pngOf(t, scene(40, 40, 3)), says: "luma-8.png: it is 40x40 boxes, a picture of 640x384 has 80x48"},
		"box elsewhere":                {file: "golden.json", from: fmt.Sprintf("\"rect\": [\n        %d", box.Rect.Min.X), to: "\"rect\": [\n        -5", says: "is not inside the picture of 640x384"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := fstest.MapFS{}
			for k, v := range good {
				bad[k] = v
			}
			data := c.data
			if data == nil && !c.remove {
				data = bytes.Replace(good["open-24-hours/"+c.file].Data, []byte(c.from), []byte(c.to), 1)
				require.NotEqual(t, good["open-24-hours/"+c.file].Data, data)
			}
			bad["open-24-hours/"+c.file] = &fstest.MapFile{Data: data}
			if c.remove {
				delete(bad, "open-24-hours/"+c.file)
			}
			err := Store{FS: bad}.Check("open-24-hours", goldenKey)(right)
			require.ErrorContains(t, err, "golden cannot be used: open-24-hours\n")
			assert.ErrorContains(t, err, c.says)
		})
	}
	t.Run("whole picture", func(t *testing.T) { // only read when something differs
		good["open-24-hours/golden.png"] = &fstest.MapFile{Data: pngOf(t, scene(640, 384, 3))}
		err := Store{FS: good}.Check("open-24-hours", goldenKey)(wrongLetter(t))
		assert.ErrorContains(t, err, "image differs from golden")
		assert.ErrorContains(t, err, "which the sidecar does not approve")
	})
}

// Without a whole picture there is no heatmap, but the crops still judge and are shown.
func TestCropsOnly(t *testing.T) {
	out := t.TempDir()
	store, _, box := approved(t, Store{Out: out, CropsOnly: true})
	_, err := os.Stat(filepath.Join(store.Dir, "open-24-hours", "golden.png"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	err = store.Check("open-24-hours", goldenKey, box)(wrongLetter(t))
	dir := filepath.Join(out, "poster-en", "open-24-hours", "golden")
	assert.ErrorContains(t, err, "golden "+filepath.Join(store.Dir, "open-24-hours", "golden.json")+"   diff "+filepath.Join(dir, "text-0.png"))
}

// A translucent picture can be approved: its SHA-256 does not survive PNG, its hashes do.
func TestTranslucentGolden(t *testing.T) {
	img := scene(256, 192, 4)
	for i := 3; i < len(img.Pix); i += 4 * 7 {
		a := img.Pix[i] / 3
		for c := 1; c <= 3; c++ {
			img.Pix[i-c] = uint8(int(img.Pix[i-c]) * int(a) / 255)
		}
		img.Pix[i] = a
	}
	c := Case{Name: "rgba", Size: api.Size{W: 256, H: 192}, Steps: 2, Seed: 1}
	store := Store{Dir: t.TempDir()}
	update := store
	update.Update = true
	box := Box{Text: "?", Rect: image.Rect(60, 60, 150, 100)}
	require.NoError(t, update.Check("rgba", goldenKey, box)(Of(img, c)))
	require.NoError(t, store.Check("rgba", goldenKey, box)(Of(img, c)))
	err := store.Check("rgba", goldenKey, box)(Of(scene(256, 192, 5), c))
	assert.ErrorContains(t, err, "image differs from golden")
	assert.NotContains(t, err.Error(), "does not approve")
}

func TestDecode(t *testing.T) {
	raw := pngOf(t, scene(64, 48, 1))
	im, err := api.ReadImage(raw, api.Limits{})
	require.NoError(t, err)
	p, err := Decode(im, Case{Name: "x"})
	require.NoError(t, err)
	assert.Equal(t, api.Size{W: 64, H: 48}, p.Size())
	assert.Equal(t, raw, p.Raw())
	require.NoError(t, Format("png")(p))

	all, err := DecodeAll(&api.Images{Items: []api.Image{im, im}, Size: "99x99"}, Case{Name: "x"})
	require.NoError(t, err)
	assert.Equal(t, "x-1", all[1].Case.Name)
	assert.ErrorContains(t, Size(api.Size{W: 99, H: 99})(all[0]), "decoded 64x48, want 99x99; the answer's size field claims 99x99")

	// A cut file: its bytes are kept.
	out := t.TempDir()
	cut := im
	cut.Raw = raw[:len(raw)/2]
	_, err = Decode(cut, Case{Name: "x", Dir: out})
	require.ErrorContains(t, err, fmt.Sprintf("picture does not decode: %d bytes of png, header says 64x48\n", len(cut.Raw)))
	kept, err := os.ReadFile(filepath.Join(out, "x", "decode", "raw.bin"))
	require.NoError(t, err)
	assert.Equal(t, cut.Raw, kept)
	_, err = DecodeAll(&api.Images{Items: []api.Image{cut}}, Case{})
	assert.Error(t, err)
}

func pngOf(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, img))
	return b.Bytes()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
