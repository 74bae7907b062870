package textcheck

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Divergence tells how a text departs from the wanted one: cut short, too long, its own bytes in another order (permuted
// blocks), or plain different from some byte on.
func Divergence(got, want string) string {
	at := 0
	for at < len(got) && at < len(want) && got[at] == want[at] {
		at++
	}
	switch {
	case got == "":
		return fmt.Sprintf("empty answer, want %s", Quote(want))
	case at == len(got):
		return fmt.Sprintf("answer ends after %d of %d bytes", len(got), len(want))
	case at == len(want):
		return fmt.Sprintf("answer goes on after its %d bytes: %s", len(want), Quote(got[at:]))
	}
	for at > 0 && at < len(want) && !utf8.RuneStart(want[at]) { // show whole characters
		at--
	}
	text := fmt.Sprintf("text diverges at byte %d: got %s, want %s", at, Quote(got[at:]), Quote(want[at:]))
	a, b := []byte(got), []byte(want)
	slices.Sort(a)
	slices.Sort(b)
	switch {
	case slices.Equal(a, b):
		text += ", the same bytes in another order: permuted blocks?"
	case monotone(got[at:]) && !monotone(want[at:]):
		text += ", garbage, one character over and over: zeroed or missing blocks?"
	}
	return text
}

// monotone is a text of one character, eight times or more: what attention over KV without content comes to.
func monotone(s string) bool {
	first, n := utf8.DecodeRuneInString(s)
	return utf8.RuneCountInString(s) >= 8 && n > 0 && strings.Trim(s, string(first)) == ""
}

// Quote shows the beginning of a text, in quotes.
func Quote(s string) string { return fmt.Sprintf("%q", Short(s, 48)) }

// foreignMin is how many bytes in a row must agree with another request's text, at the same place, and how many of them
// must be out of place in the own one, before it is called foreign: 8 bytes agree by chance once in 256^8.
const (
	foreignMin   = 8
	foreignApart = 4
)

// ForeignRun finds the longest stretch of got that equals other at the same offset where own would have been different: KV
// blocks of another request put their text exactly where they stand. from == to: none.
func ForeignRun(got, other, own string) (from, to int) {
	n := min(len(got), len(other))
	for i := 0; i < n; {
		if got[i] != other[i] {
			i++
			continue
		}
		j, apart := i, 0
		for ; j < n && got[j] == other[j]; j++ {
			if j >= len(own) || own[j] != got[j] {
				apart++
			}
		}
		if j-i >= foreignMin && apart >= foreignApart && j-i > to-from {
			from, to = i, j
		}
		i = j
	}
	return from, to
}

// Short cuts a text for a report at a character boundary.
func Short(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && s[most]&0xC0 == 0x80 { // not in the middle of a UTF-8 character
		most--
	}
	return s[:most] + "..."
}
