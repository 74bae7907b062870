package dit

import "image/color"

// The vocabulary: what the reference DiT understands, in English and Chinese. A prompt word outside of it still counts,
// through the hash that chooses the background.

type colourWord struct {
	name  string
	words []string // English, matched as whole words
	han   string   // Chinese character, matched as it stands
	rgb   color.RGBA
}

var colours = []colourWord{
	{"red", []string{"red", "crimson", "scarlet"}, "红", color.RGBA{214, 40, 40, 255}},
	{"blue", []string{"blue", "azure"}, "蓝", color.RGBA{38, 84, 214, 255}},
	{"green", []string{"green", "emerald"}, "绿", color.RGBA{36, 150, 70, 255}},
	{"yellow", []string{"yellow"}, "黄", color.RGBA{250, 214, 30, 255}},
	{"orange", []string{"orange"}, "橙", color.RGBA{245, 130, 20, 255}},
	{"purple", []string{"purple", "violet"}, "紫", color.RGBA{128, 48, 170, 255}},
	{"pink", []string{"pink", "rose"}, "粉", color.RGBA{245, 140, 180, 255}},
	{"black", []string{"black"}, "黑", color.RGBA{22, 22, 26, 255}},
	{"white", []string{"white"}, "白", color.RGBA{246, 246, 244, 255}},
	{"gray", []string{"gray", "grey", "silver"}, "灰", color.RGBA{134, 138, 144, 255}},
	{"brown", []string{"brown", "wooden"}, "棕", color.RGBA{122, 78, 44, 255}},
	{"cyan", []string{"cyan", "teal", "turquoise"}, "青", color.RGBA{20, 170, 178, 255}},
	{"gold", []string{"gold", "golden"}, "金", color.RGBA{212, 168, 50, 255}},
}

type shapeKind int

const (
	circle shapeKind = iota
	square
	triangle
	cube
	star
)

type shapeWord struct {
	kind  shapeKind
	words []string
	han   []string // longer terms first
	lone  string   // one character that means the shape only right after a colour: 方 alone is in 方法, 地方 ...
}

var shapeWords = []shapeWord{
	{circle, []string{"circle", "circles", "disc", "disk", "ball", "sphere", "dot"}, []string{"圆形", "圆圈", "圆球"}, "圆"},
	{cube, []string{"cube", "cubes", "box"}, []string{"立方体"}, ""},
	{square, []string{"square", "squares", "rectangle"}, []string{"正方形", "方形", "方块"}, "方"},
	{triangle, []string{"triangle", "triangles", "pyramid"}, []string{"三角形", "三角"}, ""},
	{star, []string{"star", "stars"}, []string{"五角星", "星形", "星星"}, "星"},
}

// scenes give the two ends of a background's gradient, top first.
var scenes = []struct {
	words       []string
	han         []string
	top, bottom color.RGBA
}{
	{[]string{"sunset", "dawn", "sunrise", "dusk"}, []string{"日落", "黄昏", "日出", "黎明"}, color.RGBA{92, 58, 128, 255}, color.RGBA{246, 158, 84, 255}},
	{[]string{"forest", "jungle", "garden", "meadow", "tree", "trees"}, []string{"森林", "花园", "草地", "树"}, color.RGBA{164, 196, 136, 255}, color.RGBA{38, 84, 44, 255}},
	{[]string{"sea", "ocean", "lake", "river", "beach", "water"}, []string{"海", "湖", "河", "江"}, color.RGBA{156, 200, 226, 255}, color.RGBA{20, 82, 128, 255}},
	{[]string{"night", "space", "galaxy", "neon"}, []string{"夜", "太空", "星空"}, color.RGBA{14, 16, 44, 255}, color.RGBA{62, 48, 108, 255}},
	{[]string{"snow", "winter", "ice"}, []string{"雪", "冬"}, color.RGBA{196, 212, 230, 255}, color.RGBA{238, 240, 244, 255}},
	{[]string{"desert", "sand"}, []string{"沙漠", "沙"}, color.RGBA{232, 206, 150, 255}, color.RGBA{180, 122, 66, 255}},
	{[]string{"city", "street", "shop", "cafe", "coffee", "bookstore"}, []string{"城市", "街", "店", "咖啡"}, color.RGBA{126, 140, 160, 255}, color.RGBA{86, 74, 70, 255}},
	{[]string{"sky", "cloud", "clouds"}, []string{"天空", "云"}, color.RGBA{86, 148, 220, 255}, color.RGBA{206, 226, 242, 255}},
	{[]string{"mountain", "mountains", "hills"}, []string{"山"}, color.RGBA{170, 186, 206, 255}, color.RGBA{78, 92, 96, 255}},
}
