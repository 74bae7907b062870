package eventlog

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Reader reads a log request by request.
type Reader struct {
	src     *bufio.Reader
	at      int64 // bytes consumed
	n       int   // requests since the header
	whole   bool  // the end came
	begun   bool
	payload bytes.Buffer
}

// NewReader reads the log, or the concatenated logs, in src.
func NewReader(src io.Reader) *Reader { return &Reader{src: bufio.NewReaderSize(src, 64<<10)} }

// Next gives the next request and the row that it belongs to; io.EOF after the last of a log that was closed. A log that breaks off
// because the run was killed gives what is whole, then an error that wraps io.ErrUnexpectedEOF. Other errors tell what is wrong and
// where; nothing can be read after them.
func (r *Reader) Next() (row string, s metrics.Sample, err error) {
	for {
		payload, err := r.record()
		if err != nil {
			return "", s, err
		}
		d := decoder{b: payload[1:]}
		switch payload[0] {
		case kindRequest:
			row, s = d.request()
			if d.failed || len(d.b) > 0 {
				return "", metrics.Sample{}, r.broken("request %d does not follow the layout", r.n+1)
			}
			r.n++
			return row, s, nil
		case kindEnd:
			if n := d.uvarint(); d.failed || len(d.b) > 0 || n != uint64(r.n) {
				return "", s, r.broken("the end counts %d requests, %d came", n, r.n)
			}
			r.whole = true
		default:
			return "", s, r.broken("a record of the unknown kind %d", payload[0])
		}
	}
}

func (r *Reader) broken(format string, args ...any) error {
	return fmt.Errorf("eventlog: at byte %d: %s", r.at, fmt.Sprintf(format, args...))
}

func (r *Reader) cut(what string) error {
	return fmt.Errorf("eventlog: at byte %d, after %d requests: %s: %w", r.at, r.n, what, io.ErrUnexpectedEOF)
}

// record gives the next payload, which is not empty, and passes over headers.
func (r *Reader) record() ([]byte, error) {
	for {
		var head [frame]byte
		n, err := io.ReadFull(r.src, head[:])
		switch {
		case err == io.EOF && r.whole:
			return nil, io.EOF
		case err == io.EOF && r.begun:
			return nil, r.cut("the log was not closed")
		case err == io.EOF || err == io.ErrUnexpectedEOF && !r.begun && bytes.HasPrefix([]byte(magic), head[:n]):
			return nil, r.cut("not even a header")
		case err == io.ErrUnexpectedEOF && r.begun:
			return nil, r.cut("breaks off between records")
		case err != nil && err != io.ErrUnexpectedEOF:
			return nil, fmt.Errorf("eventlog: %w", err)
		}
		if string(head[:]) == magic {
			if err := r.header(); err != nil {
				return nil, err
			}
			continue
		}
		if !r.begun || r.whole {
			return nil, r.broken("no event log: %q where %q is due", head[:n], magic)
		}
		r.at += frame
		length, sum := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
		if length == 0 || length > maxRecord {
			return nil, r.broken("a record of %d bytes, 1 to %d are possible", length, maxRecord)
		}
		r.payload.Reset()
		got, err := io.CopyN(&r.payload, r.src, int64(length)) // grows with what is there, not with what is claimed
		switch {
		case err == io.EOF:
			return nil, r.cut(fmt.Sprintf("a record breaks off, %d of %d bytes", got, length))
		case err != nil:
			return nil, fmt.Errorf("eventlog: %w", err)
		case crc32.Checksum(r.payload.Bytes(), castagnoli) != sum:
			return nil, r.broken("the checksum of a record of %d bytes is wrong", length)
		}
		r.at += got
		return r.payload.Bytes(), nil
	}
}

// header reads what follows the magic.
func (r *Reader) header() error {
	if r.begun && !r.whole {
		// The log before was cut exactly between two records, and another was appended to it: what it lacks is lost for good, and
		// must be said.
		return r.cut("the log was not closed, another follows")
	}
	r.at += int64(len(magic))
	var v [4]byte
	if _, err := io.ReadFull(r.src, v[:]); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return r.cut("breaks off in the header")
	} else if err != nil {
		return fmt.Errorf("eventlog: %w", err)
	}
	r.at += int64(len(v))
	if v := binary.LittleEndian.Uint32(v[:]); v != version {
		return r.broken("version %d, this one reads %d", v, version)
	}
	r.begun, r.whole, r.n = true, false, 0
	return nil
}

// ReadAll gives the requests of a log by row, in their order. With an error it gives what is whole before it.
func ReadAll(src io.Reader) (map[string][]metrics.Sample, error) {
	rows := map[string][]metrics.Sample{}
	for r := NewReader(src); ; {
		row, s, err := r.Next()
		if err == io.EOF {
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows[row] = append(rows[row], s)
	}
}

// ReadFile is ReadAll of a file.
func ReadFile(path string) (map[string][]metrics.Sample, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("eventlog: %w", err)
	}
	defer f.Close()
	rows, err := ReadAll(f)
	if err != nil {
		return rows, fmt.Errorf("%s: %w", path, err)
	}
	return rows, nil
}
