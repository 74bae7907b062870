package dit

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode"
)

// The real server's messages quote the request as Python prints it. Clients that show or parse such messages meet the
// same text here.

// pyString is Python's repr of a string, with absolute paths hidden as vLLM hides them (recorded: '<path>').
func pyString(s string) string {
	if strings.HasPrefix(s, "/") && !strings.ContainsAny(s, " \n") {
		s = "<path>"
	}
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\x%02x`, r)
		case !unicode.IsPrint(r):
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte(q)
	return b.String()
}

// pyRepr is Python's repr of a JSON value, keys in the order of the text.
func pyRepr(raw json.RawMessage) string {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var b strings.Builder
	if err := pyValue(d, &b); err != nil {
		return string(raw)
	}
	return b.String()
}

func pyValue(d *json.Decoder, b *strings.Builder) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	switch v := t.(type) {
	case nil:
		b.WriteString("None")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case json.Number:
		b.WriteString(v.String())
	case string:
		b.WriteString(pyString(v))
	case json.Delim:
		b.WriteString(v.String())
		for first := true; d.More(); first = false {
			if !first {
				b.WriteString(", ")
			}
			if v == '{' {
				k, err := d.Token()
				if err != nil {
					return err
				}
				b.WriteString(pyString(k.(string)) + ": ")
			}
			if err := pyValue(d, b); err != nil {
				return err
			}
		}
		end, err := d.Token()
		if err != nil {
			return err
		}
		b.WriteString(end.(json.Delim).String())
	}
	return nil
}
