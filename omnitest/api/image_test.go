package api_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noise is a picture that does not compress, as those of a random-weight engine do not.
func noise(w, h int) *image.NRGBA {
	m := image.NewNRGBA(image.Rect(0, 0, w, h))
	r := rand.New(rand.NewPCG(1, 2))
	for i := range m.Pix {
		m.Pix[i] = byte(r.Uint32())
		if i%4 == 3 {
			m.Pix[i] = 255
		}
	}
	return m
}

func encodePNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, (&png.Encoder{CompressionLevel: png.NoCompression}).Encode(&b, m))
	return b.Bytes()
}

func testPNG(t testing.TB, w, h int) []byte { return encodePNG(t, noise(w, h)) }

func encodeJPEG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, m, &jpeg.Options{Quality: 90}))
	return b.Bytes()
}

func fromBase64(s string) []byte {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
}

// The smallest WebP files there are, 1x1: lossy and lossless.
var (
	webpLossy    = fromBase64("UklGRiIAAABXRUJQVlA4IBYAAAAwAQCdASoBAAEADsD+JaQAA3AAAAAA")
	webpLossless = fromBase64("UklGRhoAAABXRUJQVlA4TA0AAAAvAAAAEAcQERGIiP4HAA==")
)

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// A whole recorded answer of vLLM-Omni. PIL on the recorder's side decoded it too: file and pixels must be the same.
func TestRecordedPicture(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(wire, "vllm-omni-0.26.0", "t2i-256-whole.json"))
	require.NoError(t, err)
	out, err := answer(t, 200, asJSON, string(body)).Generate(t.Context(), api.ImageRequest{Prompt: "x"})
	require.NoError(t, err)
	require.Len(t, out.Items, 1)
	im := &out.Items[0]
	assert.Equal(t, "png", im.Format)
	assert.Equal(t, api.Size{W: 256, H: 256}, im.Size)
	assert.Equal(t, "e409c66c8afebdd361a10b056ce0978fb45c0c80f2de813284091e8664c3812f", sum(im.Raw))
	assert.Zero(t, im.Trailing())
	pixels, err := im.Decode()
	require.NoError(t, err)
	var rgb []byte
	for i := 0; i < len(pixels.Pix); i += 4 {
		rgb = append(rgb, pixels.Pix[i:i+3]...)
	}
	assert.Equal(t, "94118db10e735f845bb80690e2d92c9c090bafea94f64ff9315d8ce1219c7fe7", sum(rgb))

	assert.EqualValues(t, 1795506820, out.Created)
	assert.Equal(t, "256x256", out.Size)
	assert.Equal(t, "png", out.Format)
	assert.Empty(t, out.Plan)
	assert.Equal(t, &api.Metrics{PeakMemoryMB: 55086, StageDurations: map[string]float64{
		"QwenImagePipeline.text_encoder.forward": 0.02094756700000744,
		"QwenImagePipeline.diffuse":              6.77885998299999,
		"QwenImagePipeline.vae.decode":           0.05559096399997543,
		"queue_wait_ms":                          0.3989779999926668,
		"stage_0_gen_ms":                         7050.253868103027,
	}}, out.Metrics)
	assert.EqualValues(t, len(body), out.BodyBytes)
}

