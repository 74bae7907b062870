package api_test

import (
	"archive/zip"
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func itoa(n int) string { return strconv.Itoa(n) }

func serve(t testing.TB, h http.HandlerFunc) *api.Client {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &api.Client{BaseURL: s.URL, Timeout: time.Minute}
}

// answer serves one fixed answer.
func answer(t testing.TB, status int, contentType, body string) *api.Client {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		io.WriteString(w, body)
	})
}

const (
	asJSON   = "application/json"
	asStream = "text/event-stream; charset=utf-8"
)

var (
	completion = api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{RequestID: "req-7"}}
	chatImage  = api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "fox"}}, Modalities: []string{"image"}}
)

func complete(c *api.Client) error {
	_, err := c.Complete(context.Background(), completion)
	return err
}

func streamed(c *api.Client) error {
	_, err := c.StreamComplete(context.Background(), completion, nil)
	return err
}

func generate(c *api.Client) error {
	_, err := c.Generate(context.Background(), api.ImageRequest{Prompt: "fox"})
	return err
}

func chatPicture(c *api.Client) error {
	_, err := c.Chat(context.Background(), chatImage)
	return err
}

func chunk(text, finish string) string {
	f := "null"
	if finish != "" {
		f = `"` + finish + `"`
	}
	return `data: {"id":"cmpl-1","choices":[{"index":0,"text":"` + text + `","finish_reason":` + f + "}]}\n\n"
}

const done = "data: [DONE]\n\n"

