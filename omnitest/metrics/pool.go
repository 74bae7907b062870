package metrics

import (
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// series collects one figure over the requests that measured it, and the first reason of one that did not.
type series struct {
	values   []float64
	requests int
	why      string
}

func (s *series) add(v Value) {
	if x, ok := v.Get(); ok {
		s.values = append(s.values, x)
		s.requests++
	} else if s.why == "" {
		s.why = v.Reason()
	}
}

// pool adds the values of one request; without any it had none for the reason why.
func (s *series) pool(values []float64, why string) {
	if len(values) == 0 {
		s.miss(why)
		return
	}
	s.values = append(s.values, values...)
	s.requests++
}

func (s *series) miss(why string) {
	if s.why == "" {
		s.why = why
	}
}

func (s *series) describe(none string, o *Options) Dist {
	why := s.why
	if why == "" {
		why = none
	}
	d := Describe(s.values, s.requests, "ms", why)
	d.ask(s.values, o.Percentiles)
	return d
}

// tokens sums counts. One unknown count makes the total unknown: a sum over some of the requests divided by the time of
// all of them is a rate that nobody had.
type tokens struct {
	sum            float64
	known, unknown int
}

func (t *tokens) add(v Value) {
	n, ok := v.Get()
	if !ok {
		t.unknown++
		return
	}
	t.sum += n
	t.known++
}

func (t *tokens) total(which, none string) Value {
	switch {
	case t.known+t.unknown == 0:
		return Absent(none)
	case t.known == 0:
		return Absent("the answers did not tell their " + which + " tokens")
	case t.unknown > 0:
		return Absent(fmt.Sprintf("%d of %d answers did not tell their %s tokens", t.unknown, t.known+t.unknown, which))
	}
	return Of(t.sum)
}

// tally counts distinct messages in order of first appearance.
type tally struct {
	order []string // by what they are known
	first map[string]string
	count map[string]int
}

func (t *tally) add(msg string) { t.addAs(msg, msg) }

// addAs counts a message as one of those with the same key, which are printed in the words of the first.
func (t *tally) addAs(key, msg string) {
	if t.count == nil {
		t.count, t.first = map[string]int{}, map[string]string{}
	}
	if t.count[key] == 0 {
		t.order, t.first[key] = append(t.order, key), msg
	}
	t.count[key]++
}

func (t *tally) lines(limit int) []string {
	var out []string
	rest := 0
	for i, key := range t.order {
		if i >= limit {
			rest += t.count[key]
			continue
		}
		out = append(out, fmt.Sprintf("%dx %s", t.count[key], t.first[key]))
	}
	if rest > 0 {
		out = append(out, fmt.Sprintf("and %d more with other errors", rest))
	}
	return out
}

// times are those in an error's text, "0.35 s", "12ms".
var times = regexp.MustCompile(`\b[0-9]+(\.[0-9]+)? ?(s|ms|µs)\b`)

// cause is what a failure has in common with those of other requests.
func cause(s *Sample, err error) string {
	text, ids := err.Error(), []string{s.Exchange.RequestID}
	if e := (*api.Error)(nil); errors.As(err, &e) {
		ids = append(ids, e.RequestID, e.Exchange.RequestID)
	}
	for _, id := range ids {
		if len(id) >= 4 { // "1" may be any number of the text
			text = strings.ReplaceAll(text, id, "<id>")
		}
	}
	return times.ReplaceAllLiteralString(text, "<time>")
}

// both is a sum that is absent where one side is, with the reason of the output's first.
func both(in, out Value) Value {
	o, ok := out.Get()
	if !ok {
		return out
	}
	i, ok := in.Get()
	if !ok {
		return in
	}
	return Of(i + o)
}

// plus adds two times.
func plus(a, b Value) Value {
	x, ok := a.Get()
	if !ok {
		return a
	}
	y, ok := b.Get()
	if !ok {
		return b
	}
	return Of(x + y)
}
