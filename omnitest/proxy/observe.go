package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// observer reads along while an answer passes: the response id, an error inside a 200, a stream that ends without [DONE].
// It keeps a bounded part of the answer and changes nothing.
type observer struct {
	id     string
	ticket ticket
	bad    string // first error object seen in a 200

	events bool // text/event-stream
	speech bool // of OpenAI's speech.audio events, which end with speechDone and have no [DONE]
	done   bool // data: [DONE] went by
	line   []byte
	whole  bool // line holds all of a body that is not a stream
}

// speechDone is the type of the last event of a streamed speech.
const speechDone = "speech.audio.done"

const (
	eventKept = 8 << 10  // of one line of a stream: ids and error objects stand at the front
	bodyKept  = 64 << 10 // of a body that is no stream; a picture is longer, and its fields at the end are not looked for
)

func newObserver(r *http.Response) *observer {
	return &observer{events: strings.HasPrefix(r.Header.Get("Content-Type"), "text/event-stream"), whole: true}
}

func (o *observer) see(b []byte) {
	if !o.events {
		o.keep(b, bodyKept)
		return
	}
	for len(b) > 0 {
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			o.keep(b, eventKept)
			return
		}
		o.keep(b[:end], eventKept)
		o.event(o.line)
		o.line, b = o.line[:0], b[end+1:]
	}
}

func (o *observer) keep(b []byte, limit int) {
	room := min(len(b), limit-len(o.line))
	o.whole = o.whole && room == len(b)
	o.line = append(o.line, b[:room]...)
}

// event looks at one line of a stream. vLLM's failure after the header is an event {"error":{...}}; vLLM-Omni's is
// {"object":"error","error":{...}}; an engine may also say finish_reason "error" and nothing else.
func (o *observer) event(line []byte) {
	data, ok := bytes.CutPrefix(line, []byte("data:"))
	if !ok {
		return
	}
	data = bytes.TrimSpace(data)
	if string(data) == "[DONE]" && !o.speech {
		o.done = true
		return
	}
	if o.id == "" {
		o.id = stringAfter(data, `"id":`)
	}
	o.done = o.done || o.speech && stringAfter(data, `"type":`) == speechDone
	// Looking closely at every event would cost more than passing it on; these two words stand in hardly any good one.
	if o.bad == "" && (bytes.Contains(data[:min(len(data), 32)], []byte(`"error"`)) || bytes.Contains(data, []byte(`"finish_reason":"error"`))) {
		var a stageAnswer
		if json.Unmarshal(data, &a) == nil {
			o.bad = a.errorInside(data)
		}
	}
}

// end says why the answer, which came to its end, is no good one; "" if it is.
func (o *observer) end(status int) string {
	if status != http.StatusOK {
		return statusCause(status, o.line)
	}
	if o.events {
		if len(o.line) > 0 {
			o.event(o.line)
		}
		if o.bad == "" && !o.done {
			if o.speech {
				return "stream ended without " + speechDone
			}
			return "stream ended without [DONE]"
		}
		return o.bad
	}
	if !o.whole {
		o.id = stringAfter(o.line, `"id":`)
		return ""
	}
	var a stageAnswer
	if json.Unmarshal(o.line, &a) == nil {
		o.id, o.ticket = a.ID, a.ticket()
		if said := a.errorInside(o.line); said != "" {
			return said
		}
	}
	return ""
}

// stringAfter is the JSON string that follows a key, "" if there is none. Enough for an id, which has no escapes.
func stringAfter(b []byte, key string) string {
	_, rest, ok := bytes.Cut(b, []byte(key))
	if !ok {
		return ""
	}
	rest, ok = bytes.CutPrefix(bytes.TrimLeft(rest, " "), []byte(`"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return ""
	}
	return string(rest[:end])
}

// stageAnswer is what the proxy reads of an AR engine's answer.
type stageAnswer struct {
	ID      string
	Error   json.RawMessage
	Object  string
	Choices []struct {
		Text    string
		Message struct {
			Content json.RawMessage // a string; a list of parts from a DiT
		}
		FinishReason string `json:"finish_reason"`
	}
	Ticket json.RawMessage `json:"kv_transfer_params"`
}

// errorInside is the cause where HTTP 200 hides a failure, "" where it doesn't.
func (a *stageAnswer) errorInside(body []byte) string {
	switch {
	case len(a.Error) > 0 && string(a.Error) != "null" || a.Object == "error":
		return "200 with an error inside: " + errorMessage(body)
	case len(a.Choices) > 0 && a.Choices[0].FinishReason == "error":
		return `200 with an error inside: finish_reason "error"`
	}
	return ""
}

func (a *stageAnswer) ticket() ticket {
	if string(a.Ticket) == "null" {
		return nil
	}
	return a.Ticket
}

// text of choice 0. A list of parts gives the text parts.
func (a *stageAnswer) text() string {
	if len(a.Choices) == 0 {
		return ""
	}
	ch := a.Choices[0]
	if ch.Text != "" {
		return ch.Text
	}
	return contentText(ch.Message.Content)
}

// finish is ` (finish_reason "stop")`, for causes.
func (a *stageAnswer) finish() string {
	if len(a.Choices) == 0 {
		return " (no choices)"
	}
	return fmt.Sprintf(" (finish_reason %q)", a.Choices[0].FinishReason)
}
