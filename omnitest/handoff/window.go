package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// Window is the interval over which the ledgers are compared: scrape, send, wait until idle, scrape. It must have the stack
// to itself; foreign traffic is noticed by the counts and makes the verdict inconclusive.
type Window struct {
	source          Source
	dialectFrom     string
	given           bool // the dialect; else it was found, or assumed
	prefill, decode *watcher
	opened          time.Time
	ledger          flowReader

	mu     sync.Mutex
	seen   []Observation
	closed bool
}

// Open waits until prefill and decode are idle, scrapes both, and remembers where the flow ledger stands. Without a dialect in
// the source it finds out which is spoken, see Detect. The error names the stage that could not be scraped or never got idle,
// or is an *Unknown.
func Open(ctx context.Context, s Source) (*Window, error) {
	w := &Window{
		source:  s,
		prefill: newWatcher("prefill", s.Prefill, s),
		decode:  newWatcher("decode", s.Decode, s),
		ledger:  newFlowReader(s.Entry, s.Ledger),
	}
	idle := func() error {
		return errors.Join(both(w.prefill, w.decode, func(x *watcher) error {
			err := x.quiet(ctx, s.idleWithin())
			x.recovers(ctx)
			return err
		}))
	}
	err := idle()
	if err == nil {
		err = w.understand(idle)
	}
	if err != nil {
		return nil, fmt.Errorf("open handoff window: %w", err)
	}
	w.prefill.begin()
	w.decode.begin()
	if err := w.ledger.mark(ctx); err != nil {
		return nil, fmt.Errorf("open handoff window: %w", err)
	}
	w.opened = time.Now()
	return w, nil
}

// understand settles which dialect is spoken. One with labels or a pace of its own is waited for anew: whether the stages are
// idle was asked in another one.
func (w *Window) understand(idle func() error) error {
	if w.source.Dialect != nil {
		w.dialectFrom, w.given = "given", true
		return nil
	}
	d, from, _, err := detect(w.prefill.last, w.decode.last, nil)
	if err != nil {
		return err
	}
	w.source.Dialect, w.dialectFrom = d, from
	if d == &NIXL {
		return nil // as assumed until here
	}
	if w.source.Sparing { // the pages that there are must do
		idle = func() error { return nil }
	}
	w.prefill.speak(w.source)
	w.decode.speak(w.source)
	return idle()
}

// reconsider looks again at the end of the window where nobody gave the dialect: some series come with the first transfer, and
// there are tickets now, which alone tell push from pull. What cannot be understood is left to the rules, and told.
func (w *Window) reconsider(records Flow) {
	if w.given || w.prefill.last == nil || w.decode.last == nil {
		return
	}
	var tickets []json.RawMessage
	for i := range records.Records {
		for _, h := range records.Records[i].Hops {
			if h.Stage == "decode" || h.Stage == "prefill" {
				tickets = append(tickets, h.TicketIn, h.TicketOut)
			}
		}
	}
	d, from, assumed, err := detect(w.prefill.last, w.decode.last, tickets)
	switch {
	case err != nil:
		w.dialectFrom += ", and then " + err.Error()
	case !assumed && (d.Name != w.source.Dialect.Name || strings.HasPrefix(w.dialectFrom, "assumed")):
		w.source.Dialect, w.dialectFrom = d, from+" (at the end of the window)"
		w.prefill.speak(w.source)
		w.decode.speak(w.source)
	}
}

// Observe adds a request that was made in this window. Safe for concurrent use.
func (w *Window) Observe(o Observation) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, o)
}

// Close waits until both stages are idle, their counters account for every observed request and their KV pools are as empty as
// at Open, each within bounds, scrapes them and reads the flow ledger. What went wrong with a stage (dead, never idle) is part of the evidence and of the verdict made from it;
// an error means that there is no evidence at all: the window was closed before, or ctx ended.
func (w *Window) Close(ctx context.Context) (*Evidence, error) {
	w.mu.Lock()
	again := w.closed
	w.closed = true
	seen := w.seen
	w.mu.Unlock()
	if again {
		return nil, errors.New("close handoff window: closed already")
	}

	perr, derr := both(w.prefill, w.decode, func(x *watcher) error {
		err := x.quiet(ctx, w.source.idleWithin())
		x.recovers(ctx)
		return err
	})
	if derr == nil && !w.source.Sparing {
		derr = w.account(ctx, seen)
	}
	if perr == nil && derr == nil && !w.source.Sparing {
		perr = w.caughtUp(ctx, seen)
	}
	if perr == nil && derr == nil && !w.source.Sparing && !slices.ContainsFunc(seen, func(o Observation) bool { return o.Err != nil }) {
		pulls, counted := w.decode.delta(w.decode.dialect.Transfers) // read here: decode's watcher goes on in a goroutine
		pulled := w.source.dialect().Ask == nil || counted && int(pulls) >= len(seen)
		perr, derr = both(w.prefill, w.decode, func(x *watcher) error {
			if x == w.prefill && !pulled {
				return nil // it rightly holds the blocks
			}
			return x.givenBack(ctx)
		})
	}
	records := w.ledger.read(ctx)
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("close handoff window: %w", errors.Join(context.Cause(ctx), perr, derr))
	}

	w.reconsider(records)
	d := w.source.dialect()
	e := &Evidence{
		Schema: Schema, Dialect: d.Name, DialectFrom: w.dialectFrom, dialect: d,
		Opened: w.opened, Closed: w.opened.Add(time.Since(w.opened)), // apart by the monotonic clock, however the other one is set
		BytesPerToken: w.source.BytesPerToken,
		Prefill:       w.prefill.ledger(perr),
		Decode:        w.decode.ledger(derr),
		Flow:          records,
		Observations:  seen,
	}
	e.BlockSize, e.BlockSizeFrom = w.source.blockSize(w.decode)
	if text, ok := w.prefill.last.Label(w.prefill.dialect.Config.Name, "block_size"); ok {
		e.PrefillBlockSize, _ = strconv.Atoi(text) // 0 for what is no number: not told
	}
	e.takePlans()
	return e, nil
}

