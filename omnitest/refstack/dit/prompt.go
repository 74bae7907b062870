package dit

import (
	"image/color"
	"slices"
	"strings"
	"unicode"
)

// scene is what a prompt asks for.
type scene struct {
	key         uint64   // of the whole prompt: any other prompt gives another background
	texts       []string // quoted strings in order, one line or more each
	rest        string   // the prompt without what is quoted, lower case
	shapes      []shape  // at most maxShapes
	top, bottom color.RGBA
}

type shape struct {
	kind shapeKind
	rgb  color.RGBA
}

const maxShapes = 3

// quotes are the pairs that mark text to be painted.
var quotes = map[rune]rune{'"': '"', '“': '”', '「': '」', '『': '』'}

// parse reads a prompt. It never fails: whatever a prompt says there is a picture for it, as with the real thing.
func parse(prompt string) scene {
	texts, rest := quoted(prompt)
	s := scene{key: hashString(prompt), texts: texts, rest: strings.ToLower(rest)}
	var loose []color.RGBA // colours that no shape took
	s.shapes, loose = things(s.rest)
	s.top, s.bottom = palette(s.rest, loose, hashString(s.rest))
	return s
}

// quoted splits a prompt into the strings in double quotes and what is left. An opening quote that is never closed
// marks nothing: a plan that was cut off inside of its quotes shows no text, and so fails its check.
func quoted(prompt string) (texts []string, rest string) {
	var b strings.Builder
	r := []rune(prompt)
	for i := 0; i < len(r); i++ {
		if closing, ok := quotes[r[i]]; ok {
			if n := slices.Index(r[i+1:], closing); n >= 0 {
				for line := range strings.SplitSeq(string(r[i+1:i+1+n]), "\n") {
					if line = strings.Join(strings.Fields(line), " "); line != "" {
						texts = append(texts, line)
					}
				}
				b.WriteByte(' ')
				i += n + 1
				continue
			}
		}
		b.WriteRune(r[i])
	}
	return texts, b.String()
}

// token is one English word or one place in Chinese text.
type token struct {
	word string // "" for Chinese
	han  string // text from here on
}

func tokens(text string) []token {
	var out []token
	start := -1
	flush := func(end int) {
		if start >= 0 {
			out = append(out, token{word: text[start:end]})
			start = -1
		}
	}
	for i, r := range text {
		switch {
		case unicode.Is(unicode.Han, r):
			flush(i)
			out = append(out, token{han: text[i:]})
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			if start < 0 {
				start = i
			}
		default:
			flush(i)
		}
	}
	flush(len(text))
	return out
}

// colourAt tells which colour a token names.
func (t token) colour() (color.RGBA, bool) {
	for _, c := range colours {
		if t.word != "" && slices.Contains(c.words, t.word) || t.han != "" && strings.HasPrefix(t.han, c.han) {
			return c.rgb, true
		}
	}
	return color.RGBA{}, false
}

// shape tells which shape a token names; coloured: a colour stands just before it. n is how many tokens it takes.
func (t token) shape(coloured bool) (k shapeKind, n int, ok bool) {
	for _, s := range shapeWords {
		if t.word != "" && slices.Contains(s.words, t.word) {
			return s.kind, 1, true
		}
		for _, h := range s.han {
			if t.han != "" && strings.HasPrefix(t.han, h) {
				return s.kind, len([]rune(h)), true
			}
		}
		if coloured && s.lone != "" && strings.HasPrefix(t.han, s.lone) {
			return s.kind, 1, true
		}
	}
	return 0, 0, false
}

// numerals are how many things of one kind a prompt can ask for, from two on.
var numerals = []string{"two", "three"}

// things finds the shapes, each with the colour that stands at most three tokens before it ("a red wooden cube",
// 红色的圆), and the colours that belong to none. "two" and "three" before a thing make as many of it.
func things(text string) (shapes []shape, loose []color.RGBA) {
	const reach = 3
	toks := tokens(text)
	var last color.RGBA
	at := -1 // where last was named, -1: no open colour
	many, manyAt := 1, -1
	for i := 0; i < len(toks); i++ {
		if c, ok := toks[i].colour(); ok {
			if at >= 0 {
				loose = append(loose, last)
			}
			last, at = c, i
			continue
		}
		if n := slices.Index(numerals, toks[i].word); toks[i].word != "" && n >= 0 {
			many, manyAt = n+2, i
			continue
		}
		near := at >= 0 && i-at <= reach
		k, n, ok := toks[i].shape(near)
		if !ok {
			continue
		}
		s := shape{kind: k, rgb: colours[pickN(hashString(text), uint64(i), len(colours))].rgb}
		if near {
			s.rgb, at = last, -1
		}
		times := 1
		if manyAt >= 0 && i-manyAt <= reach+1 {
			times = many
		}
		manyAt = -1
		for range min(times, maxShapes-len(shapes)) {
			shapes = append(shapes, s)
		}
		i += n - 1
	}
	if at >= 0 {
		loose = append(loose, last)
	}
	return shapes, loose
}

// palette chooses the ends of the background's gradient: a scene word, else the loose colours, else the hash.
func palette(text string, loose []color.RGBA, k uint64) (top, bottom color.RGBA) {
	toks := tokens(text)
	for _, s := range scenes {
		for _, t := range toks {
			if t.word != "" && slices.Contains(s.words, t.word) ||
				t.han != "" && slices.ContainsFunc(s.han, func(h string) bool { return strings.HasPrefix(t.han, h) }) {
				return s.top, s.bottom
			}
		}
	}
	grey := color.RGBA{128, 128, 128, 255}
	switch {
	case len(loose) > 1:
		return blend(loose[0], grey, 0.3), blend(loose[1], grey, 0.3)
	case len(loose) == 1:
		return blend(loose[0], color.RGBA{255, 255, 255, 255}, 0.45), blend(loose[0], color.RGBA{0, 0, 0, 255}, 0.25)
	}
	// Two soft hues, a third of the circle apart at least, one lighter than the other.
	hue := unit(k, 1)
	turn := 0.33 + 0.34*unit(k, 2)
	return hsl(hue, 0.42, 0.62), hsl(hue+turn, 0.46, 0.36)
}

// blend mixes a share of b into a.
func blend(a, b color.RGBA, share float64) color.RGBA {
	m := func(x, y uint8) uint8 { return uint8(float64(x)*(1-share) + float64(y)*share + 0.5) }
	return color.RGBA{m(a.R, b.R), m(a.G, b.G), m(a.B, b.B), 255}
}

// luma is ITU-R BT.601's, 0..255.
func luma(c color.RGBA) float64 {
	return 0.299*float64(c.R) + 0.587*float64(c.G) + 0.114*float64(c.B)
}

// hsl makes a colour from hue (turns), saturation and lightness, 0..1.
func hsl(h, s, l float64) color.RGBA {
	h -= float64(int(h))
	a := s * min(l, 1-l)
	f := func(n float64) uint8 {
		k := n + h*12
		for k >= 12 {
			k -= 12
		}
		return uint8(255*(l-a*max(-1, min(k-3, 9-k, 1))) + 0.5)
	}
	return color.RGBA{f(0), f(8), f(4), 255}
}
