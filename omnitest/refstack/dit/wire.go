package dit

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

const maxBody = 256 << 20 // bytes of one request

func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails: crypto/rand aborts the program instead
	return hex.EncodeToString(b)
}

// readJSON reads a request body that must be a JSON object. raw is the whole text, for messages that quote it.
func readJSON(w http.ResponseWriter, r *http.Request) (raw []byte, fields map[string]json.RawMessage, f *failure) {
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, nil, &failure{status: http.StatusBadRequest, message: "There was an error parsing the body"}
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return raw, nil, invalid(problem{kind: "missing", msg: "Field required", input: "None"})
	}
	err = json.Unmarshal(raw, &fields)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		at := int(syntax.Offset)
		before := bytes.TrimRight(raw[:min(at, len(raw))], " \t\r\n")
		why := "Expecting value"
		if bytes.HasSuffix(before, []byte(",")) || bytes.HasSuffix(before, []byte("{")) {
			why = "Expecting property name enclosed in double quotes"
		}
		return raw, nil, invalid(problem{
			kind: "json_invalid", loc: []string{strconv.Itoa(at)}, msg: "JSON decode error", input: "{}",
			ctx: "{'error': " + pyString(why) + "}",
		})
	case err != nil || fields == nil:
		return raw, nil, invalid(problem{
			kind: "model_attributes_type", input: pyRepr(raw),
			msg: "Input should be a valid dictionary or object to extract fields from",
		})
	}
	return raw, fields, nil
}

// isJSON tells whether a request claims a JSON body.
func isJSON(r *http.Request) bool {
	t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && t == "application/json"
}

// form reads typed fields and collects what is wrong with them, in pydantic's words and its lax mode: "4" and 4.0 are
// integers too. A field that is absent or null keeps the default.
type form struct {
	fields   map[string]json.RawMessage
	problems []problem
}

func (f *form) get(name string) (json.RawMessage, bool) {
	v, ok := f.fields[name]
	return v, ok && string(bytes.TrimSpace(v)) != "null"
}

func (f *form) fail(name, kind, msg string, ctx string) {
	f.problems = append(f.problems, problem{
		kind: kind, loc: []string{pyString(name)}, msg: msg, input: pyRepr(f.fields[name]), ctx: ctx,
	})
}

func (f *form) str(name, otherwise string) string {
	raw, ok := f.get(name)
	if !ok {
		return otherwise
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		f.fail(name, "string_type", "Input should be a valid string", "")
	}
	return s
}

func (f *form) boolean(name string) bool {
	raw, ok := f.get(name)
	if !ok {
		return false
	}
	switch strings.Trim(strings.ToLower(string(raw)), `"`) {
	case "true", "1", "yes", "on", "t", "y":
		return true
	case "false", "0", "no", "off", "f", "n":
	default:
		f.fail(name, "bool_type", "Input should be a valid boolean", "")
	}
	return false
}

// number gives the JSON number or numeric string of a field.
func number(raw json.RawMessage) (text string, isString, ok bool) {
	var s string
	if json.Unmarshal(raw, &s) == nil {
		return strings.TrimSpace(s), true, true
	}
	var n json.Number
	if json.Unmarshal(raw, &n) == nil {
		return n.String(), false, true
	}
	return "", false, false
}

// errOverflow: an integer that does not fit 64 bits. Python takes it; torch does not.
var errOverflow = errors.New("Overflow when unpacking long long")

// integer reads an integer within [lo, hi]; lo > hi: no limits.
func (f *form) integer(name string, otherwise, lo, hi int64) (v int64, overflow error) {
	raw, ok := f.get(name)
	if !ok {
		return otherwise, nil
	}
	text, isString, ok := number(raw)
	if !ok {
		f.fail(name, "int_type", "Input should be a valid integer", "")
		return otherwise, nil
	}
	v, err := strconv.ParseInt(text, 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		if strings.HasPrefix(text, "-") {
			v = lo - 1 // only the limit matters
		} else {
			v = hi + 1
		}
		overflow = errOverflow
	} else if err != nil {
		x, err := strconv.ParseFloat(text, 64)
		switch {
		case err != nil && isString:
			f.fail(name, "int_parsing", "Input should be a valid integer, unable to parse string as an integer", "")
			return otherwise, nil
		case err != nil || x != float64(int64(x)):
			if x > 9e18 || x < -9e18 {
				return otherwise, errOverflow
			}
			f.fail(name, "int_from_float", "Input should be a valid integer, got a number with a fractional part", "")
			return otherwise, nil
		}
		v = int64(x)
	}
	if lo <= hi {
		switch {
		case v < lo:
			f.fail(name, "greater_than_equal", "Input should be greater than or equal to "+strconv.FormatInt(lo, 10), "{'ge': "+strconv.FormatInt(lo, 10)+"}")
		case v > hi:
			f.fail(name, "less_than_equal", "Input should be less than or equal to "+strconv.FormatInt(hi, 10), "{'le': "+strconv.FormatInt(hi, 10)+"}")
		}
	}
	return v, overflow
}

// float reads a number within [lo, hi], whole numbers; lo > hi: no limits.
func (f *form) float(name string, otherwise float64, lo, hi int) float64 {
	raw, ok := f.get(name)
	if !ok {
		return otherwise
	}
	text, isString, ok := number(raw)
	v, err := strconv.ParseFloat(text, 64)
	switch {
	case ok && err != nil && isString:
		f.fail(name, "float_parsing", "Input should be a valid number, unable to parse string as a number", "")
		return otherwise
	case !ok || err != nil:
		f.fail(name, "float_type", "Input should be a valid number", "")
		return otherwise
	}
	switch {
	case lo > hi:
	case v < float64(lo):
		f.fail(name, "greater_than_equal", "Input should be greater than or equal to "+strconv.Itoa(lo), "{'ge': "+strconv.Itoa(lo)+".0}")
	case v > float64(hi):
		f.fail(name, "less_than_equal", "Input should be less than or equal to "+strconv.Itoa(hi), "{'le': "+strconv.Itoa(hi)+".0}")
	}
	return v
}
