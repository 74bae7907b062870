package stamped

import (
	"bytes"
	"strconv"
	"time"
)

// Stamp is what an event tells about itself, as the JSON field "stamp" of its payload. Times are on the clock of Now.
type Stamp struct {
	Index   int   // of the token in its answer, from 0
	Due     int64 // ns, by the schedule
	Written int64 // ns, just before the write
}

const (
	stampKey   = `,"stamp":{"i":`
	dueKey     = `,"due":`
	writtenKey = `,"written":`
)

func appendStamp(b []byte, s Stamp) []byte {
	b = strconv.AppendInt(append(b, stampKey...), int64(s.Index), 10)
	b = strconv.AppendInt(append(b, dueKey...), s.Due, 10)
	b = strconv.AppendInt(append(b, writtenKey...), s.Written, 10)
	return append(b, '}')
}

// Parse finds the stamp in the payload of an event: a scan, no JSON, since it is called for each event of a measurement. An
// event without a stamp (the role chunk, the usage, [DONE]) gives false.
func Parse(payload []byte) (Stamp, bool) {
	at := bytes.LastIndex(payload, []byte(stampKey))
	if at < 0 {
		return Stamp{}, false
	}
	rest := payload[at:]
	i, rest, ok1 := number(rest, stampKey)
	due, rest, ok2 := number(rest, dueKey)
	written, _, ok3 := number(rest, writtenKey)
	return Stamp{int(i), due, written}, ok1 && ok2 && ok3
}

func number(b []byte, key string) (n int64, rest []byte, ok bool) {
	b, ok = bytes.CutPrefix(b, []byte(key))
	k := 0
	for ; k < len(b) && b[k] >= '0' && b[k] <= '9'; k++ {
		n = n*10 + int64(b[k]-'0')
	}
	return n, b[k:], ok && k > 0
}

// The two readings belong together to within the shortest of some tries: this thread may be suspended between them.
var began, beganMono = func() (time.Time, int64) {
	var best time.Time
	var mono int64
	shortest := time.Hour
	for range 20 {
		before := time.Now()
		m := machineClock()
		if d := time.Since(before); d < shortest {
			best, mono, shortest = before.Add(d/2), m, d
		}
	}
	return best, mono
}()

// Now reads the clock of the stamps, in ns: CLOCK_MONOTONIC on Linux, so that two processes of one machine can compare their
// readings; elsewhere the wall clock at the start of the process plus monotonic time since.
func Now() int64 { return At(time.Now()) }

// At puts a reading of time.Now on the clock of the stamps.
func At(t time.Time) int64 { return beganMono + int64(t.Sub(began)) }