// account waits for counters that lag behind the answers: an engine publishes with its next step, not with the last byte.
// It gives up without error; the rules see what is missing.
func (w *Window) account(ctx context.Context, seen []Observation) error {
	expected := 0.0
	for _, o := range seen {
		if o.Err == nil {
			expected += float64(max(1, o.Choices))
		}
	}
	d := w.decode.dialect
	settle, began := w.source.settle(), time.Now()
	for len(w.decode.falls) == 0 {
		finished, known := w.decode.delta(d.Finished)
		counted := !known || finished >= expected
		// A claim of transferred tokens without bytes would refute, so the bytes get the chance to arrive: they are published
		// with the connector's next report, about one step later.
		claimed, _ := w.decode.delta(d.External)
		moved, counts := w.decode.delta(d.Bytes)
		arrived := claimed == 0 || moved > 0 || !counts
		waited := time.Since(began)
		if counted && arrived || counted && waited > max(500*time.Millisecond, 4*settle) || waited > max(2*time.Second, 4*settle) {
			return nil
		}
		if err := sleep(ctx, settle); err != nil {
			return err
		}
		if _, err := w.decode.scrape(ctx); err != nil {
			return err
		}
	}
	return nil
}

// givenBack waits, for about two seconds, until a stage's KV pool is no fuller than when the window opened: the gauge is
// published with an engine's next step, and prefill hears from decode later than the client does. Blocks that stay are for
// the rule kvHeld to judge.
func (w *watcher) givenBack(ctx context.Context) error {
	before := w.usage(w.first)
	for began := time.Now(); len(w.falls) == 0 && before != nil; {
		now := w.usage(w.last)
		if now == nil || *now <= *before+usageSlack || time.Since(began) > max(2*time.Second, 4*w.settle) {
			return nil
		}
		if err := sleep(ctx, w.settle); err != nil {
			return fmt.Errorf("%s: waiting for its KV pool: %w", w.stage, err)
		}
		if _, err := w.scrape(ctx); err != nil {
			return err
		}
	}
	return nil
}

// blockSize finds the tokens per KV block: given, told by decode's cache_config_info, or vLLM's default on GPUs.
func (s Source) blockSize(decode *watcher) (size int, from string) {
	if s.BlockSize > 0 {
		return s.BlockSize, "given"
	}
	c := decode.dialect.Config
	if text, ok := decode.last.Label(c.Name, "block_size"); ok {
		if n, err := strconv.Atoi(text); err == nil && n > 0 {
			return n, c.Name + " of decode"
		}
	}
	return 16, "assumed"
}

// takePlans lets the plan of a picture stand for the text that its requester never sees.
func (e *Evidence) takePlans() {
	records := recordsByID(e.Flow.Records)
	for i := range e.Observations {
		o := &e.Observations[i]
		if o.Got != "" || o.Err != nil || o.RequestID == "" {
			continue
		}
		if r := records[o.RequestID]; r != nil {
			if h := lastHop(r, "decode"); h != nil {
				o.Got = h.Plan
			}
		}
	}
}

func lastHop(r *flow.Record, stage string) *flow.Hop {
	for i := len(r.Hops) - 1; i >= 0; i-- {
		if r.Hops[i].Stage == stage {
			return &r.Hops[i]
		}
	}
	return nil
}

// caughtUp waits, for about two seconds, until prefill's counters have moved at all where decode's account for an answered request:
// a page that is cached somewhere shows prefill's work later than decode's, and would accuse it of none.
func (w *Window) caughtUp(ctx context.Context, seen []Observation) error {
	if !slices.ContainsFunc(seen, func(o Observation) bool { return o.Err == nil }) {
		return nil
	}
	x, settle := w.prefill, w.source.settle()
	took, _ := w.decode.delta(w.decode.dialect.External)
	for began := time.Now(); took > 0 && len(x.falls) == 0; {
		did, known := x.delta(x.dialect.PromptTokens)
		if !known || did > 0 || time.Since(began) > max(2*time.Second, 4*settle) {
			return nil
		}
		if err := sleep(ctx, settle); err != nil {
			return err
		}
		if _, err := x.scrape(ctx); err != nil {
			return err
		}
	}
	return nil
}