func TestPicturesWhereverTheServerPutsThem(t *testing.T) {
	a, b := testPNG(t, 16, 8), testPNG(t, 8, 24)
	b64 := base64.StdEncoding.EncodeToString
	sizes := func(items []api.Image) (s []string) {
		for i := range items {
			s = append(s, items[i].Format+" "+items[i].Size.String())
		}
		return s
	}
	both := []string{"png 16x8", "png 8x24"}
	for name, c := range map[string]*api.Client{
		"b64_json":       answer(t, 200, asJSON, `{"data":[{"b64_json":"`+b64(a)+`","url":null},{"url":null,"b64_json":"`+b64(b)+`"}]}`),
		"url holds data": answer(t, 200, asJSON, `{"data":[{"b64_json":null,"url":"data:image/png;base64,`+b64(a)+`"},{"url":"data:image/png;base64,`+b64(b)+`"}]}`),
		"zip":            answer(t, 200, "application/zip", zipped(a, b)),
		"edit stream": answer(t, 200, asStream, `data: {"object":"image.edit.chunk","type":"ar_delta","delta":"a red ","index":0}`+"\n\n"+
			`data: {"object":"image.edit.chunk","type":"ar_delta","delta":"fox","index":0}`+"\n\n"+
			`data: {"object":"image.edit.chunk","type":"image","data":[{"b64_json":"`+b64(a)+`"},{"b64_json":"`+b64(b)+`"}],"size":"16x8"}`+"\n\n"+done),
	} {
		out, err := c.Generate(t.Context(), api.ImageRequest{Prompt: "x"})
		require.NoError(t, err, name)
		assert.Equal(t, both, sizes(out.Items), name)
		assert.Equal(t, a, out.Items[0].Raw, name)
		assert.Equal(t, b, out.Items[1].Raw, name)
		if name == "edit stream" {
			assert.Equal(t, "a red fox", out.Plan)
			assert.Equal(t, "a red ", out.Events[0].Text, "the AR stage's first text is an event with its own time")
			assert.Len(t, out.Events, 4)
		}
		assert.Nil(t, out.Metrics, name)
	}

	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "image/png")
		w.Header().Set("X-Stage-Durations", `{"diffuse":0.5}`)
		w.Write(a)
	})
	out, err := c.Generate(t.Context(), api.ImageRequest{Prompt: "x"})
	require.NoError(t, err)
	assert.Equal(t, []string{"png 16x8"}, sizes(out.Items))
	assert.Equal(t, &api.Metrics{StageDurations: map[string]float64{"diffuse": 0.5}, PeakMemoryMB: -1}, out.Metrics)

	// vLLM-Omni's chat answer, with the timings in the content item and null at the top.
	c = answer(t, 200, asJSON, `{"id":"chatcmpl-1","choices":[{"index":0,"message":{"role":"assistant","content":[
		{"type":"text","text":"Here "},{"type":"audio","audio":{"data":"AAAA"}},{"type":"text","text":"it is"},
		{"type":"image_url","image_url":{"url":"data:image/png;base64,`+b64(a)+`"},"stage_durations":{"diffuse":0.46,"queue_wait_ms":0.29},"peak_memory_mb":76732.0},
		{"type":"image_url","image_url":{"url":"data:image/png;base64,`+b64(b)+`"},"stage_durations":{"diffuse":9},"peak_memory_mb":1}]},
		"finish_reason":"stop"}],"usage":{"prompt_tokens":7,"total_tokens":8,"completion_tokens":1,"prompt_tokens_details":null},"metrics":null}`)
	text, err := c.Chat(t.Context(), chatImage)
	require.NoError(t, err)
	assert.Equal(t, both, sizes(text.Images))
	assert.Equal(t, "Here it is", text.String())
	assert.Equal(t, &api.Metrics{StageDurations: map[string]float64{"diffuse": 0.46, "queue_wait_ms": 0.29}, PeakMemoryMB: 76732}, text.Metrics)
	assert.Equal(t, &api.Usage{PromptTokens: 7, CompletionTokens: 1, TotalTokens: 8, CachedTokens: -1}, text.Usage)
}

