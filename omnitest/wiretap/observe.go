package wiretap

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const (
	lineKept = 8 << 10 // of one line of a stream: ids and error objects stand at the front
	bodyKept = 8 << 20 // of a body that is no stream: a ticket for a million tokens has 400 KiB
	textKept = 64 << 10
)

// observer reads along while an answer passes, and changes nothing.
type observer struct {
	id, text string // of the answer; text of choice 0 of a body that is no stream
	ticket   json.RawMessage
	unread   string // why the body could not be read; "": it was

	encoding     string
	events, done bool // text/event-stream; data: [DONE] went by
	bad          string
	kept         []byte // the current line, or the body
	whole        bool
}

func newObserver(r *http.Response) *observer {
	return &observer{events: strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream"), encoding: r.Header.Get("Content-Encoding"), whole: true}
}

func (o *observer) see(b []byte) {
	if !o.events || o.encoding != "" {
		o.keep(b, bodyKept)
		return
	}
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			o.keep(b, lineKept)
			return
		}
		o.keep(b[:end], lineKept)
		o.event(o.kept)
		o.kept, b = o.kept[:0], b[end+1:]
	}
}

func (o *observer) keep(b []byte, limit int) {
	room := min(len(b), limit-len(o.kept))
	o.whole = o.whole && room == len(b)
	o.kept = append(o.kept, b[:room]...)
}

// event looks at one line of a stream. Looking closely at every event would cost more than passing it on: the first tells the
// id, and the two words of a failure stand in hardly any good one.
func (o *observer) event(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	data = bytes.TrimSpace(data)
	if string(data) == "[DONE]" {
		o.done = true
		return
	}
	suspect := bytes.Contains(data[:min(len(data), 48)], []byte(`"error"`)) || bytes.Contains(data, []byte(`"finish_reason":"error"`)) ||
		bytes.Contains(data, []byte(`"finish_reason": "error"`))
	if o.id != "" && !suspect {
		return
	}
	var a answer
	if json.Unmarshal(data, &a) != nil {
		return
	}
	if o.id == "" {
		o.id = a.ID
	}
	if o.bad == "" {
		o.bad = a.errorInside(data)
	}
}

// end says why an answer that came to its end is no good one; "" if it is.
func (o *observer) end(status int) string {
	body := o.kept
	switch strings.ToLower(o.encoding) {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err == nil {
			body, err = io.ReadAll(io.LimitReader(z, bodyKept))
		}
		if err != nil {
			o.unread = "answer could not be unpacked: " + err.Error()
		}
	default:
		o.unread = "answer is encoded as " + o.encoding + ", which the taps do not read"
	}
	switch {
	case status != http.StatusOK:
		return statusCause(status, body)
	case o.unread != "":
		return ""
	case o.events && o.encoding == "":
		if len(body) > 0 {
			o.event(body)
		}
		if o.bad == "" && !o.done {
			return "stream ended without [DONE]"
		}
		return o.bad
	case !o.whole:
		o.unread = fmt.Sprintf("answer is longer than the %d MiB that the taps read", bodyKept>>20)
		return ""
	}
	var a answer
	if json.Unmarshal(body, &a) != nil {
		return ""
	}
	o.id, o.ticket, o.text = a.ID, orNil(a.Ticket), a.text()
	return a.errorInside(body)
}

// answer is what the taps read of an engine's answer.
type answer struct {
	ID      string
	Object  string
	Error   json.RawMessage
	Choices []struct {
		Text         string
		Message      struct{ Content json.RawMessage }
		FinishReason string `json:"finish_reason"`
	}
	Ticket json.RawMessage `json:"kv_transfer_params"`
}

// errorInside is the cause where HTTP 200 hides a failure, "" where it does not.
func (a *answer) errorInside(body []byte) string {
	switch {
	case orNil(a.Error) != nil || a.Object == "error":
		return "200 with an error inside: " + errorMessage(body)
	case len(a.Choices) > 0 && a.Choices[0].FinishReason == "error":
		return `200 with an error inside: finish_reason "error"`
	}
	return ""
}

func (a *answer) text() string {
	if len(a.Choices) == 0 {
		return ""
	}
	text := a.Choices[0].Text
	if text == "" {
		text = contentText(a.Choices[0].Message.Content)
	}
	if len(text) > textKept {
		return ""
	}
	return text
}

// statusCause is "500 Internal Server Error: out of blocks".
func statusCause(status int, body []byte) string {
	cause := strconv.Itoa(status) + " " + http.StatusText(status)
	if said := errorMessage(body); said != "" {
		cause += ": " + said
	}
	return cause
}

// errorMessage finds what an error body says, in the shapes of vLLM and of the frameworks below it.
func errorMessage(body []byte) string {
	var b struct{ Error, Detail, Message json.RawMessage }
	if json.Unmarshal(body, &b) == nil {
		var inner struct{ Message string }
		if json.Unmarshal(b.Error, &inner) == nil && inner.Message != "" {
			return excerpt(inner.Message)
		}
		for _, field := range []json.RawMessage{b.Error, b.Detail, b.Message} {
			var text string
			if json.Unmarshal(field, &text) == nil && text != "" {
				return excerpt(text)
			}
		}
	}
	return excerpt(string(body[:min(len(body), 400)]))
}

// excerpt is one line of at most 200 bytes.
func excerpt(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "\uFFFD")), " ")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + " ..."
	}
	return s
}
