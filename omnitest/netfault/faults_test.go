package netfault_test

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCutAfter(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, flood))
	old := dial(t, l)
	io.ReadFull(old, make([]byte, 1000))
	l.CutAfter(12_345)
	n, err := ended(t, dial(t, l))
	assert.NoError(t, err, "a proper end in the wrong place")
	assert.EqualValues(t, 12_345, n)
	n, err = ended(t, old)
	assert.NoError(t, err)
	assert.GreaterOrEqual(t, n, int64(12_345), "counted from the call")

	l = listen(t, serve(t, echo))
	l.CutAfter(4)
	c := dial(t, l)
	say(t, c, "1234")
	n, err = ended(t, c)
	assert.NoError(t, err, "it ends when the last byte has passed, not with the next")
	assert.Zero(t, n)
	c.Write([]byte("the client may go on")) // to nobody
	silentOrEOF(t, c)
	l.CutAfter(0)
	c = dial(t, l)
	c.Write([]byte("x"))
	n, err = ended(t, c)
	assert.NoError(t, err)
	assert.Zero(t, n)
	require.NoError(t, l.Heal())
	say(t, dial(t, l), "12345")
}

func silentOrEOF(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := c.Read(make([]byte, 1))
	assert.ErrorIs(t, err, io.EOF)
}

func TestReset(t *testing.T) {
	t.Parallel()
	left := make(chan error, 9)
	l := listen(t, serve(t, func(c net.Conn) {
		_, err := io.Copy(c, c)
		left <- err
	}))
	old := dial(t, l)
	say(t, old, "before")
	began := time.Now()
	l.Reset(300 * time.Millisecond)
	fresh := dial(t, l)
	say(t, fresh, "still there")
	for _, c := range []net.Conn{old, fresh} { // on neither of them anything happens
		_, err := ended(t, c)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		assert.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
	}
	for range 2 {
		assert.ErrorIs(t, <-left, syscall.ECONNRESET, "and the upstream")
	}
	require.NoError(t, l.Heal())
	say(t, dial(t, l), "healed")
	l.Reset(0)
	assert.ErrorIs(t, meet(t, l), syscall.ECONNRESET)
	l.Reset(time.Hour)
	c := dial(t, l)
	require.NoError(t, l.Heal())
	say(t, c, "a reset that was called off")
}

func TestHalfOpen(t *testing.T) {
	t.Parallel()
	reached := make(chan struct{}, 9)
	l := listen(t, serve(t, func(c net.Conn) { reached <- struct{}{}; echo(c) }))
	talks, waits := dial(t, l), dial(t, l)
	say(t, talks, "before")
	say(t, waits, "before")
	<-reached
	<-reached
	l.HalfOpen()
	fresh := dial(t, l)
	for _, c := range []net.Conn{talks, fresh} {
		_, err := c.Write(bytes.Repeat([]byte("x"), 4<<20)) // more than all buffers on the way
		require.NoError(t, err, "it is swallowed")
		silent(t, c)
	}
	silent(t, waits)
	assert.EqualValues(t, 12, l.Seen().Up, "none of it arrived")
	assert.Empty(t, reached, "the upstream was not dialled")

	require.NoError(t, l.Heal())
	for _, c := range []net.Conn{talks, fresh} {
		_, err := ended(t, c)
		assert.ErrorIs(t, err, syscall.ECONNRESET, "a connection with a hole does not go on")
	}
	say(t, waits, "nothing was lost here")
	say(t, dial(t, l), "healed")
}

// An upstream that leaves, or dies, while the link is half open: the client hears of it only when the link has healed.
func TestHalfOpenHidesTheEnd(t *testing.T) {
	t.Parallel()
	leave := make(chan struct{})
	l := listen(t, serve(t, func(c net.Conn) { c.Write([]byte("x")); <-leave }))
	c := dial(t, l)
	_, err := io.ReadFull(c, make([]byte, 1))
	require.NoError(t, err)
	l.HalfOpen()
	close(leave)
	silent(t, c)
	require.NoError(t, l.Heal())
	_, err = ended(t, c)
	assert.NoError(t, err)
}

func TestRefuse(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, echo))
	old := dial(t, l)
	say(t, old, "before")
	for range 3 {
		l.Refuse()
		l.Refuse()
		_, err := net.DialTimeout("tcp", l.Addr, patience)
		assert.ErrorIs(t, err, syscall.ECONNREFUSED)
		_, err = ended(t, old)
		assert.ErrorIs(t, err, syscall.ECONNRESET)
		require.NoError(t, l.Heal())
		require.NoError(t, l.Heal())
		old = dial(t, l)
		say(t, old, "at the same address")
	}
	l.Close()
	l.Close()
	assert.EqualError(t, l.Heal(), "netfault: the link is closed")
	_, err := net.DialTimeout("tcp", l.Addr, patience)
	assert.ErrorIs(t, err, syscall.ECONNREFUSED)
}

// Faults add up: late, slow and cut.
func TestFaultsTogether(t *testing.T) {
	t.Parallel()
	l := listen(t, serve(t, flood))
	l.Delay(200*time.Millisecond, 0)
	l.Slow(100_000)
	l.CutAfter(20_000)
	began := time.Now()
	n, err := ended(t, dial(t, l))
	assert.NoError(t, err)
	assert.EqualValues(t, 20_000, n)
	assert.Greater(t, time.Since(began), 340*time.Millisecond)
}
