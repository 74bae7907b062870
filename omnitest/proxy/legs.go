package proxy

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// leg is one upstream request to be made.
type leg struct {
	stage string // "prefill", "decode", "dit", "speech"
	path  string
	kind  string // Content-Type
	body  pieces
	sent  ticket // kv_transfer_params inside body, for the ledger
	plan  string // text inside body, for the ledger (dit)
}

// reply is an upstream's answer whose body is still to be read.
type reply struct {
	*http.Response
	c      *call
	leg    leg
	hop    int // index in the record
	ctx    context.Context
	cancel context.CancelFunc
	began  time.Time
	bytes  int64
	ended  bool

	swallowed string // Faults.SwallowError: what the client does not get to know
}

// send makes the request and waits for the header of the answer. The reply must be ended with end. Its deadline covers
// the whole leg, body included, and the client going away ends it at once.
func (c *call) send(l leg) (*reply, *failure) {
	base, limit := c.stage(l.stage)
	rep := &reply{c: c, leg: l, began: time.Now()}
	rep.ctx, rep.cancel = context.WithTimeoutCause(c.r.Context(), limit, errLimit(limit))
	req, err := http.NewRequestWithContext(rep.ctx, http.MethodPost, base+l.path, l.body.reader())
	if err != nil {
		rep.cancel()
		return nil, badGateway(l.stage, err.Error())
	}
	copyHeader(req.Header, c.r.Header)
	// Without Accept-Encoding bytes come as they are: prefill's answer must be read, events must not be held back.
	for _, name := range []string{"Accept-Encoding", "Content-Length", "Content-Type", "Expect"} {
		req.Header.Del(name)
	}
	if l.kind != "" {
		req.Header.Set("Content-Type", l.kind)
	}
	req.Header.Set("X-Request-Id", c.id) // Set, not Add: an upstream that sees two ids may take either
	req.ContentLength = l.body.size()
	req.GetBody = func() (io.ReadCloser, error) { return l.body.reader(), nil }

	var sent json.RawMessage
	if strings.HasPrefix(l.kind, "application/json") { // an edit's form holds pictures
		sent = kept(l.body)
	}
	c.update(func(r *flow.Record) {
		rep.hop = len(r.Hops)
		r.Hops = append(r.Hops, flow.Hop{Stage: l.stage, URL: req.URL.String(), RequestID: c.id, StartMS: c.entry.now(), TicketIn: l.sent, Plan: l.plan, Sent: sent})
	})
	rep.Response, err = c.p.http.Do(req)
	if err != nil {
		f := broken(l.stage, c.r.Context(), rep.ctx, err, "no answer")
		rep.end(f.cause)
		rep.close()
		return nil, f
	}
	rep.update(func(h *flow.Hop) { h.Status = rep.StatusCode })
	return rep, nil
}

func (c *call) stage(name string) (base string, limit time.Duration) {
	switch name {
	case "prefill":
		return c.p.c.Prefill, c.p.c.PrefillLimit
	case "decode":
		return c.p.c.Decode, c.p.c.DecodeLimit
	case "speech":
		return cmp.Or(c.p.c.Speech, c.p.c.DiT), c.p.c.DiTLimit
	default:
		return c.p.c.DiT, c.p.c.DiTLimit
	}
}

func (rep *reply) update(f func(*flow.Hop)) {
	rep.c.update(func(r *flow.Record) { f(&r.Hops[rep.hop]) })
}

// end closes the leg in the ledger and gives the connection back; cause "" is a good end. Only the first call counts.
func (rep *reply) end(cause string) {
	if rep.ended {
		return
	}
	rep.ended = true
	if cause == "" {
		cause = rep.swallowed
	}
	rep.update(func(h *flow.Hop) { h.EndMS, h.Bytes, h.Error = rep.c.entry.now(), rep.bytes, cause })
	rep.c.p.metrics.hops.WithLabelValues(rep.leg.stage).Observe(time.Since(rep.began).Seconds())
}

// close gives the connection back. A body that was not read to its end closes the connection, which is how the upstream
// learns that its client is gone.
func (rep *reply) close() {
	rep.cancel()
	if rep.Response != nil {
		rep.Body.Close()
	}
}

// read notes the first byte and counts.
func (rep *reply) read(b []byte) (int, error) {
	n, err := rep.Body.Read(b)
	if n > 0 && rep.bytes == 0 {
		rep.update(func(h *flow.Hop) { h.FirstByteMS = rep.c.entry.now() })
	}
	rep.bytes += int64(n)
	return n, err
}

