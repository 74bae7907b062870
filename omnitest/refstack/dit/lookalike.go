package dit

import (
	"unicode"

	"github.com/omnitest/suite/fixtures/fonts"
)

// alike are pairs that a reader, or an OCR that corrects words, takes for each other. Both ways.
var alike = func() map[rune]rune {
	m := map[rune]rune{}
	for _, p := range []string{"O0", "EF", "UV", "41", "S5", "B8", "G6", "Z2", "lI", "QC", "PR", "MN", "HK", "TY", "oc", "ea", "hb", "gq", "nu", "il", "rt",
		"未末", "土士", "千干", "己已", "大太", "日目", "人入", "天夭", "田由", "王玉", "木本", "牛午", "刀力", "开升", "名各", "间问", "小少", "白自", "今令", "营管"} {
		r := []rune(p)
		if _, taken := m[r[0]]; !taken {
			m[r[0]] = r[1]
		}
		if _, taken := m[r[1]]; !taken {
			m[r[1]] = r[0]
		}
	}
	return m
}()

// misspell swaps one character of the text for a look-alike: the one nearest to the middle of the longest line that has
// one, else the middle character for its neighbour in the alphabet. Text without letters or digits stays as it is.
func misspell(lines []string) []string {
	out := append([]string(nil), lines...)
	longest := 0
	for i := range out {
		if len(out[i]) > len(out[longest]) {
			longest = i
		}
	}
	if len(out) == 0 {
		return out
	}
	r := []rune(out[longest])
	pass := func(swap func(rune) (rune, bool)) bool {
		for d := range len(r) {
			for _, i := range []int{len(r)/2 + d, len(r)/2 - d} {
				if i < 0 || i >= len(r) {
					continue
				}
				if other, ok := swap(r[i]); ok {
					r[i] = other
					return true
				}
			}
		}
		return false
	}
	_ = pass(func(c rune) (rune, bool) { o, ok := alike[c]; return o, ok }) || pass(neighbour)
	out[longest] = string(r)
	return out
}

// neighbour is the next letter, digit or hanzi that can be painted.
func neighbour(c rune) (rune, bool) {
	switch {
	case c == 'z' || c == 'Z' || c == '9':
		return c - 1, true
	case c < unicode.MaxASCII && (unicode.IsLetter(c) || unicode.IsDigit(c)):
		return c + 1, true
	case unicode.Is(unicode.Han, c):
		for o := c + 1; o < c+64; o++ {
			if unicode.Is(unicode.Han, o) && fonts.Has(o) {
				return o, true
			}
		}
	}
	return 0, false
}
