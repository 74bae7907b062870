package handoff

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/flow"
)

// TicketsWellFormed judges the tickets that the flow ledger saw, against the dialect and against their requests: keys and
// types (CheckTicket), as many blocks as remote_num_tokens needs, a host that decode can dial, the same ticket at both ends.
// Without a ledger, or where there are no tickets, it is inconclusive. Its notes hold a diff of each altered ticket.
//
// It reads what went over the wire. A ticket that is well-formed and another request's, or that names blocks which were
// given away since, is the question of Proven and of the probes.
func TicketsWellFormed(e *Evidence) Verdict {
	return judge(e, "the tickets on the wire are whole, well-formed and fit their requests",
		[]rule{ticketsSeen, tickets, proxyTickets, requestIDs, ticketFits, ticketDiffs, attestTickets})
}

// lastLegs gives the last prefill and decode leg of a request that came to its end.
func (r request) lastLegs() (p, d *flow.Hop) {
	if r.rec == nil || r.rec.Outcome == "in-flight" {
		return nil, nil
	}
	return lastHop(r.rec, "prefill"), lastHop(r.rec, "decode")
}

func ticketsSeen(c *exam) {
	switch {
	case !c.Flow.Kept:
		c.doubt("no-ledger", "", "no flow ledger (%s): no ticket was seen", orUnknown(c.Flow.Note))
	case c.Flow.Note != "":
		c.doubt("ledger-lost", "", "flow ledger %s", c.Flow.Note)
	case c.d.TicketBy == "" && c.d.RequestID == nil:
		c.doubt("no-tickets", "", "%s has no tickets: nothing to look at", c.d.Name)
	case c.d.TicketBy == "prefill" && c.d.Ask == nil:
		c.note("how %s asks for a ticket is not known: that each request got one was not checked", c.d.Name)
	}
}

// proxyTickets: where the proxy makes the ticket, decode's must be well-formed and both legs must speak of one transfer.
func proxyTickets(c *exam) {
	if c.d.TicketBy != "proxy" {
		return
	}
	for _, r := range c.requests {
		p, d := r.lastLegs()
		if d == nil {
			continue
		}
		if err := CheckTicket(c.d, d.TicketIn); err != nil {
			c.refute("ticket-malformed", r.id, "what decode was sent: %v", err)
			continue
		}
		if p != nil {
			if why := sameTransfer(p.TicketIn, d.TicketIn); why != "" {
				c.refute("ticket-crossed", r.id, "%s", why)
			}
		}
	}
}

func requestIDs(c *exam) {
	if c.d.RequestID == nil {
		return
	}
	for _, r := range c.requests {
		p, d := r.lastLegs()
		for _, h := range []*flow.Hop{p, d} {
			if h == nil {
				continue
			}
			if err := c.d.RequestID(h.RequestID); err != nil {
				c.refute("request-id", r.id, "%s leg: %v", h.Stage, err)
			}
		}
		if p != nil && d != nil && p.RequestID != d.RequestID {
			c.refute("request-id", r.id, "prefill was sent request id %q, decode %q: they never meet", p.RequestID, d.RequestID)
		}
	}
}

// ticketFits holds a ticket against its request and its window: the number of blocks, the tokens, the host.
func ticketFits(c *exam) {
	for _, r := range c.requests {
		p, d := r.lastLegs()
		if p != nil && p.TicketOut != nil && CheckTicket(c.d, p.TicketOut) == nil {
			c.fits(r, p.TicketOut, "")
			c.dialled(r, p.TicketOut, "")
		}
		if d != nil && d.TicketIn != nil && (p == nil || !sameTicket(p.TicketOut, d.TicketIn)) && c.d.TicketBy == "prefill" {
			if err := CheckTicket(c.d, d.TicketIn); err != nil {
				c.refute("ticket-malformed", r.id, "what decode was sent: %v", err)
			} else {
				c.fits(r, d.TicketIn, "what decode was sent: ")
				c.dialled(r, d.TicketIn, "what decode was sent: ")
			}
		}
		if d != nil && c.d.TicketBy == "proxy" && CheckTicket(c.d, d.TicketIn) == nil {
			c.dialled(r, d.TicketIn, "")
		}
	}
}