// whole reads the answer of a stage that is not the last one. An answer that is an error ends the leg with a failure: 4xx
// is the client's own error and is kept for the client, anything else but 200 is a bad gateway. On success the caller ends
// the leg, having looked into the body.
func (rep *reply) whole() ([]byte, *failure) {
	defer rep.close()
	body, f := rep.readAll()
	switch {
	case f != nil:
	case rep.StatusCode == http.StatusOK:
		return body, nil
	case rep.StatusCode >= 400 && rep.StatusCode < 500:
		f = &failure{
			stage: rep.leg.stage, status: rep.StatusCode, cause: statusCause(rep.StatusCode, body),
			answer: &answer{rep.StatusCode, rep.Header, body},
		}
	default:
		f = badGateway(rep.leg.stage, statusCause(rep.StatusCode, body))
	}
	rep.end(f.cause)
	return nil, f
}

func (rep *reply) readAll() ([]byte, *failure) {
	if rep.ContentLength > answerLimit {
		return nil, badGateway(rep.leg.stage, "answer is over 64 MiB")
	}
	body, err := readSized(io.LimitReader(readerFunc(rep.read), answerLimit+1), rep.ContentLength)
	if err != nil {
		return nil, broken(rep.leg.stage, rep.c.r.Context(), rep.ctx, err, rep.brokeOff())
	}
	if len(body) > answerLimit {
		return nil, badGateway(rep.leg.stage, "answer is over 64 MiB")
	}
	return body, nil
}

func (rep *reply) brokeOff() string { return fmt.Sprintf("answer broke off after %d bytes", rep.bytes) }

// relay buffers are per request in flight and live as long as a stream.
var relayBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// relay passes the answer of the last stage to the client as it arrives, whatever it is. Every read of a body of unknown
// length is flushed at once: an event that waits in a buffer is a wrong TTFT. The ledger learns what went by.
func (rep *reply) relay() *failure {
	c := rep.c
	defer rep.close()
	seen := newObserver(rep.Response)
	seen.speech = rep.leg.stage == "speech"
	copyHeader(c.w.Header(), rep.Header)
	c.w.Header().Set("X-Request-Id", c.id)
	if rep.StatusCode >= 400 {
		c.w.Header().Set(StageHeader, rep.leg.stage)
	}
	control := http.NewResponseController(c.w)
	_, limit := c.stage(rep.leg.stage)
	// A client that stops reading would hold the upstream for ever. net/http lifts the deadline for the next request.
	_ = control.SetWriteDeadline(rep.began.Add(limit + lastWrite))
	c.w.WriteHeader(rep.StatusCode)
	c.began, c.status = true, rep.StatusCode
	stream := rep.ContentLength < 0
	if stream {
		_ = control.Flush() // the header too: real engines send it before the first token
	}

	buffer := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buffer)
	for {
		n, readErr := rep.read(*buffer)
		if n > 0 {
			seen.see((*buffer)[:n])
			if rep.bytes == rep.ContentLength {
				// Before the last byte goes out, so that who has the whole answer finds the whole record.
				rep.passed(seen)
			}
			if err := forward(c.w, control, (*buffer)[:n], stream); err != nil {
				f := &failure{stage: rep.leg.stage, cancelled: true, cause: fmt.Sprintf("client went away after %d bytes: %v", rep.bytes, err)}
				rep.end(f.cause)
				return f
			}
		}
		switch {
		case readErr == io.EOF:
			return rep.passed(seen)
		case readErr != nil:
			f := broken(rep.leg.stage, c.r.Context(), rep.ctx, readErr, rep.brokeOff())
			rep.end(f.cause)
			return f
		}
	}
}

func forward(w io.Writer, control *http.ResponseController, b []byte, flush bool) error {
	if _, err := w.Write(b); err != nil || !flush {
		return err
	}
	if err := control.Flush(); !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// passed closes the records of an answer that went by whole. A failure here is one that the client can see for itself.
func (rep *reply) passed(seen *observer) *failure {
	cause := seen.end(rep.StatusCode)
	rep.update(func(h *flow.Hop) { h.ResponseID, h.TicketOut = seen.id, seen.ticket })
	rep.end(cause)
	if cause == "" {
		rep.c.entry.finish("ok", rep.StatusCode, "")
		return nil
	}
	f := &failure{stage: rep.leg.stage, cause: cause, passed: true}
	rep.c.entry.finish("failed", rep.StatusCode, f.Error())
	return f
}

// hopByHop headers belong to one connection (RFC 9110, 7.6.1).
var hopByHop = []string{"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// copyHeader copies end-to-end headers.
func copyHeader(to, from http.Header) {
	named := strings.Join(from["Connection"], ",")
	for name, values := range from {
		if !slices.Contains(hopByHop, name) && !(named != "" && hasToken(named, name)) {
			to[name] = values
		}
	}
}

func hasToken(list, name string) bool {
	for token := range strings.SplitSeq(list, ",") {
		if strings.EqualFold(strings.TrimSpace(token), name) {
			return true
		}
	}
	return false
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func itoa(n int64) string { return strconv.FormatInt(n, 10) }
