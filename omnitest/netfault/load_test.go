package netfault_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/netfault"
)

// What an HTTP client sees of each fault, as a proxy in front of a stage would.
func TestHTTP(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10000")
		w.Write(make([]byte, 10_000))
	}))
	defer server.Close()
	l := listen(t, server.URL)
	require.Equal(t, fmt.Sprintf("http://127.0.0.1:%d", l.Port()), l.URL())
	get := func(limit time.Duration) (n int, err error) {
		client := &http.Client{Timeout: limit, Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get(l.URL())
		if err != nil {
			return 0, err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return len(b), err
	}
	for _, c := range []struct {
		name  string
		fault func()
		limit time.Duration
		want  error // nil: any timeout
	}{
		{"cut behind the status line", func() { l.CutAfter(17) }, patience, io.ErrUnexpectedEOF},
		{"cut in the body", func() { l.CutAfter(5000) }, patience, io.ErrUnexpectedEOF},
		{"no answer at all", func() { l.CutAfter(0) }, patience, io.EOF},
		{"reset", func() { l.Reset(0) }, patience, syscall.ECONNRESET},
		{"refused", l.Refuse, patience, syscall.ECONNREFUSED},
		{"half open", l.HalfOpen, 300 * time.Millisecond, nil},
		{"slow", func() { l.Slow(100) }, 300 * time.Millisecond, nil},
	} {
		c.fault()
		_, err := get(c.limit)
		if c.want != nil {
			assert.ErrorIs(t, err, c.want, c.name)
		} else {
			var timeout net.Error
			assert.True(t, errors.As(err, &timeout) && timeout.Timeout(), "%s: %v", c.name, err)
		}
		require.NoError(t, l.Heal(), c.name)
		n, err := get(patience)
		require.NoError(t, err, "healed after: %s", c.name)
		assert.Equal(t, 10_000, n)
	}
}

// Not parallel: it counts goroutines. Clients that flood, that don't read, that leave, through every fault in turn, and no
// method waits for any of them.
func TestCloseUnderLoadLeavesNothing(t *testing.T) {
	upstream := serve(t, func(c net.Conn) {
		go flood(c)
		io.Copy(io.Discard, c)
	})
	l, err := netfault.Listen(upstream)
	require.NoError(t, err)
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 24 {
		clients.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				c, err := net.DialTimeout("tcp", l.Addr, patience)
				if err != nil {
					time.Sleep(time.Millisecond)
					continue
				}
				_ = c.SetDeadline(time.Now().Add(30 * time.Millisecond))
				switch i % 3 {
				case 0:
					flood(c)
				case 1:
					io.Copy(io.Discard, c)
				default:
					time.Sleep(30 * time.Millisecond) // reads nothing
				}
				c.Close()
			}
		})
	}
	for _, fault := range []func(){
		func() { l.Delay(50*time.Millisecond, 50*time.Millisecond) }, func() { l.Slow(1000) }, func() { l.CutAfter(100) },
		func() { l.Reset(5 * time.Millisecond) }, l.HalfOpen, l.Refuse, func() { require.NoError(t, l.Heal()) }, l.HalfOpen, func() { l.Delay(time.Hour, 0) },
	} {
		time.Sleep(40 * time.Millisecond)
		began := time.Now()
		fault()
		assert.Less(t, time.Since(began), 5*time.Second)
	}
	assert.Positive(t, l.Seen().Down)
	assert.NotEmpty(t, goroutines(), "the instrument sees them")
	began := time.Now()
	l.Close()
	assert.Less(t, time.Since(began), 10*time.Second)
	assert.Empty(t, goroutines(), "a goroutine of the link lives on")
	close(stop)
	clients.Wait()
}

// goroutines are the stacks of those that run code of this room.
func goroutines() (ours []string) {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for one := range strings.SplitSeq(string(stacks), "\n\n") {
		if strings.Contains(one, "netfault.(*") {
			ours = append(ours, one)
		}
	}
	return ours
}
