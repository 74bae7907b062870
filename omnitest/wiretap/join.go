package wiretap

import (
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// How legs are joined into requests. A wrong join would accuse a proxy of what it did not do, so each step asks for one
// candidate, and a leg with several is a record of its own ("unjoined"), as are the candidates: any of them may lack it.
//
//  1. The X-Request-Id, as long as it is one request's: an id under which two prompts are on their way at once names nothing.
//  2. The prompt (or messages), among the requests that are still open. Where clients are seen this decides for proxies that give
//     their legs ids of their own; an open request is then one whose client still waits.
//  3. A DiT leg without an id: the one client request that is open. Never the text that decode generated: that it is the right
//     one's is what a judgement wants to know.
//
// What fits nothing begins a record, unless clients are seen, or a decode leg comes while other requests wait for theirs: a proxy
// may have rewritten the prompt.

// record is a request that is being put together.
type record struct {
	flow.Record
	key       string   // digest of the prompt that began it; "": it has none
	asked     string   // digest of the prompt that prefill was given
	ids       []string // that its legs and its client use
	client    bool     // begun by a client that was seen
	loose     string   // why it cannot be counted on
	cancelled bool     // some leg was left by the proxy
	plan      string   // what decode generated
}

// arrival is a request at a tap, read.
type arrival struct {
	stage, route, id, key, plan string
}

// open: it may get further AR legs. A client's request ends with its answer; without clients, with an answer of decode.
func (r *record) open() bool {
	if r.client {
		return r.Outcome == "in-flight"
	}
	for i := range r.Hops {
		if h := &r.Hops[i]; h.Stage == "decode" && h.EndMS > 0 && h.Error == "" || h.Stage == "dit" {
			return false
		}
	}
	return true
}

// waits: prefill was asked and decode was not.
func (r *record) waits() bool { return r.Hop("prefill") != nil && r.Hop("decode") == nil }

// pending: it waits, and a proxy could still be about to call decode for it.
func (r *record) pending() bool {
	return r.waits() && !failed(r.Hop("prefill")) && time.Since(r.Start) < patience
}

// patience is how long a decode leg may come after its prefill leg where neither id nor prompt tells. Longer than a lease (30 s),
// after which the ticket is worth nothing.
const patience = time.Minute

// place finds the record that a leg belongs to, or begins one.
func (b *book) place(a arrival) *record {
	if r := b.byID(a); r != nil {
		return r
	}
	switch {
	case a.stage == "dit":
		return b.placeDiT(a)
	case b.clients:
		fits := b.pick(func(r *record) bool { return a.key != "" && r.key == a.key && r.client && r.open() })
		return b.only(a, fits, "no client request that the taps saw has its id or its prompt")
	}
	fits := b.pick(func(r *record) bool { return a.key != "" && r.key == a.key && r.open() && r.loose == "" })
	switch {
	case a.stage == "prefill" && len(fits) == 0, a.stage == "prefill" && fits[0].Hop("prefill") != nil:
		return b.start(a, "") // a second request for the same prompt, for all that is known
	case len(fits) == 0:
		if n := len(b.pick((*record).pending)); n > 0 {
			return b.start(a, fmt.Sprintf("decode leg fits none of the %d requests that wait for one, by id or prompt", n))
		}
		return b.start(a, "")
	case len(fits) == 1 && a.stage == "decode" && (fits[0].waits() || failed(fits[0].Hop("decode"))):
		return fits[0]
	}
	return b.only(a, append(fits, fits[0]), "")
}

func failed(h *flow.Hop) bool { return h != nil && h.EndMS > 0 && h.Error != "" }

// byID is the newest record of that id, if it can still take the leg.
func (b *book) byID(a arrival) *record {
	r := b.newest[a.id]
	switch {
	case r == nil || a.id == "" || b.shared[a.id]:
	case a.stage == "dit":
		if r.Hop("dit") == nil && (!b.clients || r.client || r.loose != "") {
			return r
		}
	case a.stage == "prefill" && r.open() && r.Hop("prefill") != nil && r.asked != a.key:
		b.shared[a.id] = true // two prompts at once under one id
	case r.open() || r.client && r.Outcome != "ok": // a proxy may go on for a client that has left
		return r
	}
	return nil
}

func (b *book) placeDiT(a arrival) *record {
	if b.clients {
		fits := b.pick(func(r *record) bool { return r.client && r.Outcome == "in-flight" && r.Hop("dit") == nil })
		return b.only(a, fits, "no client request that the taps saw is open")
	}
	if a.plan != "" && len(b.pick(func(r *record) bool { return r.plan == a.plan })) > 0 {
		return b.start(a, "dit leg has a text that decode generated, and no id tells for which request")
	}
	return b.start(a, "") // a picture that goes straight to the DiT
}

// only is the one candidate. Several, or none with a reason, make the leg a loose record.
func (b *book) only(a arrival, fits []*record, none string) *record {
	switch len(fits) {
	case 1:
		return fits[0]
	case 0:
		return b.start(a, a.stage+" leg: "+none)
	}
	for _, r := range fits {
		r.loose = fmt.Sprintf("a %s leg fits it and others, and no id or prompt tells which", a.stage)
	}
	return b.start(a, fmt.Sprintf("%s leg fits several requests, and no id or prompt tells which", a.stage))
}

// pick gives the records for which want holds, oldest first.
func (b *book) pick(want func(*record) bool) []*record {
	var found []*record
	for _, r := range b.records {
		if want(r) {
			found = append(found, r)
		}
	}
	return found
}

// start begins a record with a leg. Its id is the leg's.
func (b *book) start(a arrival, loose string) *record {
	r := b.add(a)
	r.Taps, r.loose = "stages", loose
	if b.clients {
		r.Taps = "client"
	}
	return r
}
