package stamped

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// conn is one connection. Its own goroutine reads requests; the events of a stream are written by a pacer.
type conn struct {
	srv *Server
	raw *net.TCPConn
	sys syscall.RawConn
	in  *bufio.Reader

	at   int64 // when the last bytes arrived
	read int64 // when they were read
}

func (s *Server) accept() {
	for {
		raw, err := s.ln.Accept()
		if err != nil {
			if ne, ok := err.(net.Error); ok && ne.Temporary() { //nolint:staticcheck // out of file descriptors: goes on when some are free
				time.Sleep(5 * time.Millisecond)
				continue
			}
			return
		}
		c := &conn{srv: s, raw: raw.(*net.TCPConn)}
		if c.sys, err = c.raw.SyscallConn(); err != nil {
			raw.Close()
			continue
		}
		c.in = bufio.NewReaderSize(c, 4<<10)
		s.mu.Lock()
		if s.closed {
			s.mu.Unlock()
			raw.Close()
			return
		}
		s.conns[c] = struct{}{}
		s.wg.Go(c.serve)
		s.mu.Unlock()
	}
}

func (c *conn) serve() {
	defer func() {
		c.raw.Close()
		c.srv.mu.Lock()
		delete(c.srv.conns, c)
		c.srv.mu.Unlock()
	}()
	for {
		req, err := http.ReadRequest(c.in)
		if err != nil {
			return
		}
		if req.Header.Get("Expect") == "100-continue" {
			_, _ = io.WriteString(c.raw, "HTTP/1.1 100 Continue\r\n\r\n")
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		if !c.answer(req, body) || req.Close {
			return
		}
	}
}

// ask is what the server reads of a request for tokens.
type ask struct {
	Model         string          `json:"model"`
	Prompt        json.RawMessage `json:"prompt"`
	Messages      json.RawMessage `json:"messages"`
	Tokens        json.RawMessage `json:"tokens"` // of /detokenize
	MaxTokens     *int            `json:"max_tokens"`
	MaxCompletion *int            `json:"max_completion_tokens"`
	Stream        bool            `json:"stream"`
	StreamOptions struct {
		Usage      bool `json:"include_usage"`
		Continuous bool `json:"continuous_usage_stats"`
	} `json:"stream_options"`
	Fault *Fault `json:"fault"`
}

// answer serves one request and says whether the connection can take another.
func (c *conn) answer(req *http.Request, body []byte) bool {
	s := c.srv
	switch req.Method + " " + req.URL.Path {
	case "POST /v1/completions", "POST /v1/chat/completions":
		return c.tokens(req, body)
	case "GET /health", "GET /ping":
		return c.reply(200, "application/json", nil)
	case "GET /version":
		return c.reply(200, "application/json", []byte(`{"version":"0.32.0"}`))
	case "GET /v1/models":
		return c.json(200, modelList(s.model("")))
	case "POST /tokenize":
		var a ask
		if err := json.Unmarshal(body, &a); err != nil {
			return c.refuse(err)
		}
		return c.json(200, tokenized(promptTokens(a)))
	case "POST /detokenize":
		var a ask
		if err := json.Unmarshal(body, &a); err != nil {
			return c.refuse(err)
		}
		return c.json(200, map[string]any{"prompt": text(listLength(a.Tokens))})
	case "GET /metrics":
		return c.reply(200, "text/plain; version=0.0.4; charset=utf-8", s.ledger.page(s.model("")))
	case "GET /truth":
		return c.json(200, s.ledger.truth(s.opts, req.URL.Query().Get("events") != "0"))
	case "DELETE /truth":
		s.ledger.reset()
		return c.reply(200, "application/json", []byte("{}"))
	}
	return c.json(404, map[string]string{"detail": "Not Found"})
}

func (c *conn) refuse(err error) bool {
	return c.json(400, errorObject(err.Error(), "Bad Request", 400))
}

// tokens serves a request for tokens.
func (c *conn) tokens(req *http.Request, body []byte) bool {
	arrived, read := c.at, c.read
	var a ask
	if err := json.Unmarshal(body, &a); err != nil {
		return c.refuse(err)
	}
	s := c.srv
	limit := a.MaxTokens
	if a.MaxCompletion != nil {
		limit = a.MaxCompletion
	}
	n := s.opts.Tokens
	if limit != nil {
		if n = *limit; n < 1 {
			return c.refuse(fmt.Errorf("max_tokens must be at least 1, got %d.", n)) //nolint:staticcheck // vLLM's text
		}
	}
	fault := s.opts.Fault
	if a.Fault != nil {
		if fault = *a.Fault; !faults[fault] {
			return c.refuse(fmt.Errorf("unknown fault %q", fault))
		}
	}
	st := newStream(c, req, a, n, fault, arrived, read)
	s.ledger.begin(st.req)
	if fault == Error500 {
		s.ledger.end(st.req, StateFault, Now(), 0, true)
		return c.json(500, errorObject("planted", "InternalServerError", 500))
	}
	if a.Stream && !c.headStream(req) {
		s.ledger.end(st.req, StateLeft, Now(), 0, true)
		return false
	}
	if fault == CloseAt200 {
		if !a.Stream {
			c.headStream(req)
		}
		s.ledger.end(st.req, StateFault, Now(), 0, true)
		return false
	}
	st.pacer.add(st)
	// Wait for the next request, or for the client to leave. The pacer closes the connection after a fault.
	if _, err := c.in.Peek(1); err != nil {
		st.left.Store(true)
		st.pacer.add(st)
	}
	<-st.done
	return true
}

func (c *conn) headStream(req *http.Request) bool {
	head := "HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
	if req.Close {
		head += "connection: close\r\n"
	}
	_, err := io.WriteString(c.raw, head+"transfer-encoding: chunked\r\n\r\n")
	return err == nil
}

func (c *conn) json(status int, v any) bool {
	b, err := json.Marshal(v)
	if err != nil {
		return false
	}
	return c.reply(status, "application/json", b)
}

func (c *conn) reply(status int, kind string, body []byte) bool {
	_, err := c.raw.Write(append(head(nil, status, kind, len(body)), body...))
	return err == nil
}

func head(b []byte, status int, kind string, length int) []byte {
	b = append(b, "HTTP/1.1 "+strconv.Itoa(status)+" "+http.StatusText(status)+"\r\nserver: uvicorn\r\ncontent-length: "...)
	b = strconv.AppendInt(b, int64(length), 10)
	return append(b, "\r\ncontent-type: "+kind+"\r\n\r\n"...)
}
