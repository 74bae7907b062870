package proxy

// Faults are the failures that the proxy can be told to have. All false: a healthy proxy.
type Faults struct {
	DropTicket   bool `json:",omitempty" stage:"proxy" fault:"drop-ticket" doc:"never forwards the ticket to decode, and says nothing (F1)"`
	CrossTickets bool `json:",omitempty" stage:"proxy" fault:"cross-tickets" doc:"sends each request to decode with the previous request's ticket (F3)"`
}
