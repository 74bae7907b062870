package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const tamperingClaim = "a tampered ticket ends in an error or in the right text, and decode lives"

// Outcome is what became of a request with a tampered ticket.
type Outcome string

// The outcomes.
const (
	OutcomeRefused     Outcome = "refused"     // an error, and decode lives
	OutcomeTransferred Outcome = "transferred" // the right text, and decode counted bytes: the tampered part was not needed
	OutcomeRecomputed  Outcome = "recomputed"  // the right text, and decode counted no bytes
	OutcomeRight       Outcome = "right"       // the right text; decode's counters do not tell by which way
	OutcomeForeign     Outcome = "foreign"     // the text of another prompt
	OutcomeGarbage     Outcome = "garbage"     // 200 with a text that is neither its own nor the other prompt's
	OutcomeHung        Outcome = "hung"        // no answer within Limit
	OutcomeDied        Outcome = "died"        // decode is not healthy any more
	OutcomeNotSent     Outcome = "not sent"
)

// deadAlready is why nothing more is sent.
const deadAlready = "decode was dead already"

// Good is an error or the right text.
func (o Outcome) Good() bool {
	return o == OutcomeRefused || o == OutcomeTransferred || o == OutcomeRecomputed || o == OutcomeRight
}

// Tampered is one tampered ticket and what became of it.
type Tampered struct {
	Name    string  `json:"name"`
	Outcome Outcome `json:"outcome"`
	// Known tells a bad outcome that real vLLM 0.32 is known for: see Tampering.
	Known  bool   `json:"known,omitempty"`
	Detail string `json:"detail"`
}

// tamperLimit is the default of Options.Limit in Tampering. vLLM 0.32 hangs on a ticket that lacks a key, so that a minute for
// each would be spent for nothing; nothing else took longer than a few seconds (recorded).
const tamperLimit = 20 * time.Second

// Tampering sends tickets that no prefill gave: unknown engine, request, host and port, block ids out of range or in another
// order, no request id, do_remote_prefill=false, a ticket of another prompt, one that was used before, for the same and for
// another prompt, and one whose lease has ended, before and after another prompt was prefilled. Destructive adds those on which
// vLLM's engine is known to die, or not known to live (too few blocks, none, no list, a flat list, no engine, host or port): they
// come last, and Options.Restart brings decode back.
//
// Each must end in an error or in the right text within Limit (0: 20 s here; all other requests have a minute), decode must live,
// and a right ticket must work afterwards. What became of each is in Result.Tampered.
//
// Decode trusts its client. Real vLLM 0.32, healthy, reads whatever blocks a ticket names: with another prompt's ticket it
// answers with that prompt's content, with blocks in another order it answers nonsense, and where a key is missing it never
// answers (all recorded); with an expired ticket whose blocks were written again it gives what is in them (#52234). Such findings
// are always in the notes and marked Known, but they refute only with Strict: without, they say what everybody's vLLM does, and
// every other bad outcome says that this stack is worse than that. Foreign content for a ticket that names no foreign blocks,
// garbage where an error is due, a hang on a ticket that is whole: these always refute.
//
// It sends 56 requests, 3 a case or so, and 21 more with Destructive. It poisons decode's prefix cache for its nonces, and leaves
// tickets whose blocks prefill holds until the lease ends. It takes one lease or one Limit, whichever is longer, and half a second
// for each recompute. Not for an engine in production, and nothing else may use the stack.
func Tampering(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	patience := o.Limit
	if patience <= 0 {
		patience = tamperLimit
	}
	o.Limit = max(patience, time.Minute) // of all other requests
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	if p.dialect().Ask == nil {
		return p.done(tamperingClaim, handoff.StateInconclusive, "no-tickets", "connector %s has no tickets to tamper with", p.dialect().Name)
	}
	if p.Destructive && p.Restart == nil {
		return p.done(tamperingClaim, handoff.StateInconclusive, "no-restart", "destructive tickets need somebody who can restart decode: Options.Restart is not given; nothing was sent")
	}
	p.whole = true
	t := &tampering{probe: p, patience: patience, finished: -1}
	if l, err := handoff.ReadLoad(ctx, s, "prefill"); err == nil {
		t.finished = l.Finished
	}
	if why, err := t.rightTicket(ctx, "before"); err != nil {
		return p.result, fmt.Errorf("tampering: %w", err)
	} else if why != "" {
		return p.done(tamperingClaim, handoff.StateInconclusive, "not-well-before", "the handoff was not well before any ticket was tampered with: %s", why)
	}
	if err := t.all(ctx); err != nil {
		return p.result, fmt.Errorf("tampering: %w", err)
	}
	return p.result, nil
}

