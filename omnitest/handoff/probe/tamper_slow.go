package probe

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// slow are the cases that take their time: tickets that lack a key go all at once, as vLLM hangs on each of them, and meanwhile
// the leases of the last two end. Prefill gets nothing to do meanwhile: nobody writes over the blocks of the first. Before the second
// is used another prompt has them, where the pool hands out at once what it got back; then the ticket gives foreign content on
// every vLLM (#52234).
func (t *tampering) slow(ctx context.Context) error {
	var cases []tamperCase
	var owns []*subject
	for _, key := range rendezvousKeys {
		c := tamperCase{name: "without " + key, known: []Outcome{OutcomeHung}}
		if t.dead {
			t.keepTampered(c, OutcomeNotSent, deadAlready)
			continue
		}
		own, err := t.ready(ctx, c.name)
		if err != nil {
			return err
		}
		cases, owns = append(cases, c), append(owns, own)
	}
	expired, written := tamperCase{name: "expired"}, tamperCase{name: "expired and written over", known: []Outcome{OutcomeForeign, OutcomeGarbage}}
	if t.dead {
		t.keepTampered(expired, OutcomeNotSent, deadAlready)
		t.keepTampered(written, OutcomeNotSent, deadAlready)
		return nil
	}
	lost, err := t.ready(ctx, written.name)
	if err != nil {
		return err
	}
	old, err := t.ready(ctx, expired.name)
	if err != nil {
		return err
	}
	ends := time.Now().Add(leaseOf(t.Source) + time.Second) // recorded: freed up to 0.8 s after its lease

	got, errs := make([]*api.Text, len(cases)), make([]error, len(cases))
	var wg sync.WaitGroup
	for i, c := range cases {
		var ticket json.RawMessage
		if ticket, errs[i] = editTicket(owns[i].ticket, func(f map[string]any) { delete(f, strings.TrimPrefix(c.name, "without ")) }); errs[i] != nil {
			continue
		}
		wg.Go(func() { got[i], errs[i] = t.tampered(ctx, c, owns[i], ticket) })
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	for i, c := range cases {
		outcome, detail := t.outcome(ctx, c, owns[i], nil, got[i], errs[i])
		t.keepTampered(c, outcome, detail)
	}
	if t.dead {
		t.keepTampered(expired, OutcomeNotSent, deadAlready)
		t.keepTampered(written, OutcomeNotSent, deadAlready)
		return nil
	}
	if err := pause(ctx, time.Until(ends)); err != nil {
		return err
	}
	if err := t.send(ctx, expired, old, nil, old.ticket); err != nil {
		return err
	}
	if t.dead {
		t.keepTampered(written, OutcomeNotSent, deadAlready)
		return nil
	}
	other, err := t.ready(ctx, written.name+": by the other")
	if err != nil {
		return err
	}
	return t.send(ctx, written, lost, other, lost.ticket)
}
