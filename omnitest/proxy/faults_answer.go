package proxy

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// falsify applies the faults that lie about decode's answer. f is the failure of the leg, if it has failed; done means that the
// client has been given an answer already.
func (c *call) falsify(path string, body object, rep *reply, f *failure) (_ *failure, done bool) {
	faults := &c.p.c.Faults
	if faults.SwallowError {
		if f == nil && rep.StatusCode != http.StatusOK {
			_, f = rep.whole()
		}
		if f != nil && !f.cancelled {
			c.answerNothing(path, string(body.get("stream")) == "true")
			return nil, true
		}
	}
	if f != nil {
		return f, false
	}
	if faults.SwallowError {
		rep.changeLines(func(line []byte) []byte {
			data, ok := eventData(line)
			var a stageAnswer
			if json.Unmarshal(data, &a) != nil || a.errorInside(data) == "" {
				return line
			}
			rep.swallowed = a.errorInside(data)
			if ok {
				return append(append([]byte("data: "), c.nothing(path, "delta")...), '\n')
			}
			return c.nothing(path, "message")
		})
	}
	if faults.RewriteCached {
		rep.changeLines(func(line []byte) []byte {
			data, ok := eventData(line)
			lie := claimCached(data)
			if lie == nil {
				return line
			}
			if ok {
				return append(append([]byte("data: "), lie...), '\n')
			}
			return lie
		})
	}
	return nil, false
}

// answerNothing is a good answer without content, whatever decode said.
func (c *call) answerNothing(path string, stream bool) {
	c.status, c.began = http.StatusOK, true
	c.entry.finish("ok", c.status, "") // what this proxy believes; the hop has the error
	if !stream {
		c.w.Header().Set("Content-Type", "application/json")
		_, _ = c.w.Write(c.nothing(path, "message"))
		return
	}
	c.w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	fmt.Fprintf(c.w, "data: %s\n\ndata: [DONE]\n\n", c.nothing(path, "delta"))
}

// nothing is an answer, or an event, whose one choice is empty and ended by itself. where is the place of a chat's text.
func (c *call) nothing(path, where string) []byte {
	choice, object, prefix := map[string]any{"index": 0, "logprobs": nil, "finish_reason": "stop"}, "text_completion", "cmpl-"
	if strings.HasPrefix(path, "/v1/chat/") {
		choice[where] = map[string]any{"role": "assistant", "content": ""}
		prefix, object = "chatcmpl-", "chat.completion"
		if where == "delta" {
			object += ".chunk"
		}
	} else {
		choice["text"] = ""
	}
	b, _ := json.Marshal(map[string]any{ // plain values: it always encodes
		"id": prefix + c.id, "object": object, "created": time.Now().Unix(), "choices": []any{choice},
		"usage": map[string]int{"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
	})
	return b
}

// claimCached is an answer or event with all of its prompt tokens cached; nil where it has no usage.
func claimCached(data []byte) []byte {
	o, err := parseObject(data)
	if err != nil {
		return nil
	}
	usage, err := parseObject(orNull(o.get("usage")))
	if err != nil || !usage.has("prompt_tokens") {
		return nil
	}
	details, _ := parseObject(orNull(usage.get("prompt_tokens_details"))) // null where nothing was cached
	details = details.set("cached_tokens", usage.get("prompt_tokens"))
	usage = usage.set("prompt_tokens_details", details.pieces().bytes())
	return o.set("usage", usage.pieces().bytes()).pieces().bytes()
}

// eventData is the data of a line of a stream, or a whole body; event tells which.
func eventData(line []byte) (data []byte, event bool) {
	data, event = bytes.CutPrefix(line, []byte("data:"))
	return bytes.TrimSpace(data), event
}

// changeLines puts change between the wire and all that reads the answer. A body that is no stream counts as one line.
func (rep *reply) changeLines(change func(line []byte) []byte) {
	next := bufio.NewReader(rep.Body)
	read := func() ([]byte, error) { return next.ReadBytes('\n') }
	if !newObserver(rep.Response).events {
		read = func() ([]byte, error) {
			body, err := io.ReadAll(next)
			return body, cmp.Or(err, io.EOF)
		}
	}
	rep.Body = &lineChanger{Closer: rep.Body, read: read, change: change}
	rep.ContentLength = -1 // not known any more
	rep.Header.Del("Content-Length")
}

type lineChanger struct {
	io.Closer
	read   func() (line []byte, err error)
	change func([]byte) []byte
	rest   []byte
	err    error
}

func (l *lineChanger) Read(b []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		var line []byte
		if line, l.err = l.read(); len(line) > 0 {
			l.rest = l.change(line)
		}
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}

// cached is both legs with Faults.CacheAnswers.
func (c *call) cached(path, kind string, body object) *failure {
	key := path + string(body.pieces().bytes())
	old, hit := c.p.answers.Load(key)
	if !hit {
		t, f := c.prefill(path, kind, body)
		if f != nil {
			return f
		}
		rep, f := c.send(c.decodeLeg(path, kind, body, t))
		if f != nil {
			return f
		}
		raw, f := rep.whole()
		if f != nil {
			return f
		}
		rep.end("")
		c.p.answers.Store(key, raw)
		old = raw
	}
	c.status, c.began = http.StatusOK, true
	c.entry.finish("ok", c.status, "")
	c.w.Header().Set("Content-Type", "application/json")
	answer := old.([]byte)
	if o, err := parseObject(answer); hit && err == nil {
		answer = o.set("id", quote("cmpl-"+c.id)).pieces().bytes()
	}
	_, _ = c.w.Write(answer)
	return nil
}
