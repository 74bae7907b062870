package wiretap

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// mark is where a request at a tap writes what becomes of it: a hop of its record, or in front of the proxy the record itself. A
// nil mark writes nothing.
type mark struct {
	b     *book
	r     *record
	hop   int // -1: the client's own request
	ended bool
}

// begin notes a request that has arrived.
func (b *book) begin(stage, url string, r *http.Request, body []byte, now time.Time) *mark {
	s := readSent(r, body)
	a := arrival{stage: stage, route: r.URL.Path, id: r.Header.Get("X-Request-Id"), key: s.key}
	if stage == "dit" {
		a.plan = s.text
	}
	sent := flow.Sent(body)
	b.mu.Lock()
	defer b.mu.Unlock()
	if stage == "entry" {
		if old := b.newest[a.id]; a.id != "" && old != nil && old.client && old.Outcome == "in-flight" {
			b.shared[a.id] = true
		}
		rec := b.add(a)
		rec.client, rec.Taps, rec.Stream, rec.Sent = true, "client", s.stream, sent
		return &mark{b: b, r: rec, hop: -1}
	}
	rec := b.place(a)
	b.name(rec, a.id)
	if stage == "prefill" {
		rec.asked = a.key
	}
	if stage == "dit" {
		defer rec.planned()
	}
	if stage == "decode" && !rec.client {
		rec.Stream = s.stream
	}
	m := &mark{b: b, r: rec, hop: len(rec.Hops)}
	rec.Hops = append(rec.Hops, flow.Hop{
		Stage: stage, URL: url, RequestID: a.id, StartMS: m.ms(now), TicketIn: s.ticket, Plan: a.plan, Sent: sent, SentHeader: headers(r.Header),
	})
	return m
}

// planned writes decode's text into its leg where it was a plan: of a request for a picture. b.mu is held.
func (r *record) planned() {
	if r.Hop("dit") == nil && !strings.HasPrefix(r.Route, "/v1/images/") {
		return
	}
	for i := range r.Hops {
		if h := &r.Hops[i]; h.Stage == "decode" {
			h.Plan = r.plan
		}
	}
}

// ms is milliseconds since the record's start, never 0: there 0 says "not yet".
func (m *mark) ms(now time.Time) float64 {
	return max(float64(now.Sub(m.r.Start))/float64(time.Millisecond), 1e-6)
}

func (m *mark) update(f func(h *flow.Hop)) {
	if m == nil {
		return
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	if m.hop >= 0 && !m.ended {
		f(&m.r.Hops[m.hop])
	}
}

// header notes that the answer begins. In front of the proxy it gives the request's id; a client that sent none takes the
// answer's.
func (m *mark) header(status int, answered string) (id string) {
	if m == nil {
		return ""
	}
	m.update(func(h *flow.Hop) { h.Status = status })
	if m.hop >= 0 {
		return ""
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.r.Status = status
	if strings.HasPrefix(m.r.RequestID, "tap-") && answered != "" {
		m.r.RequestID = answered
	}
	return m.r.RequestID
}

// fallback notes that the client was told of one.
func (m *mark) fallback(declared string) {
	if declared == "" || m.hop >= 0 {
		return
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	m.r.Fallback = true
}

func (m *mark) firstByte() {
	now := time.Now()
	m.update(func(h *flow.Hop) { h.FirstByteMS = m.ms(now) })
}

// finish notes a whole answer; what is wrong with it is read from the observer.
func (m *mark) finish(o *observer, status int, n int64) {
	cause := o.end(status)
	m.update(func(h *flow.Hop) {
		h.ResponseID, h.TicketOut, h.Bytes = o.id, o.ticket, n
		if h.Stage == "decode" && m.b.plans {
			m.r.plan = o.text
			m.r.planned()
		}
		if o.unread != "" && h.Stage == "prefill" && m.r.loose == "" { // whether there was a ticket is not known
			m.r.loose = h.Stage + ": " + o.unread
		}
	})
	m.end(cause, false)
}

// lost notes an answer that did not come, or not whole. got says how far it came.
func (m *mark) lost(ctx context.Context, err error, got string) {
	who, cause := gone, got
	if m.hop < 0 {
		who = clientGone
	}
	left := ctx.Err() != nil || errors.Is(err, context.Canceled)
	var dial *net.OpError
	var u *url.Error
	switch {
	case left:
		cause = who + ": " + got
	case errors.As(err, &dial) && dial.Op == "dial":
		cause = dial.Error()
	case errors.As(err, &u):
		cause += ": " + u.Err.Error()
	case errors.Is(err, io.EOF):
		cause += ": EOF"
	default:
		cause += ": " + err.Error()
	}
	m.end(cause, left)
}

// end closes the leg, or the client's request; only the first call counts. cause "" is a good end.
func (m *mark) end(cause string, left bool) {
	if m == nil {
		return
	}
	m.b.mu.Lock()
	defer m.b.mu.Unlock()
	if m.ended {
		return
	}
	m.ended = true
	now := m.ms(time.Now())
	if m.hop >= 0 {
		h := &m.r.Hops[m.hop]
		h.EndMS, h.Error = now, cause
		m.r.cancelled = m.r.cancelled || left
		return
	}
	m.r.EndMS, m.r.Error, m.r.Outcome = now, cause, "ok"
	switch {
	case left:
		m.r.Outcome = "cancelled"
	case cause != "":
		m.r.Outcome = "failed"
	}
}

// plain are the headers whose values are kept. Any other may hold a secret.
var plain = []string{"Content-Type", "Accept", "User-Agent", "X-Request-Id", "X-Data-Parallel-Rank", "X-Prefiller-Host-Port"}

func headers(h http.Header) map[string]string {
	kept := make(map[string]string, len(h))
	for name, v := range h {
		kept[name] = "present"
		if slices.Contains(plain, name) {
			kept[name] = strings.Join(v, ", ")
		}
	}
	return kept
}
