package load

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"time"
)

// Trace is a schedule that was written down: the times of a recorded day, or the export of another tool.
type Trace struct {
	Name string // of its source, for results and errors
	Due  []time.Duration
}

func (t Trace) String() string { return fmt.Sprintf("trace(%s, %d calls)", t.Name, len(t.Due)) }

// Len is the number of calls that the trace has.
func (t Trace) Len() int { return len(t.Due) }

func (t Trace) Times(n int, _ *rand.Rand) ([]time.Duration, error) {
	switch {
	case len(t.Due) == 0:
		return nil, fmt.Errorf("load: trace %s holds no times", t.Name)
	case n > len(t.Due):
		return nil, fmt.Errorf("load: trace %s holds %d times, not %d", t.Name, len(t.Due), n)
	}
	return t.Due[:n:n], nil
}

// TraceFormat says how to read a trace. The zero value reads seconds.
type TraceFormat struct {
	Column string        // of CSV with a header, or key of JSON lines; "": timestamp, in any case of letters
	Unit   time.Duration // of numbers; 0: a second. Mooncake's traces count milliseconds
	Speed  float64       // 2: twice as fast; 0: 1
}

// OpenTrace reads a file with ReadTrace.
func OpenTrace(path string, f TraceFormat) (Trace, error) {
	file, err := os.Open(path)
	if err != nil {
		return Trace{}, fmt.Errorf("load: %w", err)
	}
	defer file.Close()
	return ReadTrace(file, path, f)
}

// ReadTrace reads due times: one number a line, or the column of CSV with a header line (BurstGPT, Azure), or the key of JSON lines
// (Mooncake). Lines that begin with # are left out. Dates ("2023-11-16 18:15:46.6805900", RFC 3339) count from the first one. A
// trace without times, or with one that is negative, no number or before its predecessor, is an error that names the line.
func ReadTrace(r io.Reader, name string, f TraceFormat) (Trace, error) {
	t := Trace{Name: name}
	if f.Unit < 0 || f.Speed < 0 || math.IsNaN(f.Speed) || math.IsInf(f.Speed, 1) {
		return t, fmt.Errorf("load: trace %s: unit %v and speed %v must be above 0", name, f.Unit, f.Speed)
	}
	if f.Unit == 0 {
		f.Unit = time.Second
	}
	f.Speed = orOne(f.Speed)
	if f.Column == "" {
		f.Column = "timestamp"
	}
	var first time.Time
	column := -1 // of CSV; -1: not CSV
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20) // a line of JSON may hold a prompt
	for n, seen := 1, false; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if n == 1 {
			line = strings.TrimPrefix(line, "\ufeff")
		}
		if line == "" || line[0] == '#' {
			continue
		}
		bad := func(format string, args ...any) (Trace, error) {
			return Trace{Name: name}, fmt.Errorf("load: trace %s line %d: "+format, append([]any{name, n}, args...)...)
		}
		if !seen {
			seen = true
			header, is, err := f.header(line)
			if err != nil {
				return bad("%w", err)
			}
			if column = header; is {
				continue
			}
		}
		text, err := f.field(line, column)
		if err != nil {
			return bad("%w", err)
		}
		seconds, err := strconv.ParseFloat(text, 64)
		if err != nil {
			date, isDate := parseDate(text)
			if !isDate {
				return bad("%q is no time", text)
			}
			if first.IsZero() {
				first = date
			}
			seconds = date.Sub(first).Seconds()
		} else {
			seconds *= f.Unit.Seconds()
		}
		seconds /= f.Speed
		if math.IsNaN(seconds) || math.IsInf(seconds, 0) || seconds*1e9 >= math.MaxInt64 {
			return bad("%q is no time", text)
		}
		due := time.Duration(math.Round(seconds * 1e9))
		if due < 0 {
			return bad("%v is before the start", due)
		}
		if k := len(t.Due); k > 0 && due < t.Due[k-1] {
			return bad("%v after %v: times must ascend", due, t.Due[k-1])
		}
		t.Due = append(t.Due, due)
	}
	if err := lines.Err(); err != nil {
		return Trace{Name: name}, fmt.Errorf("load: trace %s: %w", name, err)
	}
	if len(t.Due) == 0 {
		return t, fmt.Errorf("load: trace %s holds no times", name)
	}
	return t, nil
}

// header looks at the first line: of CSV it gives the column, and whether the line is a header and no data.
func (f TraceFormat) header(line string) (column int, is bool, _ error) {
	if line[0] == '{' {
		return -1, false, nil
	}
	names, err := record(line)
	if err != nil {
		return -1, false, err
	}
	for i, n := range names {
		if strings.EqualFold(strings.TrimSpace(n), f.Column) {
			return i, true, nil
		}
	}
	if len(names) > 1 {
		return -1, false, fmt.Errorf("no column %q in %q", f.Column, line)
	}
	return -1, false, nil
}

func (f TraceFormat) field(line string, column int) (string, error) {
	switch {
	case line[0] == '{':
		var keys map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &keys); err != nil {
			return "", err
		}
		for k, v := range keys {
			if strings.EqualFold(k, f.Column) {
				return strings.Trim(string(v), `"`), nil
			}
		}
		return "", fmt.Errorf("no key %q", f.Column)
	case column < 0:
		return line, nil
	}
	fields, err := record(line)
	if err != nil {
		return "", err
	}
	if column >= len(fields) {
		return "", fmt.Errorf("%d columns, the header has %q as number %d", len(fields), f.Column, column+1)
	}
	return strings.TrimSpace(fields[column]), nil
}

// record reads a line of CSV. Its errors leave out the reader's own count of lines.
func record(line string) ([]string, error) {
	fields, err := csv.NewReader(strings.NewReader(line)).Read()
	if e, ok := err.(*csv.ParseError); ok {
		err = e.Err
	}
	return fields, err
}

func parseDate(text string) (time.Time, bool) {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05.999999999", "2006-01-02T15:04:05.999999999"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	return time.Time{}, false
}

// Export writes due times for other tools and for ReadTrace: seconds with nine digits, one a line. So two clients can be given the
// same schedule, which no seed gives them.
func Export(w io.Writer, due []time.Duration) error {
	b := bufio.NewWriter(w)
	for _, d := range due {
		fmt.Fprintf(b, "%d.%09d\n", d/time.Second, d%time.Second)
	}
	return b.Flush()
}
