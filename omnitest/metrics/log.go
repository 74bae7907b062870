package metrics

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// logVersion is in each line, so that logs can be concatenated.
const logVersion = 1

// logLine is a Sample as one line of JSON. Bodies are left out, and what the profiles need of them is kept: times, text
// and whether an event had choices.
type logLine struct {
	V         int        `json:"v"`
	Row       string     `json:"row"`
	Start     time.Time  `json:"start,omitzero"`
	RequestID string     `json:"request_id,omitempty"` // leads to the proxy's flow ledger
	Status    int        `json:"status"`
	FirstByte int64      `json:"first_byte_ns"`
	End       int64      `json:"end_ns"`
	Bytes     int64      `json:"bytes"`
	Input     int        `json:"input_tokens"`  // -1: not told
	Output    int        `json:"output_tokens"` // -1: not told
	Images    int        `json:"images,omitempty"`
	Pixels    int64      `json:"pixels,omitempty"`
	Error     string     `json:"error,omitempty"`
	Events    []logEvent `json:"events,omitempty"`
}

type logEvent struct {
	At      int64  `json:"at_ns"`
	Text    string `json:"text,omitempty"`
	Tokens  int    `json:"tokens"` // -1: not told
	Choices bool   `json:"choices,omitempty"`
}

// WriteLog appends the samples of one row of a result to an event log, a line of JSON each. A log read back gives the
// same summaries, also under a profile that is written later.
func WriteLog(w io.Writer, row string, samples []Sample) error {
	buf := bufio.NewWriter(w)
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	for i := range samples {
		s := &samples[i]
		x := &s.Exchange
		line := logLine{V: logVersion, Row: row, Start: s.Start.UTC().Round(0), RequestID: x.RequestID, Status: x.Status, FirstByte: int64(x.FirstByte),
			End: int64(x.End), Bytes: x.BodyBytes, Input: s.InputTokens, Output: s.OutputTokens, Images: s.Images, Pixels: s.Pixels}
		if s.Err != nil {
			line.Error = s.Err.Error()
		}
		for j := range x.Events {
			e := &x.Events[j]
			line.Events = append(line.Events, logEvent{At: int64(e.At), Text: e.Text, Tokens: e.Tokens, Choices: contents(e)&api.HasChoices != 0})
		}
		if err := enc.Encode(line); err != nil {
			return fmt.Errorf("metrics: event log: %w", err)
		}
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("metrics: event log: %w", err)
	}
	return nil
}

// ReadLog gives the samples of a log by row. Of a log that breaks off (the run was killed while writing) it gives what
// is whole, and an error that wraps io.ErrUnexpectedEOF.
func ReadLog(r io.Reader) (map[string][]Sample, error) {
	rows := map[string][]Sample{}
	dec := json.NewDecoder(r)
	for n := 1; ; n++ {
		var l logLine
		switch err := dec.Decode(&l); {
		case errors.Is(err, io.EOF):
			return rows, nil
		case err != nil:
			return rows, fmt.Errorf("metrics: event log, sample %d: %w", n, err)
		case l.V != logVersion:
			return rows, fmt.Errorf("metrics: event log, sample %d: version %d, this one reads %d", n, l.V, logVersion)
		}
		rows[l.Row] = append(rows[l.Row], l.sample())
	}
}

func (l *logLine) sample() Sample {
	s := Sample{Start: l.Start, InputTokens: l.Input, OutputTokens: l.Output, Images: l.Images, Pixels: l.Pixels}
	if l.Error != "" {
		s.Err = errors.New(l.Error)
	}
	s.Exchange = api.Exchange{RequestID: l.RequestID, Status: l.Status, Start: l.Start, FirstByte: time.Duration(l.FirstByte),
		End: time.Duration(l.End), BodyBytes: l.Bytes}
	for _, e := range l.Events {
		data := []byte(`{}`)
		if e.Choices {
			data = []byte(`{"choices":[{}]}`)
		}
		s.Exchange.Events = append(s.Exchange.Events, api.Event{At: time.Duration(e.At), Data: data, Text: e.Text, Tokens: e.Tokens})
	}
	return s
}
