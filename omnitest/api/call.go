package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	jsonType = "application/json"
	sseType  = "text/event-stream"
	// eagerBytes is how much memory a Content-Length alone can make us spend; beyond it memory follows the bytes.
	eagerBytes = 16 << 20
	errorBytes = 1 << 20 // read of an answer whose status is an error
)

func (l Limits) body() int64   { return orDefault(l.BodyBytes, 256<<20) }
func (l Limits) file() int64   { return orDefault(l.FileBytes, 64<<20) }
func (l Limits) pixels() int64 { return orDefault(l.Pixels, 16_777_216) }

func orDefault(v, def int64) int64 {
	if v > 0 {
		return v
	}
	return def
}

// outgoing is a request to send.
type outgoing struct {
	method, path string
	accept       string
	contentType  string
	requestID    string
	body         payload
}

// call is one request under way. It is used by one goroutine.
type call struct {
	c      *Client
	caller context.Context // the caller's own context: tells its deadline from our timeout
	ctx    context.Context
	cancel context.CancelFunc
	resp   *http.Response
	ex     Exchange
}

// send writes the request and reads the headers of its answer. A status other than 200 is read to the end and becomes
// the error.
func (c *Client) send(ctx context.Context, q outgoing) (*call, error) {
	url, err := c.address(q.path)
	if err != nil {
		return nil, err
	}
	x := &call{c: c, caller: ctx, ex: Exchange{Method: q.method, URL: url, RequestID: q.requestID}}
	x.ctx, x.cancel = context.WithTimeout(ctx, c.timeout())
	req, err := http.NewRequestWithContext(x.ctx, q.method, url, nil)
	if err != nil {
		x.cancel()
		return nil, fmt.Errorf("api: %w", err)
	}
	q.body.attach(req)
	h := req.Header
	h.Set("Accept", q.accept)
	h.Set("User-Agent", "omnitest")
	if q.contentType != "" {
		h.Set("Content-Type", q.contentType)
	}
	if q.requestID != "" {
		h.Set("X-Request-Id", q.requestID)
	}
	if c.APIKey != "" {
		h.Set("Authorization", "Bearer "+c.APIKey)
	}
	x.ex.Start = time.Now()
	x.resp, err = c.http().Do(req)
	if err != nil {
		x.cancel()
		return nil, x.fail(err)
	}
	x.ex.FirstByte = x.since()
	x.ex.Status, x.ex.Header = x.resp.StatusCode, x.resp.Header
	if x.ex.Status != http.StatusOK {
		defer x.close()
		body, _ := io.ReadAll(io.LimitReader((*bodyReader)(x), errorBytes))
		return nil, x.failBody(statusError(x.ex.Status, x.ex.Header, body, c.BaseURL), body)
	}
	return x, nil
}

func (x *call) since() time.Duration { return time.Since(x.ex.Start) }

// close ends the request. A body that was not read to its end costs the connection.
func (x *call) close() {
	x.resp.Body.Close()
	x.cancel()
}

// bodyReader reads the answer's body, counting, up to the limit. One more byte is an error, never a silent cut.
type bodyReader call

func (r *bodyReader) Read(p []byte) (int, error) {
	limit := r.c.Limits.body()
	left := limit - r.ex.BodyBytes
	if int64(len(p)) > left+1 { // room for the one byte too many
		p = p[:left+1]
	}
	n, err := r.resp.Body.Read(p)
	r.ex.BodyBytes += int64(n)
	if r.ex.BodyBytes > limit {
		return n, finding(Limit, "answer of more than %d bytes (Limits.BodyBytes)", limit)
	}
	return n, err
}

// readAll reads the body into buf's memory, or new memory for nil.
func (x *call) readAll(buf []byte) ([]byte, error) {
	limit, claim := x.c.Limits.body(), x.resp.ContentLength
	if claim > limit {
		return nil, x.fail(finding(Limit, "Content-Length claims %d bytes, limit %d (Limits.BodyBytes)", claim, limit))
	}
	buf = slices.Grow(buf[:0], int(min(max(claim, 512), eagerBytes))+1)
	r := (*bodyReader)(x)
	for {
		if len(buf) == cap(buf) {
			buf = grow(buf)
		}
		n, err := r.Read(buf[len(buf):min(cap(buf), len(buf)+piece)])
		buf = buf[:len(buf)+n]
		if err == io.EOF {
			x.ex.End = x.since()
			return buf, nil
		}
		if err != nil {
			return buf, x.fail(err)
		}
	}
}

