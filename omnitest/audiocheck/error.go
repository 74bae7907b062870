package audiocheck

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/measure"
)

// Check judges one sound. nil means good; else the error is an [*Error].
type Check = func(Sound) error

// Case is what was asked for: it selects the bounds, names the evidence and is printed with every failure. The zero Case
// works: default bounds, no evidence.
type Case struct {
	Name   string // "speech-en/hello": also the folder of the evidence under Dir
	Text   string // that should be spoken
	Voice  string
	Seed   int64
	Stack  string // one line on the stack that made the sound
	Repro  string // the request as a shell line, for repro.sh
	Dir    string // folder for evidence of failures; "": none is written
	Key    Key    // what the bounds and goldens are kept by; zero: not told
	Bounds Bounds // zero: those of the table
	Table  Table  // bounds by key; nil: the defaults

	// Observe, if not nil, is called with all metrics of every check, passed or failed: soft values for a report, or the
	// sample from which bounds are calibrated. It may be called from several goroutines at once.
	Observe func(check string, metrics []Metric)
}

// Key is the provenance of a sound: what must be the same for two of them to be comparable.
type Key struct {
	Engine string `json:"engine,omitempty"`
	Model  string `json:"model,omitempty"`
	GPU    string `json:"gpu,omitempty"`
	DType  string `json:"dtype,omitempty"`
	Voice  string `json:"voice,omitempty"`
	Text   string `json:"text,omitempty"`
	Seed   int64  `json:"seed,omitempty"`
}

// from fills what the request knows.
func (k Key) from(c Case) Key {
	if k.Voice == "" {
		k.Voice = c.Voice
	}
	if k.Text == "" {
		k.Text = c.Text
	}
	if k.Seed == 0 {
		k.Seed = c.Seed
	}
	return k
}

// fields are the parts of a key with their names.
func (k Key) fields() [][2]string {
	text := ""
	if k.Text != "" {
		text = strconv.Quote(clip(k.Text, 60))
	}
	seed := ""
	if k.Seed != 0 {
		seed = strconv.FormatInt(k.Seed, 10)
	}
	return [][2]string{{"engine", k.Engine}, {"model", k.Model}, {"gpu", k.GPU}, {"dtype", k.DType}, {"voice", k.Voice}, {"text", text}, {"seed", seed}}
}

// String gives `engine reference, model reference-dit, voice alto`.
func (k Key) String() string {
	var parts []string
	for _, f := range k.fields() {
		if f[1] != "" {
			parts = append(parts, f[0]+" "+f[1])
		}
	}
	return strings.Join(parts, ", ")
}

// Differs names every part in which two keys differ: `voice "alto", golden "bass"`.
func (k Key) Differs(golden Key) []string {
	var out []string
	pairs := [][3]string{
		{"engine", k.Engine, golden.Engine}, {"model", k.Model, golden.Model}, {"gpu", k.GPU, golden.GPU}, {"dtype", k.DType, golden.DType},
		{"voice", k.Voice, golden.Voice}, {"text", k.Text, golden.Text}, {"seed", strconv.FormatInt(k.Seed, 10), strconv.FormatInt(golden.Seed, 10)},
	}
	for _, p := range pairs {
		if p[1] != p[2] {
			out = append(out, fmt.Sprintf("%s %q, golden %q", p[0], clip(p[1], 60), clip(p[2], 60)))
		}
	}
	return out
}

// Metric is one measured value with its bound.
type Metric = measure.Metric

// number prints a value as metrics do.
func number(v float64) string { return measure.Number(v) }

// seconds prints a time as reports write it: "1.84 s".
func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', 2, 64) + " s" }

// Files are the paths of the evidence of one failure.
type Files = measure.Files

// Error is a failed check: a small report. Its text is for people; the fields are for programs.
type Error struct {
	Check   string   // stable name of the check: "duration", "not-silent", "golden", ...
	Summary string   // the first line: what is wrong, with value and limit
	Metrics []Metric // everything the check measured, also what kept its bound
	Case    Case
	Bounds  string // where the bounds come from; "": the defaults
	Files   Files
	Remedy  string // what to do, where that is known
	Err     error  // cause, or a failure to write the evidence; nil: none
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
		switch {
		case !m.OK():
			line("metric", m.String())
		case m.Warned():
			line("warn", m.String())
		}
	}
	line("case", e.Case.line())
	line("key", e.Case.Key.String())
	line("bounds", e.Bounds)
	line("files", e.Files.Line("golden"))
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
	if c.Text != "" {
		parts = append(parts, "text "+strconv.Quote(clip(c.Text, 80)))
	}
	if c.Voice != "" {
		parts = append(parts, "voice "+c.Voice)
	}
	if len(parts) > 0 {
		parts = append(parts, "seed "+strconv.FormatInt(c.Seed, 10))
	}
	return strings.Join(parts, "   ")
}

// clip shortens to n runes.
func clip(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-3]) + "..."
}