// tampering is the state of the experiment.
type tampering struct {
	*probe
	patience time.Duration // with a tampered ticket
	dead     bool
	finished float64 // requests that prefill had finished before; -1: not told
	reasons  []handoff.Reason
	notes    []string
}

func (t *tampering) say(s handoff.State, rule, format string, args ...any) {
	t.reasons = append(t.reasons, handoff.Reason{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)})
}

// others is how many requests of somebody else's prefill finished meanwhile: they may have been given the blocks of a ticket that was
// used or has expired. 0 where it is not told.
func (t *tampering) others(ctx context.Context) float64 {
	l, err := handoff.ReadLoad(ctx, t.Source, "prefill")
	if err != nil || t.finished < 0 || l.Finished < 0 {
		return 0
	}
	own := 0.0
	for _, a := range t.result.Answers {
		if a.Stage == "prefill" {
			own++
		}
	}
	return max(0, l.Finished-t.finished-own)
}

// all runs the cases.
func (t *tampering) all(ctx context.Context) error {
	for _, c := range tamperCases {
		if err := t.one(ctx, c); err != nil {
			return err
		}
	}
	if err := t.slow(ctx); err != nil {
		return err
	}
	if t.Destructive {
		if err := t.destructive(ctx); err != nil {
			return err
		}
	}
	if !t.dead {
		why, err := t.rightTicket(ctx, "after")
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			why = err.Error()
		}
		if why != "" {
			t.say(handoff.StateRefuted, "broken-after", "after all that the right ticket does not work any more: %s", why)
		}
	}
	t.conclude(ctx)
	return nil
}

// rightTicket sends one prompt with its own ticket; why is what is wrong with the answer.
func (t *tampering) rightTicket(ctx context.Context, name string) (why string, err error) {
	x, err := t.ready(ctx, name)
	if err != nil {
		return "", err
	}
	got, err := t.decode(ctx, "decode "+name+" with its own ticket", x, x.ticket)
	if err != nil {
		return "", err
	}
	if !t.rightText(got.String(), x) {
		return textcheck.Divergence(got.String(), x.control), nil
	}
	return "", nil
}

// ready is a subject with its ticket.
func (t *tampering) ready(ctx context.Context, name string) (*subject, error) {
	x, err := t.subject(ctx, name)
	if err == nil {
		err = t.prefill(ctx, x)
	}
	return x, err
}

// one runs one case.
func (t *tampering) one(ctx context.Context, c tamperCase) error {
	if t.dead {
		t.keepTampered(c, OutcomeNotSent, deadAlready)
		return nil
	}
	own, err := t.ready(ctx, c.name)
	if err != nil {
		return err
	}
	var other *subject
	if c.other {
		if other, err = t.ready(ctx, c.name+": the other"); err != nil {
			return err
		}
		// A ticket with fewer blocks than the prompt needs kills vLLM's engine (recorded).
		if n, m := handoff.TicketBlocks(own.ticket), handoff.TicketBlocks(other.ticket); n != m || own.tokens != other.tokens {
			t.keepTampered(c, OutcomeNotSent, fmt.Sprintf("the prompts are not alike (%d and %d blocks): it could kill decode", n, m))
			return nil
		}
	}
	if c.used {
		x := own
		if other != nil {
			x = other
		}
		if _, err := t.decode(ctx, c.name+": its rightful use", x, x.ticket); err != nil {
			return err
		}
	}
	ticket, err := c.change(own, other)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return t.send(ctx, c, own, other, ticket)
}

