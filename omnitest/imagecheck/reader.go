package imagecheck

import (
	"context"
	"errors"
	"fmt"
	"image"
	"math"
	"strconv"
	"strings"
	"unicode"

	xdraw "golang.org/x/image/draw"
)

// Reader reads the text in a picture: [Tesseract], a model behind an endpoint ([ChatReader]), or a fake. Where layout is free
// (another seed, another engine) nothing else can tell what a text says.
type Reader interface {
	// Read gives the text of a picture, lines separated by "\n". lang is "en" or "zh". spread: the text stands anywhere in the
	// picture, in pieces; else the picture is a crop of one block of as many lines.
	Read(ctx context.Context, img *image.RGBA, lang string, lines int, spread bool) (string, error)
}

// ErrNoReader: the tool or the endpoint that reads text is not there. A test skips by it, and says so.
var ErrNoReader = errors.New("no reader of text")

// readHeights are the heights in pixels to which a line is scaled, one reading each: tesseract reads a clean hanzi of 64 px
// worse than one of 24, and no single height reads all. Accepting any reading that is right took 2 false rejects of 20 to
// none, with 0 false accepts of 60 for Chinese and 2 of 10 for English, where the network corrects words: pair it with
// [Text] where there is a golden.
var readHeights = []int{24, 32, 48, 64}

// readPadding is the ground that a crop gets on every side, in pixels after scaling: without it 通义千问 was read as 通义于问 at
// each of five heights, with it as it stands.
const readPadding = 12

// LangOf is the language to read an expected text in: "zh" if it holds a hanzi, else "en". Reading in both at once costs
// Chinese up to 14 points.
func LangOf(text string) string {
	if strings.ContainsFunc(text, func(r rune) bool { return unicode.Is(unicode.Han, r) }) {
		return "zh"
	}
	return "en"
}

// Reads demands that every box can be read as its Text (lines separated by "\n" or " / "), in the best of four scales: on a
// plain ground exactly, but for case, space and punctuation; on texture, where readers err, with a character accuracy of
// at least 0.75. A reader that fails is a failure, never a pass.
func Reads(ctx context.Context, r Reader, boxes ...Box) Check {
	return check("reads", "text cannot be read", func(p Picture, f *finding) {
		if len(boxes) == 0 {
			f.fail("no text box was given")
		}
		for i, b := range boxes {
			f.read(ctx, r, i, b, p)
		}
	})
}

func (f *finding) read(ctx context.Context, r Reader, i int, b Box, p Picture) {
	want := plainText(b.Text)
	frame, err := textFrame(b, p.Image.Rect)
	if err != nil {
		f.fail("%v", err)
		return
	}
	if want == "" {
		f.fail("text box %v names no text to read", b.Rect)
		return
	}
	name := "text-" + strconv.Itoa(i)
	least, ground := 1.0, "on a plain ground"
	ring := ringDev(p.luma(), frame, b.Rect)
	if ring > f.bounds.PlainGround {
		least, ground = f.bounds.ReadOnTexture, "on texture"
	}
	f.note(name+".ground", ring, "luma standard deviation around the text; "+ground)
	lines := max(1, b.Lines)
	cut := crop(p.opaque(), frame)
	best, reading := math.Inf(-1), ""
	view := readView{name: name, want: b.Text, img: cut}
	defer func() { f.readings = append(f.readings, view) }()
	for _, h := range readHeights {
		scaled := padded(scaleTo(cut, float64(h*lines)/float64(b.Rect.Dy())), readPadding)
		text, err := r.Read(ctx, scaled, LangOf(b.Text), lines, false)
		if err != nil {
			view.readings = append(view.readings, fmt.Sprintf("%d px: the reader failed", h))
			f.mark(b.Rect, "not read")
			f.unread(name, least, err)
			return
		}
		view.readings = append(view.readings, fmt.Sprintf("%d px: %s", h, strings.TrimSpace(text)))
		a := Accuracy(want, plainText(text))
		f.note(fmt.Sprintf("%s.at-%dpx", name, h), a, strconv.Quote(strings.TrimSpace(text)))
		if a > best {
			best, reading = a, strings.TrimSpace(text)
		}
		if a == 1 {
			break
		}
	}
	f.mark(b.Rect, reading)
	f.atLeast(name+".accuracy", best, least, fmt.Sprintf("%s is read as %s, character accuracy", strconv.Quote(clip(b.Text, 60)), strconv.Quote(clip(reading, 60))), ground+", best of "+strconv.Itoa(len(readHeights))+" scales")
}

// unread records that the reader failed.
func (f *finding) unread(name string, least float64, err error) {
	f.metrics = append(f.metrics, Metric{Name: name + ".accuracy", Value: math.NaN(), Bound: least, Direction: ">="})
	f.cause = err
	f.fail("the reader failed")
}

