package theory

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// fields reads one JSON object and remembers what was missing, so that a reader states all it needs and asks once.
type fields struct {
	file   string
	what   string // what cannot be estimated without it
	values map[string]any
	err    *error
}

func readFields(what, file string, data []byte) (fields, error) {
	f := fields{file: file, what: what, err: new(error)}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&f.values); err != nil {
		return f, cannot(what, "%s is not a JSON object: %v", file, err)
	}
	if f.values == nil {
		return f, cannot(what, "%s is not a JSON object: null", file)
	}
	return f, nil
}

func (f fields) fail(format string, args ...any) {
	if *f.err == nil {
		*f.err = cannot(f.what, "%s %s", f.file, fmt.Sprintf(format, args...))
	}
}

func (f fields) has(key string) bool { v, ok := f.values[key]; return ok && v != nil }

// need is a whole number above zero that must be there. The bound keeps the product of three of them within an int.
func (f fields) need(key string) int {
	if !f.has(key) {
		f.fail("has no %s", key)
		return 1
	}
	n := f.number(key)
	if n < 1 || n > 1e6 || n != math.Trunc(n) {
		f.fail("has %s %v, and a whole number from 1 to 1000000 is needed", key, f.values[key])
		return 1
	}
	return int(n)
}

// or is need, with a default that the model's own class documents.
func (f fields) or(key string, def int) int {
	if !f.has(key) {
		return def
	}
	return f.need(key)
}

func (f fields) number(key string) float64 {
	switch v := f.values[key].(type) {
	case json.Number:
		n, _ := v.Float64()
		return n
	}
	return 0
}

func (f fields) text(key string) string { s, _ := f.values[key].(string); return s }

func (f fields) flag(key string) bool { b, _ := f.values[key].(bool); return b }

func (f fields) list(key string) (all []string) {
	items, _ := f.values[key].([]any)
	for _, v := range items {
		if s, ok := v.(string); ok {
			all = append(all, s)
		}
	}
	return all
}

func (f fields) numbers(key string) (all []float64) {
	items, _ := f.values[key].([]any)
	for _, v := range items {
		if n, ok := v.(json.Number); ok {
			x, _ := n.Float64()
			all = append(all, x)
		}
	}
	return all
}

func (f fields) needList(key string) (all []int) {
	for _, n := range f.numbers(key) {
		if n < 1 || n > 1e6 || n != math.Trunc(n) {
			f.fail("has %v in %s, and whole numbers above 0 are needed", n, key)
			return []int{1}
		}
		all = append(all, int(n))
	}
	if len(all) == 0 {
		f.fail("has no %s", key)
		return []int{1}
	}
	return all
}

func (f fields) sub(key string) (fields, bool, error) {
	if !f.has(key) {
		return fields{}, false, nil
	}
	values, ok := f.values[key].(map[string]any)
	if !ok {
		return fields{}, false, cannot(f.what, "%s has a %s that is not an object", f.file, key)
	}
	return fields{file: f.file, what: f.what, values: values, err: f.err}, true, nil
}
