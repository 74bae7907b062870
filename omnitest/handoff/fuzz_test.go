package handoff

import (
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/omnitest/suite/omnitest/textcheck"
)

// FuzzContent: whatever an engine answers, the content rules neither panic nor call a right answer wrong, and what they
// call foreign truly stands in the other text.
func FuzzContent(f *testing.F) {
	f.Add("the sea is blue", "the tea is strong", "the sea is blue")
	f.Add("", "x", "y")
	f.Add("今天天气很好", "今天天气不好", "今天天\xe6\xb0")
	f.Fuzz(func(t *testing.T, want, other, got string) {
		if from, to := textcheck.ForeignRun(got, other, want); from < to && got[from:to] != other[from:to] {
			t.Errorf("bytes %d to %d are not the other's", from, to)
		}
		if got != want && textcheck.Divergence(got, want) == "" {
			t.Error("a difference without words")
		}
		e := healthy("r", "s")
		e.Observations[0].Want, e.Observations[0].Got, e.Observations[1].Want, e.Observations[1].Got = want, got, other, other
		if v := Proven(e); (v.State == StateProven) != (got == want) {
			t.Errorf("got %q, want %q: %s", got, want, v)
		}
	})
}

// FuzzTicket: no ticket may panic the flow rules, and a ticket is always the same as itself.
func FuzzTicket(f *testing.F) {
	f.Add([]byte(ticketOf("r", 100)), []byte(`{"remote_block_ids":["DUMMY_ID"]}`))
	f.Add([]byte(`[]`), []byte(`nul`))
	f.Fuzz(func(t *testing.T, sent, got []byte) {
		if !sameTicket(sent, sent) {
			t.Error("not the same as itself")
		}
		for _, d := range known {
			if err := CheckTicket(d, sent); err != nil && err.Error() == "" {
				t.Errorf("%s: a fault without words", d.Name)
			}
		}
		_, _ = byTickets([]json.RawMessage{sent, got})
		if (TicketDiff(sent, got) == "") != sameMembers(sent, got) {
			t.Error("a diff and its absence disagree")
		}
		_, _ = TicketBlocks(sent), ticketTokens(sent)
		if !sameTicket(sent, got) && json.Valid(sent) && json.Valid(got) && ticketChange(sent, got) == "" {
			t.Error("a change without words")
		}
		if s := textcheck.Short(string(sent), 10); utf8.Valid(sent) && !utf8.ValidString(s) {
			t.Errorf("short cut a character: %q", s)
		}
	})
}

// sameMembers compares two tickets member by member, in any order; what is no object, byte for byte.
func sameMembers(a, b []byte) bool {
	var x, y map[string]json.RawMessage
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil || x == nil || y == nil {
		return sameTicket(a, b)
	}
	for k, v := range x {
		if w, ok := y[k]; !ok || !sameTicket(v, w) {
			return false
		}
	}
	return len(x) == len(y)
}
