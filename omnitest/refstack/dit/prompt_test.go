package dit

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestQuoted(t *testing.T) {
	for _, c := range []struct {
		prompt string
		texts  []string
		rest   string
	}{
		{`A sign "OPEN 24 HOURS" at night`, []string{"OPEN 24 HOURS"}, "A sign   at night"},
		{`“通义千问”和「营业中」`, []string{"通义千问", "营业中"}, " 和 "},
		{`"one" "two"`, []string{"one", "two"}, "   "},
		{"\"two\nlines\"", []string{"two", "lines"}, " "},
		{`"  spaces   inside "`, []string{"spaces inside"}, " "},
		{`5" pipe`, nil, `5" pipe`},
		{`""`, nil, " "},
		{"it's 'single'", nil, "it's 'single'"},
	} {
		texts, rest := quoted(c.prompt)
		assert.Equal(t, c.texts, texts, c.prompt)
		assert.Equal(t, c.rest, rest, c.prompt)
	}
}

func TestThings(t *testing.T) {
	rgb := func(name string) shape {
		for _, c := range colours {
			if c.name == name {
				return shape{rgb: c.rgb}
			}
		}
		t.Fatal(name)
		return shape{}
	}
	of := func(k shapeKind, colour string) shape { s := rgb(colour); s.kind = k; return s }
	for _, c := range []struct {
		text   string
		shapes []shape
	}{
		{"a red circle, a blue square and a green triangle", []shape{of(circle, "red"), of(square, "blue"), of(triangle, "green")}},
		{"a red wooden cube", []shape{of(cube, "brown")}}, // the nearest colour word counts
		{"红色的圆和蓝色三角形", []shape{of(circle, "red"), of(triangle, "blue")}},
		{"一个绿色的正方形", []shape{of(square, "green")}},
		{"方法和地方", nil}, // 方 alone is no shape
		{"a red fox", nil},
		{"a red star, a red star, a red star, a red star", []shape{of(star, "red"), of(star, "red"), of(star, "red")}},
	} {
		got, _ := things(c.text)
		assert.Equal(t, c.shapes, got, c.text)
	}
	_, loose := things("a red fox")
	assert.Len(t, loose, 1)
}

func TestSceneWordsChooseTheBackground(t *testing.T) {
	sea, night := parse("a boat on the sea"), parse("夜里的街道")
	assert.Greater(t, sea.top.B, sea.top.R)
	assert.Less(t, luma(night.top), 40.0)
	blue := parse("a blue wall")
	assert.Greater(t, blue.bottom.B, blue.bottom.R)
	assert.NotEqual(t, parse("abc").top, parse("abd").top)
}

func TestMisspell(t *testing.T) {
	for in, want := range map[string]string{
		"HOURS": "HOVRS", "未": "末", "土": "士", "千": "干", "己": "已", "大": "太", "日": "目", "42": "4Z", "4": "1", "J": "K", "z": "y", "9": "8",
		"通义千问": "通义干问", "!?": "!?",
	} {
		assert.Equal(t, []string{want}, misspell([]string{in}))
	}
	two := []string{"AB", "OPEN 24 HOURS"}
	got := misspell(two)
	assert.Equal(t, "AB", got[0])
	assert.Len(t, got[1], len(two[1]))
	assert.Equal(t, "OPEN 24 HOURS", two[1], "the caller's text changed")
	assert.Empty(t, misspell(nil))
}
