package imagecheck

import (
	"flag"
	"fmt"
	"image"
	"image/color"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"

	"github.com/omnitest/suite/fixtures/fonts"
)

var studyPictures = flag.Int("study", 440, "pictures that the study of the text gate with a fixed seed judges, and that with a random seed: 23 s of one core each")

var studySeed = flag.Uint64("study-seed", 0, "seed of the random study; 0: the clock")

// hanziPairs are words and what one stroke makes of them.
var hanziPairs = [][2]string{{"未来车站", "末来车站"}, {"通义千问", "通义干问"}, {"土豆八元", "士豆八元"}, {"今日开放", "今目开放"}, {"自己开门", "自已开门"},
	{"大人小心", "太人小心"}, {"人口很多", "入口很多"}, {"夜市今天", "夜市今夭"}, {"自由田地", "自由由地"}, {"王先生家", "玉先生家"}}

// signboard is a picture with one line, in Latin or in hanzi, and perhaps a second line that nobody asked for.
type signboard struct {
	poster
	han   bool
	extra string // "after": one letter more; "sign": a word elsewhere; "below": a line under it
}

func (s signboard) draw(tb testing.TB, reference string) (*image.RGBA, image.Rectangle) {
	tb.Helper()
	var img *image.RGBA
	var box image.Rectangle
	var face font.Face
	var err error
	if s.han {
		face, err = fonts.Face(s.px)
		require.NoError(tb, err)
		img = image.NewRGBA(image.Rect(0, 0, s.w, s.h))
		background(img, s.scene)
		b, _ := font.BoundString(face, reference)
		box = image.Rect(b.Min.X.Floor(), b.Min.Y.Floor(), b.Max.X.Ceil(), b.Max.Y.Ceil())
		at := image.Pt((s.w-box.Dx())/2, (s.h-box.Dy())/3).Sub(box.Min)
		box = box.Add(at)
		d := font.Drawer{Dst: img, Src: image.NewUniform(color.RGBA{10, 10, 30, 255}), Face: face, Dot: fixed.P(at.X+s.dx, at.Y+s.dy)}
		d.DrawString(s.text)
	} else {
		img, box = s.poster.draw(tb, reference)
	}
	small, err := fonts.Face(max(16, s.px/2))
	require.NoError(tb, err)
	same, err := fonts.Face(s.px)
	require.NoError(tb, err)
	d := font.Drawer{Dst: img}
	text := ""
	switch s.extra {
	case "after":
		text, d.Face, d.Dot = "S", same, fixed.P(box.Max.X+int(s.px/12), box.Max.Y)
	case "sign":
		text, d.Face, d.Dot = "Qwen", small, fixed.P(s.w/10, s.h*9/10)
	case "below":
		text, d.Face, d.Dot = "OPEN 今天", small, fixed.P(box.Min.X, box.Max.Y+int(s.px)*3/4)
	default:
		return img, box
	}
	// 80 of 255 from the mean of what it covers: plainly legible, and no more. White on white is nothing to be found.
	b, _ := d.BoundString(text)
	on := image.Rect(b.Min.X.Floor(), b.Min.Y.Floor(), b.Max.X.Ceil(), b.Max.Y.Ceil()).Intersect(img.Rect)
	mean, _ := LumaStats(Luma(crop(img, on)))
	if mean > 128 {
		mean -= 160
	}
	d.Src = image.NewUniform(color.Gray{uint8(mean + 80)})
	d.DrawString(text)
	return img, box
}

// studyTally is what a study found.
type studyTally struct {
	benign, wrong       int
	loose, looseRefused int // text that moved while the background did not, see below
	accepted, rejected  []string
	nearest             map[string]float64 // class/metric: the value nearest to its bound
}

