package api

import "fmt"

// cursor reads one JSON document front to back without building a tree.
//
// Why not encoding/json: a body of 4 MB that is one base64 string would be scanned three times and copied, a stream of
// 220-byte events costs several microseconds each, and strings would lose their bytes: encoding/json replaces a byte
// that is no UTF-8 by U+FFFD, so a character that a server split over two deltas could not be put together again.
//
// The first mistake sticks in err; from then on every method does nothing and gives a zero value. A null reads as
// "absent" everywhere, because servers of this family write both.
type cursor struct {
	b     []byte
	i     int
	depth int
	err   error
}

const maxDepth = 1000

func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("JSON at byte %d: %s", c.i, fmt.Sprintf(format, args...))
	}
}

// peek skips white space and gives the next byte without consuming it; 0 at the end.
func (c *cursor) peek() byte {
	for c.i < len(c.b) {
		switch ch := c.b[c.i]; ch {
		case ' ', '\n', '\r', '\t':
			c.i++
		default:
			return ch
		}
	}
	return 0
}

// end fails unless only white space is left.
func (c *cursor) end() {
	if c.err == nil && c.peek() != 0 || c.i < len(c.b) {
		c.fail("more after the value")
	}
}

// literal consumes word if it comes next.
func (c *cursor) literal(word string) bool {
	if c.err == nil && len(c.b)-c.i >= len(word) && string(c.b[c.i:c.i+len(word)]) == word {
		c.i += len(word)
		return true
	}
	return false
}

// null consumes a null if it comes next.
func (c *cursor) null() bool { return c.err == nil && c.peek() == 'n' && c.literal("null") }

func (c *cursor) wrong(want string) {
	switch ch := c.peek(); {
	case c.err != nil:
	case ch == 0:
		c.fail("ends where %s is due", want)
	case ch == '{':
		c.fail("object where %s is due", want)
	case ch == '[':
		c.fail("array where %s is due", want)
	case ch == '"':
		c.fail("string where %s is due", want)
	default:
		c.fail("%q where %s is due", c.b[c.i:min(len(c.b), c.i+12)], want)
	}
}

// open enters an object or array; false for null and on failure.
func (c *cursor) open(ch byte, what string) bool {
	if c.err != nil || c.null() {
		return false
	}
	if c.peek() != ch {
		c.wrong(what)
		return false
	}
	if c.depth++; c.depth > maxDepth {
		c.fail("nested deeper than %d", maxDepth)
		return false
	}
	c.i++
	return true
}

// more steps to the next member of an object or array, or closes it.
func (c *cursor) more(first bool, closer byte) bool {
	if c.err != nil {
		return false
	}
	switch ch := c.peek(); {
	case ch == closer:
		c.i++
		c.depth--
		return false
	case first:
		return true
	case ch == ',':
		c.i++
		return true
	}
	c.wrong("',' or '" + string(rune(closer)) + "'")
	return false
}

// object calls field for every key. A value that field leaves unread is skipped. False: null, or a failure.
func (c *cursor) object(field func(key []byte)) bool {
	if !c.open('{', "an object") {
		return false
	}
	for first := true; c.more(first, '}'); first = false {
		if c.peek() != '"' {
			c.wrong("a key")
			return false
		}
		key := c.bytes()
		if c.err == nil && c.peek() != ':' {
			c.wrong("':'")
		}
		if c.err != nil {
			return false
		}
		c.i++
		at := c.i
		field(key)
		if c.i == at {
			c.skip()
		}
	}
	return c.err == nil
}

// array calls item for every element, like object.
func (c *cursor) array(item func(n int)) bool {
	if !c.open('[', "an array") {
		return false
	}
	for n := 0; c.more(n == 0, ']'); n++ {
		at := c.i
		item(n)
		if c.i == at {
			c.skip()
		}
	}
	return c.err == nil
}

// skip consumes one value of any kind, checking its grammar.
func (c *cursor) skip() {
	if c.err != nil {
		return
	}
	switch c.peek() {
	case '{':
		c.object(func([]byte) {})
	case '[':
		c.array(func(int) {})
	case '"':
		c.bytes()
	case 't', 'f', 'n':
		if !c.literal("true") && !c.literal("false") && !c.literal("null") {
			c.wrong("a value")
		}
	default:
		c.number()
	}
}

// raw consumes one value and gives its bytes as they stand in the document, which they alias.
func (c *cursor) raw() []byte {
	c.peek()
	start := c.i
	c.skip()
	if c.err != nil {
		return nil
	}
	return c.b[start:c.i:c.i]
}
