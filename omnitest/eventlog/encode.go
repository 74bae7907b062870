package eventlog

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

const (
	version   = 1
	magic     = "OMNIEVLG"
	maxRecord = 256 << 20
	frame     = 8 // length and checksum before each payload

	kindRequest = 1
	kindEnd     = 2

	wasSent   = 1 << 0
	hasDue    = 1 << 1
	hasErr    = 1 << 2
	hasOthers = 1 << 3
	abandoned = 1 << 4
	allFlags  = wasSent | hasDue | hasErr | hasOthers | abandoned
)

// others are what few requests have.
type others struct {
	Retokenized metrics.Value      `json:"retokenized,omitzero"`
	Seconds     float64            `json:"sound_seconds,omitzero"`
	Rate        float64            `json:"sound_bytes_per_second,omitzero"`
	Stages      map[string]float64 `json:"stages,omitempty"`
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendHeader(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(append(b, magic...), version)
}

// seal fills in the frame of the record whose payload is b[start+frame:].
func seal(b []byte, start int) ([]byte, error) {
	payload := b[start+frame:]
	if len(payload) > maxRecord {
		return b[:start], fmt.Errorf("eventlog: a request of %d bytes, at most %d", len(payload), maxRecord)
	}
	binary.LittleEndian.PutUint32(b[start:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(b[start+4:], crc32.Checksum(payload, castagnoli))
	return b, nil
}

func appendEnd(b []byte, requests int) ([]byte, error) {
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kindEnd)
	return seal(binary.AppendUvarint(b, uint64(requests)), start)
}

// appendRequest adds the record of a sample. Times of day are counted from base.
func appendRequest(b []byte, base time.Time, row string, s *metrics.Sample) ([]byte, error) {
	x := &s.Exchange
	start := len(b)
	b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, kindRequest)
	flags := uint64(0)
	if !s.Start.IsZero() {
		flags |= wasSent
	}
	if !s.Due.IsZero() {
		flags |= hasDue
	}
	if s.Err != nil {
		flags |= hasErr
	}
	if s.Abandoned {
		flags |= abandoned
	}
	var more []byte
	if s.Retokenized != (metrics.Value{}) || s.Sound != (metrics.Sound{}) || len(s.Stages) > 0 {
		flags |= hasOthers
		var err error
		if more, err = json.Marshal(others{s.Retokenized, s.Sound.Seconds, s.Sound.Rate, s.Stages}); err != nil {
			return b[:start], fmt.Errorf("eventlog: %w", err)
		}
	}
	b = binary.AppendUvarint(b, flags)
	b = appendString(b, row)
	b = appendString(b, x.RequestID)
	if flags&wasSent != 0 {
		b = appendTime(b, base, s.Start)
	}
	if flags&hasDue != 0 {
		b = appendTime(b, base, s.Due)
	}
	for _, v := range [...]int64{int64(s.Queue), int64(x.Status), int64(x.FirstByte), int64(x.End), x.BodyBytes,
		int64(s.PromptTokens), int64(s.InputTokens), int64(s.OutputTokens), int64(s.Images), s.Pixels} {
		b = binary.AppendVarint(b, v)
	}
	if flags&hasErr != 0 {
		b = appendString(b, string(api.KindOf(s.Err)))
		b = appendString(b, s.Err.Error())
	}
	if flags&hasOthers != 0 {
		b = appendString(b, string(more))
	}
	b = binary.AppendUvarint(b, uint64(len(x.Events)))
	before := api.Event{Usage: -1}
	for i := range x.Events {
		e := &x.Events[i]
		b = binary.AppendVarint(b, int64(e.At)-int64(before.At))
		b = binary.AppendUvarint(b, uint64(e.Has))
		b = binary.AppendVarint(b, int64(e.Tokens))
		b = binary.AppendVarint(b, int64(e.Usage)-int64(before.Usage))
		b = binary.AppendUvarint(b, uint64(e.Bytes))
		b = binary.AppendVarint(b, int64(e.Read)-int64(before.Read))
		before.At, before.Usage, before.Read = e.At, e.Usage, e.Read
	}
	return seal(b, start)
}

// appendTime keeps monotonic time: t - base uses it, where both have a reading.
func appendTime(b []byte, base, t time.Time) []byte {
	return binary.AppendVarint(b, base.UnixNano()+int64(t.Sub(base)))
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
