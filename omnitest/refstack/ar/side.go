package ar

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"
)

// The side channel, one TCP connection per pull. All integers are little endian.
//
//	hello   'H' u32 size  u16 n, engine id            -> u8 status, u16 n, who the server is, u32 bytes per block
//	read    'R' u32 size  u16 n, request id, i64 ids  -> u8 status, then the blocks in order
//	notify  'N' u32 size  u16 n, request id           -> nothing
//
// Who the server is: its engine id, a zero byte, and the name of this life of it, as NIXL's agents have one.
// The server serves whatever ids it is asked for, in range: like RDMA it knows memory, not requests.
const (
	sideOK byte = iota
	sideMismatch
	sideOutOfRange
)

const (
	maxFrame    = 1 << 20
	sideIdle    = time.Minute // how long a connection may be silent
	serveBlocks = 8           // blocks copied per write
)

var errOutOfRange = errors.New("NIXL_ERR_INVALID_PARAM: remote index out of range")

// sideConn is the client's end.
type sideConn struct {
	net.Conn
	r    *bufio.Reader
	stop func() bool
}

func dialSide(ctx context.Context, address string) (*sideConn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	if d, ok := ctx.Deadline(); ok {
		conn.SetDeadline(d)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return &sideConn{conn, bufio.NewReaderSize(conn, 1<<16), stop}, nil
}

func (c *sideConn) Close() error {
	c.stop()
	return c.Conn.Close()
}

func (c *sideConn) frame(op byte, name string, ids []int64) error {
	size := 2 + len(name) + 8*len(ids)
	b := make([]byte, 0, 5+size)
	b = binary.LittleEndian.AppendUint32(append(b, op), uint32(size))
	b = append(binary.LittleEndian.AppendUint16(b, uint16(len(name))), name...)
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint64(b, uint64(id))
	}
	_, err := c.Write(b)
	return err
}

// hello makes sure that the peer is the engine that the ticket names and that its blocks have our size. agent is the name of this
// life of it.
func (c *sideConn) hello(engine string, blockBytes int) (agent string, err error) {
	if err := c.frame('H', engine, nil); err != nil {
		return "", err
	}
	var head [3]byte
	if _, err := io.ReadFull(c.r, head[:]); err != nil {
		return "", fmt.Errorf("no handshake from %s: %w", c.RemoteAddr(), err)
	}
	rest := make([]byte, int(binary.LittleEndian.Uint16(head[1:]))+4)
	if _, err := io.ReadFull(c.r, rest); err != nil {
		return "", fmt.Errorf("no handshake from %s: %w", c.RemoteAddr(), err)
	}
	who, size := rest[:len(rest)-4], int(binary.LittleEndian.Uint32(rest[len(rest)-4:]))
	name, agent, _ := strings.Cut(string(who), "\x00")
	if head[0] != sideOK {
		return agent, fmt.Errorf("remote NIXL agent engine ID mismatch: expected %s, received %s", engine, name)
	}
	if size != blockBytes {
		return agent, fmt.Errorf("NIXL compatibility check failed: blocks of %d bytes here, %d on %s", blockBytes, size, name)
	}
	return agent, nil
}

func (c *sideConn) askRead(request string, ids []int64) error {
	if err := c.frame('R', request, ids); err != nil {
		return err
	}
	status, err := c.r.ReadByte()
	if err == nil && status == sideOutOfRange {
		return errOutOfRange
	}
	return err
}

func (c *sideConn) notify(request string) error { return c.frame('N', request, nil) }

// serveSide accepts until the listener is closed, then closes all connections and waits for their goroutines.
func (s *Server) serveSide(ln net.Listener) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	for {
		conn, err := ln.Accept()
		if err != nil {
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				continue
			}
			break
		}
		mu.Lock()
		conns[conn] = true
		mu.Unlock()
		wg.Go(func() {
			s.serveConn(conn)
			conn.Close()
			mu.Lock()
			delete(conns, conn)
			mu.Unlock()
		})
	}
	mu.Lock()
	for c := range conns {
		c.Close()
	}
	mu.Unlock()
	wg.Wait()
}

