package imagecheck

import (
	"image"
	"image/color"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/image/font"
	"golang.org/x/image/math/fixed"

	"github.com/omnitest/suite/fixtures/fonts"
)

// hanzi paints lines of one size on waves, and gives the box around all of them.
func hanzi(t *testing.T, px float64, dx int, lines ...string) (*image.RGBA, image.Rectangle) {
	t.Helper()
	face, err := fonts.Face(px)
	require.NoError(t, err)
	step := int(px * 1.3)
	w := int(px)*len([]rune(lines[0])) + 120
	img := image.NewRGBA(image.Rect(0, 0, w, step*len(lines)+100))
	background(img, 17)
	box := image.Rectangle{}
	for i, line := range lines {
		d := font.Drawer{Dst: img, Src: image.NewUniform(color.RGBA{15, 15, 40, 255}), Face: face, Dot: fixed.P(60+dx, 40+int(px)+i*step)}
		b, _ := d.BoundString(line)
		box = box.Union(image.Rect(b.Min.X.Floor()-dx, b.Min.Y.Floor(), b.Max.X.Ceil()-dx, b.Max.Y.Ceil()))
		d.DrawString(line)
	}
	return img, box
}

// One stroke makes another hanzi. The glyph cells must see each, aligned or moved, at a small and a large size, and let
// noise, JPEG and a shift pass.
func TestConfusableHanzi(t *testing.T) {
	pairs := [][2]string{{"未来车站", "末来车站"}, {"土豆八元", "士豆八元"}, {"通义千问", "通义干问"}, {"今日开放", "今目开放"}, {"自己开门", "自已开门"},
		{"大人小心", "太人小心"}, {"人口很多", "入口很多"}, {"夜市今天", "夜市今夭"}, {"自由田地", "自由由地"}, {"王先生家", "玉先生家"}}
	for _, px := range []float64{36, 48, 110} {
		for i, p := range pairs {
			ref, box := hanzi(t, px, 0, p[0])
			worst := func(img *image.RGBA) float64 {
				cells := CellNCC(Luma(ref), Luma(img), box, 0, 6)
				return cells[worstCell(cells)].NCC
			}
			wrong, _ := hanzi(t, px, 0, p[1])
			movedRight, _ := hanzi(t, px, 4, p[0])
			movedWrong, _ := hanzi(t, px, 4, p[1])
			seed := uint64(i)
			assert.Less(t, worst(noisy(wrong, 5, seed)), 0.955, "%s for %s at %v px", p[1], p[0], px)
			assert.Less(t, worst(noisy(movedWrong, 5, seed)), 0.955, "%s for %s at %v px, moved", p[1], p[0], px)
			assert.GreaterOrEqual(t, worst(noisy(ref, 5, seed)), 0.955, "%s at %v px, noise", p[0], px)
			assert.GreaterOrEqual(t, worst(jpegged(t, ref, 80)), 0.955, "%s at %v px, JPEG", p[0], px)
			assert.GreaterOrEqual(t, worst(noisy(movedRight, 5, seed)), 0.955, "%s at %v px, moved", p[0], px)
		}
	}
}

// Two lines in one box: a cell of the height of both would be too coarse for one stroke.
func TestLinesInOneBox(t *testing.T) {
	ref, rect := hanzi(t, 60, 0, "未来车站", "今日开放")
	wrong, _ := hanzi(t, 60, 0, "末来车站", "今日开放")
	found := splitLines(Luma(ref), rect, 0)
	require.Len(t, found, 2)
	assert.Equal(t, found, splitLines(Luma(noisy(ref, 3, 1)), rect, 0), "noise is no ink")

	box := Box{Text: "未来车站\n今日开放", Rect: rect}
	assert.ErrorContains(t, Text(Of(ref, Case{}), box)(Of(noisy(wrong, 3, 1), Case{})), "cell-NCC 0.9")
	assert.NoError(t, Text(Of(ref, Case{}), box)(Of(noisy(ref, 3, 1), Case{})))

	one := bestCell(Luma(ref), Luma(wrong), newIntegral(Luma(wrong), ref.Rect), ref.Rect, rect, 6, image.Point{})
	assert.Greater(t, one.NCC, 0.95, "the whole box as one cell hides the stroke")
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		text []string
		want int
	}{
		{[]string{"OPEN 24 HOURS"}, 1}, {[]string{"iii jjj !!!"}, 1}, {[]string{"三二一"}, 1}, {[]string{"NIGHT", "MARKET", "Friday 7 pm"}, 3}, {[]string{"开门", "今日"}, 2},
	} {
		img, rect := hanzi(t, 48, 0, c.text...)
		assert.Len(t, splitLines(Luma(img), rect, 0), c.want, "%v", c.text)
	}
	r := image.Rect(10, 10, 200, 100)
	assert.Equal(t, []image.Rectangle{r}, splitLines(Luma(texture(256, 128)), r, 0), "without any ink")
	assert.Equal(t, []image.Rectangle{r}, splitLines(Luma(noisy(scene(256, 128, 1), 30, 1)), r, 0), "on texture")
	halves := []image.Rectangle{image.Rect(10, 10, 200, 55), image.Rect(10, 55, 200, 100)}
	assert.Equal(t, halves, splitLines(Luma(noisy(scene(256, 128, 1), 30, 1)), r, 2), "on texture, told that there are two")
}