func TestMetricsAbsentIsNotZero(t *testing.T) {
	a := base64.StdEncoding.EncodeToString(testPNG(t, 4, 4))
	ask := func(metrics string) *api.Metrics {
		out, err := answer(t, 200, asJSON, `{"data":[{"b64_json":"`+a+`"}],"metrics":`+metrics+`}`).Generate(t.Context(), api.ImageRequest{})
		require.NoError(t, err)
		return out.Metrics
	}
	assert.Nil(t, ask(`null`))
	assert.Nil(t, ask(`{}`))
	assert.Nil(t, ask(`{"stage_durations":null,"peak_memory_mb":null}`))
	assert.Equal(t, &api.Metrics{PeakMemoryMB: 5}, ask(`{"peak_memory_mb":5}`))
	assert.Equal(t, &api.Metrics{StageDurations: map[string]float64{"a": 1}, PeakMemoryMB: -1}, ask(`{"stage_durations":{"a":1,"b":null}}`))
}

func TestDecode(t *testing.T) {
	opaque := noise(9, 7)
	clear := noise(9, 7)
	clear.SetNRGBA(3, 2, color.NRGBA{200, 100, 50, 128})
	palette := image.NewPaletted(image.Rect(0, 0, 9, 7), color.Palette{color.RGBA{255, 0, 0, 255}, color.RGBA{0, 0, 255, 255}})
	palette.SetColorIndex(3, 2, 1)
	gray := image.NewGray16(image.Rect(0, 0, 9, 7))
	gray.SetGray16(3, 2, color.Gray16{0xabcd})
	for _, c := range []struct {
		name, format string
		raw          []byte
		size         string
		at32         color.RGBA
		tolerance    float64
	}{
		{"png RGB", "png", encodePNG(t, opaque), "9x7", color.RGBAModel.Convert(opaque.At(3, 2)).(color.RGBA), 0},
		{"png RGBA", "png", encodePNG(t, clear), "9x7", color.RGBA{100, 50, 25, 128}, 1},
		{"png palette", "png", encodePNG(t, palette), "9x7", color.RGBA{0, 0, 255, 255}, 0},
		{"png gray 16", "png", encodePNG(t, gray), "9x7", color.RGBA{0xab, 0xab, 0xab, 255}, 0},
		{"jpeg", "jpeg", encodeJPEG(t, gray), "9x7", color.RGBA{0xab, 0xab, 0xab, 255}, 40},
		{"webp lossy", "webp", webpLossy, "1x1", color.RGBA{}, 255},
		{"webp lossless", "webp", webpLossless, "1x1", color.RGBA{}, 255},
	} {
		t.Run(c.name, func(t *testing.T) {
			im, err := api.ReadImage(c.raw, api.Limits{})
			require.NoError(t, err)
			assert.Equal(t, c.format, im.Format)
			assert.Equal(t, c.size, im.Size.String())
			m, err := im.Decode()
			require.NoError(t, err)
			assert.Equal(t, image.Rect(0, 0, im.Size.W, im.Size.H), m.Bounds())
			got := m.RGBAAt(3, 2)
			for i, v := range [4]uint8{got.R, got.G, got.B, got.A} {
				assert.InDelta(t, [4]uint8{c.at32.R, c.at32.G, c.at32.B, c.at32.A}[i], v, c.tolerance, "channel %d of %v", i, got)
			}
		})
	}
}

func TestImageFilesCutAndGlued(t *testing.T) {
	for name, raw := range map[string][]byte{
		"png": testPNG(t, 40, 30), "jpeg": encodeJPEG(t, noise(40, 30)), "webp": webpLossless,
	} {
		t.Run(name, func(t *testing.T) {
			whole, err := api.ReadImage(raw, api.Limits{})
			require.NoError(t, err)
			assert.Equal(t, 0, whole.Trailing())

			glued, err := api.ReadImage(append(bytes.Clone(raw), "and more"...), api.Limits{})
			require.NoError(t, err)
			assert.Equal(t, 8, glued.Trailing())
			_, err = glued.Decode()
			assert.NoError(t, err, "the decoder does not mind: that is why Trailing is there")

			cut, err := api.ReadImage(raw[:len(raw)-6], api.Limits{})
			require.NoError(t, err, "the header is whole")
			assert.Equal(t, -1, cut.Trailing())

			for _, n := range []int{0, 1, 7, 12, 20} {
				_, err = api.ReadImage(raw[:n], api.Limits{})
				assert.Equal(t, api.Protocol, api.KindOf(err), "%d bytes", n)
			}
		})
	}
	raw := testPNG(t, 40, 30)
	cut, err := api.ReadImage(raw[:len(raw)/2], api.Limits{})
	require.NoError(t, err)
	_, err = cut.Decode()
	assert.EqualError(t, err, "png of 40x30 pixels in "+itoa(len(raw)/2)+" bytes cannot be decoded: the file is truncated: png: invalid format: not enough pixel data")

	flipped := bytes.Clone(raw)
	flipped[len(raw)/2] ^= 1
	im, err := api.ReadImage(flipped, api.Limits{})
	require.NoError(t, err)
	_, err = im.Decode()
	assert.ErrorContains(t, err, "invalid checksum")

	// A hand-made Image is held to the default limits too.
	_, err = (&api.Image{Raw: bombPNG()}).Decode()
	assert.Equal(t, api.Limit, api.KindOf(err))
}

