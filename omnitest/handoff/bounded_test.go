package handoff

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// hung is a request whose client gave up after five seconds, and whose decode leg was open until then.
func hung(e *Evidence) {
	d := e.d()
	o, r := &e.Observations[0], &e.Flow.Records[0]
	o.Err, o.Took, o.Limit = fmt.Errorf("timeout: %w", context.DeadlineExceeded), 5*time.Second, 5*time.Second
	r.Outcome, r.EndMS, r.Error = "cancelled", 5000, "decode: client went away: no answer"
	r.Hops[1] = flow.Hop{Stage: "decode", StartMS: 14, EndMS: 5000, Error: "client went away: no answer", TicketIn: r.Hops[0].TicketOut}
	e.set(&e.Decode, d.Bytes, 0)
	e.set(&e.Decode, d.Finished, 0)
}

func TestBounded(t *testing.T) {
	d := &NIXL
	for _, c := range []struct {
		name  string
		plant func(e *Evidence)
		want  string
	}{
		{"healthy", func(e *Evidence) { e.Observations[0].Took = 41 * time.Millisecond }, "proven: 1 request ended, the slowest of 1 timed after 41 ms"},
		{"timed by the ledger", func(*Evidence) {}, "proven: 1 request ended, the slowest of 1 timed after 40 ms"},
		{"failed fast", func(e *Evidence) { e.Observations[0].Err = errors.New("HTTP 500") }, "proven: 1 request ended, the slowest of 1 timed after 40 ms"},
		{"within its limit", func(e *Evidence) { e.Observations[0].Took, e.Observations[0].Limit = time.Second, 2*time.Second },
			"proven: 1 request ended, the slowest of 1 timed after 1.0 s"},
		{"without a ledger", func(e *Evidence) {
			e.Flow = Flow{Note: "HTTP 404"}
			e.Observations[0].Took = 2 * time.Second
		}, "proven: 1 request ended, the slowest of 1 timed after 2.0 s"},

		{"F12 decode hangs", hung, "refuted: no answer after 5.0 s (limit 5.0 s): decode leg open since +14 ms; prefill answered at +12 ms with a ticket; 0 bytes moved"},
		{"still open in the ledger", func(e *Evidence) {
			hung(e)
			r := &e.Flow.Records[0]
			r.Outcome, r.EndMS, r.Error, r.Hops[1].EndMS, r.Hops[1].Error = "in-flight", 0, "", 0, ""
			e.Observations[0].Limit = 0
		}, "refuted: no answer after 5.0 s: decode leg open since +14 ms; prefill answered at +12 ms with a ticket; 0 bytes moved"},
		{"stops in the middle", func(e *Evidence) {
			hung(e)
			h := &e.Flow.Records[0].Hops[1]
			h.FirstByteMS, h.Bytes, h.Status = 20, 512, 200
			e.on(&e.Decode, d.Bytes, prom.Absent)
		}, "refuted: no answer after 5.0 s (limit 5.0 s): decode leg open since +14 ms, its answer began at +20 ms and stopped after 512 bytes; prefill answered at +12 ms with a ticket; bytes moved: absent"},
		{"prefill hangs", func(e *Evidence) {
			hung(e)
			r := &e.Flow.Records[0]
			r.Hops = []flow.Hop{{Stage: "prefill", StartMS: 1, EndMS: 5000, Error: "client went away: no answer"}}
		}, "refuted: no answer after 5.0 s (limit 5.0 s): prefill leg open since +1 ms; 0 bytes moved"},
		{"proxy rests between the legs", func(e *Evidence) {
			hung(e)
			r := &e.Flow.Records[0]
			r.Hops, r.Outcome = r.Hops[:1], "in-flight"
		}, "refuted: no answer after 5.0 s (limit 5.0 s): between the legs: prefill answered at +12 ms with a ticket; 0 bytes moved"},
		{"proxy hangs before the legs", func(e *Evidence) {
			hung(e)
			e.Flow.Records[0].Hops = nil
		}, "refuted: no answer after 5.0 s (limit 5.0 s): no stage had been asked; 0 bytes moved"},
		{"hang without a ledger", func(e *Evidence) {
			hung(e)
			e.Flow = Flow{Note: "HTTP 404"}
		}, "refuted: no answer after 5.0 s (limit 5.0 s): which leg was open is not known; 0 bytes moved"},
		{"answered too late", func(e *Evidence) { e.Observations[0].Took, e.Observations[0].Limit = 7*time.Second, 5*time.Second },
			"refuted: answered only after 7.0 s, its limit was 5.0 s: decode answered at +40 ms; prefill answered at +12 ms with a ticket; 524288 bytes moved"},
		{"nobody watched it, still open", func(e *Evidence) {
			hung(e)
			e.Observations = nil
			r := &e.Flow.Records[0]
			r.Start, r.Outcome = time.Unix(1000, 0), "in-flight"
			r.Hops[1].EndMS, r.Hops[1].Error = 0, ""
			e.Closed = time.Unix(1030, 0)
		}, "refuted: still open 30.0 s after it began, when the window closed: decode leg open since +14 ms; prefill answered at +12 ms with a ticket; 0 bytes moved"},
		{"cancelled, the leg goes on", func(e *Evidence) {
			hung(e)
			e.Observations[0].Err = context.Canceled
			e.Flow.Records[0].Hops[1].EndMS, e.Flow.Records[0].Hops[1].Error = 0, ""
		}, "refuted: its client left, and the legs went on beyond the end of the window: decode leg open since +14 ms; prefill answered at +12 ms with a ticket; 0 bytes moved"},

		{"cancelled by its client", func(e *Evidence) {
			hung(e)
			e.Observations[0].Err = context.Canceled
		}, "inconclusive: every request was ended by its client: none tells how long the stack takes"},
		{"limit without a time", func(e *Evidence) { e.Observations[0].Limit = time.Second }, "inconclusive: its limit was 1.0 s, and how long it took was not told"},
		{"decode works on", func(e *Evidence) { e.Decode.Problem = "decode never got idle within 1s: 1 running, 0 waiting" },
			"inconclusive: decode never got idle within 1s: 1 running, 0 waiting"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := healthy("r")
			c.plant(e)
			assert.Equal(t, c.want, Bounded(e).String())

			// The verdict is the same of evidence that was saved and read back.
			path := filepath.Join(t.TempDir(), "e.json")
			require.NoError(t, e.WriteFile(path))
			back, err := ReadFile(path)
			require.NoError(t, err)
			assert.Equal(t, c.want, Bounded(back).String(), "read back")
		})
	}
}

// One of three hangs: it is named.
func TestBoundedNames(t *testing.T) {
	e := healthy("a", "b", "c")
	e.Observations[1].Err, e.Observations[1].Took = context.DeadlineExceeded, 5*time.Second
	r := &e.Flow.Records[1]
	r.Outcome, r.Hops = "cancelled", r.Hops[:1]
	r.Hops[0].Error, r.Hops[0].TicketOut = "client went away: no answer", nil
	assert.Equal(t, "refuted: request b: no answer after 5.0 s: prefill leg open since +0 ms; 1572864 bytes moved in the window", Bounded(e).String())
}
