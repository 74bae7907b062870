package proxy

import (
	"bytes"
	"encoding/json"
	"io"
	"mime/multipart"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestObjectKeepsWhatItDoesNotChange(t *testing.T) {
	const in = ` { "a" : 1.0 ,"b":"x\"}{,\\", "c":{"a":[1,{"}":2}]},"\u0064":null , "a":12345678901234567890 } `
	o, err := parseObject([]byte(in))
	require.NoError(t, err)
	assert.Equal(t, "12345678901234567890", string(o.get("a")), "the last one counts")
	assert.Equal(t, `"x\"}{,\\"`, string(o.get("b")))
	assert.Equal(t, `{"a":[1,{"}":2}]}`, string(o.get("c")))
	assert.True(t, o.has("d"), "a key written with an escape")
	assert.False(t, o.has("e"))

	assert.Equal(t, `{"a":true,"b":"x\"}{,\\","c":{"a":[1,{"}":2}]},"\u0064":null}`, string(o.set("a", []byte("true")).pieces().bytes()))
	assert.Equal(t, `{"b":"x\"}{,\\","\u0064":null,"e":[]}`, string(o.drop("a", "c").set("e", []byte("[]")).pieces().bytes()))
	assert.Equal(t, `{"a" : 1.0,"b":"x\"}{,\\","c":{"a":[1,{"}":2}]},"\u0064":null,"a":12345678901234567890}`, strings.ReplaceAll(string(o.pieces().bytes()), `"c" :`, `"c":`), "set and drop left the original alone")

	empty, err := parseObject([]byte("{ }"))
	require.NoError(t, err)
	assert.Equal(t, `{"k":1}`, string(empty.set("k", []byte("1")).pieces().bytes()))
	for _, bad := range []string{"", "{", "[]", `"x"`, "null", "{} x", `{"a":}`} {
		_, err := parseObject([]byte(bad))
		assert.Error(t, err, bad)
	}
}

// Against encoding/json on random documents: same keys, same values, also after one member is replaced.
func TestObjectAgreesWithTheStandardLibrary(t *testing.T) {
	value := rapid.OneOf(
		rapid.Map(rapid.String(), func(s string) any { return s }),
		rapid.Map(rapid.Float64Range(-1e9, 1e9), func(f float64) any { return f }),
		rapid.Map(rapid.SliceOf(rapid.String()), func(s []string) any { return s }),
		rapid.Map(rapid.MapOf(rapid.String(), rapid.Bool()), func(m map[string]bool) any { return m }),
		rapid.Just(any(nil)),
		rapid.Just(any(strings.Repeat(`\"{`, 3000))),
	)
	rapid.Check(t, func(t *rapid.T) {
		doc := rapid.MapOf(rapid.String(), value).Draw(t, "doc")
		raw, err := json.Marshal(doc)
		require.NoError(t, err)
		if rapid.Bool().Draw(t, "indented") {
			var b bytes.Buffer
			require.NoError(t, json.Indent(&b, raw, " \t", "  "))
			raw = b.Bytes()
		}
		o, err := parseObject(raw)
		require.NoError(t, err)
		var want map[string]json.RawMessage
		require.NoError(t, json.Unmarshal(raw, &want))
		require.Len(t, o, len(want))
		for key, v := range want {
			require.Equal(t, string(v), string(o.get(key)))
		}
		key := rapid.String().Draw(t, "key")
		want[key] = json.RawMessage(`"new"`)
		wantRaw, _ := json.Marshal(want)
		p := o.set(key, []byte(`"new"`)).pieces()
		require.JSONEq(t, string(wantRaw), string(p.bytes()))
		sent, err := io.ReadAll(p.reader())
		require.NoError(t, err)
		require.Equal(t, p.bytes(), sent)
		require.EqualValues(t, p.size(), len(sent))
	})
}

func TestParseList(t *testing.T) {
	list, err := parseList([]byte(` [ 1 ,"a,]", [2,[3]] , {"x":[4]},null ] `))
	require.NoError(t, err)
	assert.Equal(t, []string{"1", `"a,]"`, "[2,[3]]", `{"x":[4]}`, "null"}, strings.Split(string(bytes.Join(list, []byte("|"))), "|"))
	for _, bad := range []string{"", "{}", "[1,]", "null"} {
		_, err := parseList([]byte(bad))
		assert.Error(t, err, bad)
	}
}

// Against mime/multipart: what it writes is read back, and what is re-written it reads back with one field replaced.
func TestFormAgreesWithTheStandardLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bytes.Buffer
		w := multipart.NewWriter(&b)
		type field struct{ name, file, data string }
		names := rapid.SampledFrom([]string{"prompt", "image", "image[]", "model", "ü \"x\""})
		fields := rapid.SliceOf(rapid.Custom(func(t *rapid.T) field {
			return field{names.Draw(t, "name"), rapid.SampledFrom([]string{"", "a.png"}).Draw(t, "file"), rapid.String().Draw(t, "data") + rapid.SampledFrom([]string{"", "\r\n--", "\r\n\r\n", "--\r\n"}).Draw(t, "tail")}
		})).Draw(t, "fields")
		for _, f := range fields {
			var p io.Writer
			var err error
			if f.file != "" {
				p, err = w.CreateFormFile(f.name, f.file)
			} else {
				p, err = w.CreateFormField(f.name)
			}
			require.NoError(t, err)
			io.WriteString(p, f.data)
		}
		require.NoError(t, w.Close())
		got, err := parseForm(b.Bytes(), w.Boundary())
		require.NoError(t, err)
		require.Len(t, got.parts, len(fields))

		got.set("prompt", []byte("the plan"))
		var want []field
		placed := false
		for _, f := range fields {
			if f.name != "prompt" || f.file != "" {
				want = append(want, f)
			} else if !placed {
				want, placed = append(want, field{"prompt", "", "the plan"}), true
			}
		}
		if !placed {
			want = append(want, field{"prompt", "", "the plan"})
		}
		r := multipart.NewReader(bytes.NewReader(got.pieces().bytes()), w.Boundary())
		for _, f := range want {
			p, err := r.NextRawPart()
			require.NoError(t, err)
			data, err := io.ReadAll(p)
			require.NoError(t, err)
			require.Equal(t, f, field{p.FormName(), p.FileName(), string(data)})
		}
		_, err = r.NextRawPart()
		require.Equal(t, io.EOF, err)
	})
}

// An answer cut anywhere into reads gives the same observation.
func TestObserverDoesNotDependOnHowReadsFall(t *testing.T) {
	stream := string(recording(t, "vllm-0.32.0-decode.sse"))
	rapid.Check(t, func(t *rapid.T) {
		o := &observer{events: true, whole: true}
		for rest := stream; rest != ""; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "read")
			o.see([]byte(rest[:n]))
			rest = rest[n:]
		}
		require.Empty(t, o.end(200))
		require.Equal(t, "cmpl-a8f93ba36f6e9921", o.id)
		require.True(t, o.done)
	})
}