// Every way in which an answer can be none, with the kind and the words of the report.
func TestFailures(t *testing.T) {
	html := `<!DOCTYPE html><html><head><title>
		Jupyter &amp; friends</title></head></html>`
	for _, f := range []struct {
		name        string
		ask         func(*api.Client) error
		status      int
		contentType string
		body        string
		kind        api.Kind
		text        string
	}{
		// error bodies
		{"vLLM error", complete, 400, asJSON, `{"error":{"message":"max_tokens must be at least 1","type":"BadRequestError","param":"max_tokens","code":400}}`,
			api.Refused, "/v1/completions: 400 Bad Request: max_tokens must be at least 1 (BadRequestError, param max_tokens, code 400); request id req-7"},
		{"omni engine error", complete, 500, asJSON, `{"error":{"message":"boom","type":"InternalServerError","param":null,"code":"E1","request_id":"srv-9","error_stage_id":1}}`,
			api.Server, "/v1/completions: stage 1: 500 Internal Server Error: boom (InternalServerError, code E1); request id srv-9"},
		{"error as string", complete, 401, asJSON, `{"error":"Unauthorized"}`, api.Refused, "401 Unauthorized: Unauthorized; request id req-7"},
		{"detail as string", complete, 404, asJSON, `{"detail":"Not Found"}`, api.Refused, "404 Not Found: Not Found"},
		{"detail as list", complete, 422, asJSON, `{"detail":[{"loc":["body","prompt"],"msg":"Field required","type":"missing"},{"loc":["body","n"],"msg":"too big","type":"x"}]}`,
			api.Refused, "422 Unprocessable Entity: body.prompt: Field required; body.n: too big (missing, param body.prompt)"},
		{"detail as object", complete, 400, asJSON, `{"detail":{"error":{"message":"inner","code":7}}}`, api.Refused, "inner (code 7)"},
		{"detail as odd object", complete, 400, asJSON, `{"detail":{"why":"so"}}`, api.Refused, `{"why":"so"}`},
		{"object error", complete, 400, asJSON, `{"object":"error","message":"old style","type":"invalid","param":null,"code":40001}`, api.Refused, "old style (invalid, code 40001)"},
		{"plain text", complete, 500, "text/plain", "Internal Server Error", api.Server, "500 Internal Server Error: Internal Server Error"},
		{"empty body", complete, 503, "", "", api.Server, "503 Service Unavailable: empty body"},
		{"HTML under an error status", complete, 502, "text/html", "<html><title>502 Bad Gateway</title>", api.Server, `answered HTML (text/html, title "502 Bad Gateway"), not JSON: is http://`},
		{"broken JSON under an error status", complete, 500, asJSON, `{"error":{"message":"cut`, api.Server, `500 Internal Server Error: {"error":{"message":"cut`},
		{"redirect", complete, 307, "", "", api.Protocol, "answered a redirect to , which is not followed"},
		{"accepted", complete, 202, asJSON, `{}`, api.Protocol, "status Accepted where 200 OK is due"},

		// a 200 that is none
		{"error inside 200", complete, 200, asJSON, `{"error":{"message":"engine dead","code":500}}`, api.InBand, "error inside a 200 answer: engine dead (code 500)"},
		{"object error inside 200", complete, 200, asJSON, `{"object":"error","message":"late","code":400}`, api.InBand, "error inside a 200 answer: late"},
		{"detail inside 200", complete, 200, asJSON, `{"detail":"nope"}`, api.InBand, "nope"},
		{"finish_reason error", complete, 200, asJSON, `{"choices":[{"index":0,"text":"a","finish_reason":"error"}]}`, api.InBand, `finish_reason "error" of choice 0`},
		{"HTML", complete, 200, "text/html; charset=utf-8", html, api.Protocol, `answered HTML (text/html, title "Jupyter & friends"), not JSON: is http://127.0.0.1`},
		{"HTML that says it is JSON", complete, 200, asJSON, "  <HTML>", api.Protocol, "answered HTML (application/json), not JSON"},
		{"wrong content type", complete, 200, "text/plain", "OK", api.Protocol, `content type "text/plain" where application/json is due, body "OK"`},
		{"a stream that was not asked for", complete, 200, asStream, done, api.Protocol, `content type "text/event-stream" where application/json is due`},
		{"nothing", complete, 200, asJSON, "", api.Protocol, "empty body where JSON is due"},
		{"no choices", complete, 200, asJSON, `{"choices":[]}`, api.Protocol, "an answer without choices"},
		{"choices missing", complete, 200, asJSON, `{"id":"x"}`, api.Protocol, "an answer without choices"},
		{"choices of the wrong shape", complete, 200, asJSON, `{"choices":{"0":1}}`, api.Protocol, "unexpected JSON at byte 11: object where an array is due"},
		{"an array", complete, 200, asJSON, `[1]`, api.Protocol, "array where an object is due"},
		{"half of the JSON", complete, 200, asJSON, `{"choices":[{"text":"a"`, api.Protocol, "ends where ',' or '}' is due"},
		{"two documents", complete, 200, asJSON, `{"choices":[{"text":"a"}]}{}`, api.Protocol, "more after the value"},

		// streams
		{"no end at all", streamed, 200, asStream, chunk("a", ""), api.Truncated, "the stream ended: missing finish_reason of choice 0 and [DONE]; status 200 at +"},
		{"no [DONE]", streamed, 200, asStream, chunk("a", "stop"), api.Truncated, "the stream ended: missing [DONE]; status 200 at +"},
		{"no finish_reason", streamed, 200, asStream, chunk("a", "") + done, api.Truncated, "[DONE] came too early: missing finish_reason of choice 0"},
		{"only [DONE]", streamed, 200, asStream, done, api.Truncated, "[DONE] came too early: missing finish_reason of 1 choice (0 of 1 came)"},
		{"empty stream", streamed, 200, asStream, "", api.Truncated, "the stream ended: missing finish_reason of 1 choice (0 of 1 came) and [DONE]"},
		{"cut inside an event", streamed, 200, asStream, chunk("a", "") + `data: {"choices":[{"ind`, api.Truncated, `the stream ended inside an event (17 bytes of it: "{\"choices\":[{\"ind")`},
		{"counts tokens", streamed, 200, asStream, `data: {"choices":[{"index":0,"text":"ab","token_ids":[1,2]}]}` + "\n\n", api.Truncated, "the stream ended after 2 tokens: missing"},
		{"a traceback in the stream", streamed, 200, asStream, chunk("a", "") + "Internal Server Error\n", api.Truncated, `1 line was no event, the first: "Internal Server Error"`},
		{"error event", streamed, 200, asStream, chunk("a", "") + `data: {"error": {"message": "Internal server error", "type": "InternalServerError", "param": null, "code": 500}}` + "\n\n" + done,
			api.InBand, "error inside a 200 answer: Internal server error (InternalServerError, code 500)"},
		{"object error event", streamed, 200, asStream, `data: {"object":"error","error":{"message":"AR stage died","type":"x","code":500}}` + "\n\n" + done, api.InBand, "AR stage died (x, code 500)"},
		{"flat object error event", streamed, 200, asStream, `data: {"object":"error","message":"flat","code":1}` + "\n\n", api.InBand, "flat (code 1)"},
		{"named error event", streamed, 200, asStream, "event: error\ndata: out of memory\n\n", api.InBand, "error inside a 200 answer: out of memory"},
		{"finish_reason error in a stream", streamed, 200, asStream, chunk("a", "error") + done, api.InBand, `finish_reason "error" of choice 0`},
		{"garbage event", streamed, 200, asStream, "data: {oops}\n\n" + done, api.Protocol, "unexpected JSON at byte 1"},
		{"event after [DONE]", streamed, 200, asStream, chunk("a", "stop") + done + chunk("b", ""), api.Protocol, "an event follows [DONE]"},
		{"an answer in one piece", streamed, 200, asJSON, `{"choices":[{"index":0,"text":"a","finish_reason":"stop"}]}`, api.Protocol, "asked for a stream, got the answer in one piece"},
		{"an error in one piece", streamed, 200, asJSON, `{"error":{"message":"early"}}`, api.InBand, "early"},
		{"HTML for a stream", streamed, 200, "text/html", html, api.Protocol, "answered HTML"},

		// pictures
		{"chat says no in words", chatPicture, 200, asJSON, `{"choices":[{"index":0,"message":{"content":"Image generation produced no images."},"finish_reason":"stop"}]}`,
			api.Protocol, `asked for a picture, got only text: "Image generation produced no images."`},
		{"chat with text parts only", chatPicture, 200, asJSON, `{"choices":[{"message":{"content":[{"type":"text","text":"sorry"}]}}]}`, api.Protocol, `got only text: "sorry"`},
		{"chat with an empty list", chatPicture, 200, asJSON, `{"choices":[{"message":{"content":[]}}]}`, api.Protocol, `got only text: ""`},
		{"no pictures", generate, 200, asJSON, `{"created":1,"data":[]}`, api.Protocol, "an answer without pictures"},
		{"no data", generate, 200, asJSON, `{"created":1}`, api.Protocol, "an answer without pictures"},
		{"null data", generate, 200, asJSON, `{"created":1,"data":null}`, api.Protocol, "an answer without pictures"},
		{"null picture", generate, 200, asJSON, `{"data":[{"b64_json":null,"url":null}]}`, api.Protocol, "data[0] holds neither b64_json nor url"},
		{"picture by URL", generate, 200, asJSON, `{"data":[{"url":"http://x/y.png"}]}`, api.Protocol, "a picture by URL, where its data is due"},
		{"no base64", generate, 200, asJSON, `{"data":[{"b64_json":"***"}]}`, api.Protocol, "illegal base64 data at input byte 0"},
		{"base64 of no picture", generate, 200, asJSON, `{"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString([]byte("GIF89a, or so it says")) + `"}]}`,
			api.Protocol, `image file of 21 bytes is no png, jpeg or webp: it begins "GIF89a, or so it"`},
		{"empty picture", generate, 200, asJSON, `{"data":[{"b64_json":""}]}`, api.Protocol, "image file is empty"},
		{"error for pictures inside 200", generate, 200, asJSON, `{"error":{"message":"asleep","code":500}}`, api.InBand, "asleep"},
		{"pixel bomb", generate, 200, asJSON, `{"data":[{"b64_json":"` + base64.StdEncoding.EncodeToString(bombPNG()) + `"}]}`,
			api.Limit, "limit: png header of a 72-byte file claims 20000x20000 = 400000000 pixels, limit 16777216 (Limits.Pixels)"},
		{"picture file that is none", generate, 200, "image/png", "nonsense", api.Protocol, `image file of 8 bytes is no png, jpeg or webp: it begins "nonsense"`},
		{"zip that is none", generate, 200, "application/zip", "nonsense", api.Protocol, "no zip: zip: not a valid zip file"},
		{"zip without files", generate, 200, "application/zip", zipped(), api.Protocol, "a zip without files"},
		{"edit stream without a picture", generate, 200, asStream, `data: {"object":"image.edit.chunk","type":"ar_delta","delta":"plan"}` + "\n\n" + done, api.Truncated, "[DONE] came too early: missing the picture"},
		{"edit stream that fails", generate, 200, asStream, `data: {"object":"error","error":{"message":"DiT died","code":500}}` + "\n\n" + done, api.InBand, "DiT died"},
	} {
		t.Run(f.name, func(t *testing.T) {
			err := f.ask(answer(t, f.status, f.contentType, f.body))
			require.Error(t, err)
			assert.ErrorContains(t, err, f.text)
			var e *api.Error
			require.ErrorAs(t, err, &e)
			assert.Equal(t, f.kind, e.Kind)
			assert.Equal(t, f.status, e.Status)
			assert.Equal(t, http.MethodPost, e.Method)
			assert.Contains(t, e.URL, "/v1/")
			assert.NotZero(t, e.Exchange.Start)
			assert.NotZero(t, e.Exchange.End)
			assert.LessOrEqual(t, len(e.Body), 2<<10)
		})
	}
}

