package eventlog

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// minEvent is the length of the shortest event: six numbers of one byte.
const minEvent = 6

// decoder takes a payload apart. The first mistake sticks.
type decoder struct {
	b      []byte
	failed bool
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.failed, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) varint() int64 {
	v := d.uvarint()
	return int64(v>>1) ^ -int64(v&1) // zigzag, as encoding/binary
}

func (d *decoder) string() string {
	n := d.uvarint()
	if n > uint64(len(d.b)) {
		d.failed, d.b = true, nil
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) time() time.Time { return time.Unix(0, d.varint()).UTC() }

func (d *decoder) request() (row string, s metrics.Sample) {
	flags := d.uvarint()
	d.failed = d.failed || flags&^allFlags != 0
	s.Abandoned = flags&abandoned != 0
	row = d.string()
	x := &s.Exchange
	x.RequestID = d.string()
	if flags&wasSent != 0 {
		s.Start = d.time()
		x.Start = s.Start
	}
	if flags&hasDue != 0 {
		s.Due = d.time()
	}
	s.Queue = time.Duration(d.varint())
	x.Status = int(d.varint())
	x.FirstByte, x.End = time.Duration(d.varint()), time.Duration(d.varint())
	x.BodyBytes = d.varint()
	s.PromptTokens, s.InputTokens, s.OutputTokens = int(d.varint()), int(d.varint()), int(d.varint())
	s.Images, s.Pixels = int(d.varint()), d.varint()
	if flags&hasErr != 0 {
		kind := api.Kind(d.string())
		s.Err = &failure{text: d.string(), kind: kind}
	}
	if flags&hasOthers != 0 {
		var o others
		if json.Unmarshal([]byte(d.string()), &o) != nil {
			d.failed = true
		}
		s.Retokenized, s.Sound, s.Stages = o.Retokenized, metrics.Sound{Seconds: o.Seconds, Rate: o.Rate}, o.Stages
	}
	n := d.uvarint()
	if n > uint64(len(d.b)/minEvent) {
		d.failed = true
		return row, s
	}
	if n > 0 {
		x.Events = make([]api.Event, n)
	}
	before := api.Event{Usage: -1}
	for i := range x.Events {
		e := &x.Events[i]
		e.At = before.At + time.Duration(d.varint())
		has := d.uvarint()
		e.Has = api.Content(has)
		d.failed = d.failed || uint64(e.Has) != has
		e.Tokens = int(d.varint())
		e.Usage = before.Usage + int(d.varint())
		e.Bytes = int(d.uvarint())
		e.Read = before.Read + int(d.varint())
		before.At, before.Usage, before.Read = e.At, e.Usage, e.Read
	}
	return row, s
}

// failure is an error that was read back: the same words, and api.KindOf tells the same kind.
type failure struct {
	text string
	kind api.Kind
}

func (f *failure) Error() string { return f.text }

// Unwrap gives what api.KindOf looks for.
func (f *failure) Unwrap() error {
	if f.kind == "" {
		return nil
	}
	return &api.Error{Kind: f.kind}
}
