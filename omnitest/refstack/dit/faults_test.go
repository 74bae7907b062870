package dit

import (
	"bytes"
	"encoding/json"
	"image"
	"image/draw"
	"image/png"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// generate sends a generation to a server and gives the decoded pictures and the answer.
func generate(t testing.TB, s *Server, body string) ([]*image.RGBA, map[string]any) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "/v1/images/generations", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	require.Equal(t, 200, w.Code, w.Body.String())
	var a struct {
		Data []struct {
			B64 []byte `json:"b64_json"`
		}
	}
	var all map[string]any
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &all))
	var pics []*image.RGBA
	for _, d := range a.Data {
		m, err := png.Decode(bytes.NewReader(d.B64))
		require.NoError(t, err)
		pics = append(pics, rgba(m))
	}
	return pics, all
}

func server(t testing.TB, c Config) *Server {
	t.Helper()
	s, err := New(c)
	require.NoError(t, err)
	return s
}

const poster = `{"prompt":"a sign by the sea \"OPEN 24 HOURS\"","size":"512x384","num_inference_steps":20,"seed":1}`

func TestFaultWrongSize(t *testing.T) {
	pics, all := generate(t, server(t, Config{Faults: Faults{WrongSize: true}}), poster)
	assert.Equal(t, image.Rect(0, 0, 496, 384), pics[0].Rect)
	assert.Equal(t, "512x384", all["size"], "the fault lies about it")
}

func TestFaultBlank(t *testing.T) {
	pics, _ := generate(t, server(t, Config{Faults: Faults{Blank: true}}), poster)
	want := image.NewRGBA(pics[0].Rect)
	draw.Draw(want, want.Rect, image.Black, image.Point{}, draw.Src)
	assert.Equal(t, want.Pix, pics[0].Pix, "one flat colour, all black as recorded of NaN latents")
}

// One look-alike moves the text crop's ExtP256 by 12 at least (measured: 120 substitutions, minimum 12), while the whole
// picture hardly notices.
func TestFaultWrongLetter(t *testing.T) {
	good, _ := generate(t, server(t, Config{}), poster)
	bad, _ := generate(t, server(t, Config{Faults: Faults{WrongLetter: true}}), poster)
	box := TextBox(`a sign by the sea "OPEN 24 HOURS"`, 512, 384)
	assert.GreaterOrEqual(t, extP(t, crop(good[0], box, 8), crop(bad[0], box, 8)), 12)
	assert.LessOrEqual(t, extP(t, good[0], bad[0]), 24)
	for _, s := range strips(good[0].Rect, box.Inset(-8)) {
		assert.Zero(t, rmse(good[0], bad[0], s), "pixels outside of the text differ")
	}
}

func TestFaultWrongLetterChinese(t *testing.T) {
	j := Job{Prompt: "“今日开业”", W: 512, H: 512}
	good, bad := render(t, Config{}, j), render(t, Config{Faults: Faults{WrongLetter: true}}, j)
	assert.Equal(t, good.TextBox, bad.TextBox)
	assert.GreaterOrEqual(t, extP(t, crop(good.Image, good.TextBox, 8), crop(bad.Image, good.TextBox, 8)), 6)
}

func TestFaultNoText(t *testing.T) {
	j := Job{Prompt: `"OPEN 24 HOURS"`, W: 512, H: 384}
	good, bad := render(t, Config{}, j), render(t, Config{Faults: Faults{NoText: true}}, j)
	assert.Greater(t, extP(t, crop(good.Image, good.TextBox, 8), crop(bad.Image, good.TextBox, 8)), 80)
	inner := crop(bad.Image, good.TextBox.Inset(1), 0)
	assert.Less(t, spread(inner), 12.0, "something is written on the sign")
	assert.Greater(t, spread(crop(good.Image, good.TextBox, 0)), 60.0)

	e := Job{Prompt: `change the text to "BYE"`, Inputs: []image.Image{testPicture(512, 512)}}
	with, without := render(t, Config{}, e), render(t, Config{Faults: Faults{NoText: true}}, e)
	assert.Greater(t, rmse(with.Image, without.Image, with.TextBox), 60.0, "edits lose their text too")
}

// spread is the standard deviation of luma.
func spread(m *image.RGBA) float64 {
	mean := meanLuma(m, m.Rect)
	sum, n := 0.0, 0.0
	eachPixel(m, m.Rect, func(p []byte) { d := float64(lumaOf(p)) - mean; sum += d * d; n++ })
	return math.Sqrt(sum / n)
}

