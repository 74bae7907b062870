package imagecheck

import (
	"flag"
	"image"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

var recordingsFlag = flag.String("recordings", "", "folder with diffusers-0.38.0 and vllm-omni-0.26.0: judge every recorded pair, and not the stored one alone")

// realPair is one prompt, seed and number of steps on two engines with the same weights: diffusers 0.38.0, the control, and
// vLLM-Omni 0.26.0, each on an H200 in bfloat16, Qwen-Image in its full size with random weights. The pictures are grey noise.
type realPair struct {
	name            string
	control, engine string // files
	edit            bool
}

func realPairs() []realPair {
	pairs := []realPair{{"t2i 256x256", "testdata/real/diffusers-t2i-256.png", "testdata/real/vllm-omni-t2i-256.png", false}}
	if dir := *recordingsFlag; dir != "" {
		for _, n := range []string{"t2i/t2i-256-s4-seed42-0.png", "t2i/t2i-512-s4-seed42-0.png", "t2i/t2i-512-s4-cfg4-seed42-0.png", "editplus/editplus-512-s4-seed42-0.png"} {
			pairs = append(pairs, realPair{n, filepath.Join(dir, "diffusers-0.38.0", filepath.Base(n)), filepath.Join(dir, "vllm-omni-0.26.0", n), strings.HasPrefix(n, "edit")})
		}
	}
	return pairs
}

// Two real engines that should agree raise no alarm and no warning; a tile of another brightness is an alarm.
func TestRealEnginesAgree(t *testing.T) {
	for _, pair := range realPairs() {
		load := func(name string) Picture {
			raw, err := os.ReadFile(name)
			require.NoError(t, err)
			im, err := api.ReadImage(raw, api.Limits{})
			require.NoError(t, err)
			p, err := Decode(im, Case{Name: pair.name, Steps: 4, Seed: 42})
			require.NoError(t, err)
			return p
		}
		control, engine := load(pair.control), load(pair.engine)
		var c Calibration
		require.NoError(t, c.Add(PairArm, control, engine))
		for _, m := range pairMetrics {
			t.Logf("%-40s %-9s %s", pair.name, m.name, number(c.series[pairMetric{PairArm, m.name}][0]))
		}
		_, dev := LumaStats(engine.luma())
		share, _ := topColour(engine)
		t.Logf("%-40s luma stddev %s, one colour %s", pair.name, number(dev), number(share))

		engine.Case.Observe = func(check string, ms []Metric) {
			for _, m := range ms {
				assert.False(t, m.Warned(), "%s, %s: %v", pair.name, check, m)
			}
		}
		parity := Parity(control)
		if pair.edit {
			parity = ParityEdit(control)
		}
		for _, check := range []Check{Plain(), Format("png"), Opaque(), NotBlank(), Size(control.Size()), SameUnderLoad(control), parity, EditOutside(control, image.Rect(0, 0, 32, 32))} {
			assert.NoError(t, check(engine), pair.name)
		}
		assert.ErrorContains(t, SamePixels(control)(engine), "pixels differ: SHA-256", "two engines are not bit-identical")
		assert.ErrorContains(t, EditInside(control, nil)(engine), "edit did not happen: changed tiles of the picture 0,")
		assert.ErrorContains(t, Distinct(control)(engine), "pictures of different prompts are alike")

		// A tile of noise from elsewhere is the same noise to every check but the first; one of another brightness is not.
		brighter := lifted(engine.Image, image.Rect(160, 160, 192, 192), 20)
		assert.ErrorContains(t, EditOutside(control, image.Rect(0, 0, 32, 32))(Of(brighter, Case{})), "picture changed outside the region: tile MAD at (160,160)-(192,192) is ", pair.name)
	}
}