// readJSON is readAll for an answer that must be a JSON document.
func (x *call) readJSON(buf []byte) ([]byte, error) {
	body, err := x.readAll(buf)
	if err != nil {
		return body, err
	}
	return body, x.mustBeJSON(body)
}

func (x *call) mustBeJSON(body []byte) error {
	t := mediaType(x.ex.Header)
	switch {
	case isHTML(x.ex.Header, body):
		return x.failBody(finding(Protocol, "%s", htmlMessage(x.ex.Header, body, x.c.BaseURL)), body)
	case len(body) == 0:
		return x.failBody(finding(Protocol, "empty body where JSON is due"), body)
	case t != "" && t != jsonType && !strings.HasSuffix(t, "+json"):
		return x.failBody(finding(Protocol, "content type %q where %s is due, body %.60q", t, jsonType, body), body)
	}
	return nil
}

// inBand gives the error that a 200 answer holds instead of an answer, or nil.
func (x *call) inBand(body []byte) error {
	said, found, bare := readSaid(body)
	if !found || bare {
		return nil
	}
	e := &Error{Kind: InBand}
	said.set(e)
	return x.failBody(e, body)
}

// bodies holds buffers of answers that were read whole and from which everything wanted was copied out: picture answers
// are megabytes, and a load test gets many of them per second.
var bodies sync.Pool

const pooledBytes = 32 << 20

func borrow() []byte {
	if b, ok := bodies.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

func giveBack(b []byte) {
	if cap(b) > 0 && cap(b) <= pooledBytes {
		bodies.Put(&b)
	}
}

// failBody is fail for an answer that was read whole.
func (x *call) failBody(err error, body []byte) *Error {
	e := x.fail(err)
	e.Body = slices.Clone(body[:min(len(body), keptBody)])
	return e
}

// fail makes the *Error of this call out of what went wrong: a finding of ours, or an error of the transport.
func (x *call) fail(err error) *Error {
	if x.ex.End == 0 {
		x.ex.End = x.since()
	}
	var e *Error
	if !errors.As(err, &e) {
		e = x.transportError(err)
	}
	e.Method, e.URL, e.Status, e.Exchange = x.ex.Method, x.ex.URL, x.ex.Status, x.ex
	if stage := x.ex.Header.Get(StageHeader); stage != "" {
		e.Stage = stage
	}
	if e.RequestID == "" {
		e.RequestID = x.ex.RequestID
	}
	return e
}

// transportError tells apart what net/http reports as one error: whose time ran out, who gave up, how far it had come.
func (x *call) transportError(err error) *Error {
	e := &Error{cause: err}
	var timeout interface{ Timeout() bool }
	switch {
	case errors.Is(x.caller.Err(), context.DeadlineExceeded):
		e.Kind, e.cause = Timeout, context.DeadlineExceeded
		e.Message = "the caller's deadline passed"
	case x.caller.Err() != nil:
		e.Kind, e.cause = Canceled, context.Canceled
		e.Message = "the caller canceled"
		if cause := context.Cause(x.caller); cause != context.Canceled {
			e.Message += ": " + cause.Error()
			e.cause = errors.Join(context.Canceled, cause)
		}
	case errors.Is(x.ctx.Err(), context.DeadlineExceeded):
		e.Kind, e.cause = Timeout, context.DeadlineExceeded
		e.Message = fmt.Sprintf("the client's timeout of %s ran out", x.c.timeout())
	case errors.As(err, &timeout) && timeout.Timeout():
		e.Kind = Timeout
		e.Message = "a timeout of the HTTP transport: " + rootText(err)
	case strings.Contains(err.Error(), "malformed"):
		e.Kind, e.Message = Protocol, "no HTTP: "+rootText(err)
	case x.ex.Status == 0:
		e.Kind, e.Message = Transport, rootText(err)
	default:
		e.Kind, e.Message = Truncated, "the connection broke: "+rootText(err)
		if errors.Is(err, io.ErrUnexpectedEOF) {
			e.Message = "the body ended early"
		}
		if n := x.resp.ContentLength; n >= 0 {
			e.Message += fmt.Sprintf(" (Content-Length claimed %d bytes)", n)
		}
	}
	return e
}

// rootText drops net/http's own "Post \"http://...\": ", which the *Error says already.
func rootText(err error) string {
	text := err.Error()
	for _, verb := range []string{"Post", "Get"} {
		if rest, found := strings.CutPrefix(text, verb+` "`); found {
			if _, inner, found := strings.Cut(rest, `": `); found {
				return inner
			}
		}
	}
	return text
}
