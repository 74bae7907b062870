package imagecheck

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/measure"
)

// Metric is one measured value with its bound.
type Metric = measure.Metric

// Files are the paths of the evidence of one failure.
type Files = measure.Files

// number prints a value as metrics do.
func number(v float64) string { return measure.Number(v) }

// Error is a failed check: a small report. Its text is for people; the fields are for programs.
type Error struct {
	Check   string   // stable name of the check: "size", "format", "not-blank", "golden", "text", "edit-outside", ...
	Summary string   // the first line: what is wrong, with value and limit
	Metrics []Metric // everything the check measured, also what kept its bound
	Case    Case
	Key     *Key // provenance of the golden; nil where none is involved
	Files   Files
	Remedy  string // what to do, where that is known
	Err     error  // cause, or a failure to write the evidence; nil: none

	names []error // what errors.Is finds beside the cause: ErrSize, ErrKey, ...
}

// Is tells the named errors of this package apart: errors.Is(err, ErrSize).
func (e *Error) Is(target error) bool {
	return slices.ContainsFunc(e.names, func(n error) bool { return errors.Is(n, target) })
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error gives the report, several lines without a final newline.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Summary)
	line := func(label, text string) {
		if text != "" {
			fmt.Fprintf(&b, "\n  %-7s %s", label, text)
		}
	}
	for _, m := range e.Metrics {
		label := "metric"
		if m.OK() {
			if !m.Warned() {
				continue
			}
			label = "warn"
		}
		text := m.String()
		if m.Key != "" && m.Key != measure.Default && m.Key != keyRequest {
			text += "   bounds of " + m.Key
		}
		line(label, text)
	}
	line("case", e.Case.line())
	if e.Key != nil {
		line("key", e.Key.String())
	}
	golden := "golden"
	switch {
	case filepath.Base(e.Files.Golden) == inputFile:
		golden = "input" // what was given to be edited
	case e.Key == nil:
		golden = "expected" // another picture of this test, not an approved one
	}
	if first, rest, found := strings.Cut(e.Files.Line(golden), " "); found {
		line(first, rest)
	}
	if e.Err != nil {
		line("cause", e.Err.Error())
	}
	line("remedy", e.Remedy)
	line("stack", e.Case.Stack)
	return b.String()
}

// line is the request in one line.
func (c Case) line() string {
	var parts []string
	if c.Name != "" {
		parts = append(parts, c.Name)
	}
	if c.Prompt != "" {
		parts = append(parts, "prompt "+strconv.Quote(clip(c.Prompt, 80)))
	}
	var nums []string
	if c.Size.W > 0 {
		nums = append(nums, "size "+c.Size.String())
	}
	if c.Steps > 0 {
		nums = append(nums, "steps "+strconv.Itoa(c.Steps))
	}
	if len(parts)+len(nums) > 0 {
		nums = append(nums, "seed "+strconv.FormatInt(c.Seed, 10))
	}
	if len(nums) > 0 {
		parts = append(parts, strings.Join(nums, "  "))
	}
	return strings.Join(parts, "   ")
}

// clip shortens to n runes: prompts of drawing tests can be pages long.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-3]) + "..."
}
