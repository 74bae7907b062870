package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// Schema of a saved Evidence.
const Schema = "omnitest.handoff/v1"

// Evidence is everything that was seen in one window. It is plain data: saved, read back and judged again under newer rules.
type Evidence struct {
	Schema        string    `json:"schema"`
	Dialect       string    `json:"dialect"`
	DialectFrom   string    `json:"dialect_from,omitempty"` // "given", or the sign by which it was found; "": not told
	Opened        time.Time `json:"opened"`
	Closed        time.Time `json:"closed"`
	BlockSize     int       `json:"block_size"` // tokens
	BlockSizeFrom string    `json:"block_size_from"`
	// PrefillBlockSize is prefill's own, for tickets: it may be smaller than decode's. 0: not told.
	PrefillBlockSize int           `json:"prefill_block_size,omitempty"`
	BytesPerToken    float64       `json:"bytes_per_token,omitempty"` // 0: not known
	Prefill          Stage         `json:"prefill"`
	Decode           Stage         `json:"decode"`
	Flow             Flow          `json:"flow"`
	Observations     []Observation `json:"observations"`
	File             string        `json:"-"` // where WriteFile put it

	dialect *Dialect
}

// Stage is the counter ledger of one engine.
type Stage struct {
	MetricsURL string             `json:"metrics_url"`
	Counters   map[string]Counter `json:"counters,omitempty"` // by series, as on the metrics page
	Resets     []string           `json:"resets,omitempty"`   // counters that fell inside the window
	Problem    string             `json:"problem,omitempty"`  // not idle, not reachable: why the counters may not be whole
	// KV pool usage, 0..1, at Open and Close; nil: not told.
	UsageBefore *float64 `json:"usage_before,omitempty"`
	UsageAfter  *float64 `json:"usage_after,omitempty"`
	Page        *Page    `json:"page,omitempty"` // nil: not looked at
}

// Counter is the change of one series in the window. Delta means nothing unless State is present.
type Counter struct {
	State prom.State `json:"state"`
	Delta float64    `json:"delta,omitempty"`
}

// Flow is the flow ledger of the window.
type Flow struct {
	Kept    bool          `json:"kept"`           // the proxy keeps a ledger
	Note    string        `json:"note,omitempty"` // why not, or what is wrong with it
	Records []flow.Record `json:"records,omitempty"`
	Loose   []flow.Record `json:"loose,omitempty"` // legs that taps could not join to a request for certain; Note says how many
}

// Observation is one request made in the window and what came of it.
type Observation struct {
	RequestID    string // joins it with the flow ledger; "": it cannot be joined
	Prompt       string
	PromptTokens int // from usage; 0: unknown
	OutputTokens int // from usage, all choices; 0: unknown
	CachedTokens int // from usage: prompt tokens that decode says it had; 0: none, or not told
	Choices      int // n of the request; 0: 1

	// Got is the answer. For a picture leave it empty: the plan in the flow ledger takes its place.
	Got string
	// Want is what the answer must be, and WantFrom who says so: "known answer", "control: prefill alone". With both empty
	// the content is not compared, and Proven cannot be reached.
	Want, WantFrom string
	// Margins tell how sure the control was of each token of Want; nil: not known. With them a difference that starts where
	// the control itself was undecided is doubt instead of refutation. See textcheck.MarginsOf.
	Margins []textcheck.Margin
	// Foreign are texts of other requests that must not appear in Got, such as a secret planted in a neighbour's prompt.
	Foreign []string
	// Sent is the client's own request as flow.Sent keeps it, for Conformant; nil: not known here. Fallback is what the answer
	// declared in the header X-Omnitest-Fallback; "": nothing.
	Sent     json.RawMessage
	Fallback string
	// Took is how long the request took to its end, good or bad; 0: not told. Limit is how long its owner lets it take; 0: as
	// long as the deadline that its client ran under. Both are for Bounded.
	Took, Limit time.Duration
	// Err: the request failed. Our own deadline or cancellation (api.Timeout, api.Canceled, a context error) is doubt about
	// the stack, every other error refutes.
	Err error
}

// ownDeadline tells our impatience from a failure of the stack. An api.Error knows; a dial that timed out in the kernel also
// claims to be a context.DeadlineExceeded, so only an error of no kind is asked that.
func ownDeadline(err error) bool {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Kind == api.Timeout || e.Kind == api.Canceled
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)
}

