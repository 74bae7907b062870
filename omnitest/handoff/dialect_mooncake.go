package handoff

import "encoding/json"

// Mooncake is MooncakeConnector. Not recorded. Both legs run at once: the proxy picks a transfer_id for both, asks prefill's
// bootstrap server (port 8998 by default) for its engine id, and makes up what decode is sent; prefill answers with nothing. vLLM
// has statistics of it of whose series no name is known, so bytes, failures and expiries are not counted here.
var Mooncake = func() Dialect {
	d := vllm
	d.Name = "mooncake"
	d.Connectors, d.Marks = []string{"MooncakeConnector"}, []string{"remote_bootstrap_addr"}
	d.TicketBy = "proxy"
	d.Ticket = []Key{
		{Name: "transfer_id", Is: Text}, {Name: "remote_bootstrap_addr", Is: URL}, {Name: "remote_engine_id", Is: Text},
		{Name: "do_remote_prefill", Is: True}, {Name: "do_remote_decode", Is: False, Optional: true},
	}
	d.Lacks = "mooncake: no series of its bytes and failures is known, so the verdict rests on tokens and content"
	return d
}()

// sameTransfer says what is wrong with the ids by which the two legs of a proxy's ticket find each other: prefill only warns
// of a missing transfer_id, and decode then waits. "" where neither leg has one.
func sameTransfer(prefill, decode json.RawMessage) string {
	p, d := member(prefill, "transfer_id"), member(decode, "transfer_id")
	switch {
	case p == d:
		return ""
	case p == "":
		return "prefill was sent no transfer_id, decode " + d
	case d == "":
		return "decode was sent no transfer_id, prefill " + p
	}
	return "prefill was sent transfer_id " + p + ", decode " + d
}