// send gives one tampered ticket to decode and says what became of it.
func (t *tampering) send(ctx context.Context, c tamperCase, own, other *subject, ticket json.RawMessage) error {
	before, blind := handoff.ReadLoad(ctx, t.Source, "decode")
	got, err := t.tampered(ctx, c, own, ticket)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	outcome, detail := t.outcome(ctx, c, own, other, got, err)
	if outcome == OutcomeRight && blind == nil && before.Bytes >= 0 {
		outcome = t.way(ctx, before.Bytes)
	}
	t.keepTampered(c, outcome, detail)
	return nil
}

// tampered is the one request of a case that may hang.
func (t *tampering) tampered(ctx context.Context, c tamperCase, own *subject, ticket json.RawMessage) (*api.Text, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, t.patience, fmt.Errorf("no answer within %v", t.patience))
	defer cancel()
	return t.decode(ctx, "decode with tampered ticket: "+c.name, own, ticket)
}

// outcome reads the answer to a tampered ticket.
func (t *tampering) outcome(ctx context.Context, c tamperCase, own, other *subject, got *api.Text, err error) (Outcome, string) {
	dead := t.decodeDead(ctx, err != nil && c.destructive)
	switch {
	case dead != nil:
		t.dead = true
		if err == nil {
			err = errors.New("its request was answered first")
		}
		return OutcomeDied, fmt.Sprintf("decode is not healthy: %v; %v", dead, err)
	case err != nil && (api.KindOf(err) == api.Timeout || api.KindOf(err) == api.Canceled):
		return OutcomeHung, fmt.Sprintf("no answer within %v", t.patience)
	case err != nil:
		return OutcomeRefused, err.Error()
	}
	text := got.String()
	if text == own.control {
		return OutcomeRight, textcheck.Quote(text)
	}
	if other != nil {
		if text == other.control {
			return OutcomeForeign, "answered with the text of the other prompt: " + textcheck.Quote(text)
		}
		if from, to := textcheck.ForeignRun(text, other.control, own.control); to > from {
			return OutcomeForeign, fmt.Sprintf("bytes %d to %d are the text of the other prompt: %s", from, to, textcheck.Quote(text[from:to]))
		}
	}
	if from, to, whose := t.anybodys(text, own); to > from {
		return OutcomeForeign, fmt.Sprintf("bytes %d to %d are the text of %q: %s", from, to, whose, textcheck.Quote(text[from:to]))
	}
	if t.rightText(text, own) {
		return OutcomeRight, "right up to a near tie: " + textcheck.Divergence(text, own.control)
	}
	return OutcomeGarbage, textcheck.Divergence(text, own.control)
}

// anybodys looks for the text of any earlier prompt of this probe: blocks that were freed and written again hold them.
func (t *tampering) anybodys(text string, own *subject) (from, to int, whose string) {
	for _, a := range t.result.Answers {
		control, isControl := strings.CutPrefix(a.Role, "control ")
		if !isControl || a.Text == own.control {
			continue
		}
		if f, u := textcheck.ForeignRun(text, a.Text, own.control); u-f > to-from {
			from, to, whose = f, u, control
		}
	}
	return from, to, whose
}

// decodeDead asks decode's health; with wait it gives a dying engine time to close its port (recorded: 0.8 s).
func (t *tampering) decodeDead(ctx context.Context, wait bool) error {
	d := t.engines()[1]
	for until := time.Now().Add(3 * time.Second); ; {
		if err := d.health(ctx); err != nil || !wait || time.Now().After(until) || ctx.Err() != nil {
			return err
		}
		_ = pause(ctx, 100*time.Millisecond) // seen above
	}
}

// way tells by which way the right text came about. Bytes are published about one step after the answer.
func (t *tampering) way(ctx context.Context, before float64) Outcome {
	for until := time.Now().Add(500 * time.Millisecond); ; {
		l, err := handoff.ReadLoad(ctx, t.Source, "decode")
		switch {
		case err != nil || l.Bytes < before:
			return OutcomeRight
		case l.Bytes > before:
			return OutcomeTransferred
		case time.Now().After(until) || pause(ctx, 20*time.Millisecond) != nil:
			return OutcomeRecomputed
		}
	}
}

func (t *tampering) keepTampered(c tamperCase, o Outcome, detail string) {
	t.result.Tampered = append(t.result.Tampered, Tampered{c.name, o, slices.Contains(c.known, o), detail})
}
