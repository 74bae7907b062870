package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// NotMeasured is how an absent Value reads in tables, and how it begins in JSON.
const NotMeasured = "not measured"

// Value is a figure that may not have been measured. The zero Value was not measured. In JSON it is a number, or a
// string with the reason ("not measured: 12 requests, p99 needs 368"), so that no reader can mistake absence for 0.
type Value struct {
	v   float64
	ok  bool
	why string
}

// Of is a measured figure. NaN and infinities are no measurement: they become absent, with that as the reason.
func Of(v float64) Value {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return Absent(fmt.Sprintf("computed as %v", v))
	}
	return Value{v: v, ok: true}
}

// Absent is a figure that was not measured, and why.
func Absent(why string) Value { return Value{why: why} }

// Get gives the figure, and whether there is one.
func (v Value) Get() (float64, bool) { return v.v, v.ok }

// OK tells whether it was measured.
func (v Value) OK() bool { return v.ok }

// Reason says why it was not measured; "" when it was, or when nobody said.
func (v Value) Reason() string { return v.why }

// Per divides a measured figure: ms.Per(1e3) is in seconds, tokens.Per(seconds) is a rate. An absent one stays absent with
// its reason. Division, as multiplying by 1e-9 prints 0.123456789 as 0.12345678900000001.
func (v Value) Per(unit float64) Value {
	if !v.ok {
		return v
	}
	return Of(v.v / unit)
}

// Equal compares figures bit for bit, and absent ones by their reason.
func (v Value) Equal(o Value) bool { return v == o }

// String gives four significant digits, or "not measured".
func (v Value) String() string {
	if !v.ok {
		return NotMeasured
	}
	return strconv.FormatFloat(v.v, 'g', 4, 64)
}

// MarshalJSON writes a number, or a string with the reason.
func (v Value) MarshalJSON() ([]byte, error) {
	switch {
	case v.ok:
		return json.Marshal(v.v)
	case v.why == "":
		return json.Marshal(NotMeasured)
	}
	return json.Marshal(NotMeasured + ": " + v.why)
}

// UnmarshalJSON reads what MarshalJSON writes; null is an absent figure too. Any other string is an error: a number in
// quotes would silently turn into "not measured".
func (v *Value) UnmarshalJSON(raw []byte) error {
	*v = Value{}
	if bytes.Equal(raw, []byte("null")) {
		return nil
	}
	if raw[0] != '"' {
		var f float64
		if err := json.Unmarshal(raw, &f); err != nil {
			return err
		}
		*v = Of(f)
		return nil
	}
	var s string
	if err := json.Unmarshal(raw, &s); err != nil {
		return err
	}
	rest, found := strings.CutPrefix(s, NotMeasured)
	if !found {
		return fmt.Errorf("figure %q: want a number or %q with a reason", s, NotMeasured)
	}
	v.why = strings.TrimPrefix(rest, ": ")
	return nil
}