func (s *Server) serveConn(conn net.Conn) {
	r := bufio.NewReader(conn)
	var head [5]byte
	for {
		conn.SetDeadline(time.Now().Add(sideIdle))
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		size := binary.LittleEndian.Uint32(head[1:])
		if size < 2 || size > maxFrame {
			return
		}
		body := make([]byte, size)
		if _, err := io.ReadFull(r, body); err != nil {
			return
		}
		n := int(binary.LittleEndian.Uint16(body))
		if 2+n > len(body) {
			return
		}
		name, rest := string(body[2:2+n]), body[2+n:]
		var err error
		switch head[0] {
		case 'H':
			status := sideOK
			if name != s.config.EngineID {
				status = sideMismatch
			}
			who := s.config.EngineID + "\x00" + s.agent
			b := append(binary.LittleEndian.AppendUint16([]byte{status}, uint16(len(who))), who...)
			_, err = conn.Write(binary.LittleEndian.AppendUint32(b, uint32(s.pool.blockBytes)))
		case 'R':
			ids := make([]int64, len(rest)/8)
			for i := range ids {
				ids[i] = int64(binary.LittleEndian.Uint64(rest[8*i:]))
			}
			err = s.serveBlocks(conn, name, ids)
		case 'N':
			s.do(func() { s.notified(name) })
		default:
			return
		}
		if err != nil {
			return
		}
	}
}

// serveBlocks copies under the read lock and writes outside it: a slow peer must not stop the scheduler.
func (s *Server) serveBlocks(conn net.Conn, request string, ids []int64) error {
	for _, id := range ids {
		if id < 0 || id >= int64(len(s.pool.refs)) {
			s.log.errorf("makeXferReq: remote index out of range with value %d", id)
			_, err := conn.Write([]byte{sideOutOfRange})
			return err
		}
	}
	if _, err := conn.Write([]byte{sideOK}); err != nil {
		return err
	}
	foreign := s.foreignBlocks(request)
	buf := make([]byte, 0, serveBlocks*s.pool.blockBytes)
	for len(ids) > 0 {
		n := min(serveBlocks, len(ids))
		buf = buf[:0]
		s.pool.mu.RLock()
		for _, id := range ids[:n] {
			b := s.pool.block(int32(id))
			if other, ok := foreign[id]; ok {
				b = other
			}
			buf = append(buf, b...)
		}
		s.pool.mu.RUnlock()
		if s.config.Faults.ZeroBlocks {
			clear(buf)
		}
		if s.config.Faults.LostHead {
			// Matrix 1 of a block holds the values of the first slice, that is of head 0 in layer 0 (see pool.rows).
			for at, n := 0, s.pool.blockSize*rowBytes; at < len(buf); at += s.pool.blockBytes {
				clear(buf[at+n : at+2*n])
			}
		}
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		ids = ids[n:]
	}
	return nil
}

// shadows serve fault foreign-blocks: for each ticket a copy of the previous ticket's blocks, block for block.
type shadows struct {
	mu       sync.Mutex
	previous [][]byte
	of       map[string]map[int64][]byte
}

func (s *Server) shadow(id string, table []int32) {
	s.shadows.mu.Lock()
	defer s.shadows.mu.Unlock()
	if s.shadows.of == nil {
		s.shadows.of = map[string]map[int64][]byte{}
	}
	foreign := map[int64][]byte{}
	own := make([][]byte, len(table))
	for i, b := range table {
		own[i] = append([]byte(nil), s.pool.block(b)...)
		if i < len(s.shadows.previous) {
			foreign[int64(b)] = s.shadows.previous[i]
		}
	}
	s.shadows.previous, s.shadows.of[id] = own, foreign
}

func (s *Server) unshadow(id string) {
	s.shadows.mu.Lock()
	defer s.shadows.mu.Unlock()
	delete(s.shadows.of, id)
}

func (s *Server) foreignBlocks(id string) map[int64][]byte {
	s.shadows.mu.Lock()
	defer s.shadows.mu.Unlock()
	return s.shadows.of[id]
}
