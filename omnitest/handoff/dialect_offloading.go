package handoff

// Offloading is OffloadingConnector with its P2P tier (#42285). Not recorded. The proxy makes up a kv_request_id: prefill is
// sent remote_decoder with it, decode remote_prefiller with it and prefill's host and port (7777 by default); prefill answers
// with nothing. Its series begin with vllm:kv_offload_, and none of their names is known, nor how many tokens move together.
// A load that takes longer than 30 s falls to the failure policy.
var Offloading = func() Dialect {
	d := vllm
	d.Name, d.TailUnknown = "offloading", true
	d.Connectors, d.Signs, d.Marks = []string{"OffloadingConnector"}, []string{"vllm:kv_offload_"}, []string{"remote_prefiller", "remote_decoder", "remote_kv_source"}
	d.TicketBy = "proxy"
	d.Ticket = []Key{
		{Name: "remote_prefiller.kv_request_id", Is: Text}, {Name: "remote_prefiller.remote_host", Is: Host},
		{Name: "remote_prefiller.remote_port", Is: Port},
	}
	d.Lacks = "offloading: no name of its series is known, so the verdict rests on tokens and content"
	return d
}()
