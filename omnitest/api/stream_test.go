package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Events are handed on as they arrive: the server writes the next one only after the client has shown the last one.
// A client that buffers would never see the second event, and the times could not differ.
func TestEventsComeOneByOne(t *testing.T) {
	const n = 5
	const gap = 20 * time.Millisecond
	next := make(chan struct{}, 1)
	next <- struct{}{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", asStream)
		for i := range n {
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			time.Sleep(gap)
			finish := ""
			if i == n-1 {
				finish = "stop"
			}
			io.WriteString(w, chunk("ab", finish))
			w.(http.Flusher).Flush()
		}
		io.WriteString(w, done)
	})
	text, err := c.StreamComplete(t.Context(), completion, func(api.Event) error {
		select {
		case next <- struct{}{}:
		default:
		}
		return nil
	})
	require.NoError(t, err)
	require.Len(t, text.Events, n+1)
	assert.Equal(t, strings.Repeat("ab", n), text.String())
	last := time.Duration(0)
	for i, e := range text.Events[:n] {
		assert.GreaterOrEqual(t, e.At-last, gap, "event %d came at %s, the one before at %s, and the server slept between", i, e.At, last)
		last = e.At
	}
	assert.Equal(t, text.Events[n].At, text.End)
}

// A slow callback is the caller's time, not the server's: it may delay the reading of the next event, but never the time
// of events that had arrived together.
func TestSlowCallbackDoesNotMoveArrivedEvents(t *testing.T) {
	all := chunk("a", "") + chunk("b", "") + chunk("c", "stop") + done
	c := replay(t, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: "+itoa(len(all))+"\r\n\r\n"+all)
	text, err := c.StreamComplete(t.Context(), completion, func(api.Event) error {
		time.Sleep(10 * time.Millisecond)
		return nil
	})
	require.NoError(t, err)
	for _, e := range text.Events {
		assert.Equal(t, text.Events[0].At, e.At, "all came in one read")
	}
}

// Characters that are split over tokens, events and reads come out whole.
func TestTextSplitAnywhere(t *testing.T) {
	const want = "红苹果🍎放在木桌上👩‍🚀 é"
	event := func(text []byte, finish string) string {
		return `data: {"choices":[{"index":0,"delta":{"content":"` + string(text) + `"},"finish_reason":` + finish + "}]}\n\n"
	}
	t.Run("every byte is a delta of its own", func(t *testing.T) { // a byte-level engine that does not hold back halves
		var b strings.Builder
		for i := range len(want) {
			b.WriteString(event([]byte{want[i]}, "null"))
		}
		b.WriteString(event(nil, `"stop"`) + done)
		text, err := answer(t, 200, asStream, b.String()).StreamChat(t.Context(), api.ChatRequest{}, nil)
		require.NoError(t, err)
		assert.Equal(t, want, text.String())
	})
	t.Run("vLLM's way: empty deltas until the character is whole", func(t *testing.T) {
		var b strings.Builder
		for _, r := range want {
			b.WriteString(event(nil, "null") + event(nil, "null") + event([]byte(string(r)), "null"))
		}
		b.WriteString(event(nil, `"stop"`) + done)
		text, err := answer(t, 200, asStream, b.String()).StreamChat(t.Context(), api.ChatRequest{}, nil)
		require.NoError(t, err)
		assert.Equal(t, want, text.String())
	})
	t.Run("escaped and not, every byte a read of its own", func(t *testing.T) {
		escaped, err := json.Marshal(want)
		require.NoError(t, err)
		body := event(escaped[1:len(escaped)-1], "null") + event([]byte(`\ud83c\udf4e\u7ea2`), `"stop"`) + done
		pieces := []string{"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: " + itoa(len(body)) + "\r\n\r\n"}
		for i := range len(body) {
			pieces = append(pieces, body[i:i+1])
		}
		text, err := replay(t, pieces...).StreamChat(t.Context(), api.ChatRequest{}, nil)
		require.NoError(t, err)
		assert.Equal(t, want+"🍎红", text.String())
	})
}

func TestEveryChoiceMustFinish(t *testing.T) {
	ask := func(n int, events ...string) (*api.Text, error) {
		return answer(t, 200, asStream, strings.Join(events, "")+done).StreamComplete(t.Context(),
			api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{N: n}}, nil)
	}
	event := func(index int, text, finish string) string {
		return fmt.Sprintf(`data: {"choices":[{"index":%d,"text":"%s","finish_reason":%s}]}`, index, text, finish) + "\n\n"
	}
	text, err := ask(2, event(1, "B", "null"), event(0, "A", "null"), event(1, "b", `"stop"`), event(0, "a", `"length"`))
	require.NoError(t, err)
	assert.Equal(t, []api.Choice{{Index: 1, Text: "Bb", FinishReason: "stop"}, {Index: 0, Text: "Aa", FinishReason: "length"}}, text.Choices)

	_, err = ask(2, event(0, "A", `"stop"`), event(1, "B", "null"))
	assert.ErrorContains(t, err, "[DONE] came too early: missing finish_reason of choice 1")
	_, err = ask(2, event(0, "A", `"stop"`))
	assert.ErrorContains(t, err, "missing finish_reason of 1 choice (1 of 2 came)")
	_, err = ask(0, event(0, "A", `"stop"`), event(1, "B", "null"))
	assert.ErrorContains(t, err, "missing finish_reason of choice 1", "also one that was not asked for")
}

