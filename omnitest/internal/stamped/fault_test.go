package stamped

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFaults(t *testing.T) {
	s := start(t, Options{})
	for _, c := range []struct {
		fault  Fault
		check  func(t *testing.T, status int, events []seen, whole string, err error)
		state  State
		tokens int // written
	}{
		{Healthy, func(t *testing.T, status int, events []seen, _ string, err error) {
			require.NoError(t, err)
			require.Len(t, events, 10)
			assert.Equal(t, "[DONE]", events[9].data)
			assert.Contains(t, events[8].data, `"choices":[],"usage":`)
		}, StateDone, 8},
		{CloseAt200, func(t *testing.T, status int, events []seen, _ string, err error) {
			assert.Equal(t, 200, status)
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			assert.Empty(t, events)
		}, StateFault, 0},
		{NoDone, func(t *testing.T, status int, events []seen, _ string, err error) {
			require.NoError(t, err)
			require.Len(t, events, 9)
			assert.Contains(t, events[8].data, `"choices":[],"usage":`)
		}, StateDone, 8},
		{LongLines, func(t *testing.T, status int, events []seen, _ string, err error) {
			require.NoError(t, err)
			require.Len(t, events, 10)
			for _, e := range events[:8] {
				assert.Equal(t, 1<<20, len("data: "+e.data+"\n\n"))
			}
		}, StateDone, 8},
		{UsageOnChoice, func(t *testing.T, status int, events []seen, _ string, err error) {
			require.NoError(t, err)
			require.Len(t, events, 9)
			assert.Contains(t, events[7].data, `"finish_reason":"length"`)
			assert.Contains(t, events[7].data, `"completion_tokens":8`)
			assert.Equal(t, "[DONE]", events[8].data)
		}, StateDone, 8},
		{Reset, func(t *testing.T, status int, events []seen, _ string, err error) {
			assert.ErrorContains(t, err, "connection reset by peer")
			assert.LessOrEqual(t, len(events), 4) // a reset drops what the reader had not taken
		}, StateFault, 4},
		{CutEvent, func(t *testing.T, status int, events []seen, _ string, err error) {
			assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
			require.Len(t, events, 5)
			assert.False(t, strings.HasSuffix(events[4].data, "}"), events[4].data)
		}, StateFault, 4},
		{Error500, func(t *testing.T, status int, events []seen, whole string, err error) {
			require.NoError(t, err)
			assert.Equal(t, 500, status)
			assert.Equal(t, `{"error":{"code":500,"message":"planted","param":null,"type":"InternalServerError"}}`, whole)
		}, StateFault, 0},
	} {
		t.Run(string("fault="+c.fault), func(t *testing.T) {
			s.Reset()
			body := strings.Replace(streamed, "{", fmt.Sprintf(`{"fault":%q,`, c.fault), 1)
			status, events, whole, err := post(t, s.URL, "/v1/completions", body)
			c.check(t, status, events, whole, err)
			truth := s.Truth()
			require.Len(t, truth.Requests, 1)
			assert.Equal(t, c.state, truth.Requests[0].State)
			assert.Len(t, truth.Requests[0].Written, c.tokens)
			assert.Zero(t, truth.Running)
		})
	}
}

// The option plants a fault into every answer, also those of requests that say nothing.
func TestFaultOfAServer(t *testing.T) {
	s := start(t, Options{Fault: NoDone})
	_, events, _, err := post(t, s.URL, "/v1/completions", streamed)
	require.NoError(t, err)
	assert.NotEqual(t, "[DONE]", events[len(events)-1].data)
}

// A client that leaves is noticed at once, long before its next token is due; an endless answer ends with its client.
func TestClientsThatLeave(t *testing.T) {
	s := start(t, Options{Interval: time.Millisecond})
	leave := func(body string, after int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/v1/completions", strings.NewReader(body))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, resp.Body, int64(after))
		require.NoError(t, err)
		resp.Body.Close()
	}
	leave(`{"prompt":"a","stream":true,"fault":"endless"}`, 20000)
	slow := start(t, Options{TTFT: time.Hour})
	{
		ctx, cancel := context.WithCancel(t.Context())
		req, err := http.NewRequestWithContext(ctx, "POST", slow.URL+"/v1/completions", strings.NewReader(streamed))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		assert.Equal(t, 1, slow.Truth().Running)
		cancel()
		resp.Body.Close()
	}
	for _, s := range []*Server{s, slow} {
		require.Eventually(t, func() bool { return s.Truth().Running == 0 }, 20*time.Second, time.Millisecond)
		require.Len(t, s.Truth().Requests, 1)
		assert.Equal(t, StateLeft, s.Truth().Requests[0].State)
	}
	assert.Greater(t, len(s.Truth().Requests[0].Written), 16, "more than an answer without the fault has")
}

// A reader that does not read must not hold up the others: its socket fills, and it alone is late.
func TestASlowReaderIsAloneLate(t *testing.T) {
	s := start(t, Options{Interval: time.Millisecond})
	req, err := http.NewRequestWithContext(t.Context(), "POST", s.URL+"/v1/completions",
		strings.NewReader(`{"prompt":"a","max_tokens":40,"stream":true,"fault":"1mb"}`))
	require.NoError(t, err)
	slow, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer slow.Body.Close()
	_, events, _, err := post(t, s.URL, "/v1/completions", streamed) // ends although the other one is stuck
	require.NoError(t, err)
	assert.Len(t, events, 10)
	assert.Equal(t, 1, s.Truth().Running)
	n, err := io.Copy(io.Discard, slow.Body) // nothing is lost
	require.NoError(t, err)
	assert.Greater(t, n, int64(40<<20))
	require.Eventually(t, func() bool { return s.Truth().Running == 0 }, 20*time.Second, time.Millisecond)
	truth := s.Truth()
	assert.Positive(t, truth.Requests[0].Blocked)
	assert.Zero(t, truth.Requests[1].Blocked)
}
