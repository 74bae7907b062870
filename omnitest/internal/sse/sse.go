// Package sse reads server-sent events as inference servers send them: fast, without copies, each event with the time at
// which its last byte arrived.
//
// Format: https://html.spec.whatwg.org/multipage/server-sent-events.html with three deliberate differences. Lines end in
// \n or \r\n (a lone \r, which no inference server sends, is content). An event that the end of the stream cut off is
// delivered and marked Cut instead of being dropped, because the caller must be able to report it. Lines that are no
// field at all are remembered, because a crashing server writes its traceback there.
package sse

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// Event is one message.
type Event struct {
	At   time.Duration // clock when the read returned that completed the event, before anything was parsed
	Name string        // the event: field, usually ""
	Data []byte        // the data: lines, joined by \n. It stays valid, unless the Reader reuses its memory
	Read int           // which read of the source completed it, counted from 0
	Cut  bool          // the stream ended before the event's closing blank line
}

// ErrTooLong means one event exceeded the Reader's maximum.
var ErrTooLong = errors.New("sse: event longer than the limit")

// Block sizes. Events alias the block they were read into, so a block is never reused (unless Reuse says so); it grows from
// small because most answers are short, and stops growing so that one kept event does not pin much.
const (
	firstBlock = 4 << 10
	lastBlock  = 32 << 10
	minRead    = 512
	strayBytes = 200
)

var bom = []byte("\xef\xbb\xbf")

// Reader cuts a byte stream into events. Not safe for concurrent use.
type Reader struct {
	// Reuse lets the Reader write over the Data of an event once the next one is asked for. A stream then costs one block, as
	// long as its longest event, however many events it has. Set it before the first Next.
	Reuse bool

	src   io.Reader
	clock func() time.Duration
	max   int

	block    []byte // bytes pos..end are read but not consumed
	pos, end int
	searched int // of block[pos:end], known to hold no \n
	at       time.Duration
	reads    int   // that brought bytes
	err      error // from src; sticky
	begun    bool  // the first line was seen (a byte order mark may precede it)

	data    []byte
	hasData bool
	joined  bool // data is a copy of its own
	name    string

	stray  []byte
	strays int
}

// NewReader reads events from src. clock is called once after every read. max bounds one event's bytes; 0: no bound.
func NewReader(src io.Reader, clock func() time.Duration, max int) *Reader {
	return &Reader{src: src, clock: clock, max: max}
}

// Stray tells about lines that were no SSE field: how many, and the first (at most 200 bytes).
func (r *Reader) Stray() (n int, first []byte) { return r.strays, r.stray }

// Next gives the next event that has data. At the end of the stream it is io.EOF; another error of the source comes as
// it is, and what had been read of an unfinished event is then lost.
func (r *Reader) Next() (Event, error) {
	for {
		line, whole, err := r.line()
		if err != nil {
			if err == io.EOF && r.hasData {
				return r.take(true), nil
			}
			return Event{}, err
		}
		if len(line) == 0 {
			if r.hasData {
				return r.take(!whole), nil
			}
			r.name = ""
			continue
		}
		if err := r.field(line); err != nil {
			return Event{}, err
		}
		if !whole && r.hasData { // the very last line, without its newline
			return r.take(true), nil
		}
	}
}

// take hands out the collected event.
func (r *Reader) take(cut bool) Event {
	e := Event{At: r.at, Name: r.name, Data: r.data[:len(r.data):len(r.data)], Read: r.reads - 1, Cut: cut}
	r.data, r.hasData, r.joined, r.name = nil, false, false, ""
	return e
}

// field takes in one line that is not empty.
func (r *Reader) field(line []byte) error {
	if line[0] == ':' { // a comment: a keep-alive
		return nil
	}
	name, value, _ := bytes.Cut(line, []byte(":"))
	if len(value) > 0 && value[0] == ' ' {
		value = value[1:]
	}
	switch string(name) {
	case "data":
		if !r.hasData {
			r.data, r.hasData = value, true
			return nil
		}
		if r.max > 0 && len(r.data)+1+len(value) > r.max {
			return ErrTooLong
		}
		if !r.joined { // r.data still aliases the block, where other lines follow it: copy before appending
			r.data, r.joined = bytes.Clone(r.data), true
		}
		r.data = append(append(r.data, '\n'), value...)
	case "event":
		r.name = string(value)
	case "id", "retry":
	default:
		if r.strays++; r.strays == 1 {
			r.stray = bytes.Clone(line[:min(len(line), strayBytes)])
		}
	}
	return nil
}

// line gives the next line without its end. whole is false for a last line that the end of the stream cut off.
func (r *Reader) line() (line []byte, whole bool, err error) {
	for {
		if i := bytes.IndexByte(r.block[r.pos+r.searched:r.end], '\n'); i >= 0 {
			line = r.block[r.pos : r.pos+r.searched+i]
			r.pos += r.searched + i + 1
			r.searched = 0
			return r.trim(line), true, nil
		}
		r.searched = r.end - r.pos
		if r.err != nil {
			if r.err == io.EOF && r.searched > 0 {
				line = r.block[r.pos:r.end]
				r.pos, r.searched = r.end, 0
				return r.trim(line), false, nil
			}
			return nil, false, r.err
		}
		if r.max > 0 && r.searched > r.max+len("data: \r") {
			return nil, false, ErrTooLong
		}
		r.fill()
	}
}

func (r *Reader) trim(line []byte) []byte {
	if !r.begun {
		r.begun = true
		line = bytes.TrimPrefix(line, bom)
	}
	if n := len(line); n > 0 && line[n-1] == '\r' {
		line = line[:n-1]
	}
	return line
}

// fill reads once into the free end of the block, or into a new block that starts with the unconsumed rest.
func (r *Reader) fill() {
	if free := len(r.block) - r.end; free < minRead {
		rest := r.block[r.pos:r.end]
		if r.Reuse && len(r.block) >= 2*len(rest)+minRead {
			if r.hasData && !r.joined { // its blank line has not come yet
				r.data, r.joined = bytes.Clone(r.data), true
			}
			r.pos, r.end = 0, copy(r.block, rest)
			r.read()
			return
		}
		size := min(max(firstBlock, 2*len(r.block)), lastBlock)
		for size < 2*len(rest)+minRead { // a line longer than a block: double, so that a huge line is copied log times
			size *= 2
		}
		block := make([]byte, size)
		r.end = copy(block, rest)
		r.block, r.pos = block, 0
	}
	r.read()
}

// read reads once into the free end of the block.
func (r *Reader) read() {
	for range 100 {
		n, err := r.src.Read(r.block[r.end:])
		if n > 0 {
			r.at = r.clock()
			r.reads++
		}
		r.end += n
		r.err = err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}