// bombPNG is 72 bytes that claim 20000x20000 pixels.
func bombPNG() []byte {
	b, err := base64.StdEncoding.DecodeString("iVBORw0KGgoAAAANSUhEUgAATiAAAE4gCAYAAADjcEY5AAAAD0lEQVR4nGP4//8/AAX+Av4AAACimmHdAAAAAElFTkSuQmCC")
	if err != nil {
		panic(err)
	}
	return b
}

func zipped(files ...[]byte) string {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i, raw := range files {
		f, _ := w.Create(fmt.Sprintf("image_%d.png", i))
		f.Write(raw)
	}
	w.Close()
	return b.String()
}

func TestStageHeaderNamesTheStage(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set(api.StageHeader, "prefill")
		w.WriteHeader(502)
		io.WriteString(w, `{"error":{"message":"refused"}}`)
	})
	err := complete(c)
	var e *api.Error
	require.ErrorAs(t, err, &e)
	assert.Equal(t, "prefill", e.Stage)
	assert.ErrorContains(t, err, "/v1/completions: stage prefill: 502 Bad Gateway: refused")
}

func TestLimits(t *testing.T) {
	long := strings.Repeat("x", 5000)
	t.Run("Content-Length is believed before the body is read", func(t *testing.T) {
		c := replay(t, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1073741824\r\n\r\n{")
		err := complete(c)
		assert.Equal(t, api.Limit, api.KindOf(err))
		assert.ErrorContains(t, err, "Content-Length claims 1073741824 bytes, limit 268435456 (Limits.BodyBytes)")
	})
	t.Run("a body without a length is cut off with an error", func(t *testing.T) {
		c := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", asJSON)
			for range 100 {
				io.WriteString(w, long)
				w.(http.Flusher).Flush()
			}
		})
		c.Limits.BodyBytes = 10_000
		_, err := c.Complete(t.Context(), completion)
		var e *api.Error
		require.ErrorAs(t, err, &e)
		assert.Equal(t, api.Limit, e.Kind)
		assert.ErrorContains(t, err, "answer of more than 10000 bytes")
		assert.EqualValues(t, 10_001, e.Exchange.BodyBytes, "no more was read than needed to know")
	})
	t.Run("exactly the limit is allowed", func(t *testing.T) {
		body := `{"choices":[{"text":"` + long + `"}]}`
		c := answer(t, 200, asJSON, body)
		c.Limits.BodyBytes = int64(len(body))
		require.NoError(t, complete(c))
		c.Limits.BodyBytes--
		assert.Equal(t, api.Limit, api.KindOf(complete(c)))
	})
	t.Run("an endless event", func(t *testing.T) {
		c := answer(t, 200, asStream, "data: "+long)
		c.Limits.BodyBytes = 4000
		assert.Equal(t, api.Limit, api.KindOf(streamed(c)))
	})
	t.Run("an endless stream", func(t *testing.T) {
		c := answer(t, 200, asStream, strings.Repeat(chunk("a", ""), 1000))
		c.Limits.BodyBytes = 4000
		text, err := c.StreamComplete(t.Context(), completion, nil)
		assert.Equal(t, api.Limit, api.KindOf(err))
		assert.NotEmpty(t, text.Events)
	})
	t.Run("an image file", func(t *testing.T) {
		c := answer(t, 200, asJSON, `{"data":[{"b64_json":"`+base64.StdEncoding.EncodeToString(testPNG(t, 64, 64))+`"}]}`)
		c.Limits.FileBytes = 100
		err := generate(c)
		assert.Equal(t, api.Limit, api.KindOf(err))
		assert.ErrorContains(t, err, "limit 100 (Limits.FileBytes)")
	})
	t.Run("pixels", func(t *testing.T) {
		c := answer(t, 200, asJSON, `{"data":[{"b64_json":"`+base64.StdEncoding.EncodeToString(testPNG(t, 64, 64))+`"}]}`)
		c.Limits.Pixels = 64 * 64
		require.NoError(t, generate(c))
		c.Limits.Pixels--
		assert.ErrorContains(t, generate(c), "claims 64x64 = 4096 pixels, limit 4095")
	})
	t.Run("a zip bomb", func(t *testing.T) {
		c := answer(t, 200, "application/zip", zipped(make([]byte, 1<<20)))
		c.Limits.FileBytes = 1 << 16
		err := generate(c)
		assert.Equal(t, api.Limit, api.KindOf(err))
		assert.ErrorContains(t, err, `"image_0.png" in the zip claims 1048576 bytes, limit 65536`)
	})
}

