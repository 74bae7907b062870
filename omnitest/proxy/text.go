package proxy

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/omnitest/suite/omnitest/flow"
)

// ticket is the kv_transfer_params object that prefill returned, byte for byte; nil: none.
type ticket = json.RawMessage

// askTicket asks a prefill engine to compute the KV cache and hold it for another engine (NIXL pull mode, vLLM 0.32).
var askTicket = ticket(`{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}`)

// completions is POST /v1/completions.
func (c *call) completions() *failure {
	body, f := c.readObject()
	if f != nil {
		return f
	}
	if n := promptCount(body.get("prompt")); n > 1 {
		// vLLM answers a list of prompts with one ticket, that of the first: decode would use the first prompt's KV cache
		// for all of them, with status 200.
		return badRequest("BadRequestError", "prompt", "%d prompts in one request, and prefill gives one ticket: send them one by one", n)
	}
	return c.text("/v1/completions", body)
}

// text is both legs of a text request: prefill, then decode's answer straight to the client.
func (c *call) text(path string, body object) *failure {
	if c.p.c.Prefill == "" {
		return noStage("prefill")
	}
	c.update(func(r *flow.Record) { r.Stream = string(body.get("stream")) == "true" })
	kind := c.r.Header.Get("Content-Type") // the client's own: a wrong one is for vLLM to refuse
	if c.p.c.Faults.CacheAnswers && string(body.get("stream")) != "true" {
		return c.cached(path, kind, body)
	}
	t, f := c.prefill(path, kind, body)
	if f != nil {
		return f
	}
	rep, f := c.send(c.decodeLeg(path, kind, body, t))
	if f, done := c.falsify(path, body, rep, f); done || f != nil {
		return f
	}
	return rep.relay()
}

// prefill runs the first leg and returns the ticket that decode is to get. A nil ticket without a failure is a declared
// fallback (or a planted fault).
func (c *call) prefill(path, kind string, body object) (ticket, *failure) {
	faults := &c.p.c.Faults
	if faults.ConcurrentDispatch {
		return nil, c.notWaiting(path, kind, body)
	}
	t, f := c.ask(path, kind, body)
	if f == nil && faults.SecondPrefill {
		t, f = c.ask(path, kind, body)
	}
	switch {
	case f == nil:
		if f = c.betweenLegs(); f != nil {
			return nil, f
		}
		return c.p.tamper(t), nil
	case f.cancelled || f.answer != nil:
		return nil, f
	case faults.SilentFallback:
		return nil, nil
	case !c.p.c.AllowFallback:
		return nil, f
	}
	c.w.Header().Set(FallbackHeader, f.Error())
	c.update(func(r *flow.Record) { r.Fallback = true })
	c.p.metrics.fallbacks.Inc()
	return nil, nil
}

// ask sends the prefill leg: the client's body, cut to one token and not streamed (only a body that is not streamed carries
// a ticket; so also with Faults.KeepLimits). min_tokens above 1 would make vLLM refuse max_tokens=1.
func (c *call) ask(path, kind string, body object) (ticket, *failure) {
	b := body.drop("stream_options", "best_of").set("stream", []byte("false"))
	if b.has("n") {
		b = b.set("n", []byte("1"))
	}
	if !c.p.c.Faults.KeepLimits {
		b = oneToken(b)
	}
	b = b.set("kv_transfer_params", askTicket)
	rep, f := c.send(leg{stage: "prefill", path: path, kind: kind, body: b.pieces(), sent: askTicket})
	if f != nil {
		return nil, f
	}
	raw, f := rep.whole()
	if f != nil {
		return nil, f
	}
	a, cause := readAnswer(raw)
	if cause == "" {
		cause = noTicket(&a)
	}
	rep.update(func(h *flow.Hop) { h.ResponseID, h.TicketOut = a.ID, a.ticket() })
	rep.end(cause)
	if cause != "" {
		return nil, badGateway("prefill", cause)
	}
	return a.Ticket, nil
}

// oneToken limits an answer to one token.
func oneToken(b object) object {
	b = b.drop("min_tokens", "min_completion_tokens").set("max_tokens", []byte("1"))
	if b.has("max_completion_tokens") {
		b = b.set("max_completion_tokens", []byte("1"))
	}
	return b
}

// decodeLeg is the client's own request plus the ticket. A ticket that the client put in is taken out in any case: decode
// trusts tickets, and another request's ticket gives another request's content.
func (c *call) decodeLeg(path, kind string, body object, t ticket) leg {
	if c.p.c.Faults.LoseLimits {
		body = oneToken(body)
	}
	if t == nil {
		body = body.drop("kv_transfer_params")
	} else {
		body = body.set("kv_transfer_params", t)
	}
	return leg{stage: "decode", path: path, kind: kind, body: body.pieces(), sent: t}
}

// readAnswer reads the 200 of an AR engine; cause is why it is none.
func readAnswer(raw []byte) (a stageAnswer, cause string) {
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Sprintf("200 with a body that is no completion: %q (%v)", excerpt(raw), err)
	}
	return a, a.errorInside(raw)
}

// noTicket says what stands in the ticket's place, "" if a ticket does.
func noTicket(a *stageAnswer) string {
	finish := a.finish()
	switch t := bytes.TrimSpace(a.Ticket); {
	case t == nil:
		return "200 without a ticket: kv_transfer_params is absent" + finish
	case string(t) == "null":
		return "200 without a ticket: kv_transfer_params is null" + finish
	case t[0] != '{' || len(bytes.TrimSpace(t[1:len(t)-1])) == 0:
		return "200 without a ticket: kv_transfer_params is " + excerpt(t) + finish
	}
	return ""
}

// promptCount tells how many prompts a completion's prompt field holds: a string and a list of token ids are one.
func promptCount(prompt json.RawMessage) int {
	if len(prompt) == 0 || prompt[0] != '[' {
		return 1
	}
	list, err := parseList(prompt)
	if err != nil || len(list) == 0 {
		return 1
	}
	if first := list[0][0]; first == '"' || first == '[' {
		return len(list)
	}
	return 1
}
