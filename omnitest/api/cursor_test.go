package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCursorStrings(t *testing.T) {
	for in, want := range map[string]string{
		`"abc"`:                     "abc",
		`""`:                        "",
		`"a\"b\\c\/d\b\f\n\r\t"`:    "a\"b\\c/d\b\f\n\r\t",
		`"\u7ea2\u82f9\u679c"`:      "红苹果",
		`"\ud83c\udf4e"`:            "🍎",
		`"\ud83c"`:                  "\ufffd",
		`"\ud83cx\udf4e"`:           "\ufffdx\ufffd",
		`"\ud83c\u0041"`:            "\ufffdA",
		`"红苹果🍎👩‍🚀"`:                 "红苹果🍎👩‍🚀",
		"\"\xe7\xba\"":              "\xe7\xba", // half a character stays: the next delta may bring the rest
		"\"\\n\xe7\xba\"":           "\n\xe7\xba",
		`null`:                      "",
		" \r\n\t\"white space\"\t ": "white space",
	} {
		c := cursor{b: []byte(in)}
		assert.Equal(t, want, string(c.bytes()), in)
		c.end()
		assert.NoError(t, c.err, in)
	}
}

func TestCursorSaysWhereAndWhat(t *testing.T) {
	read := func(in string, f func(*cursor)) string {
		c := cursor{b: []byte(in)}
		f(&c)
		c.end()
		require.Error(t, c.err, in)
		return c.err.Error()
	}
	skip := (*cursor).skip
	assert.Equal(t, `JSON at byte 5: object where a string is due`, read(`     {}`, func(c *cursor) { c.bytes() }))
	assert.Equal(t, `JSON at byte 6: "tru" where a value is due`, read(`{"a": tru`, skip))
	assert.Equal(t, `JSON at byte 5: ends inside a string`, read(`"abcd`, skip))
	assert.Equal(t, `JSON at byte 2: control character 0x0a in a string`, read("\"a\n\"", skip))
	assert.Equal(t, `JSON at byte 3: more after the value`, read(`{} {}`, skip))
	assert.Equal(t, `JSON at byte 3: "2]" where ',' or ']' is due`, read(`[1 2]`, skip))
	assert.Equal(t, `JSON at byte 3: 1.5 where a whole number is due`, read(`1.5`, func(c *cursor) { c.int(-1) }))
	assert.Contains(t, read(strings.Repeat("[", 5000), skip), "nested deeper than 1000")
}

func TestCursorBase64(t *testing.T) {
	raw := bytes.Repeat([]byte{0, 1, 250, 251, 252}, 999)
	b64 := base64.StdEncoding.EncodeToString(raw)
	for name, in := range map[string]string{
		"plain":          `"` + b64 + `"`,
		"data URL":       `"data:image/png;base64,` + b64 + `"`,
		"escaped slash":  `"` + strings.ReplaceAll(b64, "/", `\/`) + `"`,
		"at the limit":   ` "` + b64 + `"`,
		"unicode escape": `"\u0041` + b64[1:] + `"`, // the first character of b64 is A
	} {
		c := cursor{b: []byte(in)}
		got := c.base64(int64(len(raw)))
		require.NoError(t, c.err, name)
		assert.Equal(t, raw, got, name)
	}
	for in, want := range map[string]string{
		`"AA*A"`:              "illegal base64 data at input byte 2",
		`"AAA"`:               "illegal base64 data",
		"\"AAAA\nAAAA\"":      "line break in base64",
		`"data:image/png,xx"`: "data URL without base64",
		`7`:                   "where a string is due",
	} {
		c := cursor{b: []byte(in)}
		c.base64(100)
		require.Error(t, c.err, in)
		assert.Contains(t, c.err.Error(), want, in)
	}
	c := cursor{b: []byte(`"` + b64 + `"`)}
	assert.Zero(t, len(c.base64(int64(len(raw)-1))))
	assert.Equal(t, Limit, KindOf(c.err))
}

// The cursor must accept exactly the documents that encoding/json accepts and read the same values out of them.
func FuzzCursor(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,null,true,false,"x\u00e9\ud83c\udf4e"],"b":{}}`, `[`, `"`, `-0`, `01`, `1.`, `1e`, ` {"a" : 1 , "a":2}`,
		`{"a":1,}`, `[,]`, `"\x"`, "\"\x01\"", `nul`, `{"":""}`, "\"\xff\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if bytes.Count(in, []byte("["))+bytes.Count(in, []byte("{")) > maxDepth {
			return
		}
		c := cursor{b: in}
		c.skip()
		c.end()
		if valid := json.Valid(in); valid != (c.err == nil) {
			t.Fatalf("%q: encoding/json valid=%v, cursor %v", in, valid, c.err)
		}
		if c.err != nil {
			return
		}
		var s string
		if utf8.Valid(in) && bytes.HasPrefix(bytes.TrimSpace(in), []byte(`"`)) && json.Unmarshal(in, &s) == nil {
			c := cursor{b: in}
			if got := string(c.bytes()); got != s {
				t.Fatalf("%q: encoding/json reads %q, cursor %q", in, s, got)
			}
			c = cursor{b: in}
			if got := string(c.long()); got != s {
				t.Fatalf("%q: encoding/json reads %q, long %q", in, s, got)
			}
		}
	})
}
