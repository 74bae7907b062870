package proxy

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"mime"
	"net/textproto"
	"slices"
)

// form is a multipart/form-data body (RFC 7578) as slices of the bytes that the client sent. Replacing one field leaves
// all others, files above all, as they were written. mime/multipart would copy them and re-write their headers.
type form struct {
	boundary string
	parts    []part
}

type part struct {
	name    string
	file    bool
	head    []byte // header lines with the blank line that ends them
	content []byte
}

// A form is read without a copy of its content. What is allocated are its parts and their headers, and both are bounded, so that
// no body, of whatever size, costs more than formMemory beside itself.
const (
	formParts  = 1000     // as Starlette's and Go's
	formHeads  = 1 << 20  // bytes of all header lines
	formMemory = 32 << 20 // bytes; 1000 parts with their readers take 6 MiB, a header's parts a few times its length
)

var (
	errForm      = errors.New("boundary missing or form cut off")
	errFormParts = fmt.Errorf("more than %d parts", formParts)
	errFormHeads = fmt.Errorf("headers of more than %d KiB", formHeads>>10)
)

// parseForm reads b, which it keeps. A form without its closing boundary was cut off and is an error.
func parseForm(b []byte, boundary string) (*form, error) {
	f := &form{boundary: boundary}
	heads := 0
	mark := []byte("\r\n--" + boundary)
	if bytes.HasPrefix(b, mark[2:]) {
		b = b[len(mark)-2:]
	} else if i := bytes.Index(b, mark); i >= 0 { // a preamble
		b = b[i+len(mark):]
	} else {
		return nil, errForm
	}
	for {
		if bytes.HasPrefix(b, []byte("--")) {
			return f, nil
		}
		b = bytes.TrimLeft(b, " \t") // padding that RFC 2046 allows after a boundary
		rest, ok := bytes.CutPrefix(b, []byte("\r\n"))
		end := bytes.Index(b, mark)
		if !ok || end < 0 {
			return nil, errForm
		}
		body := b[2:max(end, 2)]
		_, content, ok := bytes.Cut(rest[:len(body)], []byte("\r\n\r\n"))
		if !ok {
			return nil, errForm
		}
		p := part{head: body[:len(body)-len(content)], content: content}
		switch heads += len(p.head); {
		case len(f.parts) == formParts:
			return nil, errFormParts
		case heads > formHeads:
			return nil, errFormHeads
		}
		if bytes.Count(p.head, []byte("\n")) != bytes.Count(p.head, []byte("\r\n")) {
			return nil, errForm // who takes a bare line feed for a line's end would see the content begin elsewhere
		}
		header, err := textproto.NewReader(bufio.NewReader(bytes.NewReader(p.head))).ReadMIMEHeader()
		if err != nil {
			return nil, err
		}
		_, params, err := mime.ParseMediaType(header.Get("Content-Disposition"))
		if err != nil {
			return nil, err
		}
		p.name = params["name"]
		_, p.file = params["filename"]
		f.parts = append(f.parts, p)
		b = b[end+len(mark):]
	}
}

// value returns a text field; the last one counts where a name comes twice, as in FastAPI.
func (f *form) value(name string) ([]byte, bool) {
	for _, p := range slices.Backward(f.parts) {
		if p.name == name && !p.file {
			return p.content, true
		}
	}
	return nil, false
}

// set replaces a text field or adds it.
func (f *form) set(name string, content []byte) {
	fresh := part{name: name, head: []byte("Content-Disposition: form-data; name=\"" + name + "\"\r\n\r\n"), content: content}
	at := slices.IndexFunc(f.parts, func(p part) bool { return p.name == name && !p.file })
	f.drop(name)
	if at < 0 {
		at = len(f.parts)
	}
	f.parts = slices.Insert(f.parts, at, fresh)
}

// drop removes the text fields of a name.
func (f *form) drop(name string) {
	f.parts = slices.DeleteFunc(f.parts, func(p part) bool { return p.name == name && !p.file })
}

func (f *form) pieces() pieces {
	var p pieces
	for _, part := range f.parts {
		p.add([]byte("--" + f.boundary + "\r\n"))
		p.add(part.head)
		p.add(part.content)
		p.add([]byte("\r\n"))
	}
	p.add([]byte("--" + f.boundary + "--\r\n"))
	return p
}
