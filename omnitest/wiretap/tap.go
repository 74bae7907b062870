package wiretap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bodyLimit  = 256 << 20 // of one request: an edit with several large pictures fits
	gone       = "proxy went away"
	clientGone = "client went away"
)

var silent = log.New(io.Discard, "", 0)

// tap is one recording reverse proxy.
type tap struct {
	stage  string
	target atomic.Pointer[url.URL] // nil: not known yet
	book   *book
	broken breakage
	proxy  *httputil.ReverseProxy
}

func newTap(stage string, b *book, t *http.Transport) *tap {
	x := &tap{stage: stage, book: b}
	x.proxy = &httputil.ReverseProxy{
		Transport:     t,
		FlushInterval: -1, // an event that waits in a buffer is a wrong TTFT
		BufferPool:    buffers{},
		ErrorLog:      silent,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(x.target.Load())
			p.Out.URL.RawQuery = p.In.URL.RawQuery
			for _, name := range []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"} {
				if v, ok := p.In.Header[name]; ok { // taken out by ReverseProxy, for proxies that add their own
					p.Out.Header[name] = v
				}
			}
			p.Out.GetBody = p.In.GetBody // the transport asks again when a kept connection turns out dead
		},
		ModifyResponse: func(r *http.Response) error {
			if m, ok := r.Request.Context().Value(markKey{}).(*mark); ok {
				m.watch(r)
			}
			return nil
		},
		// A stage that cannot be reached is not a stage that answers 502: the connection is cut, as its own would be.
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if m, ok := r.Context().Value(markKey{}).(*mark); ok {
				m.lost(r.Context(), err, "no answer")
			}
			panic(http.ErrAbortHandler)
		},
	}
	return x
}

func (x *tap) aim(base string) error {
	if base == "" {
		return nil
	}
	u, err := baseURL(x.stage, base)
	if err == nil {
		x.target.Store(u)
	}
	return err
}

type markKey struct{}

// ServeHTTP passes the request on. Only POST below /v1 is recorded: the rest is health, models and metrics.
func (x *tap) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if x.target.Load() == nil {
		http.Error(w, `{"detail":"wiretap: Front was not called: the proxy is not known"}`, http.StatusServiceUnavailable)
		return
	}
	m := (*mark)(nil)
	if recorded(r) {
		body, err := readBody(r)
		if err != nil {
			panic(http.ErrAbortHandler) // the sender went away or sends more than any engine takes
		}
		again := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		r.GetBody = again
		r.Body, _ = again()
		m = x.book.begin(x.stage, x.target.Load().String()+r.URL.Path, r, body, time.Now())
		r = r.WithContext(context.WithValue(r.Context(), markKey{}, m))
	}
	if x.damaged(w, r, m) {
		return
	}
	x.proxy.ServeHTTP(w, r)
}

func recorded(r *http.Request) bool {
	return r.Method == http.MethodPost && len(r.URL.Path) > 4 && r.URL.Path[:4] == "/v1/"
}

// readBody reads a request whole: its prompt and its ticket may stand anywhere in it.
func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength > bodyLimit {
		return nil, errors.New("body is over 256 MiB")
	}
	var b bytes.Buffer
	if r.ContentLength > 0 {
		b.Grow(int(r.ContentLength) + bytes.MinRead)
	}
	n, err := b.ReadFrom(io.LimitReader(r.Body, bodyLimit+1))
	if err == nil && n > bodyLimit {
		err = errors.New("body is over 256 MiB")
	}
	return b.Bytes(), err
}

// watch reads along while the answer passes.
func (m *mark) watch(r *http.Response) {
	id := m.header(r.StatusCode, r.Header.Get("X-Request-Id"))
	if id != "" && r.Header.Get("X-Request-Id") == "" {
		r.Header.Set("X-Request-Id", id) // in front of the proxy only, where the client has no other name for its request
	}
	m.fallback(r.Header.Get("X-Omnitest-Fallback"))
	r.Body = &watched{ReadCloser: r.Body, m: m, seen: newObserver(r), status: r.StatusCode, left: r.ContentLength, ctx: r.Request.Context()}
}

// watched is an answer's body on its way.
type watched struct {
	io.ReadCloser
	m      *mark
	seen   *observer
	status int
	left   int64 // bytes to come; negative: not announced
	bytes  int64
	done   bool
	ctx    context.Context
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		if b.bytes == 0 {
			b.m.firstByte()
		}
		b.bytes += int64(n)
		b.seen.see(p[:n])
	}
	switch {
	case b.done:
	case err == io.EOF, b.left >= 0 && b.bytes == b.left:
		// With an announced length this is before the last byte goes out: who has the whole answer finds the leg ended.
		b.done = true
		b.m.finish(b.seen, b.status, b.bytes)
	case err != nil:
		b.m.lost(b.ctx, err, fmt.Sprintf("answer broke off after %d bytes", b.bytes))
	}
	return n, err
}

// Close before the end means that who asked is gone.
func (b *watched) Close() error {
	b.m.lost(b.ctx, context.Canceled, fmt.Sprintf("answer was left after %d bytes", b.bytes))
	return b.ReadCloser.Close()
}

// buffers are shared by the answers in flight.
type buffers struct{}

var pool = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

func (buffers) Get() []byte  { return *pool.Get().(*[]byte) }
func (buffers) Put(b []byte) { pool.Put(&b) }
