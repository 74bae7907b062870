package ar

import (
	"strings"
	"unicode/utf8"
)

// Token ids: 0..255 are bytes, so Chinese and emoji split across tokens as in real byte-level vocabularies.
const (
	EOS     = 256 // <|endoftext|>
	ImStart = 257 // <|im_start|>
	ImEnd   = 258 // <|im_end|>
	Image   = 259 // placeholder of a picture in a chat message

	vocabSize = 260
)

func encode(text string) []int32 {
	ids := make([]int32, len(text))
	for i := range len(text) {
		ids[i] = int32(text[i])
	}
	return ids
}

// decode gives the text of ids; special tokens have none.
func decode(ids []int32) string {
	b := make([]byte, 0, len(ids))
	for _, t := range ids {
		if t < EOS {
			b = append(b, byte(t))
		}
	}
	return string(b)
}

func ends(token int32) bool { return token == EOS || token == ImEnd }

// detokenizer turns byte tokens into text deltas that never split a UTF-8 character: an incomplete character waits for
// its bytes (its tokens have the delta ""), and at the end of the output it is dropped, as recorded.
type detokenizer struct{ pending []byte }

func (d *detokenizer) add(token int32) string {
	if token >= EOS {
		return ""
	}
	d.pending = append(d.pending, byte(token))
	if len(d.pending) == 1 && token < utf8.RuneSelf {
		d.pending = d.pending[:0]
		return string([]byte{byte(token)}) // the common case: the runtime has these strings ready
	}
	var out strings.Builder
	for len(d.pending) > 0 && utf8.FullRune(d.pending) {
		r, n := utf8.DecodeRune(d.pending)
		if r == utf8.RuneError { // one U+FFFD for a whole broken-off character, as Unicode recommends and Python does
			for n < len(d.pending) && !utf8.FullRune(d.pending[:n+1]) {
				n++
			}
		}
		out.WriteRune(r)
		d.pending = append(d.pending[:0], d.pending[n:]...)
	}
	return out.String()
}

// message is one chat message after parsing: its content as tokens (text bytes and Image placeholders).
type message struct {
	role    string
	content []int32
}

// chatPrompt applies the template (Qwen's: <|im_start|>role\ncontent<|im_end|>\n ... <|im_start|>assistant\n) and tells
// where the content of the last user message starts. Without a user message it is the last message.
func chatPrompt(messages []message) (ids []int32, start int) {
	last := len(messages) - 1
	for i, m := range messages {
		if m.role == "user" {
			last = i
		}
	}
	if len(messages) > 0 && messages[last].role != "user" {
		last = len(messages) - 1
	}
	for i, m := range messages {
		ids = append(ids, ImStart)
		ids = append(ids, encode(m.role+"\n")...)
		if i == last {
			start = len(ids)
		}
		ids = append(ids, m.content...)
		ids = append(ids, ImEnd, '\n')
	}
	ids = append(ids, ImStart)
	return append(ids, encode("assistant\n")...), start
}
