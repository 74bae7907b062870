package netfault_test

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/netfault"
)

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// serve is an upstream that does the same with each of its connections.
func serve(t testing.TB, do func(net.Conn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(patience))
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return ln.Addr().String()
}

func echo(c net.Conn) { io.Copy(c, c) }

// flood sends until the connection ends.
func flood(c net.Conn) {
	for b := make([]byte, 64<<10); ; {
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

func listen(t testing.TB, upstream string) *netfault.Link {
	t.Helper()
	l, err := netfault.Listen(upstream)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	return l
}

func dial(t testing.TB, l *netfault.Link) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", l.Addr, patience)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// meet is how a new connection ends that is reset at once: the reset may be there before connect has returned.
func meet(t testing.TB, l *netfault.Link) error {
	t.Helper()
	c, err := net.DialTimeout("tcp", l.Addr, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(patience))
	_, err = ended(t, c)
	return err
}

// say sends words and reads as many bytes back.
func say(t testing.TB, c net.Conn, words string) time.Duration {
	t.Helper()
	began := time.Now()
	_, err := c.Write([]byte(words))
	require.NoError(t, err)
	got := make([]byte, len(words))
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, words, string(got))
	return time.Since(began)
}

// silent proves that nothing comes for a while.
func silent(t testing.TB, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	_, err := c.Read(make([]byte, 1))
	var timeout net.Error
	require.ErrorAs(t, err, &timeout)
	require.True(t, timeout.Timeout(), err)
	_ = c.SetReadDeadline(time.Now().Add(patience))
}

// ended reads to the end and gives how it came.
func ended(t testing.TB, c net.Conn) (n int64, err error) {
	t.Helper()
	n, err = io.Copy(io.Discard, c)
	var timeout net.Error
	require.False(t, errors.As(err, &timeout) && timeout.Timeout(), "no end within %v", patience)
	return n, err
}

func TestListenRefuses(t *testing.T) {
	for _, upstream := range []string{"", "127.0.0.1", "https://127.0.0.1:8000", "127.0.0.1:", "ftp://h:1/"} {
		_, err := netfault.Listen(upstream)
		assert.ErrorContains(t, err, "want host:port, or a base URL", upstream)
	}
}

func TestAHealthyLinkChangesNothing(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, echo))
	big := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			c := dial(t, l)
			go c.Write([]byte(big))
			got := make([]byte, len(big))
			_, err := io.ReadFull(c, got)
			assert.NoError(t, err)
			assert.True(t, string(got) == big)
			assert.NoError(t, c.CloseWrite())
			n, err := ended(t, c)
			assert.NoError(t, err, "an end is passed on as an end, each way")
			assert.Zero(t, n)
		})
	}
	all.Wait()
	assert.Equal(t, netfault.Seen{Connections: 8, Up: 8 << 20, Down: 8 << 20}, l.Seen())
}

// A reset passes through, and an upstream that nobody listens on resets.
func TestAnUpstreamThatResets(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, func(c net.Conn) {
		io.ReadFull(c, make([]byte, 1))
		c.(*net.TCPConn).SetLinger(0)
	}))
	c := dial(t, l)
	c.Write([]byte("x"))
	_, err := ended(t, c)
	assert.ErrorIs(t, err, syscall.ECONNRESET)

	l = listen(t, "127.0.0.1:1") // tcpmux
	assert.ErrorIs(t, meet(t, l), syscall.ECONNRESET)
}

func TestDelay(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, echo))
	c := dial(t, l)
	say(t, c, "healthy")
	l.Delay(150*time.Millisecond, 50*time.Millisecond)
	for _, c := range []net.Conn{c, dial(t, l)} { // one that exists, a new one
		took := say(t, c, "late")
		assert.GreaterOrEqual(t, took, 200*time.Millisecond, "100 ms each way at the least")
	}
	require.NoError(t, l.Heal())
	l.Delay(time.Hour, 0)
	c.Write([]byte("in flight"))
	silent(t, c)
	require.NoError(t, l.Heal())
	_, err := io.ReadFull(c, make([]byte, 9))
	assert.NoError(t, err, "what waited goes on at once")
}

// A stream keeps its rhythm: events are moved in time, not bunched. A relay that slept for each read would show a pause of the whole
// delay, and pauses that add up. The machine may make a pause of its own, so one good stream of five is enough.
func TestDelayKeepsTheRhythm(t *testing.T) {
	t.Parallel()
	const events, gap, delay = 10, 40 * time.Millisecond, 400 * time.Millisecond
	l := listen(t, serve(t, func(c net.Conn) {
		for range events {
			time.Sleep(gap)
			c.Write([]byte("x"))
		}
	}))
	l.Delay(delay, 0)
	longest := time.Duration(0)
	for range 5 {
		last, c := time.Now(), dial(t, l)
		longest = 0
		for i := range events {
			_, err := io.ReadFull(c, make([]byte, 1))
			require.NoError(t, err)
			pause := time.Since(last)
			last = time.Now()
			if i == 0 {
				require.GreaterOrEqual(t, pause, delay+gap-time.Millisecond)
				continue
			}
			longest = max(longest, pause)
		}
		if longest < delay/2 {
			return
		}
	}
	t.Errorf("events that come every %v, %v late, came with a pause of %v", gap, delay, longest)
}

func TestSlow(t *testing.T) {
	t.Parallel()
	const n = 100 << 10
	l := listen(t, serve(t, func(c net.Conn) { c.Write(make([]byte, n)) }))
	l.Slow(n * 2) // half a second
	for range 2 {
		began := time.Now()
		got, err := ended(t, dial(t, l))
		require.NoError(t, err)
		assert.EqualValues(t, n, got)
		took := time.Since(began)
		assert.Greater(t, took, 440*time.Millisecond, "two pieces of 20 ms may be ahead")
		t.Logf("100 KiB at 200 KiB/s took %v", took)
	}
	l.Slow(1)
	c := dial(t, l)
	_, err := io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, l.Heal())
	got, err := ended(t, c)
	assert.NoError(t, err)
	assert.EqualValues(t, n-1, got, "an existing connection is as fast as it was")
}
