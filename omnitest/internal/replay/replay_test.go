package replay

import (
	"bytes"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var recordings = os.DirFS("../../../testdata/recordings")

func all(t testing.TB, dir string) []Exchange {
	t.Helper()
	list, _, err := LoadAll(recordings, dir)
	require.NoError(t, err)
	return list
}

func serve(t testing.TB, o Options, list ...Exchange) *Server {
	t.Helper()
	s, err := Serve(o, list...)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// fetch sends the recorded request with net/http, as a client would, and reads the whole answer.
func fetch(t testing.TB, s *Server, e Exchange) (*http.Response, []byte, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), e.Method, s.URL+e.Path, bytes.NewReader(e.RequestBody))
	require.NoError(t, err)
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp, body, err
}

// TestEveryExchangePlays: net/http reads from the replay what the recorder's own client had read from the engine: status,
// headers and the body without its chunk framing. All of them against one server, so the requests tell them apart.
func TestEveryExchangePlays(t *testing.T) {
	for dir, count := range map[string]int{"vllm-0.32.0": 230, "vllm-gpu-pd-0.26.0": 64} {
		list := all(t, dir)
		require.Len(t, list, count, dir)
		s := serve(t, Options{}, list...)
		unfinished, edited := 0, 0
		for _, e := range list {
			resp, body, err := fetch(t, s, e)
			if len(e.Chunks) == 0 {
				require.Error(t, err, e.Name)
				continue
			}
			if e.Edited != "" {
				edited++
			}
			if e.Unfinished() {
				unfinished++
				require.ErrorIs(t, err, io.ErrUnexpectedEOF, e.Name)
			} else {
				require.NoError(t, err, e.Name)
			}
			assert.Equal(t, e.Status, resp.StatusCode, e.Name)
			assert.Equal(t, string(e.Body), string(body), e.Name)
			for _, h := range []string{"Content-Type", "Server", "Date"} {
				assert.Equal(t, e.Header.Get(h), resp.Header.Get(h), e.Name)
			}
		}
		assert.Empty(t, s.Unanswered())
		for i, r := range s.Requests() {
			assert.Equal(t, list[i].Name, r.Answered)
		}
		if dir == "vllm-0.32.0" {
			assert.Equal(t, 3, unfinished, "two closed by the client, one hung")
			assert.Zero(t, edited, "the recorder's edits kept every length")
		} else {
			assert.Equal(t, 2, edited, "/v1/models holds a path that was replaced; every other body is exact to the byte")
		}
	}
}

func load(t testing.TB, path string) Exchange {
	t.Helper()
	e, err := Load(recordings, path)
	require.NoError(t, err)
	return e
}

