package dit

import (
	"bytes"
	"encoding/json"
	"image"
	"image/draw"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFaultExtraText(t *testing.T) {
	for _, size := range []image.Point{{512, 512}, {1376, 768}} {
		j := Job{Prompt: `a shop by the sea "OPEN 24 HOURS"`, W: size.X, H: size.Y, Seed: 1}
		good, bad := render(t, Config{}, j), render(t, Config{Faults: Faults{ExtraText: true}}, j)
		assert.Equal(t, good.TextBox, bad.TextBox)
		assert.Zero(t, rmse(good.Image, bad.Image, good.TextBox.Inset(-8)), "the own text is as it was")
		changed := 0
		for _, v := range tiles(good.Image, bad.Image, good.Image.Rect) {
			if v > 12 {
				changed++
			}
		}
		assert.GreaterOrEqual(t, changed, 6, "%v", size)
	}
}

func TestFaultShortPrompt(t *testing.T) {
	j := Job{Prompt: `"AB" on a red wall, and beside it a long story about nothing in particular "END"`, W: 256, H: 256}
	short := render(t, Config{Faults: Faults{ShortPrompt: true}}, j)
	r := []rune(j.Prompt)
	j.Prompt = string(r[:len(r)/2])
	assert.Equal(t, render(t, Config{}, j).Image.Pix, short.Image.Pix)
	assert.Equal(t, "第一", (&Faults{ShortPrompt: true}).read("第一第二"), "characters, not bytes")
}

func TestFaultsOfShapes(t *testing.T) {
	sc := parse("a red circle and a gold star")
	more := (&Faults{ExtraShape: true}).seen(sc)
	assert.Len(t, more.shapes, 3)
	assert.Equal(t, more.shapes[0], more.shapes[2])
	other := (&Faults{WrongColour: true}).seen(sc)
	for i, s := range other.shapes {
		assert.NotEqual(t, sc.shapes[i].rgb, s.rgb)
		assert.Equal(t, sc.shapes[i].kind, s.kind)
	}
	assert.Equal(t, parse("a red circle and a gold star"), sc, "the scene itself is left alone")
	assert.Empty(t, (&Faults{ExtraShape: true}).seen(parse("the sea")).shapes, "where nothing is named there is nothing to add to")
}

func TestNumerals(t *testing.T) {
	for prompt, want := range map[string]int{"two red circles": 2, "three large red circles": 3, "one red circle": 1, "two words and, far from it all, a red circle": 1, "two blue squares and a red star": 3} {
		shapes, _ := things(prompt)
		assert.Len(t, shapes, want, prompt)
	}
}

func TestFaultFewSteps(t *testing.T) {
	j := Job{Prompt: "snow", W: 64, H: 64, Steps: 9}
	capped := render(t, Config{Faults: Faults{FewSteps: true}}, j)
	j.Steps = 4
	assert.Equal(t, render(t, Config{}, j).Image.Pix, capped.Image.Pix)
}

func TestFaultEditRedraws(t *testing.T) {
	in := testPicture(512, 512)
	r := render(t, Config{Faults: Faults{EditRedraws: true}}, Job{Prompt: "make the top left red", Inputs: []image.Image{in}})
	assert.Greater(t, changedShare(tiles(in, r.Image, in.Rect)), 0.6)
	assert.Equal(t, in.Rect, r.Image.Rect)
}

// One turn stays within what the loss of a VAE may cost; ten add up.
func TestFaultEditDrift(t *testing.T) {
	first := testPicture(512, 512)
	half := image.Rect(256, 0, 512, 512)
	mean := func(m *image.RGBA) float64 { return meanLuma(m, half) }
	pic := first
	for k := range 10 {
		pic = render(t, Config{Faults: Faults{EditDrift: true}}, Job{Prompt: "make the top left red", Inputs: []image.Image{pic}, Seed: 1}).Image
		if k == 0 {
			assert.Less(t, worst(tiles(first, pic, half)), 8.0, "one turn shows it already")
		}
	}
	assert.Greater(t, mean(pic)-mean(first), 5.0)
}

func TestFaultMaskIgnored(t *testing.T) {
	in := testPicture(512, 512)
	mask := image.NewGray(in.Rect)
	draw.Draw(mask, image.Rect(0, 0, 128, 128), image.White, image.Point{}, draw.Src)
	j := Job{Prompt: "make the bottom right red", Inputs: []image.Image{in}, Mask: mask}
	r := render(t, Config{Faults: Faults{MaskIgnored: true}}, j)
	assert.Equal(t, image.Rect(256, 256, 512, 512), r.Region)
	j.Mask = nil
	assert.True(t, bytes.Equal(render(t, Config{}, j).Image.Pix, r.Image.Pix))
}

func TestFaultFirstInputOnly(t *testing.T) {
	in, second := testPicture(256, 256), render(t, Config{}, Job{Prompt: "desert, red star", W: 256, H: 256}).Image
	j := Job{Prompt: "put the second picture into the top right", Inputs: []image.Image{in, second}}
	r := render(t, Config{Faults: Faults{FirstInputOnly: true}}, j)
	j.Inputs = slices.Clone(j.Inputs[:1])
	assert.Equal(t, render(t, Config{}, j).Image.Pix, r.Image.Pix)
}

func TestFaultMixedOrder(t *testing.T) {
	parts := func(c Config) (kinds []string) {
		r := httptest.NewRequest(http.MethodPost, "/v1/chat/completions", strings.NewReader(
			`{"messages":[{"role":"user","content":"snow"}],"modalities":["text","image","audio"],"size":"16x16","num_inference_steps":1}`))
		w := httptest.NewRecorder()
		server(t, c).Handler().ServeHTTP(w, r)
		var a struct {
			Choices []struct {
				Message struct{ Content []struct{ Type string } }
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a), w.Body.String())
		for _, p := range a.Choices[0].Message.Content {
			kinds = append(kinds, p.Type)
		}
		return kinds
	}
	assert.Equal(t, []string{"text", "image_url"}, parts(Config{}))
	assert.Equal(t, []string{"image_url", "text"}, parts(Config{Faults: Faults{MixedOrder: true}}))
}
