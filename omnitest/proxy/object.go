package proxy

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"slices"
)

// object is a JSON object read at its top level only, as slices of the bytes that the client sent. Changing one member
// leaves all others as they were written: 1.0 stays 1.0, a 64-bit seed keeps its digits, unknown fields survive, and a
// picture of megabytes in a message is neither decoded nor copied. encoding/json's maps would lose the first two.
type object []member

type member struct {
	key   string
	raw   []byte // `"key": value` as written
	value []byte
}

var errNotObject = errors.New("the body is not a JSON object")

// parseObject reads b, which it keeps. Errors are a *json.SyntaxError or errNotObject.
func parseObject(b []byte) (object, error) {
	if !json.Valid(b) {
		var any json.RawMessage
		return nil, json.Unmarshal(b, &any) // the slow way tells where
	}
	// From here on b is known to be valid, so the scanner below looks for ends and checks nothing.
	i := skipSpace(b, 0)
	if b[i] != '{' {
		return nil, errNotObject
	}
	var o object
	for i = skipSpace(b, i+1); b[i] != '}'; {
		start := i
		i = skipValue(b, i)
		key := b[start+1 : i-1]
		i = skipSpace(b, skipSpace(b, i)+1) // the colon
		value := i
		i = skipValue(b, i)
		m := member{key: string(key), raw: b[start:i], value: b[value:i]}
		if bytes.IndexByte(key, '\\') >= 0 {
			if err := json.Unmarshal(b[start:start+len(key)+2], &m.key); err != nil {
				return nil, err
			}
		}
		o = append(o, m)
		if i = skipSpace(b, i); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return o, nil
}

// parseList splits a JSON array into its values, slices of b.
func parseList(b []byte) ([][]byte, error) {
	if !json.Valid(b) || b[skipSpace(b, 0)] != '[' {
		return nil, errors.New("not a JSON list")
	}
	var list [][]byte
	for i := skipSpace(b, skipSpace(b, 0)+1); b[i] != ']'; {
		start := i
		i = skipValue(b, i)
		list = append(list, b[start:i])
		if i = skipSpace(b, i); b[i] == ',' {
			i = skipSpace(b, i+1)
		}
	}
	return list, nil
}

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\r' || b[i] == '\t') {
		i++
	}
	return i
}

// skipValue returns the end of the value that starts at i.
func skipValue(b []byte, i int) int {
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{', '[':
		for depth := 0; ; {
			switch b[i] {
			case '"':
				i = skipString(b, i)
				continue
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if i++; depth == 0 {
				return i
			}
		}
	default: // number, true, false, null
		for i < len(b) && bytes.IndexByte([]byte(" \n\r\t,]}"), b[i]) < 0 {
			i++
		}
		return i
	}
}

func skipString(b []byte, i int) int {
	for i++; ; {
		i += bytes.IndexByte(b[i:], '"')
		slashes := 0
		for b[i-1-slashes] == '\\' {
			slashes++
		}
		if i++; slashes%2 == 0 {
			return i
		}
	}
}

// get returns the value of a key; the last one counts where a key comes twice, as in Python. nil: absent.
func (o object) get(key string) json.RawMessage {
	for _, m := range slices.Backward(o) {
		if m.key == key {
			return m.value
		}
	}
	return nil
}

func (o object) has(key string) bool { return o.get(key) != nil }

// set returns a copy with key set, in its old place if it had one. A key that came twice comes once then.
func (o object) set(key string, value []byte) object {
	name, _ := json.Marshal(key)
	m := member{key: key, raw: slices.Concat(name, []byte(":"), value), value: value}
	out, placed := make(object, 0, len(o)+1), false
	for _, old := range o {
		switch {
		case old.key != key:
			out = append(out, old)
		case !placed:
			out, placed = append(out, m), true
		}
	}
	if !placed {
		out = append(out, m)
	}
	return out
}

// drop returns a copy without the keys.
func (o object) drop(keys ...string) object {
	return slices.DeleteFunc(slices.Clone(o), func(m member) bool { return slices.Contains(keys, m.key) })
}

// pieces is the object as it goes on the wire.
func (o object) pieces() pieces {
	var p pieces
	p.add([]byte("{"))
	for i, m := range o {
		if i > 0 {
			p.add([]byte(","))
		}
		p.add(m.raw)
	}
	p.add([]byte("}"))
	return p
}

// pieces is a body in parts, so that a large part is sent from where it lies.
type pieces struct {
	parts     [][]byte
	gathering bool // the last part is our own buffer, to which small parts are appended
}

func (p *pieces) add(part []byte) {
	const large = 4 << 10
	if p.gathering = p.gathering && len(part) < large; !p.gathering && len(part) < large {
		p.parts, p.gathering = append(p.parts, make([]byte, 0, 512)), true
	}
	if !p.gathering {
		p.parts = append(p.parts, part)
		return
	}
	last := &p.parts[len(p.parts)-1]
	*last = append(*last, part...)
}

func (p pieces) size() (n int64) {
	for _, part := range p.parts {
		n += int64(len(part))
	}
	return n
}

func (p pieces) reader() io.ReadCloser {
	readers := make([]io.Reader, len(p.parts))
	for i, part := range p.parts {
		readers[i] = bytes.NewReader(part)
	}
	return io.NopCloser(io.MultiReader(readers...))
}

// quote is a JSON string. encoding/json would write < > & as \u003c ...: right, and needlessly unlike what was said.
func quote(s string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // a string can't fail
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func (p pieces) bytes() []byte { return bytes.Join(p.parts, nil) }