// outOfTime tells a deadline of our own, which the stack outlived, from a cancellation, which says nothing about it.
func outOfTime(err error) bool {
	if e := (*api.Error)(nil); errors.As(err, &e) {
		return e.Kind == api.Timeout
	}
	return errors.Is(err, context.DeadlineExceeded)
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func duration(ms float64) time.Duration { return time.Duration(ms * float64(time.Millisecond)) }

// savedError is an error that was read back: its text, and whether it was our own doing.
type savedError struct {
	text  string
	cause error
}

func (e *savedError) Error() string { return e.text }
func (e *savedError) Unwrap() error { return e.cause }

// Observed fills an Observation from an answer of the api client; the caller adds Prompt, Want and WantFrom.
func Observed(t *api.Text, err error) Observation {
	o := Observation{Err: err}
	if e := (*api.Error)(nil); errors.As(err, &e) {
		o.RequestID, o.Took = e.Exchange.RequestID, e.Exchange.End // the id that was sent: the ledger knows it by that
	}
	if t == nil {
		return o
	}
	o.Took, o.Fallback = t.End, t.Header.Get("X-Omnitest-Fallback")
	o.RequestID, o.Got, o.Choices = t.RequestID, t.String(), len(t.Choices)
	if o.RequestID == "" {
		o.RequestID = t.Header.Get("X-Request-Id") // the one that our proxy made
	}
	if t.Usage != nil {
		o.PromptTokens, o.OutputTokens, o.CachedTokens = max(0, t.Usage.PromptTokens), max(0, t.Usage.CompletionTokens), max(0, t.Usage.CachedTokens)
	}
	return o
}

// observationJSON gives the error a form on disk.
type observationJSON struct {
	RequestID    string             `json:"request_id,omitempty"`
	Prompt       string             `json:"prompt"`
	PromptTokens int                `json:"prompt_tokens,omitempty"`
	OutputTokens int                `json:"output_tokens,omitempty"`
	CachedTokens int                `json:"cached_tokens,omitempty"`
	Choices      int                `json:"choices,omitempty"`
	Got          string             `json:"got"`
	Want         string             `json:"want"`
	WantFrom     string             `json:"want_from,omitempty"`
	Margins      []textcheck.Margin `json:"margins,omitempty"`
	Foreign      []string           `json:"foreign,omitempty"`
	Err          string             `json:"error,omitempty"`
	Own          bool               `json:"own_deadline,omitempty"` // the error is of our own making
	Deadline     bool               `json:"deadline,omitempty"`     // and a deadline, not a cancellation
	Sent         json.RawMessage    `json:"sent,omitempty"`
	Fallback     string             `json:"fallback,omitempty"`
	TookMS       float64            `json:"took_ms,omitempty"`
	LimitMS      float64            `json:"limit_ms,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (o Observation) MarshalJSON() ([]byte, error) {
	j := observationJSON{o.RequestID, o.Prompt, o.PromptTokens, o.OutputTokens, o.CachedTokens, o.Choices, o.Got, o.Want, o.WantFrom, o.Margins, o.Foreign, "", false, false,
		o.Sent, o.Fallback, milliseconds(o.Took), milliseconds(o.Limit)}
	if o.Err != nil {
		j.Err, j.Own, j.Deadline = o.Err.Error(), ownDeadline(o.Err), outOfTime(o.Err)
	}
	return json.Marshal(j)
}

// UnmarshalJSON implements json.Unmarshaler. The error comes back as its text.
func (o *Observation) UnmarshalJSON(data []byte) error {
	var j observationJSON
	if err := json.Unmarshal(data, &j); err != nil {
		return err
	}
	*o = Observation{j.RequestID, j.Prompt, j.PromptTokens, j.OutputTokens, j.CachedTokens, j.Choices, j.Got, j.Want, j.WantFrom, j.Margins, j.Foreign,
		j.Sent, j.Fallback, duration(j.TookMS), duration(j.LimitMS), nil}
	switch {
	case j.Own && j.Deadline:
		o.Err = &savedError{j.Err, context.DeadlineExceeded}
	case j.Own:
		o.Err = &savedError{j.Err, context.Canceled}
	case j.Err != "":
		o.Err = errors.New(j.Err)
	}
	return nil
}

// WriteFile saves the evidence as JSON and remembers the path: later verdicts name it.
func (e *Evidence) WriteFile(path string) error {
	data, err := json.MarshalIndent(e, "", " ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o777)
	}
	if err == nil {
		err = os.WriteFile(path, append(data, '\n'), 0o666)
	}
	if err != nil {
		return fmt.Errorf("save handoff evidence: %w", err)
	}
	e.File = path
	return nil
}

// ReadFile reads saved evidence.
func ReadFile(path string) (*Evidence, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read handoff evidence: %w", err)
	}
	e := &Evidence{File: path}
	if err := json.Unmarshal(data, e); err != nil {
		return nil, fmt.Errorf("read handoff evidence %s: %w", path, err)
	}
	if e.Schema != Schema {
		return nil, fmt.Errorf("read handoff evidence %s: schema %q, this build reads %q", path, e.Schema, Schema)
	}
	return e, nil
}

// d is the dialect that the evidence was gathered in; NIXL for one that is not known, which every verdict then says.
func (e *Evidence) d() *Dialect {
	if e.dialect != nil {
		return e.dialect
	}
	if d := Known(e.Dialect); d != nil {
		return d
	}
	return &NIXL
}

// get gives the change of a series. ok only for one that was there and did not reset.
func (s *Stage) get(x Series) (delta float64, ok bool) {
	c := s.Counters[x.String()]
	return c.Delta, c.State == prom.Present
}

// signed prints a delta for a report: "+528", "absent", "reset".
func (s *Stage) signed(x Series) string {
	c, known := s.Counters[x.String()]
	if !known {
		return string(prom.Absent)
	}
	if c.State != prom.Present {
		return string(c.State)
	}
	return fmt.Sprintf("%+.0f", c.Delta)
}