func TestFaultEditIgnored(t *testing.T) {
	in := testPicture(512, 512)
	for _, p := range []string{"make the top left red", "as a watercolor", `write "HI"`} {
		r := render(t, Config{Faults: Faults{EditIgnored: true}}, Job{Prompt: p, Inputs: []image.Image{in}})
		assert.Less(t, worst(tiles(in, r.Image, in.Rect)), 4.0, p)
		assert.Positive(t, rmse(in, r.Image, in.Rect), "the VAE's loss stays")
	}
}

func TestFaultEditOutsideRegion(t *testing.T) {
	in := testPicture(768, 512)
	for _, p := range localEdits {
		r := render(t, Config{Faults: Faults{EditOutsideRegion: true}}, Job{Prompt: p, Inputs: []image.Image{in}})
		n := 0
		wide := r.Region.Inset(-32)
		for _, s := range strips(in.Rect, wide.Intersect(in.Rect)) {
			for _, v := range tiles(in, r.Image, s) {
				if v > 8 {
					n++
				}
			}
		}
		assert.GreaterOrEqual(t, n, 1, "%s: no changed tile outside of %v", p, r.Region)
		assert.LessOrEqual(t, n, 9, "%s: more than a 64 px patch changed", p)
	}
	all := render(t, Config{}, Job{Prompt: "sketch", Inputs: []image.Image{in}})
	same := render(t, Config{Faults: Faults{EditOutsideRegion: true}}, Job{Prompt: "sketch", Inputs: []image.Image{in}})
	assert.Equal(t, all.Image.Pix, same.Image.Pix, "a style edit has no outside")
}

func TestFaultWrongCount(t *testing.T) {
	s := server(t, Config{Faults: Faults{WrongCount: true}})
	pics, _ := generate(t, s, `{"prompt":"x","size":"64x64","n":2,"seed":1}`)
	assert.Len(t, pics, 3)
	healthy, _ := generate(t, server(t, Config{}), `{"prompt":"x","size":"64x64","n":2,"seed":1}`)
	assert.Len(t, healthy, 2)
}

func TestPicturesOfOneRequestDiffer(t *testing.T) {
	two, _ := generate(t, server(t, Config{}), `{"prompt":"x","size":"64x64","n":2,"seed":5,"num_inference_steps":4}`)
	second, _ := generate(t, server(t, Config{MaxBatch: 2}), `{"prompt":"x","size":"64x64","n":1,"seed":6,"num_inference_steps":4}`)
	assert.NotEqual(t, two[0].Pix, two[1].Pix)
	assert.Equal(t, two[1].Pix, second[0].Pix, "picture i has seed + i")
}

// Recorded: the files are 8 bit RGB and not compressed.
func TestStoredPNG(t *testing.T) {
	for _, size := range [][2]int{{16, 16}, {333, 211}, {1376, 768}} {
		m := testPicture(size[0], size[1])
		file, format, err := encodeAs(nil, m, "", 0)
		require.NoError(t, err)
		assert.Equal(t, "png", format)
		assert.Equal(t, []byte{8, 2}, file[24:26], "bits and colour type of IHDR")
		assert.InDelta(t, 3*size[0]*size[1], len(file), 500+float64(size[1])+float64(len(file))/1000, "stored, not compressed")
		back, err := png.Decode(bytes.NewReader(file))
		require.NoError(t, err, "%v", size)
		assert.Equal(t, m.Pix, rgba(back).Pix, "%v", size)
	}
}

func TestFaultRepeatPicture(t *testing.T) {
	s := server(t, Config{Faults: Faults{RepeatPicture: true}})
	ask := func(prompt, size string) []byte {
		pics, _ := generate(t, s, `{"prompt":"`+prompt+`","size":"`+size+`","num_inference_steps":2,"seed":1}`)
		return pics[0].Pix
	}
	red, other := ask("a red cube", "64x64"), ask("a red cube", "80x64")
	assert.Equal(t, red, ask("a blue ball", "64x64"))
	assert.NotEqual(t, other[:len(red)], red)
	healthy := server(t, Config{})
	s = healthy
	assert.NotEqual(t, ask("a red cube", "64x64"), ask("a blue ball", "64x64"))
}
