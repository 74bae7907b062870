package handoff

import "encoding/json"

// nixlTicket is the ticket of NixlConnector: recorded from vLLM 0.26.0 and 0.32.0, the newer keys optional. Without one of the
// required ones vLLM decode carries on without a transfer, or hangs (recorded on 0.32.0 for remote_request_id).
var nixlTicket = []Key{
	{Name: "remote_engine_id", Is: Text}, {Name: "remote_request_id", Is: Text}, {Name: "remote_host", Is: Host},
	{Name: "remote_port", Is: Port}, {Name: "remote_block_ids", Is: Blocks},
	{Name: "do_remote_prefill", Is: True, Optional: true}, {Name: "do_remote_decode", Is: False, Optional: true},
	{Name: "tp_size", Is: Count, Optional: true}, {Name: "dcp_size", Is: Count, Optional: true}, {Name: "pp_size", Is: Count, Optional: true},
	{Name: "remote_num_tokens", Is: Count, Optional: true}, {Name: "transfer_mode", Is: Text, Optional: true},
}

// NIXL is NixlConnector in pull mode: decode reads prefill's blocks. The default, and what the reference stack speaks.
//
// It holds for every epoch of vLLM since tokens are told by source (about 0.16; before that the series are absent and verdicts
// inconclusive). About 0.16 to 0.19 also counted a last token as recomputed and named blocks in a flat list; both are
// optional here. The recordings are of 0.26.0 and 0.32.0, the rest is as the connector's issues tell it.
var NIXL = func() Dialect {
	d := vllm
	d.Name = "nixl"
	d.Connectors, d.Signs, d.Marks = []string{"NixlConnector"}, []string{"vllm:nixl_"}, []string{"remote_block_ids"}
	d.TicketBy = "prefill"
	d.Ask = json.RawMessage(`{"do_remote_decode":true,"do_remote_prefill":false,"remote_engine_id":null,"remote_block_ids":null,"remote_host":null,"remote_port":null}`)
	d.Ticket = nixlTicket
	d.Check = func(t map[string]json.RawMessage) []string {
		if mode := text(t["transfer_mode"]); mode != "" && mode != "pull" {
			return []string{`transfer_mode is "` + mode + `": pull mode reads blocks, see NIXLPush`}
		}
		return nil
	}
	d.Bytes = Series{Name: "vllm:nixl_bytes_transferred_sum"}
	d.Transfers = Series{Name: "vllm:nixl_bytes_transferred_count"}
	d.FailedTransfers = Series{Name: "vllm:nixl_num_failed_transfers_total"}
	d.FailedNotifications = Series{Name: "vllm:nixl_num_failed_notifications_total"}
	d.Expired = Series{Name: "vllm:nixl_num_kv_expired_reqs_total"}
	d.LateNotices = optional("vllm:nixl_num_notifications_after_expiry_total")
	return d
}()

// NIXLPush is NixlPushConnector: prefill writes into blocks that decode registered. Not recorded. Its ticket has NIXL's keys
// and says transfer_mode "push"; how prefill is asked, and which side counts bytes and failures, is not known, so none of
// them is named.
var NIXLPush = func() Dialect {
	d := vllm
	d.Name = "nixl-push"
	d.Connectors, d.TicketBy, d.Ticket = []string{"NixlPushConnector"}, "prefill", nixlTicket
	d.Check = func(t map[string]json.RawMessage) []string {
		if mode := text(t["transfer_mode"]); mode != "push" {
			return []string{`transfer_mode is "` + mode + `", want "push"`}
		}
		return nil
	}
	d.Lacks = "nixl-push: which side counts bytes is not known, so the verdict rests on tokens and content"
	return d
}()
