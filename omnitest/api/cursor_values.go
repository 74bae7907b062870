package api

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// bytes reads a string. The result aliases the document unless the string held escapes; nil for null. Bytes that are no
// UTF-8 stay as they are.
func (c *cursor) bytes() []byte {
	if c.err != nil || c.null() {
		return nil
	}
	if c.peek() != '"' {
		c.wrong("a string")
		return nil
	}
	start := c.i + 1
	for i := start; i < len(c.b); i++ {
		switch ch := c.b[i]; {
		case ch == '"':
			c.i = i + 1
			return c.b[start:i:i]
		case ch == '\\':
			return c.unescape(start, i)
		case ch < ' ':
			c.i = i
			c.fail("control character %#02x in a string", ch)
			return nil
		}
	}
	c.i = len(c.b)
	c.fail("ends inside a string")
	return nil
}

// long is bytes for strings of megabytes: it finds the end with vector instructions and leaves the check of what is
// between to the reader of the content (base64 refuses all but its alphabet).
func (c *cursor) long() []byte {
	if c.err != nil || c.peek() != '"' {
		return c.bytes()
	}
	rest := c.b[c.i+1:]
	n := indexByte(rest, '"')
	if n < 0 || indexByte(rest[:n], '\\') >= 0 {
		return c.bytes()
	}
	c.i += n + 2
	return rest[:n:n]
}

// unescape goes on with a string from the backslash at i.
func (c *cursor) unescape(start, i int) []byte {
	out := append(make([]byte, 0, i-start+32), c.b[start:i]...)
	for i < len(c.b) {
		switch ch := c.b[i]; {
		case ch == '"':
			c.i = i + 1
			return out
		case ch < ' ':
			c.i = i
			c.fail("control character %#02x in a string", ch)
			return nil
		case ch != '\\':
			out = append(out, ch)
			i++
			continue
		}
		if i+1 >= len(c.b) {
			break
		}
		i += 2
		switch e := c.b[i-1]; e {
		case '"', '\\', '/':
			out = append(out, e)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r := hex4(c.b[i:])
			if r < 0 {
				c.i = i
				c.fail(`\u without four hex digits`)
				return nil
			}
			i += 4
			if utf16.IsSurrogate(r) { // half of a character beyond U+FFFF; alone it is nothing
				pair := utf8.RuneError
				if i+1 < len(c.b) && c.b[i] == '\\' && c.b[i+1] == 'u' {
					pair = utf16.DecodeRune(r, hex4(c.b[i+2:]))
				}
				if r = utf8.RuneError; pair != utf8.RuneError {
					r = pair
					i += 6
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			c.i = i - 1
			c.fail("escape \\%c", e)
			return nil
		}
	}
	c.i = len(c.b)
	c.fail("ends inside a string")
	return nil
}

func hex4(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	var r rune
	for _, ch := range b[:4] {
		switch {
		case '0' <= ch && ch <= '9':
			r = r<<4 | rune(ch-'0')
		case 'a' <= ch|0x20 && ch|0x20 <= 'f':
			r = r<<4 | rune(ch|0x20-'a'+10)
		default:
			return -1
		}
	}
	return r
}

// number consumes a number and gives its text.
func (c *cursor) number() []byte {
	if c.err != nil {
		return nil
	}
	c.peek()
	start, i := c.i, c.i
	digits := func() bool {
		from := i
		for i < len(c.b) && '0' <= c.b[i] && c.b[i] <= '9' {
			i++
		}
		return i > from
	}
	at := func(set string) bool { return i < len(c.b) && strings.IndexByte(set, c.b[i]) >= 0 }
	if at("-") {
		i++
	}
	ok := true
	if at("0") { // no leading zeros
		i++
	} else {
		ok = digits()
	}
	if ok && at(".") {
		i++
		ok = digits()
	}
	if ok && at("eE") {
		if i++; at("+-") {
			i++
		}
		ok = digits()
	}
	if !ok {
		c.wrong("a value")
		return nil
	}
	c.i = i
	return c.b[start:i]
}

// float reads a number; absent for null.
func (c *cursor) float(absent float64) float64 {
	if c.null() {
		return absent
	}
	text := c.number()
	if c.err != nil {
		return absent
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		c.fail("%v", err)
	}
	return f
}

// int reads a whole number; absent for null.
func (c *cursor) int(absent int) int {
	if c.null() {
		return absent
	}
	text := c.number()
	if c.err != nil {
		return absent
	}
	n, err := strconv.Atoi(string(text))
	if err != nil {
		f, ferr := strconv.ParseFloat(string(text), 64) // 12.0 and 1e3 are whole numbers too
		if n = int(f); ferr != nil || float64(n) != f {
			c.fail("%s where a whole number is due", text)
		}
	}
	return n
}

// scalar reads a string or the text of a number, true or false; "" for null, the raw text of an object or array.
func (c *cursor) scalar() string {
	if c.null() {
		return ""
	}
	if c.peek() == '"' {
		return string(c.bytes())
	}
	return string(c.raw())
}

// base64 reads a string of base64, or a data URL that holds some, into new memory of the right size. A string that
// would give more than limit bytes is refused before it is decoded.
func (c *cursor) base64(limit int64) []byte {
	text := c.long()
	if c.err != nil {
		return nil
	}
	if bytes.HasPrefix(text, []byte("data:")) {
		head, data, found := bytes.Cut(text, []byte(","))
		if !found || !bytes.HasSuffix(head, []byte(";base64")) {
			c.fail("data URL without base64: %.40q", text)
			return nil
		}
		text = data
	}
	size := base64.StdEncoding.DecodedLen(len(text))
	for i := len(text) - 1; i >= len(text)-2 && i >= 0 && text[i] == '='; i-- {
		size--
	}
	if n := int64(size); n > limit {
		c.err = &Error{Kind: Limit, Message: fmt.Sprintf("image file of %d bytes, limit %d (Limits.FileBytes)", n, limit)}
		return nil
	}
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text))) // the decoder wants room for the padding too
	n, err := decodeBase64(out, text)
	if err == errLineBreak {
		c.fail("%v", err)
		return nil
	}
	if err != nil {
		c.fail("%v (%d characters, first %.24q)", err, len(text), text)
		return nil
	}
	return out[:n]
}
