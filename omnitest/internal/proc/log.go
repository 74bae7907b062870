package proc

import (
	"bytes"
	"os"
	"strings"
	"unicode/utf8"
)

// logFile is the part of a log that one run wrote: from on. (A second try appends to the same file.)
type logFile struct {
	path string
	from int64
}

const (
	tailBytes = 64 << 10 // read from the end of the log for a tail
	lineBytes = 400      // longer lines are cut: a stack of tensors must not fill a failure report
)

// tail gives the last n lines, nil if there are none. Of a progress bar, which returns the carriage many times in one
// line, it gives the last state.
func (l logFile) tail(n int) []string {
	f, err := os.Open(l.path)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	from := max(l.from, st.Size()-tailBytes)
	b := make([]byte, max(0, st.Size()-from))
	k, _ := f.ReadAt(b, from)
	b = b[:k]
	if from > l.from { // begin at a whole line
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			b = b[i+1:]
		}
	}
	var lines []string
	for line := range strings.SplitSeq(strings.ToValidUTF8(string(b), "\uFFFD"), "\n") {
		line = strings.TrimRight(line, "\r \t")
		line = line[strings.LastIndexByte(line, '\r')+1:]
		if line == "" {
			continue
		}
		lines = append(lines, cut(line))
	}
	return lines[max(0, len(lines)-n):]
}

func cut(line string) string {
	if len(line) <= lineBytes {
		return line
	}
	k := lineBytes
	for k > 0 && !utf8.RuneStart(line[k]) {
		k--
	}
	return line[:k] + "..."
}
