package wiretap

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

const (
	kept = 4096 // records
	// grace is how long a request may rest between its legs before it counts as one whose decode leg the taps did not see. A proxy
	// turns from one leg to the next within milliseconds.
	grace = time.Second
)

// book is the ledger. One lock for all: an update is a few assignments, and a reader copies under it.
type book struct {
	mu      sync.Mutex
	last    int64
	records []*record          // oldest first
	clients bool               // there is a tap in front of the proxy
	plans   bool               // there is a DiT whose legs may be joined by decode's text
	newest  map[string]*record // by id
	shared  map[string]bool    // ids that are not one request's
}

func newBook(plans bool) *book {
	return &book{plans: plans, newest: map[string]*record{}, shared: map[string]bool{}}
}

func (b *book) front() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.clients = true
}

// add appends a record; b.mu is held.
func (b *book) add(a arrival) *record {
	b.last++
	r := &record{key: a.key, Record: flow.Record{Seq: b.last, RequestID: a.id, Route: a.route, Start: time.Now(), Outcome: "in-flight", Hops: []flow.Hop{}}}
	if a.id == "" {
		r.RequestID = fmt.Sprintf("tap-%d", b.last)
	}
	b.name(r, a.id)
	if len(b.records) == kept { // in one go: a shift per request would cost
		for _, old := range b.records[:kept/8] {
			for _, id := range old.ids {
				if b.newest[id] == old {
					delete(b.newest, id)
				}
			}
		}
		b.records = slices.Delete(b.records, 0, kept/8)
	}
	b.records = append(b.records, r)
	return r
}

// name notes that a leg or the client of a record uses an id.
func (b *book) name(r *record, id string) {
	if id != "" && !slices.Contains(r.ids, id) {
		r.ids = append(r.ids, id)
		b.newest[id] = r
	}
}

// page copies what is newer than since.
func (b *book) page(since int64, now time.Time) flow.Page {
	b.mu.Lock()
	defer b.mu.Unlock()
	page := flow.Page{Records: []flow.Record{}, Last: b.last}
	for _, r := range b.records {
		if r.Seq <= since {
			continue
		}
		rec := r.Record
		rec.Hops = slices.Clone(r.Hops)
		r.outcome(&rec, now)
		page.Records = append(page.Records, rec)
	}
	return page
}

// outcome fills in how a record stands. With a client in sight that is the client's own end; else it is the last leg's.
func (r *record) outcome(rec *flow.Record, now time.Time) {
	ended := 0.0
	for i := range r.Hops {
		if !r.client && r.Hops[i].EndMS == 0 {
			return // in flight
		}
		ended = max(ended, r.Hops[i].EndMS)
	}
	if r.client {
		if r.loose != "" && r.Outcome != "in-flight" {
			rec.Outcome, rec.Error = "unjoined", r.loose
		}
		return
	}
	rec.EndMS = ended
	h := r.final()
	rec.Status = h.Status
	switch {
	case r.loose != "":
		rec.Outcome, rec.Error = "unjoined", r.loose
	case r.cancelled:
		rec.Outcome, rec.Error = "cancelled", h.Stage+": "+h.Error
	case h.Error != "":
		rec.Outcome, rec.Error = "failed", h.Stage+": "+h.Error
	case h.Stage != "prefill":
		rec.Outcome = "ok"
	case now.Sub(r.Start)-time.Duration(ended*float64(time.Millisecond)) > grace:
		rec.Outcome, rec.Error = "unjoined", fmt.Sprintf("prefill answered at +%.0f ms, and no decode leg was seen", ended)
	}
}

// final is the leg that the client's answer came from, or would have: the latest of the last stage that was asked.
func (r *record) final() *flow.Hop {
	for _, stage := range []string{"dit", "decode", "prefill"} {
		for i := len(r.Hops) - 1; i >= 0; i-- {
			if r.Hops[i].Stage == stage {
				return &r.Hops[i]
			}
		}
	}
	return &flow.Hop{} // a record begins with a leg
}
