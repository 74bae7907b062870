package probe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/handoff"
)

// tamperCase is one way to tamper with a ticket.
type tamperCase struct {
	name        string
	change      func(own, other *subject) (json.RawMessage, error)
	other       bool      // another prompt of the same length is prefilled as well
	used        bool      // the ticket is used rightly first: other's, where there is one
	destructive bool      // vLLM's engine may die of it
	known       []Outcome // bad outcomes that real vLLM 0.32 is known for
}

// tamperCases are those that no engine should die of. What vLLM 0.32 did is in the recordings (cases 20 to 31).
var tamperCases = []tamperCase{
	{name: "unknown engine", change: setKey("remote_engine_id", "nobody")},
	{name: "unknown engine at a dead port", change: func(own, _ *subject) (json.RawMessage, error) {
		return editTicket(own.ticket, func(f map[string]any) { f["remote_engine_id"], f["remote_port"] = "nobody", deadPort })
	}},
	// vLLM remembers the address of an engine that it has met: these two give the right text there (case 28).
	{name: "wrong port", change: setKey("remote_port", deadPort)},
	{name: "wrong host", change: setKey("remote_host", "127.255.255.254")}, // loopback everywhere on Linux: refused, not swallowed
	// The id is for the notification alone: right text (case 22), and the blocks of the true one stay until the lease ends.
	{name: "unknown request", change: setKey("remote_request_id", "cmpl-nobody-0-00000000")},
	{name: "blocks out of range", change: editBlocks(func(ids []any) []any {
		for i := range ids {
			ids[i] = 1_000_000 + i
		}
		return ids
	})},
	{name: "do_remote_prefill=false", change: setKey("do_remote_prefill", false)},
	{name: "first and last block swapped", known: []Outcome{OutcomeGarbage}, change: editBlocks(func(ids []any) []any {
		ids[0], ids[len(ids)-1] = ids[len(ids)-1], ids[0]
		return ids
	})},
	{name: "used before", used: true, change: func(own, _ *subject) (json.RawMessage, error) { return own.ticket, nil }},
	{name: "of another prompt", other: true, known: []Outcome{OutcomeForeign, OutcomeGarbage}, change: takeOther},
	{name: "of another prompt and used before", other: true, used: true, known: []Outcome{OutcomeForeign, OutcomeGarbage}, change: takeOther},
}

// destructiveCases come last. Too few blocks and [[]] are recorded to kill the engine of 0.26 and 0.32 by an assertion. Without
// remote_port vLLM 0.32 hangs like without remote_request_id, and its engine core died with KeyError 'remote_port' when the client
// gave up (measured, 25 Nov 2026); the other keys are read in the same way. Of the rest it is not known that it lives.
var destructiveCases = []tamperCase{
	without("remote_engine_id"), without("remote_host"), without("remote_port"),
	{name: "flat block ids", change: func(own, _ *subject) (json.RawMessage, error) {
		return editTicket(own.ticket, func(f map[string]any) {
			if groups, ok := f["remote_block_ids"].([]any); ok && len(groups) > 0 {
				if ids, nested := groups[0].([]any); nested {
					f["remote_block_ids"] = ids
					return
				}
			}
			f["remote_block_ids"] = []any{f["remote_block_ids"]} // it was flat: the other form then
		})
	}},
	without("remote_block_ids"),
	{name: "one block too few", change: editBlocks(func(ids []any) []any { return ids[:len(ids)-1] })},
	{name: "no blocks", change: editBlocks(func([]any) []any { return []any{} })},
}

// rendezvousKeys are left out one by one where that is recorded to leave the engine alive (case 20).
var rendezvousKeys = []string{"remote_request_id"}

// without leaves a key out.
func without(key string) tamperCase {
	return tamperCase{name: "without " + key, change: func(own, _ *subject) (json.RawMessage, error) {
		return editTicket(own.ticket, func(f map[string]any) { delete(f, key) })
	}}
}

const deadPort = 1 // tcpmux: nobody listens

func takeOther(_, other *subject) (json.RawMessage, error) { return other.ticket, nil }

