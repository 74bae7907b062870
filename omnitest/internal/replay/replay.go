// Package replay plays recorded HTTP traffic of real engines back: the bytes that came, at the times they came.
//
// A recording is evidence that no mock can give: where the engine split its chunks, in which order its keys stand, what
// it answered when it was broken. The rooms that talk to engines are tested against it without an engine.
//
// Two forms are read. The vLLM 0.32.0 recordings hold every socket read, chunk framing included. The vLLM 0.26.0 ones
// hold the parsed answer; its bytes are put together again, which Content-Length proves to be exact.
package replay

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Exchange is one recorded request with its answer.
type Exchange struct {
	Name  string    // "nixl/01-proper/p"
	Start time.Time // when the recorder sent it, for the order of exchanges; zero: not recorded

	Method, Path  string
	RequestHeader http.Header
	RequestBody   []byte

	// What the recorder's own HTTP client made of the answer, chunk framing taken off: an independent reading.
	Status int // 0: there was no answer
	Header http.Header
	Body   []byte

	Chunks []Chunk       // the answer as it came; none: the connection was refused or closed without a byte
	Total  time.Duration // from the request to the end
	Note   string        // why the recorder stopped: "TimeoutError: timed out", "client closed the connection on purpose"
	Edited string        // what Load had to mend; "": nothing
}

// Chunk is one read from the socket.
type Chunk struct {
	At   time.Duration // since the request was sent
	Data []byte
}

// Unfinished says that the recorder left before the engine had ended its answer.
func (e *Exchange) Unfinished() bool { return e.Note != "" }

// Streamed says that the answer is a stream of server-sent events.
func (e *Exchange) Streamed() bool {
	return strings.HasPrefix(e.Header.Get("Content-Type"), "text/event-stream")
}

// Raw is the whole answer as it came, status line and headers included.
func (e *Exchange) Raw() []byte {
	var all []byte
	for _, c := range e.Chunks {
		all = append(all, c.Data...)
	}
	return all
}

// content is a text of the recordings: UTF-8, or base64 where it was none.
type content struct {
	UTF8 string `json:"utf8"`
	B64  []byte `json:"b64"`
}

func (c *content) bytes() []byte {
	switch {
	case c == nil:
		return nil
	case c.B64 != nil:
		return c.B64
	}
	return []byte(c.UTF8)
}

// file holds the fields of both forms; Request.Line is only in the first, Request.Method only in the second.
type file struct {
	Name        string  `json:"name"`
	WallStart   float64 `json:"wall_start"` // s since 1970
	TotalMS     float64 `json:"total_ms"`
	TotalS      float64 `json:"total_s"`
	ClientNote  string  `json:"client_note"`
	ClientError string  `json:"client_error"`
	Request     *struct {
		Line         string            `json:"line"`
		Method, Path string            // second form
		Headers      map[string]string `json:"headers"`
		Body         json.RawMessage   `json:"body"`
	} `json:"request"`
	Response *struct {
		Line    string          `json:"line"`
		Status  int             `json:"status"`
		Headers [][2]string     `json:"headers"`
		Body    json.RawMessage `json:"body"`
	} `json:"response"`
	Recv []struct {
		TMS float64 `json:"t_ms"`
		content
	} `json:"recv"`
}

var errNoExchange = errors.New("no recorded exchange: it has no request")

// Load reads one recorded exchange.
func Load(fsys fs.FS, path string) (Exchange, error) {
	raw, err := fs.ReadFile(fsys, path)
	if err != nil {
		return Exchange{}, fmt.Errorf("load recording: %w", err)
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return Exchange{}, fmt.Errorf("load recording %s: %w", path, err)
	}
	if f.Request == nil {
		return Exchange{}, fmt.Errorf("load recording %s: %w", path, errNoExchange)
	}
	e := Exchange{Name: f.Name, Note: f.ClientNote, RequestHeader: http.Header{}, Header: http.Header{}}
	if f.WallStart > 0 {
		e.Start = time.UnixMicro(int64(f.WallStart * 1e6))
	}
	for k, v := range f.Request.Headers {
		e.RequestHeader.Set(k, v)
	}
	if f.Response != nil {
		for _, h := range f.Response.Headers {
			e.Header.Add(h[0], h[1])
		}
	}
	read := f.socket
	if f.Request.Line == "" {
		read = f.parsed
	}
	if err := read(&e); err != nil {
		return Exchange{}, fmt.Errorf("load recording %s: %w", path, err)
	}
	e.mendLength()
	return e, nil
}

