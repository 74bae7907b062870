package report

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// absences collects what is not measured where, and says it in as few lines as tell it all.
type absences struct{ all []absence }

type absence struct {
	what   []string
	at     []float64
	reason string
	n      []int // requests, of a reason that begins with their number
}

func (a *absences) add(what string, at float64, reason string) {
	reason = cmp.Or(reason, "no reason given")
	digits := len(reason) - len(strings.TrimLeft(reason, "0123456789"))
	n, err := strconv.Atoi(reason[:digits])
	if err == nil {
		reason = reason[digits:]
	}
	i := slices.IndexFunc(a.all, func(o absence) bool { return o.reason == reason })
	if i < 0 {
		i = len(a.all)
		a.all = append(a.all, absence{reason: reason})
	}
	o := &a.all[i]
	if what != "" && !slices.Contains(o.what, what) {
		o.what = append(o.what, what)
	}
	if !slices.Contains(o.at, at) {
		o.at = append(o.at, at)
	}
	if err == nil {
		o.n = append(o.n, n)
	}
}

func (a *absences) lines(axis string) []string {
	var lines []string
	for _, o := range a.all {
		slices.Sort(o.at)
		var at []string
		for _, x := range o.at {
			at = append(at, tickText(x))
		}
		count := ""
		switch {
		case len(o.n) > 0 && slices.Min(o.n) == slices.Max(o.n):
			count = strconv.Itoa(o.n[0])
		case len(o.n) > 0:
			count = fmt.Sprintf("%d to %d", slices.Min(o.n), slices.Max(o.n))
		}
		what := strings.Join(o.what, "; ")
		if what != "" {
			what += ": "
		}
		lines = append(lines, fmt.Sprintf("%snot measured at %s %s: %s%s", what, axis, strings.Join(at, ", "), count, o.reason))
	}
	return lines
}