// hangs answers with these bytes and then nothing, until the test ends.
func hangs(t *testing.T, write string) *api.Client {
	over := make(chan struct{})
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if write != "" {
			w.Header().Set("Content-Type", asStream)
			io.WriteString(w, write)
			w.(http.Flusher).Flush()
		}
		<-over
	})
	t.Cleanup(func() { close(over) }) // before the server's own cleanup, which waits for the handler
	return c
}

func TestWhoseTimeRanOut(t *testing.T) {
	t.Parallel()
	t.Run("the client's, before any answer", func(t *testing.T) {
		c := hangs(t, "")
		c.Timeout = 30 * time.Millisecond
		err := complete(c)
		assert.Equal(t, api.Timeout, api.KindOf(err))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "timeout: the client's timeout of 30ms ran out; nothing had arrived by +")
	})
	t.Run("the client's, in a stream", func(t *testing.T) {
		c := hangs(t, chunk("a", "")+chunk("b", ""))
		c.Timeout = 2 * time.Second // the two events must make it on a loaded machine
		text, err := c.StreamComplete(t.Context(), completion, nil)
		assert.Equal(t, api.Timeout, api.KindOf(err))
		assert.ErrorContains(t, err, "the client's timeout of 2s ran out; status 200 at +")
		assert.ErrorContains(t, err, fmt.Sprintf("then 2 events, %d bytes by +", 2*len(chunk("a", ""))))
		assert.Equal(t, "ab", text.String(), "what had arrived is kept")
		assert.Len(t, text.Events, 2)
	})
	t.Run("the caller's deadline, which is shorter", func(t *testing.T) {
		c := hangs(t, "")
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		defer cancel()
		_, err := c.Complete(ctx, completion)
		assert.Equal(t, api.Timeout, api.KindOf(err))
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.ErrorContains(t, err, "timeout: the caller's deadline passed; nothing had arrived by +")
	})
	t.Run("the caller cancels, with a cause", func(t *testing.T) {
		c := hangs(t, chunk("a", ""))
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("decode was killed")
		_, err := c.StreamComplete(ctx, completion, func(api.Event) error { cancel(why); return nil })
		assert.Equal(t, api.Canceled, api.KindOf(err))
		assert.ErrorIs(t, err, context.Canceled)
		assert.ErrorIs(t, err, why)
		assert.ErrorContains(t, err, "canceled: the caller canceled: decode was killed; status 200 at +")
	})
	t.Run("the callback stops, and the server notices", func(t *testing.T) {
		gone := make(chan struct{})
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Content-Type", asStream)
			io.WriteString(w, chunk("a", ""))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			close(gone)
		})
		enough := errors.New("enough")
		text, err := c.StreamComplete(t.Context(), completion, func(api.Event) error { return enough })
		assert.ErrorIs(t, err, enough)
		assert.Equal(t, api.Canceled, api.KindOf(err))
		assert.ErrorContains(t, err, "stopped by the event callback: enough")
		assert.Equal(t, "a", text.String())
		select {
		case <-gone:
		case <-time.After(20 * time.Second):
			t.Fatal("the server never saw the client go")
		}
	})
}

func TestBrokenConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	err = complete(&api.Client{BaseURL: "http://" + l.Addr().String()})
	assert.Equal(t, api.Transport, api.KindOf(err))
	assert.ErrorContains(t, err, "transport: dial tcp "+l.Addr().String()+": connect: connection refused; nothing had arrived by +")

	err = complete(replay(t))
	assert.Equal(t, api.Transport, api.KindOf(err), "closed without a word")
	assert.ErrorContains(t, err, "EOF")

	err = complete(replay(t, "SSH-2.0-OpenSSH_9.2\r\n"))
	assert.Equal(t, api.Protocol, api.KindOf(err))
	assert.ErrorContains(t, err, `malformed HTTP response "SSH-2.0-OpenSSH_9.2"`)

	head := "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
	err = complete(replay(t, head+"Content-Length: 1000\r\n\r\n", `{"choices":[`))
	assert.Equal(t, api.Truncated, api.KindOf(err))
	assert.ErrorContains(t, err, "truncated: the body ended early (Content-Length claimed 1000 bytes); status 200 at +")
	assert.ErrorContains(t, err, "then 12 bytes by +")

	// A killed engine: chunked body without its last chunk.
	event := chunk("a", "")
	err = streamed(replay(t, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
		fmt.Sprintf("%x\r\n%s\r\n", len(event), event)))
	assert.Equal(t, api.Truncated, api.KindOf(err))
	assert.ErrorContains(t, err, "the body ended early: missing finish_reason of choice 0 and [DONE]; status 200 at +")
	assert.ErrorContains(t, err, "then 1 event, ")
}

