package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// StageHeader names, on an answer with an error, the stage that failed: "prefill", "decode", "dit" or "speech".
// FallbackHeader is on an answer that decode gave without a ticket: "prefill: <cause>".
const (
	StageHeader    = "X-Omnitest-Stage"
	FallbackHeader = "X-Omnitest-Fallback"
)

// failure is why a request ends without the answer of its last stage.
type failure struct {
	stage  string // "": the request itself is at fault
	cause  string // without the stage
	status int    // for the client
	kind   string // the error object's type; "": as the status says
	param  string // "": null

	passed    bool    // the last stage's answer is itself the error, and the client has it whole
	answer    *answer // an upstream's 4xx: it is the client's own error and goes to the client as it is
	cancelled bool    // the client went away; nobody reads an answer
	dead      bool    // the proxy plays dead: no answer (Faults.DieBetweenLegs)
}

// answer is an upstream's answer that was read whole.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (f *failure) Error() string {
	if f.stage == "" {
		return f.cause
	}
	return f.stage + ": " + f.cause
}

// badRequest is the client's fault, in the two shapes in which vLLM says so: "Bad Request" where reading the body failed,
// "BadRequestError" where its content did.
func badRequest(kind, param, format string, a ...any) *failure {
	return &failure{status: http.StatusBadRequest, kind: kind, param: param, cause: fmt.Sprintf(format, a...)}
}

// missingField is vLLM's 400 for a body without a required field.
func missingField(name string) *failure {
	return badRequest("Bad Request", "body."+name, "1 validation error:\n  {'type': 'missing', 'loc': ('body', '%s'), 'msg': 'Field required'}", name)
}

// noStage is the 503 of a route that needs a stage this proxy doesn't have.
func noStage(stage string) *failure {
	return &failure{stage: stage, status: http.StatusServiceUnavailable, kind: "ServiceUnavailableError", cause: "proxy has no " + stage + " stage"}
}

// errLimit is the context cause of a leg that outlived its deadline.
type errLimit time.Duration

func (e errLimit) Error() string { return "limit of " + time.Duration(e).String() + " reached" }

// broken explains a leg that gave no whole answer. client is the context of the client's request, leg that of the leg;
// got tells how far it came: "no answer", "answer broke off after 512 bytes".
func broken(stage string, client, leg context.Context, err error, got string) *failure {
	var limit errLimit
	var dial *url.Error
	switch {
	case client.Err() != nil:
		return &failure{stage: stage, cancelled: true, cause: "client went away: " + got}
	case errors.As(context.Cause(leg), &limit):
		return &failure{
			stage: stage, status: http.StatusGatewayTimeout, kind: "GatewayTimeoutError",
			cause: got + " within " + time.Duration(limit).String(),
		}
	case errors.As(err, &dial):
		err = dial.Err // the URL is in the ledger
	}
	cause := err.Error()
	if !strings.HasPrefix(cause, "dial ") {
		cause = got + ": " + cause
	}
	return badGateway(stage, cause)
}

func badGateway(stage, cause string) *failure {
	return &failure{stage: stage, status: http.StatusBadGateway, kind: "BadGatewayError", cause: cause}
}

// statusCause is "500 Internal Server Error: out of blocks".
func statusCause(status int, body []byte) string {
	cause := strconv.Itoa(status) + " " + http.StatusText(status)
	if said := errorMessage(body); said != "" {
		cause += ": " + said
	}
	return cause
}

// errorMessage finds what an error body says: {"error":{"message":...}}, {"error":"..."}, {"detail":...} or plain text.
func errorMessage(body []byte) string {
	var b struct{ Error, Detail, Message json.RawMessage }
	if json.Unmarshal(body, &b) == nil {
		var inner struct{ Message string }
		if json.Unmarshal(b.Error, &inner) == nil && inner.Message != "" {
			return excerpt([]byte(inner.Message))
		}
		for _, field := range []json.RawMessage{b.Error, b.Detail, b.Message} {
			var text string
			if json.Unmarshal(field, &text) == nil && text != "" {
				return excerpt([]byte(text))
			}
		}
	}
	return excerpt(body)
}

// excerpt is one line of at most 200 bytes: error texts end in headers, logs and tables.
func excerpt(b []byte) string {
	b = bytes.TrimSpace(b)
	cut := len(b) > 200
	if cut {
		b = b[:200]
	}
	s := strings.Join(strings.Fields(strings.ToValidUTF8(string(b), "\uFFFD")), " ")
	if cut {
		s += " ..."
	}
	return s
}

// writeError answers in vLLM's shape. param "" is null.
func writeError(w http.ResponseWriter, status int, kind, param, message string) {
	type object struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	}
	e := object{Message: message, Type: kind, Code: status}
	if e.Type == "" {
		e.Type = http.StatusText(status)
	}
	if param != "" {
		e.Param = &param
	}
	writeJSON(w, status, map[string]object{"error": e})
}

// writeDetail is the shape of 404 and 405 of a path that doesn't exist: they come from below vLLM's own handlers.
func writeDetail(w http.ResponseWriter, status int) {
	writeJSON(w, status, map[string]string{"detail": http.StatusText(status)})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	body := bytes.TrimSuffix(b.Bytes(), []byte("\n"))
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body) // a client that is gone is nobody's failure
}