// fits: blocks are ceil(tokens / block size) (recorded for 16 to 1024 tokens), one too few kills decode (recorded on 0.26 and 0.32).
func (c *exam) fits(r request, ticket json.RawMessage, whose string) {
	tokens, blocks := ticketTokens(ticket), TicketBlocks(ticket)
	if told := r.obs; told != nil && told.PromptTokens > 0 && tokens > 0 && told.PromptTokens != tokens {
		c.refute("ticket-tokens", r.id, "%sremote_num_tokens is %d, the client was told of %d prompt tokens", whose, tokens, told.PromptTokens)
	}
	size, guess := c.BlockSize, c.BlockSizeFrom == "assumed"
	if c.PrefillBlockSize > 0 {
		size, guess = c.PrefillBlockSize, false
	}
	if tokens == 0 || blocks == 0 || size <= 0 || member(ticket, "_p_side_truncated") != "" || member(ticket, "_remote_blocks_processed") != "" {
		return
	}
	want := ceilDiv(tokens, size)
	if blocks == want {
		return
	}
	text := fmt.Sprintf("%sticket names %d block%s for %d tokens, %d of %d tokens are needed", whose, blocks, plural(float64(blocks)), tokens, want, size)
	if guess {
		c.doubt("ticket-blocks", r.id, "%s, but the block size is assumed", text)
		return
	}
	c.refute("ticket-blocks", r.id, "%s", text)
}

// dialled: a loopback address in a ticket leads decode to itself, unless both engines are on one machine (F17: the host of the
// side channel was left unset). Bytes that moved settle it.
func (c *exam) dialled(r request, ticket json.RawMessage, whose string) {
	host, key := "", ""
	for _, k := range c.d.Ticket {
		switch v := text(find(keysOf(ticket), k.Name)); k.Is {
		case Host:
			host, key = v, k.Name
		case URL:
			if u, err := url.Parse(v); err == nil {
				host, key = u.Hostname(), k.Name
			}
		}
	}
	p, d := hostOf(c.Prefill.MetricsURL), hostOf(c.Decode.MetricsURL)
	if host != p && host != "localhost" && p != "" && p != "localhost" {
		c.note("%s%s is %s, and prefill answers at %s: a network of its own, or nobody's?", whose, key, host, p)
	}
	if !loopback(host) {
		return
	}
	if p == "" || d == "" {
		c.note("whether %s is prefill as decode sees it is not known: the engines' URLs were not told", host)
		return
	}
	if p == d || loopback(p) && loopback(d) {
		return
	}
	if moved, ok := c.Decode.get(c.d.Bytes); ok && moved > 0 {
		c.note("%s%s is %s and decode is at %s, yet bytes moved", whose, key, host, d)
		return
	}
	c.refute("ticket-host", r.id, "%s%s is %s, which leads decode at %s to itself; prefill is at %s", whose, key, host, d, p)
}

func keysOf(ticket json.RawMessage) (keys map[string]json.RawMessage) {
	_ = json.Unmarshal(ticket, &keys)
	return keys
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func hostOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// ticketDiffs adds what changed between the ends, key by key.
func ticketDiffs(c *exam) {
	for _, r := range c.requests {
		p, d := r.lastLegs()
		if p == nil || d == nil || p.TicketOut == nil || d.TicketIn == nil {
			continue
		}
		if diff := TicketDiff(p.TicketOut, d.TicketIn); diff != "" {
			c.note("ticket of request %s, as prefill sent it (-) and as decode got it (+):\n%s", r.id, diff)
		}
	}
}

func attestTickets(c *exam) {
	n, blocks := 0, 0
	for _, r := range c.requests {
		p, d := r.lastLegs()
		switch {
		case d == nil:
		case c.d.RequestID != nil && p != nil && c.d.RequestID(d.RequestID) == nil:
			n++
		case d.TicketIn == nil || CheckTicket(c.d, d.TicketIn) != nil:
		case c.d.TicketBy == "proxy" || p != nil && sameTicket(p.TicketOut, d.TicketIn):
			n++
			blocks += TicketBlocks(d.TicketIn)
		}
	}
	if n == 0 {
		return
	}
	what := fmt.Sprintf("%d ticket%s of %s", n, plural(float64(n)), c.d.Name)
	if c.d.RequestID != nil {
		what = fmt.Sprintf("%d request id%s of %s", n, plural(float64(n)), c.d.Name)
	}
	if blocks > 0 {
		what += fmt.Sprintf(", %d block%s", blocks, plural(float64(blocks)))
	}
	c.attest("tickets", "%s, every key as it must be", what)
}

// TicketDiff shows what differs between a ticket as it was sent and as it arrived, a line for each key, sorted: "- " was sent, "+ "
// arrived. "" for tickets with equal values, however they are spaced or ordered.
func TicketDiff(sent, got json.RawMessage) string {
	a, b := keysOf(sent), keysOf(got)
	if a == nil || b == nil {
		if sameTicket(sent, got) {
			return ""
		}
		return "- " + string(compact(sent)) + "\n+ " + string(compact(got))
	}
	all := maps.Clone(a)
	maps.Copy(all, b)
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(all)) {
		v, was := a[k]
		w, is := b[k]
		if was && is && sameTicket(v, w) {
			continue
		}
		if was {
			lines = append(lines, fmt.Sprintf("- %s: %s", k, compact(v)))
		}
		if is {
			lines = append(lines, fmt.Sprintf("+ %s: %s", k, compact(w)))
		}
	}
	return strings.Join(lines, "\n")
}