func TestBadClients(t *testing.T) {
	for base, want := range map[string]string{
		"":                         "BaseURL is empty",
		"http://127.0.0.1:8000/v1": `must not end in /v1`,
		"127.0.0.1:8000":           "must begin with http:// or https://",
	} {
		c := &api.Client{BaseURL: base}
		assert.ErrorContains(t, complete(c), want)
		assert.ErrorContains(t, c.Health(t.Context()), want)
	}
	c := answer(t, 200, asJSON, `{}`)
	_, err := c.Complete(t.Context(), api.CompletionRequest{Prompt: "x", PromptIDs: []int{1}})
	assert.ErrorContains(t, err, "both Prompt and PromptIDs")
	_, err = c.Complete(t.Context(), api.CompletionRequest{Sampling: api.Sampling{Ticket: api.Ticket("{")}})
	assert.ErrorContains(t, err, "Ticket is no JSON")
	_, err = c.Complete(t.Context(), api.CompletionRequest{Sampling: api.Sampling{Extra: map[string]any{"x": make(chan int)}}})
	assert.ErrorContains(t, err, "unsupported type")
}

func TestGets(t *testing.T) {
	c := answer(t, 200, asJSON, `{"object":"list","data":[]}`)
	_, err := c.Models(t.Context())
	assert.Equal(t, api.Protocol, api.KindOf(err))
	assert.ErrorContains(t, err, "/v1/models: protocol: lists no model")

	var page struct{ Records []int }
	err = answer(t, 200, asJSON, `{"records":"none"}`).GetJSON(t.Context(), "/omnitest/ledger?since=3", &page)
	assert.Equal(t, api.Protocol, api.KindOf(err))
	assert.ErrorContains(t, err, "/omnitest/ledger?since=3: protocol: unexpected JSON: json: cannot unmarshal string")

	err = answer(t, 200, asJSON, `{"error":{"message":"engine dead","code":500}}`).GetJSON(t.Context(), "/v1/models", &page)
	assert.Equal(t, api.InBand, api.KindOf(err))
	assert.ErrorContains(t, err, "/v1/models: error inside a 200 answer: engine dead (code 500)")

	err = answer(t, 500, "text/plain", strings.Repeat("错", 5000)).Health(t.Context())
	assert.ErrorContains(t, err, "500 Internal Server Error: "+strings.Repeat("错", 166)+"... (15000 bytes)", "clipped between characters")

	body, header, err := answer(t, 200, "text/plain; version=0.0.4", "# HELP x\n").Get(t.Context(), "/metrics")
	require.NoError(t, err)
	assert.Equal(t, "# HELP x\n", string(body))
	assert.Equal(t, "text/plain; version=0.0.4", header.Get("Content-Type"))

	err = answer(t, 503, asJSON, `{"status":"unhealthy"}`).Health(t.Context())
	assert.ErrorContains(t, err, `/health: 503 Service Unavailable: {"status":"unhealthy"}`)
	err = answer(t, 200, "text/html", "<html><title>It works!</title>").Health(t.Context())
	assert.ErrorContains(t, err, `answered HTML (text/html, title "It works!")`)
}

func TestParseSize(t *testing.T) {
	for _, text := range []string{"", "x", "1024", "1024x", "x1024", "0x1024", "-1x5", "1024xabc", "1x2x3", "not-a-size"} {
		_, err := api.ParseSize(text)
		assert.ErrorContains(t, err, fmt.Sprintf("size %q: want WxH in pixels", text))
	}
	s, err := api.ParseSize("1376x768")
	require.NoError(t, err)
	assert.Equal(t, api.Size{W: 1376, H: 768}, s)
	assert.Equal(t, "1376x768", s.String())
}
