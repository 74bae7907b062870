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
	Outcome   string    `json:"outcome"`            // "in-flight", "ok", "failed", "cancelled" (the client went away), "unjoined" (see Taps)
	Fallback  bool      `json:"fallback,omitempty"` // decode was allowed to run without a ticket, and did
	Hops      []Hop     `json:"hops"`

	// Sent is the client's own request as Sent (the function) keeps it; nil: not recorded.
	Sent json.RawMessage `json:"sent,omitempty"`
	// Taps says who tells this record where it is not the proxy itself: "stages", put together from what taps in front of the
	// stages saw, so that Status and Outcome are those of the last stage and not of the client; "client", there was also one in
	// front of the proxy. A leg that fits no request for certain is a record of its own, "unjoined", and Error says why.
	Taps string `json:"taps,omitempty"`
}

// Hop is one upstream request made on behalf of a client request.
type Hop struct {
	Stage       string          `json:"stage"` // "prefill", "decode", "dit"; "speech" of /v1/audio/speech
	URL         string          `json:"url"`
	RequestID   string          `json:"request_id"`            // X-Request-Id sent on this leg
	ResponseID  string          `json:"response_id,omitempty"` // id in the response body, if any
	StartMS     float64         `json:"start_ms"`
	FirstByteMS float64         `json:"first_byte_ms,omitempty"` // first byte of the body: of a stream the first event, not the header
	EndMS       float64         `json:"end_ms,omitempty"`
	Status      int             `json:"status,omitempty"` // 0: no response was read
	Error       string          `json:"error,omitempty"`
	TicketIn    json.RawMessage `json:"ticket_in,omitempty"`  // kv_transfer_params sent to this hop
	TicketOut   json.RawMessage `json:"ticket_out,omitempty"` // kv_transfer_params received from this hop
	Plan        string          `json:"plan,omitempty"`       // decode: text generated for the DiT; dit: text it was sent
	Bytes       int64           `json:"bytes,omitempty"`      // response body bytes passed or read

	Sent       json.RawMessage   `json:"sent,omitempty"`        // body of this leg as Sent keeps it; nil: not recorded
	SentHeader map[string]string `json:"sent_header,omitempty"` // of this leg; of headers that may hold a secret only "present"
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

// Path is where a proxy serves its ledger: GET Path?since=N answers {"records":[...]} with every record of Seq > N that the
// proxy still holds, oldest first, those in flight too. A record in flight keeps its Seq and changes until it ends, so a
// reader goes on from before the oldest one that it saw in flight. Who has read an answer to its end (not only to [DONE])
// finds the record ended.
const Path = "/omnitest/ledger"

// Page is the body of a ledger answer.
type Page struct {
	Records []Record `json:"records"`
	Last    int64    `json:"last"` // highest Seq so far, also of records that were not asked for; 0: none yet
}
