package proxy

import (
	"bytes"
	"io"
	"mime/multipart"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// field is a part with a name, its content is of no interest.
const field = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n"

// spend runs f and gives the bytes that it allocated, freed ones included.
func spend(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// TestWorstFormsAreBounded: the forms that cost most, beside their own bytes, cost less than is stated.
func TestWorstFormsAreBounded(t *testing.T) {
	end := "--x--\r\n"
	for _, c := range []struct {
		name, body string
		err        error
		least      int // bytes that it must cost, or the limit says nothing
	}{
		{"as many parts as may be", strings.Repeat(field, formParts) + end, nil, 1 << 20},
		{"parts without number", strings.Repeat(field, 400_000) + end, errFormParts, 1 << 20},
		{"one long header line", "--x\r\nContent-Disposition: form-data; name=\"" + strings.Repeat("n", 1<<20-100) + "\"\r\n\r\n\r\n" + end, nil, 1 << 20},
		{"many header lines", "--x\r\nContent-Disposition: form-data; name=a\r\n" + strings.Repeat("A: b\r\n", 170_000) + "\r\n\r\n" + end, nil, 1 << 20},
		{"many parameters", "--x\r\nContent-Disposition: form-data; name=a" + strings.Repeat("; b*0=c", 100_000) + "\r\n\r\n\r\n" + end, nil, 0},
		{"a header without end", "--x\r\nA: " + strings.Repeat("b", 64<<20), errForm, 0},
		{"headers of 64 MiB", strings.Repeat("--x\r\nContent-Disposition: form-data; name=a\r\nA: "+strings.Repeat("b", 1<<19)+"\r\n\r\n\r\n", 128) + end, errFormHeads, 1 << 20},
		{"a file of 64 MiB", "--x\r\nContent-Disposition: form-data; name=image; filename=a\r\n\r\n" + strings.Repeat("\r\n--", 16<<20) + "\r\n" + end, nil, 0},
	} {
		b := []byte(c.body)
		var err error
		got := spend(func() { _, err = parseForm(b, "x") })
		t.Logf("%-24s %8d KiB for a body of %d KiB: %v", c.name, got>>10, len(b)>>10, err)
		if c.err != nil {
			assert.ErrorIs(t, err, c.err, c.name)
		}
		assert.LessOrEqual(t, got, formMemory, c.name)
		assert.GreaterOrEqual(t, got, c.least, c.name)
	}
}

// FuzzForm: no body makes the reader panic or take more memory than stated, a form that it reads comes out as it went in, and where
// the standard library reads the same form, it sees the same parts.
func FuzzForm(f *testing.F) {
	for _, s := range []string{
		field + "--x--\r\n", "preamble\r\n" + field + "--x--\r\nepilogue", "--x--", "--x\r\n\r\n\r\n--x--", "\r\n--x\r\n\r\n--x--\r\n", "--x \t\r\nA: b\r\n\r\nc\r\n--x--",
		"--x\r\nContent-Disposition: form-data; name=prompt\r\n\r\na\r\n--xy\r\n\r\n--x--\r\n", "--x\r\nContent-Disposition: form-data; name*=utf-8''%ff; filename=\"\"\r\n\r\n\r\n--x\r\n",
		"--x\r\n: b\r\n\r\nc\r\n--x--", "--x\r\nA\r\n\r\nc\r\n--x--", "--x\nContent-Disposition: form-data; name=a\n\nb\n--x--\n",
		"--x\r\nContent-Disposition: form-data; name=\"prompt\"; filename=\"a.png\"\r\nContent-Type: image/png\r\n\r\n\x89PNG\r\n\x1a\n\r\n--x--\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var got *form
		var err error
		if n := spend(func() { got, err = parseForm(b, "x") }); n > formMemory {
			t.Fatalf("%d bytes took %d bytes of memory", len(b), n)
		}
		if err != nil {
			return
		}
		again, err := parseForm(got.pieces().bytes(), "x")
		if err != nil {
			t.Fatalf("what was read cannot be read again: %v", err)
		}
		if len(again.parts) != len(got.parts) {
			t.Fatalf("%d parts became %d", len(got.parts), len(again.parts))
		}
		for i, p := range got.parts {
			if q := again.parts[i]; p.name != q.name || p.file != q.file || !bytes.Equal(p.content, q.content) || !bytes.Equal(p.head, q.head) {
				t.Fatalf("part %d: %+v became %+v", i, p, q)
			}
		}
		got.set("prompt", []byte("the plan"))
		if v, ok := got.value("prompt"); !ok || string(v) != "the plan" {
			t.Fatalf("set gave %q, %t", v, ok)
		}
		r := multipart.NewReader(bytes.NewReader(again.pieces().bytes()), "x")
		for i, p := range again.parts {
			q, err := r.NextRawPart()
			if err != nil {
				return // it is stricter here and there, and so is whoever gets the form
			}
			content, err := io.ReadAll(q)
			if err != nil {
				return
			}
			if !bytes.Equal(content, p.content) {
				t.Fatalf("part %d is %q, the standard library reads %q", i, p.content, content)
			}
		}
	})
}