// TestTimes: no byte before its time, and the recorded pauses are kept. Lower bounds are exact; an upper bound cannot be
// on a loaded machine.
func TestTimes(t *testing.T) {
	e := load(t, "vllm-0.32.0/nixl/01-proper/d.json")
	require.Greater(t, len(e.Chunks), 5)
	for _, scale := range []float64{1, 0.1} {
		s := serve(t, Options{Scale: scale}, e)
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		require.NoError(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		_, err = conn.Write([]byte(e.Method + " " + e.Path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + itoa(len(e.RequestBody)) + "\r\n\r\n" + string(e.RequestBody)))
		require.NoError(t, err)
		for _, c := range e.Chunks {
			got := make([]byte, len(c.Data))
			_, err := io.ReadFull(conn, got)
			require.NoError(t, err)
			assert.GreaterOrEqual(t, time.Since(began), time.Duration(scale*float64(c.At)))
			assert.Equal(t, string(c.Data), string(got))
		}
	}
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + itoa(n%10)
}

func TestRequestsThatWereNotRecorded(t *testing.T) {
	e := load(t, "vllm-0.32.0/single/completion.json")
	s := serve(t, Options{}, e)
	other := e
	other.RequestBody = bytes.Replace(e.RequestBody, []byte("quick"), []byte("slow"), 1)
	require.NotEqual(t, string(e.RequestBody), string(other.RequestBody))
	resp, body, err := fetch(t, s, other)
	require.NoError(t, err)
	assert.Equal(t, 501, resp.StatusCode)
	assert.Equal(t, "replay: no recording answers POST /v1/completions\n", string(body))
	assert.Contains(t, s.Unanswered(), "slow")

	// Spacing and the order of keys do not matter, the spelling of numbers does.
	same := e
	same.RequestBody = []byte(`{"max_tokens":16,"temperature":0, "prompt":"The quick brown fox jumps over","model":"tiny"}`)
	resp, _, err = fetch(t, s, same)
	require.NoError(t, err)
	assert.Equal(t, 200, resp.StatusCode)
	same.RequestBody = bytes.Replace(same.RequestBody, []byte(`:0,`), []byte(`:0.0,`), 1)
	resp, _, err = fetch(t, s, same)
	require.NoError(t, err)
	assert.Equal(t, 501, resp.StatusCode)
}

func TestAnyGoesRound(t *testing.T) {
	a, b := load(t, "vllm-0.32.0/single/completion.json"), load(t, "vllm-0.32.0/single/chat.json")
	s := serve(t, Options{Any: true}, a, b)
	for _, want := range []Exchange{a, b, a} {
		_, body, err := fetch(t, s, Exchange{Method: "GET", Path: "/anything"})
		require.NoError(t, err)
		assert.Equal(t, string(want.Body), string(body))
	}
}

// TestSameRequestTwice: the answers come in the order of the recordings, the last one again and again.
func TestSameRequestTwice(t *testing.T) {
	a, b := load(t, "vllm-0.32.0/single/completion.json"), load(t, "vllm-0.32.0/single/completion-again-prefix-hit.json")
	require.Equal(t, string(a.RequestBody), string(b.RequestBody))
	s := serve(t, Options{}, a, b)
	for _, want := range []Exchange{a, b, b} {
		_, body, err := fetch(t, s, a)
		require.NoError(t, err)
		assert.Equal(t, string(want.Body), string(body))
	}
}

// TestHang: an engine that never answers holds the client until it gives up, and Close does not wait for it.
func TestHang(t *testing.T) {
	e := load(t, "vllm-0.32.0/nixl/20-missing-remote_request_id/d.json")
	require.Equal(t, "TimeoutError: timed out", e.Note)
	s := serve(t, Options{Hang: true}, e)
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	require.NoError(t, err)
	defer conn.Close()
	conn.Write([]byte(e.Method + " " + e.Path + " HTTP/1.1\r\nHost: x\r\nContent-Length: " + itoa(len(e.RequestBody)) + "\r\n\r\n" + string(e.RequestBody)))
	got := make([]byte, len(e.Raw()))
	_, err = io.ReadFull(conn, got)
	require.NoError(t, err)
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	_, err = conn.Read(got)
	assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "still open")
	s.Close()
}

func TestLoadRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`{"01-proper":{}}`:           "no recorded exchange: it has no request",
		`<html>`:                     "invalid character",
		`{"request":{"line":"GET"}}`: `request line "GET"`,
		`{"request":{"line":"GET / HTTP/1.1","body":3}}`: "request body",
	} {
		_, err := Load(fstest.MapFS{"x.json": {Data: []byte(text)}}, "x.json")
		require.Error(t, err, text)
		assert.Contains(t, err.Error(), "load recording x.json: ")
		assert.Contains(t, err.Error(), want)
	}
	_, err := Load(recordings, "nothing.json")
	assert.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Serve(Options{})
	assert.ErrorContains(t, err, "no exchanges")
	_, err = Serve(Options{Scale: -1}, Exchange{})
	assert.ErrorContains(t, err, "negative Scale")
}

func TestUnescape(t *testing.T) {
	for in, want := range map[string]string{
		`"caf\u00e9"`:       `"café"`,
		`"\ud83c\udf4e!"`:   "\"\U0001F34E!\"",
		`"\u0007\n\\u00e9"`: `"\u0007\n\\u00e9"`,
		`"\ufffd\u007f"`:    "\"\ufffd\x7f\"",
		`"\ud83c x"`:        `"\ud83c x"`,
		`"\u8bf7\u63cf"`:    `"请描"`,
	} {
		assert.Equal(t, want, string(compact([]byte(in))), in)
	}
}

func TestPages(t *testing.T) {
	pages, err := Pages(recordings, "vllm-0.32.0/metrics.tar.bz2")
	require.NoError(t, err)
	assert.Equal(t, 170, len(pages))
	assert.True(t, bytes.HasPrefix(pages["nixl/01-proper/d-after.prom"], []byte("# HELP python_gc_objects_collected_total")), "%.80q", pages["nixl/01-proper/d-after.prom"])
	_, err = Pages(fstest.MapFS{"x": {Data: []byte("no archive")}}, "x")
	assert.ErrorContains(t, err, "read recorded pages x: ")
}