// studyGate draws posters and judges each class of variant by the text gate: Text and NoExtraText.
func studyGate(t *testing.T, seed uint64, pictures int) studyTally {
	r := rand.New(rand.NewPCG(seed, 6))
	tally := studyTally{nearest: map[string]float64{}}
	near := func(class string, ms []Metric) {
		for _, m := range ms {
			_, what, _ := strings.Cut(m.Name, ".")
			if what == "" {
				what = m.Name
			}
			key := class + " " + what
			old, seen := tally.nearest[key]
			switch {
			case m.Direction == "<=" && (!seen || m.Value > old), m.Direction == ">=" && (!seen || m.Value < old):
				tally.nearest[key] = m.Value
			}
		}
	}
	for i := 0; tally.benign+tally.wrong < pictures; i++ {
		s := signboard{poster: randomPoster(r, i), han: i%3 == 2}
		wrongText := oneWrong(r, s.text)
		if s.han {
			pair := hanziPairs[i/3%len(hanziPairs)]
			s.text, wrongText = pair[0], pair[1]
			s.px, s.panel = float64(36+r.IntN(70)), false
		}
		right, rect := s.draw(t, s.text)
		box := Box{Text: s.text, Rect: rect}
		var seen []Metric
		judge := func(class string, img *image.RGBA) error {
			seen = nil
			c := Case{Name: class, Observe: func(_ string, ms []Metric) { seen = append(seen, ms...) }}
			err := Text(Of(right, Case{}), box)(Of(img, c))
			if err2 := NoExtraText(Of(right, Case{}), box)(Of(img, c)); err == nil {
				err = err2
			}
			return err
		}
		variant := func(text, extra string) *image.RGBA {
			v := s
			v.text, v.extra = text, extra
			img, _ := v.draw(t, s.text)
			return noisy(img, 3, r.Uint64())
		}
		dx, dy := r.IntN(9)-4, r.IntN(9)-4
		movedWrong := s
		movedWrong.text, movedWrong.dx, movedWrong.dy = wrongText, dx, dy
		movedWrongImg, _ := movedWrong.draw(t, s.text)
		textMoved := s
		textMoved.dx, textMoved.dy = dx, dy
		textMovedImg, _ := textMoved.draw(t, s.text)
		extra := []string{"after", "sign", "below"}[(i+i/3)%3]
		benign := map[string]*image.RGBA{
			"noise": noisy(right, 2+3*r.Float64(), r.Uint64()), "jpeg 85": jpegged(t, right, 85), "gain": gained(right, 0.9+0.2*r.Float64()),
			"picture moved": noisy(moved(right, dx, dy), 2, r.Uint64()), "text moved": noisy(textMovedImg, 2, r.Uint64()),
		}
		planted := map[string]*image.RGBA{
			"wrong letter": variant(wrongText, ""), "missing letter": variant(oneMissing(r, s.text), ""), "extra text, " + extra: variant(s.text, extra),
		}
		planted["wrong letter, moved"] = noisy(movedWrongImg, 2, r.Uint64())
		if s.han {
			planted["confusable hanzi"] = planted["wrong letter"]
			delete(planted, "wrong letter")
		}
		for _, class := range slices.Sorted(maps.Keys(benign)) {
			if class == "text moved" && !s.panel {
				// Letters that move while the edge of a disc behind them stays are no drift of a picture. Counted apart.
				tally.loose++
				if judge(class+" over edges", benign[class]) != nil {
					tally.looseRefused++
				}
				continue
			}
			tally.benign++
			if err := judge(class, benign[class]); err != nil {
				tally.rejected = append(tally.rejected, fmt.Sprintf("poster %d %q, %s (moved %d,%d): %v", i, s.text, class, dx, dy, err))
			}
			near(class, seen)
		}
		for _, class := range slices.Sorted(maps.Keys(planted)) {
			tally.wrong++
			err := judge(class, planted[class])
			for _, m := range seen { // of a wrong letter the value nearest to passing is the other one
				if k := class + " nearest cell-NCC"; m.Name == "text-0.cell-NCC" && !strings.HasPrefix(class, "extra") {
					tally.nearest[k] = max(tally.nearest[k], m.Value)
				}
				if k := class + " nearest contour"; m.Name == "text-0.contour" && !strings.HasPrefix(class, "extra") && (tally.nearest[k] == 0 || m.Value < tally.nearest[k]) {
					tally.nearest[k] = m.Value
				}
				if k := class + " least elsewhere"; m.Name == "elsewhere" && strings.HasPrefix(class, "extra") && (tally.nearest[k] == 0 || m.Value < tally.nearest[k]) {
					tally.nearest[k] = m.Value
				}
			}
			if err == nil {
				tally.accepted = append(tally.accepted, fmt.Sprintf("poster %d %q, %s, accepted: %v", i, s.text, class, seen))
				continue
			}
			first := err.(*Error).Summary
			assert.True(t, strings.HasPrefix(first, "text differs: text c") || strings.HasPrefix(first, "picture shows more than the golden: outside the text boxes, at ("), first)
		}
	}
	return tally
}

