package canary

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// idPrefix stands before the number of a stream's first event in the id of its chunks.
const idPrefix = "canary-"

// writer is the server of the canary: one stream at a time, raw HTTP/1.1, one write per event, as an engine's front end does
// it. net/http on this side would only add to what is measured.
type writer struct {
	options  Options
	listener net.Listener
	alarm    *alarm
	one      sync.Mutex // the stream that is being written

	mu      sync.Mutex
	zero    time.Time // event k is due at zero + (k+1) x cadence
	written []time.Duration
	conn    map[net.Conn]bool
	closed  bool
}

func newWriter(o Options) (*writer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	a, err := newAlarm()
	if err != nil {
		l.Close()
		return nil, err
	}
	w := &writer{options: o, listener: l, alarm: a, zero: time.Now(), conn: map[net.Conn]bool{}}
	go w.accept()
	return w, nil
}

func (w *writer) url() string { return "http://" + w.listener.Addr().String() }

// base is the moment from which all times of the canary count: it is set when the first stream begins.
func (w *writer) base() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.zero
}

func (w *writer) due(k int) time.Duration { return time.Duration(k+1) * w.options.Cadence }

// times gives when event k was due and written; false: it was not written.
func (w *writer) times(k int) (due, written time.Duration, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k < 0 || k >= len(w.written) {
		return 0, 0, false
	}
	return w.due(k), w.written[k], true
}

// close ends the streams.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	for c := range w.conn {
		c.Close()
	}
	w.mu.Unlock()
	w.alarm.close()
	w.listener.Close()
}

func (w *writer) accept() {
	for {
		conn, err := w.listener.Accept()
		if err != nil {
			return
		}
		w.mu.Lock()
		w.conn[conn] = true
		closed := w.closed
		w.mu.Unlock()
		if closed {
			conn.Close()
		}
		go func() {
			defer func() {
				conn.Close()
				w.mu.Lock()
				delete(w.conn, conn)
				w.mu.Unlock()
			}()
			in := bufio.NewReader(conn)
			for w.serve(conn, in) == nil {
			}
		}()
	}
}

// serve answers one request with one stream.
func (w *writer) serve(conn net.Conn, in *bufio.Reader) error {
	q, err := http.ReadRequest(in)
	if err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, q.Body); err != nil {
		return err
	}
	if q.Method != http.MethodPost { // a client that opens its connections by asking for something first
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return err
	}
	w.one.Lock()
	defer w.one.Unlock()
	w.mu.Lock()
	first := len(w.written)
	if first == 0 {
		w.zero = time.Now()
	}
	base := w.zero
	w.mu.Unlock()

	const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
	if _, err := io.WriteString(conn, head); err != nil {
		return err
	}
	chunk := frame(first, w.options.Bytes)
	for k := first; k < first+streamEvents; k++ {
		if err := w.alarm.wait(base.Add(w.due(k))); err != nil {
			return err
		}
		w.mu.Lock()
		w.written = append(w.written, time.Since(base))
		w.mu.Unlock()
		if _, err := conn.Write(chunk); err != nil {
			return err
		}
	}
	_, err = conn.Write(last(first))
	return err
}

// frame is one event as a chunk of HTTP/1.1, size bytes with its framing: the shape of vLLM's completion chunks, filled up in
// a field that no reader knows.
func frame(first, size int) []byte {
	event := func(pad int) []byte {
		return fmt.Appendf(nil, `data: {"id":"%s%d","object":"text_completion","created":0,"model":"canary","choices":[{"index":0,"text":"x","logprobs":null,"finish_reason":null}],"pad":"%s"}`+"\n\n",
			idPrefix, first, bytes.Repeat([]byte{'.'}, pad))
	}
	chunk := chunked(event(0))
	for pad := size - len(chunk); pad > 0 && len(chunk) != size; pad += size - len(chunk) { // a longer chunk tells its length in more digits
		chunk = chunked(event(pad))
	}
	return chunk
}

// last ends a stream: the finish reason, [DONE] and the chunk of length 0.
func last(first int) []byte {
	end := fmt.Appendf(nil, `data: {"id":"%s%d","object":"text_completion","created":0,"model":"canary","choices":[{"index":0,"text":"","finish_reason":"length"}]}`+"\n\ndata: [DONE]\n\n", idPrefix, first)
	return append(chunked(end), "0\r\n\r\n"...)
}

func chunked(data []byte) []byte {
	b := strconv.AppendInt(nil, int64(len(data)), 16)
	b = append(b, "\r\n"...)
	b = append(b, data...)
	return append(b, "\r\n"...)
}
