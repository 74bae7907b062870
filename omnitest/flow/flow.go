// Package flow holds the flow ledger: what a proxy says happened to each request, hop by hop.
//
// The proxy writes it, handoff and the tests read it. It is one of the three ledgers (flow, counters, content) that must
// agree before a handoff counts as proven. Nothing here decides anything; the types are plain data, JSON on the wire.
package flow

import (
	"encoding/json"
	"time"
)

// Record is one client request as the proxy saw it. Times of hops are milliseconds since Start, so that a record reads
// like a timeline ("ticket was sent by prefill at +12 ms").
type Record struct {
	Seq       int64     `json:"seq"`        // 1, 2, 3 ... in order of arrival at this proxy; a reader asks for "since seq"
	RequestID string    `json:"request_id"` // X-Request-Id of the client's request, or the one the proxy made
	Route     string    `json:"route"`      // "/v1/completions"
	Stream    bool      `json:"stream,omitempty"`
	Start     time.Time `json:"start"`
	EndMS     float64   `json:"end_ms"`             // milliseconds since Start; 0 while the request is in flight
	Status    int       `json:"status"`             // HTTP status given to the client
	Error     string    `json:"error,omitempty"`    // why the proxy failed the request, naming the stage
	Outcome   string    `json:"outcome"`            // "in-flight", "ok", "failed", "cancelled" (the client went away)
	Fallback  bool      `json:"fallback,omitempty"` // decode was allowed to run without a ticket, and did
	Hops      []Hop     `json:"hops"`
}

// Hop is one upstream request made on behalf of a client request.
type Hop struct {
	Stage       string          `json:"stage"` // "prefill", "decode", "dit"
	URL         string          `json:"url"`
	RequestID   string          `json:"request_id"`            // X-Request-Id sent on this leg
	ResponseID  string          `json:"response_id,omitempty"` // id in the response body, if any
	StartMS     float64         `json:"start_ms"`
	FirstByteMS float64         `json:"first_byte_ms,omitempty"`
	EndMS       float64         `json:"end_ms,omitempty"`
	Status      int             `json:"status,omitempty"` // 0: no response was read
	Error       string          `json:"error,omitempty"`
	TicketIn    json.RawMessage `json:"ticket_in,omitempty"`  // kv_transfer_params sent to this hop
	TicketOut   json.RawMessage `json:"ticket_out,omitempty"` // kv_transfer_params received from this hop
	Plan        string          `json:"plan,omitempty"`       // decode: text generated for the DiT; dit: text it was sent
	Bytes       int64           `json:"bytes,omitempty"`      // response body bytes passed or read
}

// Hop returns the first hop of a stage, or nil.
func (r *Record) Hop(stage string) *Hop {
	for i := range r.Hops {
		if r.Hops[i].Stage == stage {
			return &r.Hops[i]
		}
	}
	return nil
}

// Path is where a proxy serves its ledger: GET Path?since=N answers {"records":[...]} with every record of Seq > N.
const Path = "/omnitest/ledger"

// Page is the body of a ledger answer.
type Page struct {
	Records []Record `json:"records"`
}
