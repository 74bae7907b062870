package textcheck

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/api"
)

// Damage is one place where characters were broken.
type Damage struct {
	Kind string `json:"kind"` // see the constants
	At   int    `json:"at"`   // byte of the text, or number of the event
	Text string `json:"text"` // what stands there
	Was  string `json:"was"`  // what it must have been, where that can be told
}

// Kinds of damage.
const (
	Replacement   = "replacement"    // a run of U+FFFD, or bytes that are no UTF-8
	TwiceEncoded  = "twice-encoded"  // UTF-8 read as Latin-1 or Windows-1252 and encoded again: "cafÃ©" for "café"
	LoneSurrogate = "lone-surrogate" // half of a pair in JSON
	SplitRune     = "split-rune"     // a character whose bytes came in two events
)

func (d Damage) String() string {
	if d.Was != "" {
		return fmt.Sprintf("%s %s (%s) at %d", d.Kind, Quote(d.Text), d.Was, d.At)
	}
	return fmt.Sprintf("%s %s at %d", d.Kind, Quote(d.Text), d.At)
}

// windows1252 gives the bytes 0x80 to 0x9F that Windows-1252 shows as characters; Latin-1 has controls there, which are
// understood as well.
var windows1252 = map[rune]byte{
	'€': 0x80, '‚': 0x82, 'ƒ': 0x83, '„': 0x84, '…': 0x85, '†': 0x86, '‡': 0x87, 'ˆ': 0x88, '‰': 0x89, 'Š': 0x8A, '‹': 0x8B,
	'Œ': 0x8C, 'Ž': 0x8E, '‘': 0x91, '’': 0x92, '“': 0x93, '”': 0x94, '•': 0x95, '–': 0x96, '—': 0x97, '˜': 0x98, '™': 0x99,
	'š': 0x9A, '›': 0x9B, 'œ': 0x9C, 'ž': 0x9E, 'Ÿ': 0x9F,
}

func singleByte(r rune) (byte, bool) {
	if r >= 0x80 && r <= 0xFF {
		return byte(r), true
	}
	b, ok := windows1252[r]
	return b, ok
}

// Mojibake finds broken characters in a text. What encodes À to ÿ or typographic punctuation ("Ã©", "â€™") is sure; what encodes
// any other character counts from the second on, and a capital before a quotation mark or dash, »Ä«, does not count.
func Mojibake(text string) []Damage {
	var sure, perhaps []Damage
	for i := 0; i < len(text); {
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError {
			from := i
			for i < len(text) {
				if r, n = utf8.DecodeRuneInString(text[i:]); r != utf8.RuneError {
					break
				}
				i += n
			}
			sure = append(sure, Damage{Kind: Replacement, At: from, Text: text[from:i]})
			continue
		}
		if was, length := twiceEncoded(text[i:]); length > 0 {
			d := Damage{TwiceEncoded, i, text[i : i+length], was}
			quote := closing(text[i+n : i+length])
			switch {
			case strings.HasPrefix(was, "\xe2\x80"), was[0] == 0xC3 && !quote:
				sure = append(sure, d)
			case !quote:
				perhaps = append(perhaps, d)
			}
			i += length
			continue
		}
		i += n
	}
	if len(perhaps) > 1 || len(sure) > 0 {
		sure = append(sure, perhaps...)
	}
	return sure
}

// closing is true for what may stand behind a capital with an accent in healthy text: »Ä«, MAÇÃ…, CAFÉ — and a fixed space.
func closing(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n == len(s) && strings.ContainsRune("«»‹›…–—‘’“”„•°·\u00a0", r)
}

// twiceEncoded reads the character that the single bytes of the next characters encode. Only characters of two bytes or more
// count, and only whole ones.
func twiceEncoded(s string) (was string, length int) {
	var b [utf8.UTFMax]byte
	n := 0
	for i, r := range s {
		x, ok := singleByte(r)
		if !ok || n == len(b) {
			break
		}
		b[n] = x
		n++
		length = i + utf8.RuneLen(r)
		if n > 1 && utf8.FullRune(b[:n]) {
			if d, size := utf8.DecodeRune(b[:n]); d != utf8.RuneError && size == n {
				return string(d), length
			}
			return "", 0
		}
		if n == 1 && x < 0xC2 {
			return "", 0 // no lead byte
		}
	}
	return "", 0
}

// LoneSurrogates finds halves of surrogate pairs in raw JSON: a server that escapes its text as UTF-16 and cuts a pair. A JSON
// reader turns each into U+FFFD, so it must be looked for before.
func LoneSurrogates(raw []byte) []Damage {
	var found []Damage
	half := func(i int) (high, low bool) {
		if i+6 > len(raw) || raw[i] != '\\' || raw[i+1] != 'u' || raw[i+2]|0x20 != 'd' {
			return false, false
		}
		third := raw[i+3] | 0x20
		return third == '8' || third == '9' || third == 'a' || third == 'b', third >= 'c' && third <= 'f'
	}
	for i := 0; i < len(raw); i++ {
		if raw[i] != '\\' {
			continue
		}
		high, low := half(i)
		switch _, pair := half(i + 6); {
		case high && pair:
			i += 11
		case high || low:
			found = append(found, Damage{Kind: LoneSurrogate, At: i, Text: string(raw[i : i+6])})
			i += 5
		default:
			i++ // what is escaped, a backslash perhaps
		}
	}
	return found
}

// SplitRunes finds characters that a stream cut in two: events whose bytes are no UTF-8, and U+FFFD on both sides of a seam,
// which is what a reader makes of halves that were decoded one by one.
func SplitRunes(events []api.Event) []Damage {
	var found []Damage
	before := ""
	for i, e := range events {
		_, size := utf8.DecodeRuneInString(e.Text)
		switch {
		case !utf8.Valid(e.Data) && !bytes.Equal(e.Data, []byte("[DONE]")):
			found = append(found, Damage{Kind: SplitRune, At: i, Text: string(e.Data)})
		case strings.HasSuffix(before, "\uFFFD") && strings.HasPrefix(e.Text, "\uFFFD"):
			found = append(found, Damage{Kind: SplitRune, At: i, Text: before[len(before)-3:] + "|" + e.Text[:size]})
		}
		if e.Text != "" {
			before = e.Text
		}
	}
	return found
}

// Characters counts what is broken in an answer: in the text of every choice, and in the events where it was streamed. A model
// that writes bytes which are no characters, as one with random weights does, cannot be asked.
func Characters(t *api.Text, b Bounds) Result {
	r := b.ask("mojibake", "<=", b.Damaged)
	if t == nil || len(t.Choices) == 0 {
		return r.unmeasured("an answer without choices")
	}
	var all []Damage
	for _, c := range t.Choices {
		all = append(all, Mojibake(c.Text)...)
	}
	for _, e := range t.Events {
		all = append(all, LoneSurrogates(e.Data)...)
	}
	all = append(all, SplitRunes(t.Events)...)
	r.Value = float64(len(all))
	shown := make([]string, 0, 3)
	for _, d := range all[:min(3, len(all))] {
		shown = append(shown, d.String())
	}
	r.Note = strings.Join(shown, ", ")
	return r
}

// WholeCharacters is Characters as a check of answers.
func WholeCharacters(b Bounds) func(*api.Text) error {
	return func(t *api.Text) error { return Characters(t, b).Err() }
}
