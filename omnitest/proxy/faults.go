package proxy

import (
	"bytes"
	"strconv"
	"time"
)

// Faults are the failures that the proxy can be told to have. All false: a healthy proxy. In all of them the ledger goes on
// telling what was really sent to the stages and what they really said.
type Faults struct {
	DropTicket   bool `json:",omitempty" stage:"proxy" fault:"drop-ticket" doc:"never forwards the ticket to decode, and says nothing (F1)"`
	CrossTickets bool `json:",omitempty" stage:"proxy" fault:"cross-tickets" doc:"sends each request to decode with the previous request's ticket (F3)"`

	StripTicketID bool `json:",omitempty" stage:"proxy" fault:"strip-ticket-id" doc:"forwards the ticket without remote_request_id: decode waits for ever and says nothing (F13)"`
	AlterTicket   bool `json:",omitempty" stage:"proxy" fault:"alter-ticket" doc:"forwards the ticket with its last block id less by one: a block that exists and is not the one"`

	// Between the legs.
	LateDecode         bool `json:",omitempty" stage:"proxy" fault:"late-decode" doc:"lets 1.5 s pass between the legs: with a lease shorter than that prefill has freed the blocks (F5)"`
	DieBetweenLegs     bool `json:",omitempty" stage:"proxy" fault:"die-between-legs" doc:"cuts the client off once prefill has answered and never asks decode: the blocks are stranded for the lease (F6)"`
	ConcurrentDispatch bool `json:",omitempty" stage:"proxy" fault:"concurrent-dispatch" doc:"does not wait for prefill's ticket; after 1.5 s, for the field's 30 s, decode computes the prompt alone (F20)"`
	SilentFallback     bool `json:",omitempty" stage:"proxy" fault:"silent-fallback" doc:"where prefill is dead, fails or gives no ticket decode answers alone, with 200 and nothing declared (F21)"`
	SecondPrefill      bool `json:",omitempty" stage:"proxy" fault:"second-prefill" doc:"asks prefill twice for each request and forwards the second ticket: the blocks of the first are stranded for the lease"`

	// What the legs ask for.
	KeepLimits bool `json:",omitempty" stage:"proxy" fault:"keep-limits" doc:"prefill is asked with the client's own max_tokens and min_tokens: it generates what decode generates again"`
	LoseLimits bool `json:",omitempty" stage:"proxy" fault:"lose-limits" doc:"decode is asked with prefill's max_tokens=1 instead of the client's"`

	CacheAnswers bool `json:",omitempty" stage:"proxy" fault:"cache-answers" doc:"a text request that is not streamed and was answered before gets the old answer under a new id: no stage is asked"`

	TruncateSpeech bool `json:",omitempty" stage:"proxy" fault:"truncate-speech" doc:"ends a speech after its first 16 KiB as if that were all of it"`

	CrossPlans bool `json:",omitempty" stage:"proxy" fault:"cross-plans" doc:"sends the DiT the plan of the previous picture: the picture is somebody else's"`

	// What the client is told, of text requests.
	RewriteCached bool `json:",omitempty" stage:"proxy" fault:"rewrite-cached" doc:"writes the prompt's length over usage.prompt_tokens_details.cached_tokens of decode's answer (F18)"`
	SwallowError  bool `json:",omitempty" stage:"proxy" fault:"swallow-error" doc:"an error of decode becomes 200 with an empty answer that ended by itself (F19)"`
}

// Two waits, both longer than the leases that tests give their engines and shorter than anybody's patience. vLLM's own lease
// is 30 s, as is the time after which decode gave up in the field (F20).
const (
	lateDecode = 1500 * time.Millisecond // LateDecode: from prefill's answer to decode's leg
	waitInVain = 1500 * time.Millisecond // ConcurrentDispatch: from prefill's leg to decode's
)

// crossPlan gives the plan that the DiT gets in place of plan.
func (p *Proxy) crossPlan(plan string) string {
	if !p.c.Faults.CrossPlans {
		return plan
	}
	p.crossing.Lock()
	defer p.crossing.Unlock()
	if p.lastPlan == "" {
		p.lastPlan = plan // the first has nobody's to take
	}
	plan, p.lastPlan = p.lastPlan, plan
	return plan
}

// tamper applies the ticket faults: what decode gets in place of t.
func (p *Proxy) tamper(t ticket) ticket {
	faults := &p.c.Faults
	if faults.CrossTickets {
		p.crossing.Lock()
		defer p.crossing.Unlock()
		if p.previous == nil {
			p.previous = t // the first request has nobody's to take
		}
		t, p.previous = p.previous, t
	}
	switch {
	case faults.DropTicket:
		return nil
	case faults.StripTicketID:
		t = editTicket(t, func(o object) object { return o.drop("remote_request_id") })
	}
	if faults.AlterTicket {
		t = editTicket(t, func(o object) object {
			if ids := o.get("remote_block_ids"); ids != nil {
				return o.set("remote_block_ids", lastIDLess(ids))
			}
			return o
		})
	}
	return t
}

// editTicket leaves all other members as prefill wrote them. What is no object stays as it is.
func editTicket(t ticket, edit func(object) object) ticket {
	o, err := parseObject(t)
	if err != nil {
		return t
	}
	return edit(o).pieces().bytes()
}

// lastIDLess lowers the last number of a flat or grouped list of block ids by one. The id is then one that the pool has, and
// there are as many as before: a wrong number of ids, or one out of range, would be an error that decode sees. Block 0, which
// can't be lowered, becomes 1. A list without a number at its end stays as it is.
func lastIDLess(ids []byte) []byte {
	end := len(bytes.TrimRight(ids, "] \t\r\n"))
	start := end
	for start > 0 && ids[start-1] >= '0' && ids[start-1] <= '9' {
		start--
	}
	id, err := strconv.ParseInt(string(ids[start:end]), 10, 64)
	if err != nil {
		return ids
	}
	if id--; id < 0 {
		id = 1
	}
	return append(strconv.AppendInt(append([]byte(nil), ids[:start]...), id, 10), ids[end:]...)
}

// betweenLegs applies what goes wrong once prefill has answered.
func (c *call) betweenLegs() *failure {
	switch faults := &c.p.c.Faults; {
	case faults.DieBetweenLegs:
		return &failure{dead: true, cause: "proxy died between the legs, as planted"}
	case faults.LateDecode:
		return c.idle(lateDecode)
	}
	return nil
}

// notWaiting asks prefill and forgets about its answer. Decode's leg goes out when the time in which a real decode engine waits
// in vain is over. Prefill's leg ends at the latest with the request.
func (c *call) notWaiting(path, kind string, body object) *failure {
	go c.ask(path, kind, body)
	return c.idle(waitInVain)
}

// idle lets time pass.
func (c *call) idle(d time.Duration) *failure {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-c.r.Context().Done():
		return &failure{stage: "decode", cancelled: true, cause: "client went away before decode was asked"}
	}
}
