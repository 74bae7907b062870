package stamped

import (
	"encoding/binary"
	"io"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// tellArrivals asks the kernel to say when the bytes that a read takes had arrived; accepted connections inherit it. Five hundred
// requests at once wait 10 ms and more until one thread has read them: without this their wait would count as the client's.
func tellArrivals(ln net.Listener) {
	raw, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { // without it the time of the read stands for the arrival
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1)
	})
}

// Read notes when the last of its bytes arrived, and when it returned.
func (c *conn) Read(b []byte) (n int, err error) {
	var said [64]byte
	var length int
	var failed error
	if err := c.sys.Read(func(fd uintptr) bool {
		for {
			n, length, _, _, failed = unix.Recvmsg(int(fd), b, said[:], unix.MSG_CMSG_CLOEXEC)
			if failed != unix.EINTR {
				return failed != unix.EAGAIN
			}
		}
	}); err != nil {
		return 0, err
	}
	now := time.Now()
	c.read = At(now)
	c.at = c.read
	if wall, ok := arrivalIn(said[:length]); ok {
		// Both clocks of one time.Time were read together.
		if at := wall - (now.UnixNano() - c.read); at <= c.read && at > c.read-int64(time.Minute) {
			c.at = at
		}
	}
	switch {
	case failed != nil:
		return 0, failed
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// arrivalIn reads the kernel's wall clock, ns, from a control message: length, level, type, seconds, nanoseconds.
func arrivalIn(m []byte) (int64, bool) {
	const header, size = 16, 32 // of 64-bit systems; others do without
	e := binary.NativeEndian
	if len(m) < size || e.Uint64(m) != size || e.Uint32(m[8:]) != unix.SOL_SOCKET || e.Uint32(m[12:]) != unix.SCM_TIMESTAMPNS {
		return 0, false
	}
	return int64(e.Uint64(m[header:]))*1e9 + int64(e.Uint64(m[header+8:])), true
}