func millis(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// socket reads the form that holds every socket read.
func (f *file) socket(e *Exchange) error {
	var ok bool
	e.Method, e.Path, ok = requestLine(f.Request.Line)
	if !ok {
		return fmt.Errorf("request line %q", f.Request.Line)
	}
	body := func(raw json.RawMessage) ([]byte, error) {
		var c *content
		err := json.Unmarshal(orNull(raw), &c)
		return c.bytes(), err
	}
	var err error
	if e.RequestBody, err = body(f.Request.Body); err != nil {
		return fmt.Errorf("request body: %w", err)
	}
	e.Total = millis(f.TotalMS)
	for _, r := range f.Recv {
		e.Chunks = append(e.Chunks, Chunk{millis(r.TMS), r.bytes()})
	}
	if f.Response == nil {
		return nil
	}
	if e.Body, err = body(f.Response.Body); err != nil {
		return fmt.Errorf("response body: %w", err)
	}
	if _, status, found := strings.Cut(f.Response.Line, " "); found {
		status, _, _ = strings.Cut(status, " ")
		e.Status, err = strconv.Atoi(status)
	}
	return err
}

// parsed reads the form that holds the parsed answer, and puts its bytes together again: vLLM writes compact JSON, and
// the recording kept the order of keys.
func (f *file) parsed(e *Exchange) error {
	e.Method, e.Path = f.Request.Method, f.Request.Path
	if raw := orNull(f.Request.Body); string(raw) != "null" {
		e.RequestBody = compact(raw)
		e.RequestHeader.Set("Content-Type", "application/json")
	}
	e.Total, e.Note = time.Duration(f.TotalS*float64(time.Second)), f.ClientError
	if f.Response == nil {
		return nil
	}
	e.Status = f.Response.Status
	switch raw := orNull(f.Response.Body); {
	case string(raw) == "null":
	case raw[0] == '"':
		var text string
		if err := json.Unmarshal(raw, &text); err != nil {
			return err
		}
		e.Body = []byte(text)
	default:
		e.Body = compact(raw)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "HTTP/1.1 %d %s\r\n", e.Status, http.StatusText(e.Status))
	for _, h := range f.Response.Headers {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	b.Write(e.Body)
	e.Chunks = []Chunk{{e.Total, b.Bytes()}}
	return nil
}

// mendLength corrects a Content-Length that a later edit of the body made wrong (machine paths in bodies were replaced by
// words). An answer whose engine really lied about its length does not exist in the recordings; one that was cut off has
// its Note.
func (e *Exchange) mendLength() {
	if e.Unfinished() || e.Method == http.MethodHead || len(e.Chunks) == 0 {
		return
	}
	claim, err := strconv.Atoi(e.Header.Get("Content-Length"))
	if err != nil || claim == len(e.Body) {
		return
	}
	for i := range e.Chunks {
		head, rest, whole := bytes.Cut(e.Chunks[i].Data, []byte("\r\n\r\n"))
		was := "content-length: " + strconv.Itoa(claim)
		is := "content-length: " + strconv.Itoa(len(e.Body))
		head = bytes.Replace(head, []byte(was), []byte(is), 1)
		if !whole {
			e.Chunks[i].Data = head
			continue
		}
		e.Chunks[i].Data = append(append(head, "\r\n\r\n"...), rest...)
		break
	}
	e.Header.Set("Content-Length", strconv.Itoa(len(e.Body)))
	e.Edited = fmt.Sprintf("Content-Length %d became %d: the body was edited after the recording", claim, len(e.Body))
}

func requestLine(line string) (method, path string, ok bool) {
	method, rest, ok := strings.Cut(line, " ")
	path, _, found := strings.Cut(rest, " ")
	return method, path, ok && found
}

func orNull(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("null")
	}
	return raw
}

// compact takes the whitespace out and turns \u escapes into characters, as vLLM writes its answers. Numbers stay as they
// are spelled.
func compact(raw json.RawMessage) []byte {
	var out bytes.Buffer
	if json.Compact(&out, raw) != nil {
		return raw
	}
	return unescape(out.Bytes())
}

// unescape replaces the \u escapes of characters beyond printable ASCII, except those of control characters.
func unescape(b []byte) []byte {
	if !bytes.Contains(b, []byte(`\u`)) {
		return b
	}
	var out []byte
	for len(b) > 0 {
		if b[0] != '\\' {
			out, b = append(out, b[0]), b[1:]
			continue
		}
		n := 2
		if b[1] == 'u' {
			n = 6
			if len(b) >= 12 && b[6] == '\\' && b[7] == 'u' && (b[2] == 'd' || b[2] == 'D') {
				n = 12 // a surrogate pair, if it is one
			}
			var s string
			if json.Unmarshal([]byte(`"`+string(b[:n])+`"`), &s) == nil && s[0] >= 0x7f && (s != "\ufffd" || bytes.EqualFold(b[:n], []byte(`\ufffd`))) { // half a pair reads as U+FFFD too
				out, b = append(out, s...), b[n:]
				continue
			}
			n = 6
		}
		out, b = append(out, b[:n]...), b[n:]
	}
	return out
}
