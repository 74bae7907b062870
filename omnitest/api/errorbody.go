package api

import (
	"bytes"
	"html"
	"mime"
	"net/http"
	"regexp"
	"strings"
)

// said is an error as a server put it.
type said struct {
	message, typ, param, code, requestID, stage string
}

// readSaid looks for an error in a JSON document, in every shape that servers of this family send:
//
//	{"error":{"message","type","param","code","request_id","error_stage_id"}}   vLLM, vLLM-Omni
//	{"error":"Unauthorized"}                                                    vLLM's key check
//	{"detail":"Not Found"}                                                      Starlette
//	{"detail":[{"loc":["body","prompt"],"msg":"Field required","type":"missing"}]}  FastAPI without vLLM's handler
//	{"object":"error","message",...} and {"object":"error","error":{...}}       older vLLM, vLLM-Omni's edit stream
//	{"message":"..."}                                                           gateways
//
// found is false for a document that is no JSON object or holds none of these. bare says that only a plain message was
// found, which counts under an error status but is no error inside a 200.
func readSaid(body []byte) (s said, found, bare bool) {
	c := cursor{b: body}
	if c.peek() != '{' {
		return s, false, false
	}
	var top said
	isError := false
	c.object(func(key []byte) {
		switch string(key) {
		case "error":
			found = s.readValue(&c) || found
		case "detail":
			found = s.readDetail(&c) || found
		case "object":
			isError = c.scalar() == "error"
		default:
			top.readField(&c, key)
		}
	})
	if c.end(); c.err != nil {
		return said{}, false, false
	}
	if found {
		if s.requestID == "" {
			s.requestID = top.requestID
		}
		return s, true, false
	}
	return top, isError || top.message != "", !isError
}

// readValue reads the value of "error"; false for null.
func (s *said) readValue(c *cursor) bool {
	switch c.peek() {
	case 'n':
		return !c.null()
	case '{':
		c.object(func(key []byte) { s.readField(c, key) })
		return true
	}
	s.message = c.scalar()
	return true
}

func (s *said) readField(c *cursor, key []byte) {
	switch string(key) {
	case "message":
		s.message = c.scalar()
	case "type":
		s.typ = c.scalar()
	case "param":
		s.param = c.scalar()
	case "code":
		s.code = c.scalar()
	case "request_id":
		s.requestID = c.scalar()
	case "error_stage_id":
		s.stage = c.scalar()
	}
}

// readDetail reads FastAPI's "detail": a string, a list of validation failures, or any object.
func (s *said) readDetail(c *cursor) bool {
	switch c.peek() {
	case 'n':
		return !c.null()
	case '[':
		var parts []string
		c.array(func(int) {
			if c.peek() != '{' {
				parts = append(parts, c.scalar())
				return
			}
			var loc []string
			var msg, typ string
			c.object(func(key []byte) {
				switch string(key) {
				case "loc":
					if c.peek() == '[' {
						c.array(func(int) { loc = append(loc, c.scalar()) })
					} else {
						loc = append(loc, c.scalar())
					}
				case "msg":
					msg = c.scalar()
				case "type":
					typ = c.scalar()
				}
			})
			where := strings.Join(loc, ".")
			if s.param == "" {
				s.param, s.typ = where, typ
			}
			if where != "" {
				msg = where + ": " + msg
			}
			parts = append(parts, msg)
		})
		s.message = strings.Join(parts, "; ")
		return true
	case '{':
		at := c.i
		raw := c.raw()
		inner, found, _ := readSaid(raw)
		if found {
			*s = inner
		} else if c.err == nil {
			c.i = at
			s.message = c.scalar()
		}
		return true
	}
	s.message = c.scalar()
	return true
}

// set puts what the server said into e. What the server left out is not overwritten.
func (s *said) set(e *Error) {
	e.Message, e.Type, e.Param, e.Code = s.message, s.typ, s.param, s.code
	if s.requestID != "" {
		e.RequestID = s.requestID
	}
	if e.Stage == "" {
		e.Stage = s.stage
	}
	if e.Message == "" {
		e.Message = "the server gave no message"
	}
}

// statusError makes the error of an answer whose status is not 200.
func statusError(status int, h http.Header, body []byte, server string) *Error {
	e := &Error{Kind: Protocol}
	switch {
	case status >= 500:
		e.Kind = Server
	case status >= 400:
		e.Kind = Refused
	}
	said, found, _ := readSaid(body)
	text := strings.TrimSpace(string(body))
	switch {
	case found:
		said.set(e)
	case status >= 300 && status < 400:
		e.Message = "answered a redirect to " + h.Get("Location") + ", which is not followed: a redirect can turn POST into GET"
	case isHTML(h, body):
		e.Message = htmlMessage(h, body, server)
	case text == "":
		e.Message = "empty body"
	default:
		e.Message = text
	}
	if status < 300 {
		e.Message = "status " + http.StatusText(status) + " where 200 OK is due: " + e.Message
	}
	return e
}

func mediaType(h http.Header) string {
	t, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		t, _, _ = strings.Cut(h.Get("Content-Type"), ";")
	}
	return strings.ToLower(strings.TrimSpace(t))
}

func isHTML(h http.Header, body []byte) bool {
	if t := mediaType(h); t == "text/html" || t == "application/xhtml+xml" {
		return true
	}
	start := bytes.ToLower(bytes.TrimSpace(body[:min(len(body), 256)]))
	return bytes.HasPrefix(start, []byte("<!doctype html")) || bytes.HasPrefix(start, []byte("<html"))
}

var titleTag = regexp.MustCompile(`(?is)<title[^>]*>(.*?)</title`)

// htmlMessage names the page, because its title is most often the answer: "502 Bad Gateway", "Jupyter Notebook".
func htmlMessage(h http.Header, body []byte, server string) string {
	t := mediaType(h)
	if t == "" {
		t = "no content type"
	}
	title := ""
	if m := titleTag.FindSubmatch(body[:min(len(body), 64<<10)]); m != nil {
		title = clip(strings.Join(strings.Fields(html.UnescapeString(string(m[1]))), " "), 120)
	}
	if title != "" {
		t += `, title "` + title + `"`
	}
	return "answered HTML (" + t + "), not JSON: is " + server + " an inference server?"
}