func setKey(key string, value any) func(own, _ *subject) (json.RawMessage, error) {
	return func(own, _ *subject) (json.RawMessage, error) {
		return editTicket(own.ticket, func(f map[string]any) { f[key] = value })
	}
}

// editBlocks changes the block ids of the first KV cache group, grouped or flat.
func editBlocks(change func(ids []any) []any) func(own, _ *subject) (json.RawMessage, error) {
	return func(own, _ *subject) (json.RawMessage, error) {
		if handoff.TicketBlocks(own.ticket) == 0 {
			return nil, errors.New("the ticket names no blocks")
		}
		return editTicket(own.ticket, func(f map[string]any) {
			ids, _ := f["remote_block_ids"].([]any)
			if first, nested := ids[0].([]any); nested {
				ids[0] = change(first)
				return
			}
			f["remote_block_ids"] = change(ids)
		})
	}
}

// editTicket changes the fields of a ticket.
func editTicket(ticket json.RawMessage, change func(map[string]any)) (json.RawMessage, error) {
	var f map[string]any
	if err := json.Unmarshal(ticket, &f); err != nil {
		return nil, fmt.Errorf("ticket %s: %w", ticket, err)
	}
	change(f)
	return json.Marshal(f)
}

// destructive sends the tickets that may end decode, and brings it back each time.
func (t *tampering) destructive(ctx context.Context) error {
	for _, c := range destructiveCases {
		c.destructive, c.known = true, []Outcome{OutcomeDied, OutcomeHung}
		if t.dead {
			if err := t.Restart(ctx, "decode"); err != nil {
				return fmt.Errorf("restart decode before %q: %w", c.name, err)
			}
			t.dead = false
		}
		if err := t.one(ctx, c); err != nil {
			return err
		}
	}
	if t.dead {
		if err := t.Restart(ctx, "decode"); err != nil {
			return fmt.Errorf("restart decode: %w", err)
		}
		t.dead = false
	}
	return nil
}

// conclude makes the verdict of the table.
func (t *tampering) conclude(ctx context.Context) {
	others := t.others(ctx)
	counts, findings := map[Outcome]int{}, map[Outcome]int{}
	sent := 0
	for _, x := range t.result.Tampered {
		if x.Outcome == OutcomeNotSent {
			t.notes = append(t.notes, fmt.Sprintf("ticket %q was not sent: %s", x.Name, x.Detail))
			if x.Detail != deadAlready {
				t.say(handoff.StateInconclusive, "not-sent", "ticket %q was not sent: %s", x.Name, x.Detail)
			}
			continue
		}
		sent++
		counts[x.Outcome]++
		switch {
		case x.Outcome.Good():
		case x.Known && !t.Strict:
			findings[x.Outcome]++
			t.notes = append(t.notes, fmt.Sprintf("decode trusts the ticket, as vLLM 0.32 does: %q: %s: %s", x.Name, x.Outcome, x.Detail))
		case others > 0 && (x.Name == "used before" || x.Name == "expired") && (x.Outcome == OutcomeGarbage || x.Outcome == OutcomeForeign):
			t.say(handoff.StateInconclusive, "not-exclusive", "ticket %q: %s: %s, but prefill finished %.0f requests of somebody else's meanwhile, which may have been given its blocks", x.Name, x.Outcome, x.Detail, others)
		default:
			t.say(handoff.StateRefuted, string(x.Outcome), "ticket %q: %s: %s", x.Name, x.Outcome, x.Detail)
		}
	}
	text := fmt.Sprintf("%d tampered tickets: %s; decode lives and takes the right ticket", sent, countOutcomes(counts))
	if len(findings) > 0 {
		text += fmt.Sprintf(" (%s as vLLM 0.32 is known for, see the notes)", countOutcomes(findings))
	}
	t.say(handoff.StateProven, "tampering", "%s", text)
	numbers := map[string]float64{}
	for o, n := range counts {
		numbers["tampered."+string(o)] = float64(n)
	}
	t.result.Verdict = verdictOf(tamperingClaim, t.reasons, t.notes, numbers)
}

func countOutcomes(counts map[Outcome]int) string {
	var parts []string
	for _, o := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[o], o))
	}
	return strings.Join(parts, ", ")
}
