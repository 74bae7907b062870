package dit

import (
	"image"
	"image/color"
	"image/draw"
	"slices"
	"strings"

	xdraw "golang.org/x/image/draw"
)

type operation int

const (
	opTint     operation = iota // an instruction that is not understood still changes something, as a model would
	opRecolour                  // "make the car red"
	opAdd                       // "add a red circle in the top right"
	opRemove                    // "remove the boat in the bottom left"
	opText                      // "change the text to "CLOSED""
	opStyle                     // "in watercolor style"
	opInsert                    // "put the second picture into the left half"
)

// instruction is what an edit prompt asks for.
type instruction struct {
	op    operation
	where string // name of the region, "": none named
	rgb   color.RGBA
	shape shapeKind
	texts []string
	style string
	key   uint64
}

// regionWords name regions; the first that an instruction contains counts, so corners stand before halves.
var regionWords = []struct {
	name  string
	words []string
}{
	{"top left", []string{"top left", "top-left", "upper left", "upper-left", "左上"}},
	{"top right", []string{"top right", "top-right", "upper right", "upper-right", "右上"}},
	{"bottom left", []string{"bottom left", "bottom-left", "lower left", "lower-left", "左下"}},
	{"bottom right", []string{"bottom right", "bottom-right", "lower right", "lower-right", "右下"}},
	{"left", []string{"left half", "left side", "左半", "左边", "左侧"}},
	{"right", []string{"right half", "right side", "右半", "右边", "右侧"}},
	{"top", []string{"top half", "upper half", "上半"}},
	{"bottom", []string{"bottom half", "lower half", "下半"}},
	{"centre", []string{"centre", "center", "middle", "中间", "中央", "中心"}},
	{"sky", []string{"background", "sky", "背景", "天空"}},
}

// rectangle of a named region. Halves and quarters are exact; the centre is the middle third of both sides; sky and
// background are the top third, since a region is a rectangle.
func rectangle(name string, w, h int) image.Rectangle {
	switch name {
	case "top left":
		return image.Rect(0, 0, w/2, h/2)
	case "top right":
		return image.Rect(w/2, 0, w, h/2)
	case "bottom left":
		return image.Rect(0, h/2, w/2, h)
	case "bottom right":
		return image.Rect(w/2, h/2, w, h)
	case "left":
		return image.Rect(0, 0, w/2, h)
	case "right":
		return image.Rect(w/2, 0, w, h)
	case "top":
		return image.Rect(0, 0, w, h/2)
	case "bottom":
		return image.Rect(0, h/2, w, h)
	case "sky":
		return image.Rect(0, 0, w, h/3)
	case "band":
		return image.Rect(0, h*3/4, w, h)
	}
	return image.Rect(w/3, h/3, w-w/3, h-h/3)
}

var styleWords = []struct {
	name  string
	words []string
}{
	{"watercolour", []string{"watercolor", "watercolour", "水彩"}},
	{"oil", []string{"oil painting", "oil paint", "油画"}},
	{"sketch", []string{"sketch", "pencil", "素描"}},
	{"mono", []string{"black and white", "black-and-white", "grayscale", "greyscale", "黑白"}},
	{"anime", []string{"anime", "cartoon", "comic", "动漫", "卡通"}},
}

func hasAny(s string, words ...string) bool {
	return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(s, w) })
}

// parseEdit reads an instruction. What stands in quotes is text to paint and names nothing.
func parseEdit(prompt string) instruction {
	texts, rest := quoted(prompt)
	rest = strings.ToLower(rest)
	e := instruction{texts: texts, key: hashString(prompt)}
	for _, r := range regionWords {
		if hasAny(rest, r.words...) {
			e.where = r.name
			break
		}
	}
	for _, s := range styleWords {
		if hasAny(rest, s.words...) {
			e.style = s.name
			break
		}
	}
	shapes, loose := things(rest)
	switch {
	case len(texts) > 0:
		e.op = opText
	case e.style != "":
		e.op = opStyle
	case hasAny(rest, "second picture", "second image", "second photo", "other picture", "other image", "image 2", "picture 2",
		"combine", "merge", "第二", "另一张", "图2", "合并"):
		e.op = opInsert
	case hasAny(rest, "remove", "erase", "delete", "去掉", "删除", "移除", "擦除"):
		e.op = opRemove
	case len(shapes) > 0 && hasAny(rest, "add", "put", "place", "draw", "insert", "添加", "加上", "加一", "加个", "画", "放"):
		e.op, e.shape, e.rgb = opAdd, shapes[0].kind, shapes[0].rgb
	case len(loose) > 0:
		e.op, e.rgb = opRecolour, loose[len(loose)-1] // "change the red car to blue": the last colour is the wanted one
	case len(shapes) > 0 && hasColour(rest):
		e.op, e.rgb = opRecolour, shapes[0].rgb
	}
	return e
}

func hasColour(text string) bool {
	return slices.ContainsFunc(tokens(text), func(t token) bool { _, ok := t.colour(); return ok })
}

// region where the instruction may change a picture; empty: all of it.
func (e instruction) region(w, h int) image.Rectangle {
	switch {
	case e.where != "":
		return rectangle(e.where, w, h)
	case e.op == opStyle:
		return image.Rectangle{}
	case e.op == opText:
		return rectangle("band", w, h)
	}
	return rectangle("centre", w, h)
}