// A keep-alive connection must survive a finished stream, a whole answer and a picture: a load test that opens a
// connection per request measures connecting.
func TestConnectionIsUsedAgain(t *testing.T) {
	var opened atomic.Int32
	raw := testPNG(t, 4, 4)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		switch {
		case bytes.Contains(body, []byte(`"stream":true`)):
			w.Header().Set("Content-Type", asStream)
			for _, e := range []string{chunk("a", ""), chunk("b", "stop"), done} {
				io.WriteString(w, e)
				w.(http.Flusher).Flush()
			}
		case r.URL.Path == "/v1/images/generations":
			w.Header().Set("Content-Type", "image/png")
			w.Write(raw)
		default:
			w.Header().Set("Content-Type", asJSON)
			io.WriteString(w, `{"choices":[{"index":0,"text":"a","finish_reason":"stop"}],"kv_transfer_params":{"a":1}}`)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	c := &api.Client{BaseURL: s.URL, Timeout: time.Minute}
	for range 5 {
		require.NoError(t, streamed(c))
		require.NoError(t, complete(c))
		require.NoError(t, generate(c))
	}
	assert.EqualValues(t, 1, opened.Load(), "connections for 15 requests in a row")
	c.CloseIdle()
	require.NoError(t, complete(c))
	assert.EqualValues(t, 2, opened.Load(), "CloseIdle closed it")
}

// A server that forgets to end the body after [DONE] costs the connection, not the answer.
func TestStreamLeftOpenAfterDone(t *testing.T) {
	c := hangs(t, chunk("a", "stop")+done)
	text, err := c.StreamComplete(t.Context(), completion, nil)
	require.NoError(t, err)
	assert.Equal(t, "a", text.String())
	assert.Equal(t, text.Events[1].At, text.End)
}

// Answers share pooled memory while they are read. What they return must not.
func TestAnswersDoNotShareMemory(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var q struct{ Prompt string }
		json.Unmarshal(body, &q)
		w.Header().Set("Content-Type", asJSON)
		fmt.Fprintf(w, `{"id":"%[1]s","model":"%[1]s","choices":[{"index":0,"text":"%[1]s","finish_reason":"%[1]s","logprobs":{"tokens":["%[1]s"],"token_logprobs":[-1],"top_logprobs":[{"%[1]s":-1}]}}],"kv_transfer_params":{"id":"%[1]s"},"metrics":{"stage_durations":{"%[1]s":1}}}`, q.Prompt)
	})
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			var kept []*api.Text
			var want []string
			for i := range 30 {
				p := strings.Repeat(string(rune('a'+g)), 1+i*7)
				text, err := c.Complete(context.Background(), api.CompletionRequest{Prompt: p})
				if !assert.NoError(t, err) {
					return
				}
				kept, want = append(kept, text), append(want, p)
			}
			for i, text := range kept {
				l := text.Choices[0].Logprobs[0]
				assert.Equal(t, []string{want[i], want[i], want[i], want[i], `{"id":"` + want[i] + `"}`, want[i], want[i]},
					[]string{text.ID, text.Model, text.String(), text.Choices[0].FinishReason, string(text.Ticket), l.Token, l.Top[0].Token})
				assert.Contains(t, text.Metrics.StageDurations, want[i])
			}
		})
	}
	all.Wait()
}

