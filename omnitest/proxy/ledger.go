package proxy

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

const ledgerSize = 4096 // records kept in memory; older ones live on in the ledger file only

// ledger is the ring of records. One lock for all: an update is a few assignments, and a reader copies under it.
type ledger struct {
	metrics *metrics

	mu   sync.Mutex
	last int64 // Seq of the newest record
	ring [ledgerSize]*flow.Record

	fileMu  sync.Mutex
	file    *os.File
	fileErr error // the first write that failed; later records are not tried, so the file has no hole in its middle
}

func newLedger(path string, m *metrics) (*ledger, error) {
	l := &ledger{metrics: m}
	if path == "" {
		return l, nil
	}
	var err error
	l.file, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	return l, err
}

const (
	smallBody = 4 << 10   // kept as it is: no member of it is too long for flow.Sent
	largeBody = 256 << 10 // pictures in base64: reading one again would cost more than the leg; not kept
)

// kept is what the ledger remembers of a JSON body; nil: nothing.
func kept(p pieces) json.RawMessage {
	n := p.size()
	if n > largeBody {
		return nil
	}
	body := make([]byte, 0, n)
	for _, part := range p.parts {
		body = append(body, part...)
	}
	if n > smallBody {
		return flow.Sent(body)
	}
	return body
}

// entry is the handle on a record that is still being written.
type entry struct {
	l     *ledger
	rec   *flow.Record
	start time.Time // with the monotonic reading
	done  sync.Once
}

func (l *ledger) begin(route, requestID string) *entry {
	now := time.Now()
	rec := &flow.Record{RequestID: requestID, Route: route, Start: now, Outcome: "in-flight", Hops: []flow.Hop{}}
	l.metrics.inFlight.Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	rec.Seq = l.last
	l.ring[l.last%ledgerSize] = rec
	return &entry{l: l, rec: rec, start: now}
}

// now is milliseconds since the record's start. Never 0: there 0 says "not yet".
func (e *entry) now() float64 {
	return max(float64(time.Since(e.start))/float64(time.Millisecond), 1e-6)
}

// update changes a record in flight. A finished one is never changed: readers share its hops.
func (e *entry) update(f func(*flow.Record)) {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	if e.rec.Outcome == "in-flight" {
		f(e.rec)
	}
}

// finish closes the record; only the first call counts. cause: "" for a good end.
func (e *entry) finish(outcome string, status int, cause string) {
	e.done.Do(func() {
		e.l.mu.Lock()
		e.rec.Outcome, e.rec.Status, e.rec.Error, e.rec.EndMS = outcome, status, cause, e.now()
		rec := *e.rec // shares the hops: they don't change any more
		e.l.mu.Unlock()
		e.l.metrics.inFlight.Dec()
		e.l.metrics.requests.WithLabelValues(rec.Route, outcome).Inc()
		e.l.append(&rec)
	})
}

func (l *ledger) append(rec *flow.Record) {
	if l.file == nil {
		return
	}
	line, err := json.Marshal(rec)
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	if l.fileErr != nil {
		return
	}
	if err == nil {
		_, err = l.file.Write(append(line, '\n'))
	}
	if err != nil {
		l.fileErr = fmt.Errorf("ledger file ends before seq %d: %w", rec.Seq, err)
		l.metrics.ledgerBroken.Set(1)
	}
}

func (l *ledger) close() error {
	if l.file == nil {
		return nil
	}
	l.fileMu.Lock()
	defer l.fileMu.Unlock()
	if err := l.file.Close(); err != nil && !errors.Is(err, os.ErrClosed) && l.fileErr == nil {
		l.fileErr = err
	}
	return l.fileErr
}

// since copies every record of Seq > n that is still in the ring, oldest first.
func (l *ledger) since(n int64) flow.Page {
	l.mu.Lock()
	defer l.mu.Unlock()
	page := flow.Page{Records: []flow.Record{}, Last: l.last}
	for seq := max(min(n, l.last), l.last-ledgerSize, 0) + 1; seq <= l.last; seq++ {
		rec := *l.ring[seq%ledgerSize]
		if rec.Outcome == "in-flight" {
			rec.Hops = slices.Clone(rec.Hops)
		}
		page.Records = append(page.Records, rec)
	}
	return page
}

func (l *ledger) serve(w http.ResponseWriter, r *http.Request) {
	var since int64
	if s := r.URL.Query().Get("since"); s != "" {
		var err error
		if since, err = strconv.ParseInt(s, 10, 64); err != nil {
			writeError(w, http.StatusBadRequest, "Bad Request", "since", "since="+s+": want the seq of a record, like since=17")
			return
		}
	}
	writeJSON(w, http.StatusOK, l.since(since))
}
