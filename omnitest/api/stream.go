package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/sse"
)

// afterDone is how long a stream may stay open after [DONE] before the connection is given up. Reading the end of the
// body keeps the connection; waiting for it must not hold up the answer, which is complete.
const afterDone = 200 * time.Millisecond

// StreamComplete sends a completion with stream=true and include_usage, and reads it event by event.
// each, if not nil, sees every event as it arrives; a returned error aborts the stream.
// On failure the *Text holds what had arrived.
func (c *Client) StreamComplete(ctx context.Context, r CompletionRequest, each func(Event) error) (*Text, error) {
	body, err := r.encode(c.Model, true)
	if err != nil {
		return &Text{}, err
	}
	return c.stream(ctx, completionsPath, body, &r.Sampling, false, each)
}

// StreamChat is StreamComplete for chat.
func (c *Client) StreamChat(ctx context.Context, r ChatRequest, each func(Event) error) (*Text, error) {
	body, err := r.encode(c.Model, true)
	if err != nil {
		return &Text{}, err
	}
	return c.stream(ctx, chatPath, body, &r.Sampling, r.wantsImage(), each)
}

func (c *Client) stream(ctx context.Context, path string, body []byte, s *Sampling, wantsImage bool, each func(Event) error) (*Text, error) {
	t := &Text{}
	x, err := c.send(ctx, outgoing{
		method: http.MethodPost, path: path, accept: sseType, contentType: jsonType, requestID: s.RequestID, body: payload{body},
	})
	if err != nil {
		if e, ok := err.(*Error); ok {
			t.Exchange = e.Exchange
		}
		return t, err
	}
	defer x.close()
	r := &textStream{textReader: textReader{t: t, limits: c.Limits, wantsImage: wantsImage}, want: max(s.N, 1)}
	if _, own := s.Extra["n"]; own {
		r.want = 1 // the caller asked for another number, which only the server may understand
	}
	if mediaType(x.ex.Header) == sseType {
		err = x.pump(r, each)
	} else {
		err = x.notAStream(&r.textReader)
	}
	r.finish()
	t.Exchange = x.ex
	if err == nil {
		if err := r.checkImage(); err != nil {
			return t, x.fail(err)
		}
		return t, nil
	}
	return t, err
}

// notAStream reads what a server sent instead of a stream. vLLM-Omni ignores stream=true for a picture and answers in
// one piece: that is told as a failure, because a time to first token taken from it would be none.
func (x *call) notAStream(r *textReader) error {
	body, err := x.readJSON(nil)
	if err != nil {
		return err
	}
	if err := r.whole(body); err != nil {
		return x.failBody(err, body)
	}
	return x.failBody(finding(Protocol, "asked for a stream, got the answer in one piece (%q): the server ignored stream=true",
		x.ex.Header.Get("Content-Type")), body)
}

// sink takes the events of one stream.
type sink interface {
	take(data []byte, ev *Event) error // parses data; fills the rest of ev
	missing() string                   // what has not come yet and must; "" if nothing
	tokens() int                       // told by the server so far; -1: it does not tell
}

// textStream is the sink of completions and chat.
type textStream struct {
	textReader
	want  int // choices that must finish, at least
	told  bool
	count int
}

func (r *textStream) take(data []byte, ev *Event) error {
	err := r.document(data, ev)
	if ev.Tokens >= 0 {
		r.told = true
		r.count += ev.Tokens
	}
	return err
}

func (r *textStream) tokens() int {
	if !r.told {
		return -1
	}
	return r.count
}

func (r *textStream) missing() string {
	finished := 0
	for _, ch := range r.t.Choices {
		if ch.FinishReason == "" {
			return "finish_reason of choice " + itoa(ch.Index)
		}
		finished++
	}
	if finished < r.want {
		return fmt.Sprintf("finish_reason of %s (%d of %d came)", plural(r.want-finished, "choice"), finished, r.want)
	}
	return ""
}

// events cuts the answer into server-sent events.
func (x *call) events() *sse.Reader {
	r := sse.NewReader((*bodyReader)(x), x.since, int(x.c.Limits.body()))
	r.Reuse = x.c.Lean
	return r
}

// event keeps what is known of an event before it is parsed. The pointer is good until the next one.
func (x *call) event(m sse.Event) *Event {
	ev := Event{At: m.At, Data: m.Data, Tokens: -1, Usage: -1, Bytes: len(m.Data), Read: m.Read}
	if x.c.Lean {
		ev.Data = nil
	}
	x.ex.Events = append(x.ex.Events, ev)
	return &x.ex.Events[len(x.ex.Events)-1]
}

// pump reads events until [DONE] and hands each to the sink, then to each.
func (x *call) pump(s sink, each func(Event) error) error {
	r := x.events()
	for {
		m, err := r.Next()
		switch {
		case err == io.EOF:
			return x.truncated(s, r, "the stream ended")
		case err == sse.ErrTooLong:
			return x.fail(finding(Limit, "an event of more than %d bytes (Limits.BodyBytes)", x.c.Limits.body()))
		case err != nil:
			e := x.fail(err)
			if e.Kind == Truncated {
				e.Message += lacking(s, false)
			}
			return e
		}
		ev := x.event(m)
		done := string(m.Data) == "[DONE]"
		var failure error
		switch {
		case done:
			ev.Has = IsDone
		case m.Name == "error":
			failure = namedError(m.Data)
		default:
			failure = s.take(m.Data, ev)
		}
		if each != nil {
			if err := each(*ev); err != nil {
				return x.fail(&Error{Kind: Canceled, Message: "stopped by the event callback: " + err.Error(), cause: err})
			}
		}
		switch {
		case failure != nil && m.Cut && KindOf(failure) == Protocol:
			return x.truncated(s, r, fmt.Sprintf("the stream ended inside an event (%d bytes of it: %.60q)", len(m.Data), m.Data))
		case failure != nil:
			return x.fail(failure)
		case done && s.missing() != "":
			return x.truncated(s, r, "[DONE] came too early")
		case done:
			x.ex.End = m.At
			return x.drain(r)
		}
	}
}

// drain reads to the end of the body after [DONE], so that the connection can be used again.
func (x *call) drain(r *sse.Reader) error {
	stop := time.AfterFunc(afterDone, x.cancel)
	defer stop.Stop()
	if m, err := r.Next(); err == nil {
		return x.fail(finding(Protocol, "an event follows [DONE]: %.60q", m.Data))
	}
	return nil
}

func (x *call) truncated(s sink, r *sse.Reader, how string) error {
	e := finding(Truncated, "%s%s", how, lacking(s, strings.HasPrefix(how, "[DONE]")))
	if n, first := r.Stray(); n > 0 {
		e.Message += fmt.Sprintf("; %s no event, the first: %q", plural(n, "line")+map[bool]string{true: " was", false: " were"}[n == 1], first)
	}
	return x.fail(e)
}

// lacking says what a stream had brought and what it still owes.
func lacking(s sink, done bool) string {
	text := ""
	if n := s.tokens(); n >= 0 {
		text = " after " + plural(n, "token")
	}
	owed := []string{}
	if m := s.missing(); m != "" {
		owed = append(owed, m)
	}
	if !done {
		owed = append(owed, "[DONE]")
	}
	return text + ": missing " + strings.Join(owed, " and ")
}

// namedError reads the data of an "event: error".
func namedError(data []byte) error {
	e := &Error{Kind: InBand}
	if said, found, _ := readSaid(data); found {
		said.set(e)
	} else {
		e.Message = string(data)
	}
	return e
}

func itoa(n int) string { return strconv.Itoa(n) }
