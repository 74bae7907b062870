package imagecheck

import (
	"fmt"
	"image"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var studyTexts = []string{
	"OPEN 24 HOURS", "Fresh Coffee", "NIGHT MARKET", "Friday 7 pm", "Grand Hotel", "SALE 50", "Room 1408", "Museum",
	"EXIT", "Train to Oslo",
}

// lookAlike is the nearest wrong letter; others become their neighbour in the alphabet.
var lookAlike = map[rune]rune{
	'O': '0', '0': 'O', 'E': 'F', 'F': 'E', 'U': 'V', 'R': 'P', 'P': 'R', 'e': 'c', 'o': 'c', 'n': 'h', 'h': 'n', 'i': 'l',
	'4': '1', '1': '7', '7': '1', 'M': 'N', 'N': 'M', 'T': 'I', 'I': 'T', 'a': 'o', 'm': 'n', 'u': 'v', 'd': 'o', 't': 'l', 'G': 'C',
}

// oneWrong replaces one letter that is not a space.
func oneWrong(r *rand.Rand, s string) string {
	runes := []rune(s)
	for {
		i := r.IntN(len(runes))
		if runes[i] == ' ' {
			continue
		}
		if v, ok := lookAlike[runes[i]]; ok {
			runes[i] = v
		} else {
			runes[i]++
		}
		return string(runes)
	}
}

// oneMissing drops one letter: of a run of equal letters too.
func oneMissing(r *rand.Rand, s string) string {
	runes := []rune(s)
	for {
		if i := r.IntN(len(runes)); runes[i] != ' ' {
			return string(runes[:i]) + string(runes[i+1:])
		}
	}
}

func randomPoster(r *rand.Rand, i int) poster {
	p := poster{
		w: 480 + 32*r.IntN(10), h: 288 + 16*r.IntN(8), text: studyTexts[i%len(studyTexts)],
		font: r.IntN(len(goFonts)), panel: i%3 != 0, scene: r.Uint64(),
	}
	p.px = float64(p.w) / float64(len(p.text)) * (0.7 + 0.5*r.Float64())
	return p
}

// TestStudy is the evidence for the bounds of the golden and text checks: random posters with a fixed seed, each with
// variants that a numeric drift could make (must pass) and with errors planted (must fail). No verdict may be wrong.
// It repeats section by section what the defaults of Bounds claim.
func TestStudy(t *testing.T) {
	const posters = 20
	r := rand.New(rand.NewPCG(20, 26))
	store := Store{Dir: t.TempDir(), CropsOnly: true}
	key := Key{Engine: "study", Model: "go-fonts"}
	var refused, passed, pictures, shifted int
	nearest := map[string]float64{"benign ExtP256": 0, "benign cell-NCC": 1, "wrong ExtP256": 256, "wrong cell-NCC": 0, "shifted cell-NCC": 1}
	for i := range posters {
		p := randomPoster(r, i)
		right, box := p.draw(t, p.text)
		name := fmt.Sprintf("poster-%d", i)
		var extp, ncc float64
		c := Case{Name: name, Size: Of(right, Case{}).Size(), Prompt: p.text, Observe: func(_ string, ms []Metric) {
			for _, m := range ms {
				switch m.Name {
				case "text-0.ExtP256":
					extp = m.Value
				case "text-0.cell-NCC":
					ncc = m.Value
				}
			}
		}}
		approve := store
		approve.Update = true
		b := Box{Text: p.text, Rect: box}
		require.NoError(t, approve.Check(name, key, b)(Of(right, c)))
		golden := store.Check(name, key, b)

		for what, img := range map[string]*image.RGBA{
			"noise": noisy(right, 5, uint64(i)), "jpeg q80": jpegged(t, right, 80), "gain 1.1": gained(right, 1.1),
		} {
			pictures++
			if err := golden(Of(img, c)); err != nil {
				refused++
				t.Errorf("%+v, %s: refused\n%v", p, what, err)
			}
			nearest["benign ExtP256"] = max(nearest["benign ExtP256"], extp)
			nearest["benign cell-NCC"] = min(nearest["benign cell-NCC"], ncc)
		}

		for what, text := range map[string]string{
			"wrong letter": oneWrong(r, p.text), "missing letter": oneMissing(r, p.text), "no text": "",
		} {
			wrong := p
			wrong.text = text
			img, _ := wrong.draw(t, p.text)
			pictures++
			err := golden(Of(noisy(img, 5, uint64(i)+1000), c))
			if err == nil {
				passed++
				t.Errorf("%+v, %s: %q accepted (ExtP256 %v, cell NCC %v)", p, what, text, extp, ncc)
				continue
			}
			assert.True(t, strings.HasPrefix(err.Error(), "image differs from golden: text c"), "%v", err)
			if text != "" {
				nearest["wrong ExtP256"] = min(nearest["wrong ExtP256"], extp)
				nearest["wrong cell-NCC"] = max(nearest["wrong cell-NCC"], ncc)
			}
		}

		// Moved by up to 4 px: the crop's hash gives up, the glyph cells must not, and must still see a wrong letter.
		dx, dy := r.IntN(9)-4, r.IntN(9)-4
		ref := Luma(right)
		for _, text := range []string{p.text, oneWrong(r, p.text)} {
			q := p
			q.text, q.dx, q.dy = text, dx, dy
			img, _ := q.draw(t, p.text)
			cells := CellNCC(ref, Luma(noisy(img, 5, uint64(i)+2000)), box, 0, 6)
			got := cells[worstCell(cells)].NCC
			shifted++
			assert.Equal(t, text == p.text, got >= 0.955, "%+v moved %d,%d: worst cell %v", q, dx, dy, got)
			if text == p.text {
				nearest["shifted cell-NCC"] = min(nearest["shifted cell-NCC"], got)
			}
		}
	}
	t.Logf("%d aligned pictures: %d right ones refused, %d wrong ones accepted; %d moved; nearest to the bounds: %v", pictures, refused, passed, shifted, nearest)
	require.GreaterOrEqual(t, pictures, 120)
	// The margin, not only the verdict: a study that passes by luck says nothing.
	assert.Less(t, nearest["wrong cell-NCC"], 0.93)
	assert.Greater(t, nearest["benign cell-NCC"], 0.96)
}

// TestWholePictureHashIsBlind: why text has boxes. The gate for whole pictures accepts every wrong letter.
func TestWholePictureHashIsBlind(t *testing.T) {
	p := poster{w: 1024, h: 1024, text: "OPEN 24 HOURS", px: 118, panel: true, scene: 3}
	right, box := p.draw(t, p.text)
	for _, text := range []string{"OPEN 24 H0URS", "OPEN 24 HOVRS", "OPFN 24 HOURS", "OPEN 21 HOURS", "OPEN 24 HOUR"} {
		q := p
		q.text = text
		wrong, _ := q.draw(t, p.text)
		h, _, err := hashDistances(Of(right, Case{}), Of(wrong, Case{}))
		require.NoError(t, err)
		assert.LessOrEqual(t, h, 4, "%s", text)
		assert.Error(t, Text(Of(right, Case{}), Box{Text: p.text, Rect: box})(Of(wrong, Case{})), "%s", text)
	}
}
