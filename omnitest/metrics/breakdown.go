package metrics

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/flow"
)

// The parts of a request's time, in the order of its way.
const (
	PartQueue      = "queue"       // due to sent: the wait in the client (Sample.Late)
	PartClient     = "client"      // sent to last byte, less the time inside the proxy: client, network
	PartEncode     = "encode"      // a stage of that name; of a picture what the DiT says of its encoders
	PartPrefill    = "prefill"     // the prefill leg
	PartKVTransfer = "kv_transfer" // decode leg to its first event, less one decode step
	PartDecode     = "decode"      // the rest of the decode leg
	PartDiT        = "dit"         // the DiT leg, less its encoders
	PartSpeech     = "speech"      // the speech leg
)

// Parts lists them.
var Parts = []string{PartQueue, PartClient, PartEncode, PartPrefill, PartKVTransfer, PartDecode, PartDiT, PartSpeech}

// Breakdown says where the time of one request went, in ms. Total is from due (from sent where nothing was due) to the last
// byte. Residual is what no part accounts for: the proxy's own work and waits between its legs. Negative, two parts claim the same
// time; nothing is clipped, and Notes says which.
type Breakdown struct {
	RequestID string           `json:"request_id"`
	Total     float64          `json:"total_ms"`
	Parts     map[string]Value `json:"parts_ms"` // by name; one that did not happen is left out, one that cannot be told is absent
	Residual  float64          `json:"residual_ms"`
	Notes     []string         `json:"notes,omitempty"`
}

// ResidualShare is |Residual| / Total.
func (b *Breakdown) ResidualShare() Value {
	if b.Total <= 0 {
		return Absent("the request took no time")
	}
	return Of(math.Abs(b.Residual) / b.Total)
}

// BreakDown takes a request apart by the proxy's record of it. Only durations are compared, none of the clocks of client and proxy.
// An error: the record is not this request's, is still in flight, or a leg of it has no end.
//
// The ledger sees legs. When the KV cache had come, only decode's first event tells, and that is one decode step later: the step is
// taken to be the median gap of the sample's token events. Of a plan or an answer in one piece there is no first event, so its
// transfer is in decode.
func BreakDown(s *Sample, r *flow.Record) (Breakdown, error) {
	x := &s.Exchange
	b := Breakdown{RequestID: r.RequestID, Parts: map[string]Value{}}
	switch {
	case x.RequestID != r.RequestID:
		return b, fmt.Errorf("metrics: breakdown of request %q by the record of %q", x.RequestID, r.RequestID)
	case r.Outcome == "in-flight":
		return b, fmt.Errorf("metrics: breakdown of %s: its record is still in flight", r.RequestID)
	case r.Taps != "" && r.Taps != "client":
		return b, fmt.Errorf("metrics: breakdown of %s: its record was put together from taps in front of the stages and does not hold the proxy's own time", r.RequestID)
	}
	b.Total = ms(x.End)
	if late, ok := s.Late().Get(); ok {
		b.Total += late
		b.Parts[PartQueue] = Of(late)
	}
	b.Parts[PartClient] = Of(ms(x.End) - r.EndMS)
	if ms(x.End) < r.EndMS {
		b.note("the proxy ended the request %.2f ms after the client had its last byte", r.EndMS-ms(x.End))
	}
	for i := range r.Hops {
		h := &r.Hops[i]
		if h.EndMS < h.StartMS || h.EndMS == 0 {
			return b, fmt.Errorf("metrics: breakdown of %s: the leg to %s has no end", r.RequestID, h.Stage)
		}
		b.leg(s, h)
	}
	b.overlaps(r)
	b.Residual = b.Total
	for _, v := range b.Parts {
		if t, ok := v.Get(); ok {
			b.Residual -= t
		}
	}
	return b, nil
}

func (b *Breakdown) note(format string, args ...any) {
	b.Notes = append(b.Notes, fmt.Sprintf(format, args...))
}

func (b *Breakdown) add(part string, t float64) {
	sum, _ := b.Parts[part].Get()
	b.Parts[part] = Of(sum + t)
}

func (b *Breakdown) leg(s *Sample, h *flow.Hop) {
	took := h.EndMS - h.StartMS
	switch h.Stage {
	case "decode":
		b.decode(s, h, took)
	case "dit":
		encode := s.encodeTime()
		if encode > 0 {
			b.add(PartEncode, encode)
		}
		b.add(PartDiT, took-encode)
		if encode > took {
			b.note("the DiT claims %.2f ms for its encoders in a leg of %.2f ms", encode, took)
		}
	case PartPrefill, PartEncode, PartSpeech:
		b.add(h.Stage, took)
	default:
		b.add(h.Stage, took)
		b.note("a stage %q that is no part of the usual way", h.Stage)
	}
}

func (b *Breakdown) decode(s *Sample, h *flow.Hop, took float64) {
	step, streamed := s.step()
	switch {
	case len(h.TicketIn) == 0 || string(h.TicketIn) == "null":
		b.add(PartDecode, took) // no ticket, no transfer
	case !streamed || h.FirstByteMS == 0:
		b.Parts[PartKVTransfer] = Absent("the answer of decode was not streamed in more than one event: its transfer is in decode")
		b.add(PartDecode, took)
	default:
		kv := h.FirstByteMS - h.StartMS - step
		b.add(PartKVTransfer, kv)
		b.add(PartDecode, took-kv)
		if kv < 0 {
			b.note("decode's first event came %.2f ms after its leg began, earlier than one step of %.2f ms", h.FirstByteMS-h.StartMS, step)
		}
	}
}

// step is the median gap of a stream's token events, in ms: a stall in the middle is no longer step.
func (s *Sample) step() (float64, bool) {
	var gaps []float64
	var last time.Duration
	n := 0
	for i := range s.Exchange.Events {
		e := &s.Exchange.Events[i]
		if contents(e)&isContent == 0 {
			continue
		}
		if n > 0 {
			gaps = append(gaps, ms(e.At-last))
		}
		last = e.At
		n++
	}
	slices.Sort(gaps)
	return Percentile(gaps, 50), n > 1
}

// encodeTime is what the engine says of its encoders (text_encoder, vae.encode), in ms.
func (s *Sample) encodeTime() float64 {
	sum := 0.0
	for key, v := range s.Stages {
		if strings.Contains(key, "encode") {
			if !strings.HasSuffix(key, "_ms") {
				v *= 1e3
			}
			sum += v
		}
	}
	return sum
}

// overlaps says which legs ran at the same time, and by how much.
func (b *Breakdown) overlaps(r *flow.Record) {
	for i := range r.Hops {
		for j := range r.Hops[:i] {
			p, q := &r.Hops[j], &r.Hops[i]
			if both := min(p.EndMS, q.EndMS) - max(p.StartMS, q.StartMS); both > 0 {
				b.note("%s and %s overlap by %.2f ms", p.Stage, q.Stage, both)
			}
		}
	}
}
