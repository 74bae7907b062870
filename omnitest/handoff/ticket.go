package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/textcheck"
)

// CheckTicket says whether decode could use this ticket: the connector's keys are there and are what they must be. The error
// names missing keys, or everything that is wrong with those that are there. Whether the ticket fits its request is the
// question of TicketsWellFormed.
func CheckTicket(d *Dialect, ticket json.RawMessage) error {
	if len(ticket) == 0 || string(bytes.TrimSpace(ticket)) == "null" {
		return errors.New("no ticket")
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(ticket, &keys); err != nil {
		return fmt.Errorf("ticket is not a JSON object: %s", textcheck.Short(string(ticket), 60))
	}
	var missing, faults []string
	for _, k := range d.Ticket {
		switch raw := find(keys, k.Name); {
		case raw != nil:
			if f := k.fault(raw); f != "" {
				faults = append(faults, f)
			}
		case !k.Optional:
			missing = append(missing, k.Name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("ticket lacks %s", strings.Join(missing, ", "))
	}
	if d.Check != nil {
		faults = append(faults, d.Check(keys)...)
	}
	if len(faults) > 0 {
		return errors.New(strings.Join(faults, ", "))
	}
	return nil
}

// TicketBlocks counts the block ids of a ticket's first KV cache group; 0 without any.
func TicketBlocks(ticket json.RawMessage) int {
	var t struct {
		IDs json.RawMessage `json:"remote_block_ids"`
	}
	_ = json.Unmarshal(ticket, &t) // a malformed ticket is CheckTicket's finding
	groups, _ := blockGroups(t.IDs)
	if len(groups) == 0 {
		return 0
	}
	return len(groups[0])
}

// ticketTokens is the prompt length that a ticket tells (vLLM since 0.26), 0 if it does not.
func ticketTokens(ticket json.RawMessage) int {
	var t struct {
		Tokens int `json:"remote_num_tokens"`
	}
	_ = json.Unmarshal(ticket, &t) // a malformed ticket is CheckTicket's finding
	return t.Tokens
}

// sameTicket compares values, unknown keys included. A proxy that decodes and encodes a ticket changes the order of its keys and how
// a fraction is spelled, and no engine can tell (llm-d's sidecar v0.7.1 does, and vLLM 0.32 pulls by such tickets). A whole number
// is compared digit by digit: a proxy that reads numbers as floats makes another one of it above 2^53.
func sameTicket(a, b json.RawMessage) bool { return string(canonical(a)) == string(canonical(b)) }

// canonical spells a JSON value in one way.
func canonical(raw json.RawMessage) []byte {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return compact(raw)
	}
	b, err := json.Marshal(oneSpelling(v))
	if err != nil {
		return compact(raw)
	}
	return b
}

func oneSpelling(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = oneSpelling(v[k])
		}
	case []any:
		for i := range v {
			v[i] = oneSpelling(v[i])
		}
	case json.Number:
		if f, err := v.Float64(); err == nil && strings.ContainsAny(v.String(), ".eE") {
			return f
		}
	}
	return v
}

func compact(raw json.RawMessage) []byte {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return bytes.TrimSpace(raw)
	}
	return b.Bytes()
}

// ticketChange names the keys in which two tickets differ: "remote_port 5600 became 5601".
func ticketChange(sent, got json.RawMessage) string {
	var a, b map[string]json.RawMessage
	if json.Unmarshal(sent, &a) != nil || json.Unmarshal(got, &b) != nil {
		return fmt.Sprintf("%s became %s", textcheck.Short(string(sent), 60), textcheck.Short(string(got), 60))
	}
	var changes []string
	for k, v := range a {
		switch w, ok := b[k]; {
		case !ok:
			changes = append(changes, k+" was dropped")
		case !sameTicket(v, w):
			changes = append(changes, fmt.Sprintf("%s %s became %s", k, textcheck.Short(string(compact(v)), 48), textcheck.Short(string(compact(w)), 48)))
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			changes = append(changes, k+" was added")
		}
	}
	if len(changes) == 0 {
		return "the same values"
	}
	slices.Sort(changes)
	return strings.Join(changes, ", ")
}

// remoteRequest is the prefill engine's own id of the request that a ticket belongs to.
func remoteRequest(ticket json.RawMessage) string {
	var t struct {
		ID string `json:"remote_request_id"`
	}
	_ = json.Unmarshal(ticket, &t)
	return t.ID
}