// Region tells which rectangle an edit instruction names, in pixels of a picture that was asked for as w x h; empty: the
// whole picture (style edits). Corners are quarters, halves halves, the centre the middle third of both sides,
// "sky" and "background" the top third. An instruction that names no place means the centre, a text that names none the
// bottom quarter.
func Region(instruction string, w, h int) image.Rectangle {
	if w <= 0 || h <= 0 {
		return image.Rectangle{}
	}
	return parseEdit(instruction).region(snap(w), snap(h))
}

// edit makes the target picture: the first input with the instruction carried out within its region.
func (s *Server) edit(e instruction, inputs []*image.RGBA, mask *image.Alpha, r *Result) *image.RGBA {
	if s.cfg.Faults.FirstInputOnly {
		inputs = inputs[:1]
	}
	if s.cfg.Faults.MaskIgnored {
		mask = nil
	}
	src := inputs[0]
	w, h := src.Rect.Dx(), src.Rect.Dy()
	r.Region = e.region(w, h)
	if mask != nil {
		r.Region = whiteBox(mask)
		if r.Region.Empty() { // nothing may change, which an empty Region cannot say
			return src
		}
	}
	work := r.Region
	if work.Empty() {
		work = src.Rect
	}
	out := image.NewRGBA(src.Rect)
	copy(out.Pix, src.Pix)
	if !s.cfg.Faults.EditIgnored {
		s.carryOut(e, out, inputs, work, r)
		if mask != nil {
			draw.DrawMask(out, out.Rect, src, image.Point{}, inverted(mask), image.Point{}, draw.Over)
		}
	}
	if s.cfg.Faults.EditOutsideRegion {
		if p := farPatch(work, w, h); !p.Empty() {
			flipPatch(out, p)
		}
	}
	return out
}

// farPatch is a 64 px square in the corner farthest from a region; empty: no corner is free of it.
func farPatch(region image.Rectangle, w, h int) image.Rectangle {
	side := min(64, w/4, h/4)
	gap := 32 // checkers widen a region by a tile before they look outside of it
	var best image.Rectangle
	far := -1
	c := region.Min.Add(region.Max).Div(2)
	for _, at := range []image.Point{{0, 0}, {w - side, 0}, {0, h - side}, {w - side, h - side}} {
		p := image.Rectangle{at, at.Add(image.Pt(side, side))}
		if p.Overlaps(region.Inset(-gap)) {
			continue
		}
		d := at.Add(image.Pt(side/2, side/2)).Sub(c)
		if n := d.X*d.X + d.Y*d.Y; n > far {
			best, far = p, n
		}
	}
	return best
}

// flipPatch changes every pixel of a patch by at least a quarter of the range.
func flipPatch(m *image.RGBA, p image.Rectangle) {
	for y := p.Min.Y; y < p.Max.Y; y++ {
		row := m.Pix[m.PixOffset(p.Min.X, y):m.PixOffset(p.Max.X, y)]
		for i := range row {
			if i%4 != 3 {
				row[i] ^= 0x80
			}
		}
	}
}

// scaled copies a picture as w x h pixels with opaque alpha (transparent parts on white).
func scaled(in image.Image, w, h int) *image.RGBA {
	if b := in.Bounds(); b.Dx() == w && b.Dy() == h {
		return rgba(in)
	}
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	xdraw.BiLinear.Scale(out, out.Rect, in, in.Bounds(), xdraw.Over, nil)
	return out
}

// rgba copies a picture to origin 0,0 with opaque alpha.
func rgba(in image.Image) *image.RGBA {
	b := in.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	op := draw.Src
	if o, ok := in.(interface{ Opaque() bool }); !ok || !o.Opaque() {
		draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
		op = draw.Over
	}
	draw.Draw(out, out.Rect, in, b.Min, op)
	return out
}

// maskOf gives the mask at the picture's size, 255 where it may change; nil stays nil.
func maskOf(in image.Image, w, h int) *image.Alpha {
	if in == nil {
		return nil
	}
	g := image.NewGray(image.Rect(0, 0, w, h))
	xdraw.NearestNeighbor.Scale(g, g.Rect, in, in.Bounds(), xdraw.Src, nil)
	out := image.NewAlpha(g.Rect)
	for i, v := range g.Pix {
		if v >= 128 {
			out.Pix[i] = 255
		}
	}
	return out
}

func inverted(m *image.Alpha) *image.Alpha {
	out := image.NewAlpha(m.Rect)
	for i, v := range m.Pix {
		out.Pix[i] = 255 - v
	}
	return out
}

// whiteBox bounds the part of a mask that may change.
func whiteBox(m *image.Alpha) image.Rectangle {
	var r image.Rectangle
	for y := range m.Rect.Dy() {
		row := m.Pix[y*m.Stride : y*m.Stride+m.Rect.Dx()]
		first := slices.Index(row, 255)
		if first < 0 {
			continue
		}
		last := len(row) - 1
		for row[last] != 255 {
			last--
		}
		r = r.Union(image.Rect(first, y, last+1, y+1))
	}
	return r
}
