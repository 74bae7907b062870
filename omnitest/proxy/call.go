package proxy

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// call is one client request on its way through the stages.
type call struct {
	p      *Proxy
	w      http.ResponseWriter
	r      *http.Request
	id     string // X-Request-Id of all legs and of the answer
	entry  *entry
	began  bool // the answer's status line has gone out
	status int
}

// recorded is the frame of every route that the ledger follows: an id, a record, and an end to that record whatever
// happens.
func (p *Proxy) recorded(route func(*call) *failure) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if id == "" {
			id = newRequestID()
		}
		c := &call{p: p, w: w, r: r, id: id, entry: p.ledger.begin(r.URL.Path, id)}
		w.Header().Set("X-Request-Id", id)
		returned := false
		defer func() {
			if !returned {
				c.entry.finish("failed", c.status, "proxy: panic")
			}
		}()
		f := route(c)
		returned = true
		if f == nil {
			c.entry.finish("ok", c.status, "")
			return
		}
		c.fail(f)
	}
}

// fail ends the request with an error: as an answer if none has begun, else by cutting the connection, because the end of
// a body that broke off must not look like the end of a whole one.
func (c *call) fail(f *failure) {
	outcome := "failed"
	switch {
	case f.cancelled:
		outcome = "cancelled"
	case c.began || f.dead:
	case f.answer != nil:
		c.status = f.answer.status
	default:
		c.status = f.status
	}
	// First the ledger, then the answer: who has read the answer to its end finds the record finished.
	c.entry.finish(outcome, c.status, f.Error())
	switch {
	case f.passed:
	case c.began || f.cancelled || f.dead:
		panic(http.ErrAbortHandler)
	case f.answer != nil:
		copyHeader(c.w.Header(), f.answer.header)
		c.w.Header().Set("X-Request-Id", c.id)
		c.w.Header().Set(StageHeader, f.stage)
		c.w.WriteHeader(c.status)
		_, _ = c.w.Write(f.answer.body)
	default:
		if f.stage != "" {
			c.w.Header().Set(StageHeader, f.stage)
		}
		writeError(c.w, c.status, f.kind, f.param, f.Error())
	}
}

// readBody reads the client's body whole: the legs need it twice, and net/http notices a client that goes away only once
// its body has been read.
func (c *call) readBody() ([]byte, *failure) {
	tooBig := &failure{status: http.StatusRequestEntityTooLarge, cause: "request body is over 256 MiB"}
	if c.r.ContentLength > bodyLimit {
		return nil, tooBig
	}
	control := http.NewResponseController(c.w)
	_ = control.SetReadDeadline(time.Now().Add(uploadLimit)) // not supported by test recorders; nothing lost
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	body, err := readSized(http.MaxBytesReader(c.w, c.r.Body, bodyLimit), c.r.ContentLength)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, tooBig
	case err != nil && c.r.Context().Err() != nil:
		return nil, &failure{cancelled: true, cause: "client went away while its body was read: " + err.Error()}
	case err != nil:
		return nil, badRequest("Bad Request", "body", "reading the request body: %v", err)
	}
	return body, nil
}

// readSized is io.ReadAll that allocates once where the length is announced (not negative).
func readSized(r io.Reader, announced int64) ([]byte, error) {
	if announced < 0 {
		return io.ReadAll(r)
	}
	b := make([]byte, announced)
	n, err := io.ReadFull(r, b)
	return b[:n], err
}

// readObject reads the client's body as a JSON object, or says what vLLM 0.32 says to a body that is none.
func (c *call) readObject() (object, *failure) {
	body, f := c.readBody()
	if f != nil {
		return nil, f
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, badRequest("Bad Request", "body", "1 validation error:\n  {'type': 'missing', 'loc': 'body', 'msg': 'Field required', 'input': 'None'}")
	}
	o, err := parseObject(body)
	var syntax *json.SyntaxError
	switch {
	case err == nil:
		sent := kept(pieces{parts: [][]byte{body}})
		c.update(func(r *flow.Record) { r.Sent = sent })
		return o, nil
	case errors.As(err, &syntax):
		return nil, badRequest("Bad Request", "body."+itoa(syntax.Offset), "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.%d', 'msg': 'JSON decode error', 'ctx': {'error': '%s'}}", syntax.Offset, syntax)
	default:
		return nil, badRequest("Bad Request", "body", "1 validation error:\n  {'type': 'model_attributes_type', 'loc': 'body', 'msg': 'Input should be a JSON object'}")
	}
}

func (c *call) update(f func(*flow.Record)) { c.entry.update(f) }

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