// BenchmarkStreamComplete reads streams of 2,000 vLLM-sized events over loopback: as the client does, and as a bare read
// that only counts bytes. Server and client share the machine's cores in both.
func BenchmarkStreamComplete(b *testing.B) {
	const events = 2000
	var stream bytes.Buffer
	for i := range events {
		finish := "null"
		if i == events-1 {
			finish = `"length"`
		}
		fmt.Fprintf(&stream, `data: {"id":"cmpl-93d8054a7f452223","object":"text_completion","created":1795506734,"model":"tiny","choices":[{"index":0,"text":" fox","logprobs":null,"finish_reason":%s,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}`+"\n\n", finish)
	}
	stream.WriteString(done)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", asStream)
		w.Write(stream.Bytes())
	}))
	defer s.Close()
	bare := 0.0
	report := func(b *testing.B) {
		rate := float64(b.N) * events / b.Elapsed().Seconds()
		b.ReportMetric(rate, "events/s")
		if bare > 0 {
			b.ReportMetric(rate/bare, "of-bare-read")
		}
		b.ReportMetric(0, "ns/op")
	}
	b.Run("bare-read", func(b *testing.B) {
		buf := make([]byte, 32<<10)
		for b.Loop() {
			resp, err := http.Post(s.URL, asJSON, strings.NewReader(`{}`))
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for err == nil {
				var k int
				k, err = resp.Body.Read(buf)
				n += k
			}
			resp.Body.Close()
			if n != stream.Len() {
				b.Fatalf("%d bytes of %d", n, stream.Len())
			}
		}
		report(b)
		bare = float64(b.N) * events / b.Elapsed().Seconds()
	})
	b.Run("client", func(b *testing.B) {
		b.ReportAllocs()
		c := &api.Client{BaseURL: s.URL}
		for b.Loop() {
			text, err := c.StreamComplete(b.Context(), api.CompletionRequest{Prompt: "x"}, nil)
			if err != nil || len(text.Events) != events+1 {
				b.Fatal(err, len(text.Events))
			}
		}
		report(b)
	})
	b.Run("encoding-json", func(b *testing.B) { // what the obvious client would cost: bufio.Scanner and encoding/json
		b.ReportAllocs()
		for b.Loop() {
			resp, err := http.Post(s.URL, asJSON, strings.NewReader(`{}`))
			if err != nil {
				b.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			n := 0
			for _, line := range bytes.Split(body, []byte("\n\n")) {
				data, found := bytes.CutPrefix(line, []byte("data: "))
				if !found || data[0] != '{' {
					continue
				}
				var m struct {
					ID, Model string
					Choices   []struct {
						Index        int
						Text         string
						FinishReason string `json:"finish_reason"`
						TokenIDs     []int  `json:"token_ids"`
					}
					Usage *struct{ PromptTokens int }
				}
				if err := json.Unmarshal(data, &m); err != nil {
					b.Fatal(err)
				}
				n++
			}
			if n != events {
				b.Fatal(n)
			}
		}
		report(b)
	})
}
