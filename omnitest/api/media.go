package api

import (
	"bytes"
	"encoding/base64"
	"errors"
	"runtime"
	"time"
)

// Media are decoded off the receive path: a picture of megabytes must not move the time stamps of other streams. Decoding is
// done by the goroutine of its own request, after the last byte was stamped, but never by so many at once that no processor is left
// to receive, and never in one go: a scan or copy of megabytes in assembler cannot be interrupted, not even by the garbage
// collector, which then stops everybody.
const (
	piece = 64 << 10  // bytes handled in one go, about 50 us; a multiple of 4
	heavy = 256 << 10 // from here on a text waits for its turn
)

// decoding has a place for each processor but one, and at least one.
var decoding = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)-1))

var errLineBreak = errors.New("line break in base64")

// decodeBase64 decodes text into dst, which has room for base64.StdEncoding.DecodedLen of it, and gives the number of bytes. Unlike
// encoding/base64 it refuses line breaks, which JSON forbids inside a string.
func decodeBase64(dst, text []byte) (n int, err error) {
	inTurn := len(text) >= heavy
	alone := inTurn && runtime.GOMAXPROCS(0) == 1
	for at := 0; at < len(text); at += piece {
		part := text[at:min(at+piece, len(text))]
		k, err := decodePiece(dst[n:], part, inTurn)
		n += k
		switch corrupt, is := err.(base64.CorruptInputError); {
		case is:
			return n, corrupt + base64.CorruptInputError(at)
		case err != nil:
			return n, err
		case k < len(part)/4*3 && at+piece < len(text): // padding, and more after it
			return n, base64.CorruptInputError(at + bytes.IndexByte(part, '='))
		case alone && at+piece < len(text):
			// The only processor is ours. Go looks for arrived data only when nothing else can run, so yielding is not enough.
			time.Sleep(20 * time.Microsecond)
		}
	}
	return n, nil
}

func decodePiece(dst, part []byte, inTurn bool) (int, error) {
	if inTurn { // for each piece anew: who waits between two pieces holds up nobody
		decoding <- struct{}{}
		defer func() { <-decoding }()
	}
	if bytes.IndexByte(part, '\n') >= 0 || bytes.IndexByte(part, '\r') >= 0 {
		return 0, errLineBreak
	}
	return base64.StdEncoding.Decode(dst, part)
}

// indexByte is bytes.IndexByte in pieces.
func indexByte(b []byte, ch byte) int {
	for at := 0; at < len(b); at += piece {
		if i := bytes.IndexByte(b[at:min(at+piece, len(b))], ch); i >= 0 {
			return at + i
		}
	}
	return -1
}

// grow doubles b's room, copying in pieces.
func grow(b []byte) []byte {
	out := make([]byte, len(b), 2*cap(b))
	for at := 0; at < len(b); at += piece {
		copy(out[at:], b[at:min(at+piece, len(b))])
	}
	return out
}