func FuzzReadImage(f *testing.F) {
	f.Add(encodePNG(f, noise(3, 3)))
	f.Add(encodeJPEG(f, noise(3, 3)))
	f.Add(webpLossy)
	f.Add(webpLossless)
	f.Add(bombPNG())
	f.Fuzz(func(t *testing.T, raw []byte) {
		limits := api.Limits{Pixels: 1 << 16}
		im, err := api.ReadImage(raw, limits)
		if err != nil {
			if k := api.KindOf(err); k != api.Limit && k != api.Protocol {
				t.Fatalf("kind %q: %v", k, err)
			}
			return
		}
		if n := im.Trailing(); n < -1 || n >= len(raw) {
			t.Fatalf("%d bytes trail in a file of %d", n, len(raw))
		}
		m, err := im.Decode()
		if err == nil && (m.Bounds().Dx() != im.Size.W || m.Bounds().Dy() != im.Size.H) {
			t.Fatalf("header says %s, pixels are %s", im.Size, m.Bounds())
		}
	})
}

// BenchmarkGenerate reads one answer of 1376x768 (uncompressed PNG, 4.2 MB of base64) out of memory, and for comparison
// the same body with encoding/json and its own base64.
func BenchmarkGenerate(b *testing.B) {
	raw := testPNG(b, 1376, 768)
	body := []byte(`{"created":1,"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString(raw) + `","url":null,"revised_prompt":null}],"output_format":"png","size":"1376x768","metrics":null}`)
	c := &api.Client{BaseURL: "http://memory", HTTP: &http.Client{Transport: inMemory(body)}}
	var reference float64 // seconds per body
	plain := func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			var m struct {
				Data []struct {
					B64 []byte `json:"b64_json"`
				}
			}
			if err := json.Unmarshal(body, &m); err != nil || len(m.Data[0].B64) != len(raw) {
				b.Fatal(err)
			}
		}
		reference = b.Elapsed().Seconds() / float64(b.N)
	}
	client := func(b *testing.B) {
		b.SetBytes(int64(len(body)))
		b.ReportAllocs()
		for b.Loop() {
			out, err := c.Generate(b.Context(), api.ImageRequest{Prompt: "x"})
			if err != nil || len(out.Items[0].Raw) != len(raw) {
				b.Fatal(err)
			}
		}
		if reference > 0 {
			b.ReportMetric(reference/(b.Elapsed().Seconds()/float64(b.N)), "x-encoding-json")
		}
	}
	b.Run("encoding-json", plain)
	b.Run("client", client)
}

// inMemory answers every request with the same body.
type inMemory []byte

func (m inMemory) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: 200, Header: http.Header{"Content-Type": {asJSON}}, Request: req,
		ContentLength: int64(len(m)), Body: nopCloser{bytes.NewReader(m)},
	}, nil
}

type nopCloser struct{ *bytes.Reader }

func (nopCloser) Close() error { return nil }
