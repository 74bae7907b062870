package api_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// counting is a server that counts the connections it was asked for.
func counting(t *testing.T, h http.HandlerFunc) (*api.Client, *atomic.Int64) {
	t.Helper()
	opened := new(atomic.Int64)
	s := httptest.NewUnstartedServer(h)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	s.Start()
	c := &api.Client{BaseURL: s.URL, Timeout: time.Minute}
	t.Cleanup(func() { c.CloseIdle(); s.Close() })
	return c, opened
}

// 512 streams started at once after Connect open no connection: all run at the same time on those that were opened before.
func TestBurstAfterConnect(t *testing.T) {
	const n = 512
	together := make(chan struct{})
	var running atomic.Int64
	c, opened := counting(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" {
			return
		}
		if running.Add(1) == n {
			close(together)
		}
		<-together // all of them are in flight at once
		w.Header().Set("Content-Type", asStream)
		io.WriteString(w, chunk("a", "stop")+done)
	})
	got, err := c.Connect(t.Context(), n)
	require.NoError(t, err)
	assert.GreaterOrEqual(t, got.Opened, n, "more where the machine was so busy that net/http gave some up")
	assert.Equal(t, 0, got.Reused)
	assert.Greater(t, got.Slowest, time.Duration(0))
	assert.GreaterOrEqual(t, got.Took, got.Slowest)
	before := opened.Load()
	require.EqualValues(t, got.Opened, before)
	var all sync.WaitGroup
	for range n {
		all.Go(func() { assert.NoError(t, streamed(c)) })
	}
	all.Wait()
	assert.EqualValues(t, before, opened.Load(), "connections opened, those of Connect included")
}

// Without Connect the same burst opens as many as it has streams: the count above can fail.
func TestBurstWithoutConnect(t *testing.T) {
	const n = 16
	together := make(chan struct{})
	var running atomic.Int64
	c, opened := counting(t, func(w http.ResponseWriter, r *http.Request) {
		if running.Add(1) == n {
			close(together)
		}
		<-together
		w.Header().Set("Content-Type", asStream)
		io.WriteString(w, chunk("a", "stop")+done)
	})
	var all sync.WaitGroup
	for range n {
		all.Go(func() { assert.NoError(t, streamed(c)) })
	}
	all.Wait()
	assert.EqualValues(t, n, opened.Load())
}

func TestConnectCountsWhatIsOpen(t *testing.T) {
	c, opened := counting(t, func(w http.ResponseWriter, r *http.Request) { http.NotFound(w, r) })
	_, err := c.Connect(t.Context(), 3)
	require.NoError(t, err, "a server without /health keeps connections as well")
	got, err := c.Connect(t.Context(), 5)
	require.NoError(t, err)
	assert.Equal(t, [2]int{2, 3}, [2]int{got.Opened, got.Reused})
	assert.EqualValues(t, 5, opened.Load())
	got, err = c.Connect(t.Context(), 0)
	require.NoError(t, err)
	assert.Equal(t, api.Connected{}, got)
}

func TestConnectFails(t *testing.T) {
	c, _ := counting(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Connection", "close") })
	got, err := c.Connect(t.Context(), 4)
	assert.EqualError(t, err, "api: 0 of 4 connections to "+c.BaseURL+" stay open: the server closes them after an answer")
	assert.Equal(t, 4, got.Opened)

	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	gone := &api.Client{BaseURL: "http://" + l.Addr().String()}
	l.Close()
	_, err = gone.Connect(t.Context(), 4)
	assert.EqualError(t, err, "api: 0 of 4 connections to "+gone.BaseURL+" are open: dial tcp "+l.Addr().String()+": connect: connection refused")

	few := &api.Client{BaseURL: c.BaseURL, HTTP: &http.Client{Transport: &http.Transport{MaxConnsPerHost: 2}}}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, context.DeadlineExceeded)
	defer cancel()
	_, err = few.Connect(ctx, 4)
	assert.EqualError(t, err, "api: 2 of 4 connections to "+c.BaseURL+" are open: context deadline exceeded")

	_, err = (&api.Client{}).Connect(t.Context(), 4)
	assert.EqualError(t, err, "api: Client.BaseURL is empty")
}

// A server that offers HTTP/2 gets HTTP/1.1.
func TestHTTP1IsPinned(t *testing.T) {
	proto := make(chan string, 1)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proto <- r.Proto
		w.Header().Set("Content-Type", asStream)
		io.WriteString(w, chunk("a", "stop")+done)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	c := &api.Client{BaseURL: s.URL}
	api.Trust(c, s.Certificate())
	require.NoError(t, streamed(c))
	assert.Equal(t, "HTTP/1.1", <-proto)
}