// ReadsSomewhere demands that each line can be read somewhere in the picture, wherever a model put it: the share of its
// characters that the nearest piece of the reading has is at least 0.85 (English) or 0.75 (Chinese). Readers themselves gave
// 0.96 and 0.88 on real posters. What was read beyond the lines is counted ("extra") and not judged.
func ReadsSomewhere(ctx context.Context, r Reader, lines ...string) Check {
	return check("reads-somewhere", "text is not in the picture", func(p Picture, f *finding) {
		if len(lines) == 0 {
			f.fail("no text was given")
		}
		all := strings.Join(lines, "")
		lang := LangOf(all)
		least := f.bounds.RecallEN
		if lang == "zh" {
			least = f.bounds.RecallZH
		}
		best := make([]float64, len(lines))
		extra := math.Inf(1)
		var readings []string
		view := readView{name: "text", want: strings.Join(lines, " / "), img: scaleTo(p.opaque(), min(1, 512/float64(max(p.Size().W, p.Size().H))))}
		defer func() { f.readings = append(f.readings, view) }()
		for _, side := range []int{1024, 512} { // large hanzi are read better when they get smaller
			scaled := scaleTo(p.opaque(), min(1, float64(side)/float64(max(p.Size().W, p.Size().H))))
			text, err := r.Read(ctx, scaled, lang, len(lines), true)
			if err != nil {
				f.unread("text-0", least, err)
				return
			}
			got := plainText(text)
			readings = append(readings, got)
			view.readings = append(view.readings, fmt.Sprintf("%d px: %s", side, strings.TrimSpace(text)))
			for i, l := range lines {
				best[i] = max(best[i], Recall(plainText(l), got))
			}
			extra = min(extra, float64(max(0, len([]rune(got))-len([]rune(plainText(all))))))
			if p.Size().W <= 512 && p.Size().H <= 512 {
				break
			}
		}
		for i, l := range lines {
			f.atLeast(fmt.Sprintf("text-%d.recall", i), best[i], least, "of "+strconv.Quote(clip(l, 60))+" the recall of characters is", "read: "+strconv.Quote(clip(strings.Join(readings, " | "), 120)))
		}
		f.note("extra", extra, "characters read beyond the text")
	})
}

// ringDev is the standard deviation of luma in the margin around a text: what it stands on.
func ringDev(g *image.Gray, frame, box image.Rectangle) float64 {
	var n, sum, squares float64
	for y := frame.Min.Y; y < frame.Max.Y; y++ {
		for x := frame.Min.X; x < frame.Max.X; x++ {
			if !image.Pt(x, y).In(box) {
				v := float64(g.Pix[g.PixOffset(x, y)])
				n, sum, squares = n+1, sum+v, squares+v*v
			}
		}
	}
	if n == 0 {
		return 0
	}
	return math.Sqrt(max(0, squares/n-sum/n*sum/n))
}

func scaleTo(img *image.RGBA, factor float64) *image.RGBA {
	if factor == 1 {
		return img
	}
	w, h := max(1, int(float64(img.Rect.Dx())*factor+0.5)), max(1, int(float64(img.Rect.Dy())*factor+0.5))
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	xdraw.CatmullRom.Scale(out, out.Rect, img, img.Rect, xdraw.Src, nil)
	return out
}

// padded repeats the border outward.
func padded(img *image.RGBA, by int) *image.RGBA {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := image.NewRGBA(image.Rect(0, 0, w+2*by, h+2*by))
	for y := range out.Rect.Dy() {
		for x := range out.Rect.Dx() {
			out.SetRGBA(x, y, img.RGBAAt(min(max(x-by, 0), w-1), min(max(y-by, 0), h-1)))
		}
	}
	return out
}

// plainText is what counts of a text: letters, digits and hanzi, lower case, full width as half width.
func plainText(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 0xff01 && r <= 0xff5e {
			r -= 0xff01 - '!'
		}
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// Accuracy is 1 - edits/length of the longer text, by characters: 1 for equal texts, 0 where nothing is in common.
func Accuracy(want, got string) float64 {
	a, b := []rune(want), []rune(got)
	n := max(len(a), len(b))
	if n == 0 {
		return 1
	}
	return 1 - float64(edits(a, b, false))/float64(n)
}

// Recall is 1 - edits/length of want, to the piece of got that is nearest to it: what stands around that piece is free.
func Recall(want, got string) float64 {
	a := []rune(want)
	if len(a) == 0 {
		return math.NaN()
	}
	return 1 - float64(edits(a, []rune(got), true))/float64(len(a))
}

// edits counts insertions, deletions and substitutions that make b of a; of a piece of b, if free (Sellers 1980).
func edits(a, b []rune, free bool) int {
	row := make([]int, len(b)+1)
	if !free {
		for j := range row {
			row[j] = j
		}
	}
	for i, ra := range a {
		diagonal := row[0]
		row[0] = i + 1
		for j, rb := range b {
			cost := diagonal
			if ra != rb {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	if !free {
		return row[len(b)]
	}
	least := row[0]
	for _, v := range row {
		least = min(least, v)
	}
	return least
}
