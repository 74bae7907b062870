package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Kind says in which way a request failed.
type Kind string

// The kinds of failure. Each failed request has exactly one.
const (
	Refused   Kind = "refused"   // status 4xx: the server did not want this request
	Server    Kind = "server"    // status 5xx
	InBand    Kind = "in-band"   // status 200 with an error inside: error object, error event, finish_reason "error"
	Truncated Kind = "truncated" // the answer began and ended early: no [DONE], no finish_reason, fewer bytes than claimed
	Protocol  Kind = "protocol"  // an answer that is none: HTML, wrong content type, JSON of the wrong shape, no choices
	Limit     Kind = "limit"     // larger than the Client's Limits
	Timeout   Kind = "timeout"   // the Client's Timeout or the caller's deadline; errors.Is(err, context.DeadlineExceeded)
	Canceled  Kind = "canceled"  // by the caller; errors.Is(err, context.Canceled), or the error that each returned
	Transport Kind = "transport" // no answer: connection refused, reset before the headers, unknown host
)

// Error is every failure of a request that was sent. Find it with errors.As, or ask KindOf.
type Error struct {
	Kind   Kind
	Status int // HTTP status, 0: no response headers were read

	// What the server said, as far as it said it. For kinds of our own finding Message is ours.
	Message string
	Type    string // "BadRequestError", "Bad Request"
	Param   string // "max_tokens", "body.prompt"
	Code    string // the server's code, which comes as number or string; it can differ from Status
	Stage   string // from the header X-Omnitest-Stage ("prefill"), else the server's error_stage_id

	RequestID   string // the server's request_id, else the X-Request-Id that was sent
	Method, URL string
	Body        []byte   // the first 2 KiB of the answer, nil for a stream
	Exchange    Exchange // with the events that had arrived

	cause error
}

// StageHeader names the stage that an answer's failure belongs to. The proxy of this suite sends it.
const StageHeader = "X-Omnitest-Stage"

const keptBody = 2 << 10

// KindOf gives the Kind of a failed request, "" for nil and for errors that are no *Error.
func KindOf(err error) Kind {
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return ""
}

// Unwrap gives the cause: a context error, a transport error, the error of a callback.
func (e *Error) Unwrap() error { return e.cause }

// Error is a report on one line: request, stage, finding, the server's details, what had arrived, cause.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Method != "" {
		fmt.Fprintf(&b, "%s %s: ", e.Method, e.URL)
	}
	if e.Stage != "" {
		fmt.Fprintf(&b, "stage %s: ", e.Stage)
	}
	switch e.Kind {
	case Refused, Server:
		fmt.Fprintf(&b, "%d %s: ", e.Status, http.StatusText(e.Status))
	case InBand:
		fmt.Fprintf(&b, "error inside a %d answer: ", e.Status)
	default:
		fmt.Fprintf(&b, "%s: ", e.Kind)
	}
	b.WriteString(clip(e.Message, 500))
	var details []string
	for _, d := range [][2]string{{"", e.Type}, {"param ", e.Param}, {"code ", e.Code}} {
		if d[1] != "" {
			details = append(details, d[0]+clip(d[1], 80))
		}
	}
	if len(details) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(details, ", "))
	}
	switch e.Kind {
	case Timeout, Canceled, Truncated, Transport:
		b.WriteString("; " + e.Exchange.arrived())
	}
	if e.RequestID != "" {
		b.WriteString("; request id " + clip(e.RequestID, 80))
	}
	return b.String()
}

// arrived tells how far an answer had come.
func (x *Exchange) arrived() string {
	if x.Status == 0 {
		return fmt.Sprintf("nothing had arrived by %s", sinceStart(x.End))
	}
	s := fmt.Sprintf("status %d at %s, then ", x.Status, sinceStart(x.FirstByte))
	if x.Events != nil {
		s += plural(len(x.Events), "event") + ", "
	}
	return s + fmt.Sprintf("%s by %s", plural(int(x.BodyBytes), "byte"), sinceStart(x.End))
}

// sinceStart is a time of an exchange as reports write it: "+12 ms".
func sinceStart(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	if ms < 10 {
		return "+" + strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
	}
	return "+" + strconv.FormatFloat(ms, 'f', 0, 64) + " ms"
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 { // not inside a character
		n--
	}
	return fmt.Sprintf("%s... (%d bytes)", s[:n], len(s))
}

// finding is a failure that the client itself found; the call that it belongs to fills in the rest.
func finding(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Message: fmt.Sprintf(format, args...)}
}
