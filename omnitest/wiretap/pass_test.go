package wiretap_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/wiretap"
)

// engine answers as it is told, and tells what it was sent.
type engine struct {
	answer http.HandlerFunc
	got    chan received
}

type received struct {
	header http.Header
	url    string
	body   string
}

func (e *engine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	header := r.Header.Clone()
	header.Del("Connection") // of one connection only
	body, _ := io.ReadAll(r.Body)
	e.got <- received{header, r.URL.String(), string(body)}
	e.answer(w, r)
}

// exchange sends one body to an engine, directly and through a tap, and gives both answers.
func exchange(t *testing.T, url, body string) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/v1/completions?a=1&b=%zz;c", strings.NewReader(body))
	require.NoError(t, err)
	for k, v := range map[string]string{"Content-Type": "application/json", "Authorization": "Bearer sk-secret", "X-Forwarded-For": "10.1.1.1", "X-Api-Key": "sk-other",
		"X-Data-Parallel-Rank": "3", "User-Agent": "", "Accept-Encoding": "gzip"} {
		req.Header.Set(k, v)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return resp, got, err
}

func zipped(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, _ = z.Write([]byte(s))
	z.Close()
	return b.Bytes()
}

// TestPassesUntouched holds an exchange through a tap against the same one without.
func TestPassesUntouched(t *testing.T) {
	t.Parallel()
	const ticketed = `{"id":"cmpl-1","choices":[{"text":"é","finish_reason":"length"}],"kv_transfer_params":{"remote_port" : 1.0}}`
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		cut    bool // the answer breaks off
		error  string
		ticket string
		loose  string
	}{
		{name: "json", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.Header()["X-Odd"] = []string{"1", "2"}
			_, _ = io.WriteString(w, ticketed)
		}, ticket: `{"remote_port" : 1.0}`},
		{name: "gzip", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(zipped(ticketed))
		}, ticket: `{"remote_port" : 1.0}`},
		{name: "an encoding that is not read", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "br")
			_, _ = io.WriteString(w, "\x01\x02")
		}, loose: "prefill: answer is encoded as br, which the taps do not read"},
		{name: "html", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(502)
			_, _ = io.WriteString(w, "<html>\n<h1>Bad   Gateway</h1>")
		}, error: "502 Bad Gateway: <html> <h1>Bad Gateway</h1>"},
		{name: "error", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(400)
			_, _ = io.WriteString(w, `{"error":{"message":"min_tokens must be less","code":400}}`)
		}, error: "400 Bad Request: min_tokens must be less"},
		{name: "error in 200", answer: func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"error":{"message":"KV load failed"}}`)
		}, error: "200 with an error inside: KV load failed"},
		{name: "stream", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			_, _ = io.WriteString(w, "data: {\"id\":\"cmpl-2\"}\n\ndata: [DO")
			w.(http.Flusher).Flush()
			_, _ = io.WriteString(w, "NE]\n\n")
		}},
		{name: "stream with an error event", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"id\":\"cmpl-2\"}\n\ndata: {\"error\": {\"message\": \"KV load failed\"}}\n\ndata: [DONE]\n\n")
		}, error: "200 with an error inside: KV load failed"},
		{name: "stream without an end", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"id\":\"cmpl-2\"}\n\n")
		}, error: "stream ended without [DONE]"},
		{name: "cut", answer: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "abc")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}, cut: true, error: "answer broke off after 3 bytes: unexpected EOF"},
		{name: "cut before the header", answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, cut: true, error: "no answer: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := &engine{answer: c.answer, got: make(chan received, 2)}
			srv := httptest.NewServer(e)
			t.Cleanup(srv.Close)
			taps, u := serve(t, wiretap.Config{Prefill: srv.URL})
			body := `{ "prompt": "a<b", "seed":9007199254740993, "temperature":1.0, "kv_transfer_params" : {"do_remote_decode" :true} }`

			want, wantBody, wantErr := exchange(t, srv.URL, body)
			got, gotBody, gotErr := exchange(t, u.Prefill, body)
			assert.Equal(t, wantErr == nil, gotErr == nil, "%v and %v", wantErr, gotErr)
			assert.Equal(t, c.cut, gotErr != nil)
			assert.Equal(t, wantBody, gotBody)
			direct, through := <-e.got, <-e.got
			assert.Equal(t, direct, through)
			assert.Equal(t, body, through.body)
			if want != nil && got != nil {
				assert.Equal(t, want.StatusCode, got.StatusCode)
				assert.Equal(t, want.ContentLength, got.ContentLength)
				want.Header.Del("Date")
				got.Header.Del("Date")
				want.Header.Del("Connection")
				got.Header.Del("Connection")
				assert.Equal(t, want.Header, got.Header)
			}

			var r flow.Record
			require.Eventually(t, func() bool {
				page, err := taps.Page(t.Context(), 0)
				require.NoError(t, err)
				require.Len(t, page.Records, 1)
				r = page.Records[0]
				return r.Hops[0].EndMS > 0
			}, limit, 5*time.Millisecond)
			h := r.Hops[0]
			assert.Equal(t, c.error, h.Error)
			assert.Equal(t, c.ticket, string(h.TicketOut))
			assert.Equal(t, `{"do_remote_decode" :true}`, string(h.TicketIn))
			assert.Equal(t, map[string]string{"Content-Type": "application/json", "Authorization": "present", "X-Forwarded-For": "present", "X-Api-Key": "present",
				"X-Data-Parallel-Rank": "3", "Accept-Encoding": "present", "Content-Length": "present"}, without(h.SentHeader, "User-Agent", "Connection"))
			if c.loose != "" {
				assert.Equal(t, "unjoined: "+c.loose, r.Outcome+": "+r.Error)
			}
		})
	}
}

func without(m map[string]string, names ...string) map[string]string {
	for _, n := range names {
		delete(m, n)
	}
	return m
}

// A stage that is not there is, through a tap, one that does not answer.
func TestDeadStage(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l.Close()
	taps, u := serve(t, wiretap.Config{Decode: "http://" + l.Addr().String()})
	_, _, err = exchange(t, u.Decode, `{"prompt":"a"}`)
	assert.ErrorIs(t, err, io.EOF)
	page, err := taps.Page(t.Context(), 0)
	require.NoError(t, err)
	require.Len(t, page.Records, 1)
	assert.Equal(t, "failed", page.Records[0].Outcome)
	assert.Contains(t, page.Records[0].Error, "decode: dial tcp "+l.Addr().String()+": connect: connection refused")
}

// Events pass one by one: the second is sent only when the client has the first.
func TestStreamsAreNotHeldBack(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush() // the header too comes before the first event
		for i := range 20 {
			select {
			case <-next:
			case <-r.Context().Done():
				return
			}
			fmt.Fprintf(w, "data: {\"n\":%d}\n\n", i)
			w.(http.Flusher).Flush()
		}
	}))
	t.Cleanup(srv.Close)
	_, u := serve(t, wiretap.Config{Decode: srv.URL})
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.Decode+"/v1/completions", strings.NewReader(`{}`))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	buffer := make([]byte, 1024)
	for i := range 20 {
		next <- struct{}{}
		n, err := resp.Body.Read(buffer)
		if i < 19 { // the last may bring the end with it
			require.NoError(t, err)
		}
		assert.Equal(t, fmt.Sprintf("data: {\"n\":%d}\n\n", i), string(buffer[:n]))
	}
}

// A proxy that goes away takes the engine's request with it, and the ledger says so.
func TestProxyGoesAway(t *testing.T) {
	t.Parallel()
	left := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, "data: {}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(left)
	}))
	t.Cleanup(srv.Close)
	taps, u := serve(t, wiretap.Config{Decode: srv.URL})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.Decode+"/v1/completions", strings.NewReader(`{}`))
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	cancel()
	resp.Body.Close()
	select {
	case <-left:
	case <-time.After(limit):
		t.Fatal("the engine still works for a client that has left")
	}
	require.Eventually(t, func() bool {
		page, _ := taps.Page(context.Background(), 0)
		return page.Records[0].Outcome == "cancelled" && strings.HasPrefix(page.Records[0].Hops[0].Error, "proxy went away: answer ")
	}, limit, 5*time.Millisecond)
}

func TestRefusedConfigs(t *testing.T) {
	for c, want := range map[wiretap.Config]string{
		{}:                                  "wiretap: no stage to tap: set Prefill, Decode or DiT",
		{Prefill: "10.0.0.1:8000"}:          `wiretap: prefill "10.0.0.1:8000": want a base URL like http://127.0.0.1:8000`,
		{Decode: "http://10.0.0.1:8000/v1"}: `wiretap: decode "http://10.0.0.1:8000/v1": want the base URL without /v1`,
	} {
		_, err := wiretap.New(c)
		assert.EqualError(t, err, want)
	}
	taps, u := serve(t, wiretap.Config{DiT: "http://127.0.0.1:1"})
	assert.EqualError(t, taps.Front(""), "wiretap: entry: the proxy's URL is empty")
	resp, _, err := exchange(t, u.Entry, `{}`)
	require.NoError(t, err)
	assert.Equal(t, 503, resp.StatusCode)
	assert.Nil(t, taps.Handler("prefill"))
	assert.NotNil(t, taps.Handler("dit"))
}