func (s studyTally) judge(t *testing.T, pictures int) {
	t.Logf("%d benign pictures, %d refused; %d wrong ones, %d accepted; of %d where text moved over what stayed behind it %d were refused",
		s.benign, len(s.rejected), s.wrong, len(s.accepted), s.loose, s.looseRefused)
	for _, k := range slices.Sorted(maps.Keys(s.nearest)) {
		t.Logf("  worst of %-28s %.4g", k, s.nearest[k])
		switch { // the margin, not only the verdict: a study that passes by luck says nothing
		case strings.HasSuffix(k, " nearest contour"):
			assert.Greater(t, s.nearest[k], 1.25*Bounds{}.withDefaults().TextContour, k)
		case strings.HasSuffix(k, " contour") && !strings.HasPrefix(k, "extra"):
			assert.Less(t, s.nearest[k], 0.75*Bounds{}.withDefaults().TextContour, k)
		}
	}
	assert.Empty(t, s.accepted, "wrong text accepted")
	assert.LessOrEqual(t, len(s.rejected), 1, "right text refused: %s", strings.Join(s.rejected, "\n"))
	require.GreaterOrEqual(t, s.benign+s.wrong, pictures)
	require.Greater(t, s.wrong, pictures/3, "a study without errors proves nothing")
}

// TestTextGateStudy is the evidence that the text gate is neither blind nor nervous: wrong letters, missing letters, extra
// text and look-alike hanzi are all refused; of noise, JPEG, gain and moves of up to 4 px at most one is.
func TestTextGateStudy(t *testing.T) {
	t.Parallel()
	studyGate(t, 2026, *studyPictures).judge(t, *studyPictures)
}

// TestTextGateStudyRandom is the same with a seed that nobody has tuned for.
func TestTextGateStudyRandom(t *testing.T) {
	t.Parallel()
	seed := *studySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", seed)
	studyGate(t, seed, *studyPictures).judge(t, *studyPictures)
	if t.Failed() {
		t.Logf("again: go test ./omnitest/imagecheck -run TextGateStudyRandom -study %d -study-seed %d", *studyPictures, seed)
	}
}

// A word that nobody asked for: the report says where, and a golden sees it as well, also one that kept only its crops.
func TestExtraTextIsReported(t *testing.T) {
	s := signboard{poster: poster{w: 640, h: 384, text: "OPEN 24 HOURS", px: 60, panel: true, scene: 11}}
	img, rect := s.draw(t, s.text)
	box := Box{Text: s.text, Rect: rect}
	s.extra = "sign"
	more, _ := s.draw(t, s.text)
	require.NoError(t, Text(Of(img, Case{}), box)(Of(more, Case{})), "the text in its box is right")
	require.NoError(t, NoExtraText(Of(img, Case{}), box)(Of(noisy(img, 3, 1), Case{})))
	assert.EqualError(t, NoExtraText(Of(img, Case{}), box)(Of(more, Case{})), "picture shows more than the golden: outside the text boxes, at (80,336)-(96,352), the difference is 32.25, limit 12 (worst 16 px tile, 0-255)\n  metric  elsewhere 32.25, want <= 12")
	assert.ErrorContains(t, NoExtraText(Of(img, Case{}), Box{Rect: img.Rect})(Of(img, Case{})), "the text boxes cover the picture, so nothing else was measured")
	assert.ErrorContains(t, NoExtraText(Of(img, Case{}), Box{Rect: image.Rect(-5, 0, 9, 9)})(Of(img, Case{})), "is not inside the picture of 640x384")

	store := Store{Dir: t.TempDir(), Update: true, CropsOnly: true}
	require.NoError(t, store.Check("sign", goldenKey, box)(Of(img, goldenCase)))
	store.Update = false
	assert.ErrorContains(t, store.Check("sign", goldenKey, box)(Of(more, goldenCase)), "image differs from golden: outside the text boxes, at (")
}
