package dit

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// failure is an answer that is not a picture. Every one but 404 and 405 has the same shape:
// {"error":{"message","type","param","code"}}.
type failure struct {
	status  int
	message string
	kind    string  // "": the phrase of the status
	param   *string // null when nil
}

func (f *failure) Error() string { return f.message }

func badRequest(format string, args ...any) *failure {
	return &failure{status: http.StatusBadRequest, message: fmt.Sprintf(format, args...)}
}

type errorBody struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    int     `json:"code"`
	} `json:"error"`
}

func (f *failure) body() errorBody {
	var b errorBody
	b.Error.Message, b.Error.Type, b.Error.Param, b.Error.Code = f.message, f.kind, f.param, f.status
	if f.kind == "" {
		b.Error.Type = http.StatusText(f.status)
	}
	return b
}

// engineFailure wraps what went wrong behind the HTTP surface: a 500 even where the request was at fault (recorded).
func engineFailure(doing, kind string, err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return &failure{status: http.StatusInternalServerError, message: doing + " failed: " + err.Error(), kind: kind}
}

// problem is one finding of the request validation, in the words of pydantic.
type problem struct {
	kind  string
	loc   []string // below "body"
	msg   string
	input string // Python's repr
	ctx   string // Python's repr, "": none
}

func (p problem) String() string {
	loc := "('body',)"
	if len(p.loc) > 0 {
		loc = "('body', " + strings.Join(p.loc, ", ") + ")"
	}
	s := fmt.Sprintf("{'type': %s, 'loc': %s, 'msg': %s, 'input': %s", pyString(p.kind), loc, pyString(p.msg), p.input)
	if p.ctx != "" {
		s += ", 'ctx': " + p.ctx
	}
	return s + "}"
}

// invalid is the 400 of request validation.
func invalid(problems ...problem) *failure {
	var b strings.Builder
	plural := ""
	if len(problems) > 1 {
		plural = "s"
	}
	fmt.Fprintf(&b, "%d validation error%s:", len(problems), plural)
	for _, p := range problems {
		b.WriteString("\n  " + p.String())
	}
	param := "body"
	for _, l := range problems[0].loc {
		param += "." + strings.Trim(l, "'")
	}
	return &failure{status: http.StatusBadRequest, message: b.String(), param: &param}
}

func missing(name, input string) problem {
	return problem{kind: "missing", loc: []string{pyString(name)}, msg: "Field required", input: input}
}
