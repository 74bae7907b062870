package api_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
)

// splits serves a body byte by byte, each in an HTTP chunk and a write of its own: lines and characters are split everywhere.
func splits(t *testing.T, body string) *api.Client {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", asStream)
		for i := range len(body) {
			io.WriteString(w, body[i:i+1])
			w.(http.Flusher).Flush()
		}
	})
}

// Servers that misbehave in every way that load meets: each is either read right, or one failure with its kind and words.
func TestServersThatMisbehave(t *testing.T) {
	server := func(f stamped.Fault) func(*testing.T) *api.Client {
		return func(t *testing.T) *api.Client {
			s, err := stamped.Start(stamped.Options{Tokens: 6, Fault: f})
			require.NoError(t, err)
			t.Cleanup(s.Close)
			return &api.Client{BaseURL: s.URL, Timeout: time.Minute}
		}
	}
	usageOnLast := `data: {"choices":[{"index":0,"text":"红"}]}` + "\n\n" +
		`data: {"choices":[{"index":0,"text":"🍎","finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}` + "\n\n"
	for _, c := range []struct {
		name  string
		make  func(*testing.T) *api.Client
		kind  api.Kind // "": read right
		text  string   // the failure's message, or the text of the answer
		usage int      // completion tokens; -1: none
	}{
		{"200 and close", server(stamped.CloseAt200), api.Truncated, "the body ended early: missing finish_reason of 1 choice (0 of 1 came) and [DONE]", -1},
		{"usage on the last choice", server(stamped.UsageOnChoice), "", strings.Repeat(stamped.Token, 6), 6},
		{"everything split", func(t *testing.T) *api.Client { return splits(t, usageOnLast+done) }, "", "红🍎", 2},
		{"split, without [DONE]", func(t *testing.T) *api.Client { return splits(t, usageOnLast) }, api.Truncated, "the stream ended: missing [DONE]", 2},
		{"without [DONE]", server(stamped.NoDone), api.Truncated, "the stream ended: missing [DONE]", 6},
		{"lines of 1 MB", server(stamped.LongLines), "", "", 6},
		{"cut inside an event", server(stamped.CutEvent), api.Truncated, "the body ended early: missing finish_reason of choice 0 and [DONE]", -1},
		{"reset in the middle", func(t *testing.T) *api.Client { return resets(t, `data: {"choices":[{"index":0,"text":"a"}]}`+"\n\n") },
			api.Truncated, "the connection broke: read tcp CLIENT->SERVER: read: connection reset by peer: missing finish_reason of choice 0 and [DONE]", -1},
		{"500", server(stamped.Error500), api.Server, "planted", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, lean := range []bool{false, true} {
				client := c.make(t)
				client.Lean = lean
				text, err := client.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)
				require.Equal(t, c.kind, api.KindOf(err), "%v", err)
				usage := -1
				if text.Usage != nil {
					usage = text.Usage.CompletionTokens
				}
				assert.Equal(t, c.usage, usage)
				switch {
				case c.text == "":
				case c.kind == "":
					assert.Equal(t, c.text, text.String())
				default:
					assert.Equal(t, c.text, addresses(err.(*api.Error).Message))
				}
				if c.name == "lines of 1 MB" {
					assert.Greater(t, text.Events[0].Bytes, 1<<20-100)
				}
			}
		})
	}
}

// addresses takes the ports out of a message.
func addresses(message string) string {
	words := strings.Fields(message)
	for i, w := range words {
		if strings.HasPrefix(w, "127.0.0.1:") {
			words[i] = "CLIENT->SERVER:"
		}
	}
	return strings.Join(words, " ")
}

// resets sends the head and one event of a stream, and then a reset, which kills what is unread.
func resets(t *testing.T, event string) *api.Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			_, _ = conn.Read(buf)
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(event), event)
			time.Sleep(200 * time.Millisecond) // the client reads the event: a reset takes unread data with it
			_ = conn.(*net.TCPConn).SetLinger(0)
			conn.Close()
		}
	}()
	return &api.Client{BaseURL: "http://" + l.Addr().String(), Timeout: time.Minute}
}

// A stream that never ends is cut by whichever limit comes first: time, bytes, or the caller.
func TestEndlessStream(t *testing.T) {
	s, err := stamped.Start(stamped.Options{Fault: stamped.Endless, Interval: time.Millisecond})
	require.NoError(t, err)
	defer s.Close()
	c := &api.Client{BaseURL: s.URL, Timeout: 300 * time.Millisecond, Lean: true}
	text, err := c.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)
	assert.Equal(t, api.Timeout, api.KindOf(err))
	assert.Equal(t, "the client's timeout of 300ms ran out", err.(*api.Error).Message)
	assert.NotEmpty(t, text.Events, "what had arrived is kept")

	c.Timeout, c.Limits.BodyBytes = time.Minute, 5000
	_, err = c.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)
	assert.Equal(t, api.Limit, api.KindOf(err))
	assert.Equal(t, "answer of more than 5000 bytes (Limits.BodyBytes)", err.(*api.Error).Message)

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c.Limits.BodyBytes = 0
	n := 0
	_, err = c.StreamComplete(ctx, api.CompletionRequest{Prompt: "x"}, func(api.Event) error {
		if n++; n == 5 {
			cancel()
		}
		return nil
	})
	assert.Equal(t, api.Canceled, api.KindOf(err))
	assert.Equal(t, "the caller canceled", err.(*api.Error).Message)
}
