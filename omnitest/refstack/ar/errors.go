package ar

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
)

// apiError is an error answer in the shape of vLLM's: {"error":{"message","type","param","code"}}.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    int     `json:"code"` // the HTTP status
}

func (e *apiError) Error() string { return e.Message }

var (
	errInternal   = &apiError{"Internal server error", "InternalServerError", nil, http.StatusInternalServerError}
	errEngineDead = &apiError{"EngineCore encountered an issue. See stack trace (above) for the root cause.",
		"InternalServerError", nil, http.StatusInternalServerError}
	errNoPrompt   = badRequest("prompt", "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)")
	errNoMessages = badRequest("", "Cannot apply chat template to an empty conversation. Provide at least one message.")
	errMediaType  = &apiError{"1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed", "Bad Request", nil, http.StatusBadRequest}
)

func badRequest(param, format string, args ...any) *apiError {
	e := &apiError{Message: fmt.Sprintf(format, args...), Type: "BadRequestError", Code: http.StatusBadRequest}
	if param != "" {
		e.Param = &param
	}
	return e
}

// invalid is a value that fits the type but not the range.
func invalid(param, format string, value any, args ...any) *apiError {
	return badRequest(param, "%s (parameter=%s, value=%v)", fmt.Sprintf(format, args...), param, value)
}

// validation is a body that does not fit the schema, as FastAPI and pydantic put it. input is a Python repr.
func validation(kind, loc, msg, input, extra string) *apiError {
	return &apiError{
		Message: fmt.Sprintf("1 validation error:\n  {'type': '%s', 'loc': '%s', 'msg': '%s', 'input': %s%s}", kind, loc, msg, input, extra),
		Type:    "Bad Request", Param: &loc, Code: http.StatusBadRequest,
	}
}

// invalidJSON names where the JSON breaks off.
func invalidJSON(err error, size int) *apiError {
	at := size
	if se := (*json.SyntaxError)(nil); errors.As(err, &se) && se.Error() != "unexpected end of JSON input" {
		at = max(0, int(se.Offset)-1)
	}
	return validation("json_invalid", "body."+strconv.Itoa(at), "JSON decode error", "'<dict of 0 items>'", ", 'ctx': {'error': 'Expecting value'}")
}

func unknownModel(asked, have string) *apiError {
	param := "model"
	return &apiError{fmt.Sprintf("The model `%s` does not exist. Valid aliases: %s.", asked, have), "NotFoundError", &param, http.StatusNotFound}
}

func writeError(w http.ResponseWriter, e *apiError) {
	writeJSON(w, e.Code, struct {
		Error *apiError `json:"error"`
	}{e})
}

// sseError is the event of an error inside a stream; the blanks are Python's json.dumps, as recorded.
func sseError(e *apiError) string {
	message, _ := json.Marshal(e.Message)
	return fmt.Sprintf(`data: {"error": {"message": %s, "type": "%s", "param": null, "code": %d}}`+"\n\n", message, e.Type, e.Code)
}
