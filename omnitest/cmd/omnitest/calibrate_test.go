package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"image"
	"image/color"
	"image/png"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// painter is an engine that paints waves by prompt and seed, with noise that differs from picture to picture.
func painter(t *testing.T, noise float64, blank bool) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Prompt string
			Seed   int64
			Size   string
		}
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &q); err != nil || r.URL.Path != "/v1/images/generations" {
			http.Error(w, `{"error":{"message":"bad"}}`, 400)
			return
		}
		h := fnv.New64()
		fmt.Fprint(h, q.Prompt, q.Seed)
		scene := rand.New(rand.NewPCG(h.Sum64(), 1))
		fx, fy, ph := 1+5*scene.Float64(), 1+5*scene.Float64(), 6*scene.Float64()
		grain := rand.New(rand.NewPCG(rand.Uint64(), 2))
		img := image.NewRGBA(image.Rect(0, 0, 128, 96))
		for y := range 96 {
			for x := range 128 {
				v := 128 + 90*math.Sin(fx*float64(x)/20+ph)*math.Cos(fy*float64(y)/20)
				if blank {
					v = 128
				}
				v += noise * grain.NormFloat64()
				img.SetRGBA(x, y, color.RGBA{uint8(v), uint8(v * 0.8), uint8(255 - v), 255})
			}
		}
		var file bytes.Buffer
		_ = png.Encode(&file, img)
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"created":1,"data":[{"b64_json":%q}]}`, base64.StdEncoding.EncodeToString(file.Bytes()))
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestCalibrate(t *testing.T) {
	c := calibrateCommand{URL: painter(t, 0, false), Arms: []string{painter(t, 3, false)}, Seeds: 2, Prompt: []string{"a", "b", "c", "d"}, Size: "128x96", Steps: 4, Margin: 0.5,
		Engine: "fake", GPU: "none"}
	var out strings.Builder
	require.NoError(t, c.Run(t.Context(), &out))
	text := out.String()
	assert.Contains(t, text, ": 4 prompts, 2 seeds, 2 arms, 128x96, 4 steps, margin 0.5\n")
	assert.Regexp(t, `repeat +PSNR +8 +inf +inf`, text)
	assert.Regexp(t, `load +SSIM +8 +1 `, text)
	assert.Regexp(t, `other +pHash64 +10 `, text, "4 of other seeds and 6 of other prompts")
	assert.Regexp(t, `LoadPSNR +inf +>= 40 .*all pairs were identical`, text)
	assert.Regexp(t, `\{Setup: imagecheck.Setup\{Engine: "fake", Model: "", GPU: "none", DType: ""\}, Bounds: imagecheck.Bounds\{ParityPSNR: 3\d`, text)
	assert.Contains(t, text, `Run: "calibrate 20`)

	c.Arms = []string{painter(t, 1, true)}
	assert.ErrorContains(t, c.Run(t.Context(), io.Discard), "picture is blank: luma standard deviation 0.")
	c.Size = "64x64"
	assert.ErrorContains(t, c.Run(t.Context(), io.Discard), "wrong picture size: decoded 128x96, want 64x64")
	c.Size = "huge"
	assert.Error(t, c.Run(t.Context(), io.Discard))
	c.Size, c.Seeds = "128x96", 0
	assert.EqualError(t, c.Run(t.Context(), io.Discard), "calibrate: --seeds and --steps want 1 or more")
	c.Seeds, c.URL = 1, "http://127.0.0.1:1"
	assert.Error(t, c.Run(t.Context(), io.Discard))
}
