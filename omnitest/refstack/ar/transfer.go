package ar

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// transferError is a failed pull; kind is vLLM's failure_type.
type transferError struct {
	kind string
	err  error
}

func (e *transferError) Error() string {
	return fmt.Sprintf("NIXL transfer failure: %s: %v", e.kind, e.err)
}
func (e *transferError) Unwrap() error { return e.err }

// failures is by how much the failure moves vllm:nixl_num_failed_transfers: out-of-range ids count twice (recorded
// case 30), a dead or foreign peer once (26, 27, 31).
func (e *transferError) failures() float64 {
	if errors.Is(e.err, errOutOfRange) {
		return 2
	}
	return 1
}

// moved is what a pull that went well measured.
type moved struct {
	bytes, descriptors int
	post, took         time.Duration // until the read was posted; until the last byte
}

// load starts the pull of a D leg whose blocks have just been allocated.
//
// Tickets are trusted as far as real vLLM trusts them (recordings, cases 20 to 31): the request id is never checked
// against the blocks, too few blocks are an assertion that kills the engine, missing fields leave the request waiting
// for ever.
func (s *Server) load(r *request) {
	t, hits := r.ticket, r.computed/s.config.BlockSize
	need := len(r.table) - hits
	switch {
	case len(t.BlockIDs) > 0 && !t.complete():
		params, _ := json.Marshal(t) // plain fields: it always encodes
		s.log.warnf("Got invalid KVTransferParams: %s. This request will not utilize KVTransfer (request %s)", params, r.id)
		r.state = stuck
		s.stuck++
		return
	case len(t.BlockIDs) < need:
		s.die(fmt.Errorf("ar: engine died: AssertionError in _apply_prefix_caching: num_decode_blocks <= len(prefill_group): "+
			"request %s needs %d blocks, its ticket names %d", r.id, need, len(t.BlockIDs)))
		return
	}
	remote := t.BlockIDs[len(t.BlockIDs)-need:]
	if len(t.BlockIDs) >= hits+need {
		remote = t.BlockIDs[hits : hits+need] // a prefix that is here is not moved; blocks after the prompt are not needed
	}
	if s.config.Faults.FrontTrim {
		remote = t.BlockIDs[:need]
	}
	var ctx context.Context
	ctx, r.cancel = context.WithTimeout(s.life, s.pullTimeout+2*time.Duration(need)*s.config.Timing.TransferPerBlock)
	r.state = loading
	s.loading++
	local := r.table[hits:]
	cancel := r.cancel
	planted := s.plantedFailure()
	s.tasks.Go(func() {
		m, err := moved{}, planted
		if err == nil {
			m, err = s.pull(ctx, t, remote, local)
		}
		cancel()
		s.do(func() { s.loadEnded(r, m, err) })
	})
}

// loadEnded takes the request back into the queue, or ends it.
func (s *Server) loadEnded(r *request, m moved, err error) {
	s.loading--
	now := time.Now()
	if r.aborted {
		if err != nil {
			s.tasks.Go(func() { s.notifyOnly(r.ticket) })
		}
		if s.config.Faults.DieOnAbort {
			s.die(fmt.Errorf("ar: engine died: AssertionError in _update_from_kv_xfer_finished: assert req_id in self.requests: %s", r.id))
		}
		s.drop(r)
		return
	}
	if err == nil {
		s.metrics.transferred(m)
		s.corruptUnderLoad(r)
		s.loaded(r)
		return
	}
	if s.config.Faults.WaitForever {
		r.state = stuck
		s.stuck++
		return
	}
	var failure *transferError
	n := 1.0
	if errors.As(err, &failure) {
		n = failure.failures()
	}
	s.metrics.failedTransfers.Add(n)
	s.log.errorf("%v | Context: {'request_id': '%s', 'engine_id': '%s', 'remote_engine_id': '%s', 'remote_request_id': '%s'}",
		err, r.id, s.config.EngineID, *r.ticket.EngineID, *r.ticket.RequestID)
	if s.config.Faults.GarbageOnFailure {
		s.loaded(r)
		return
	}
	s.pool.release(r.table)
	r.table = nil
	policy := s.config.LoadFailure
	if f := s.config.Faults.TransferFails; f != "" {
		policy = f
	}
	if policy == "recompute" {
		r.external, r.computed, r.state = 0, 0, waiting
		s.waiting = append([]*request{r}, s.waiting...)
		return
	}
	s.finish(r, "error", now)
	s.send(r, event{index: r.index, token: -1, err: errInternal})
}

// loaded takes a request whose blocks are filled back into the queue, at its head. The last prompt token is computed again: it
// must produce logits.
func (s *Server) loaded(r *request) {
	r.loaded, r.computed, r.state = true, r.prompt-1, waiting
	s.waiting = append([]*request{r}, s.waiting...)
}

// pull reads remote blocks of the ticket's engine into local blocks and then notifies the peer, which frees them. Each
// wait is bounded by ctx.
func (s *Server) pull(ctx context.Context, t *ticket, remote []int64, local []int32) (m moved, err error) {
	began := time.Now()
	conn, err := s.connect(ctx, t)
	if err != nil {
		return m, err
	}
	defer conn.Close()
	if err := conn.askRead(*t.RequestID, remote); err != nil {
		return m, &transferError{"transfer_setup_failed", err}
	}
	m.post = time.Since(began)
	buf := make([]byte, s.pool.blockBytes)
	due := began // the handshake is inside the planted time, not on top
	for _, b := range local {
		if _, err := io.ReadFull(conn.r, buf); err != nil {
			if ctx.Err() == nil {
				s.met(*t.EngineID, "", "", err)
			}
			return m, &transferError{"transfer_failed", fmt.Errorf("after %d of %d bytes: %w", m.bytes, len(local)*len(buf), err)}
		}
		s.pool.mu.Lock()
		s.store(s.pool.block(b), buf)
		s.pool.mu.Unlock()
		m.bytes += len(buf)
		due = due.Add(s.jitter(s.config.Timing.TransferPerBlock))
		if !sleepUntil(ctx, due) {
			return m, &transferError{"transfer_failed", ctx.Err()}
		}
	}
	m.took = time.Since(began)
	m.descriptors = Layers * runs(remote, local)
	if err := conn.notify(*t.RequestID); err != nil {
		s.metrics.failedNotifications.Inc()
	}
	return m, nil
}

// runs counts the stretches that are contiguous on both sides; each is one descriptor per layer (recorded: 4 blocks in
// a row on 4 layers are 4 descriptors, 5 scattered ones 20).
func runs(remote []int64, local []int32) int {
	n := 0
	for i := range remote {
		if i == 0 || remote[i] != remote[i-1]+1 || local[i] != local[i-1]+1 {
			n++
		}
	}
	return n
}

// connect opens a side channel connection. The address of an engine once met is remembered, so a wrong port in a later
// ticket does no harm (recorded case 28); a peer that fails is forgotten.
func (s *Server) connect(ctx context.Context, t *ticket) (*sideConn, error) {
	address := net.JoinHostPort(*t.Host, strconv.Itoa(*t.Port))
	s.peersMu.Lock()
	if known, ok := s.peers[*t.EngineID]; ok {
		address = known
	}
	s.peersMu.Unlock()
	conn, agent, err := s.handshake(ctx, address, *t.EngineID)
	if !errors.Is(ctx.Err(), context.Canceled) { // an aborted request says nothing about its peer
		err = s.met(*t.EngineID, address, agent, err)
	}
	if err != nil {
		if conn != nil {
			conn.Close()
		}
		return nil, &transferError{"handshake_failed", err}
	}
	return conn, nil
}

// handshake makes sure that the right engine is at the address. The connection may be there beside an error.
func (s *Server) handshake(ctx context.Context, address, engine string) (conn *sideConn, agent string, err error) {
	if conn, err = dialSide(ctx, address); err != nil {
		return nil, "", err
	}
	agent, err = conn.hello(engine, s.pool.blockBytes)
	if err == nil && s.config.Faults.HandshakeMismatch {
		err = fmt.Errorf("NIXL compatibility check failed: local and remote hash of %s differ", engine)
	}
	return conn, agent, err
}

// met keeps or forgets the address of an engine by how talking to it went, and gives that error back.
func (s *Server) met(engine, address, agent string, err error) error {
	s.peersMu.Lock()
	defer s.peersMu.Unlock()
	if s.config.Faults.StalePeer {
		err = s.first.met(engine, agent, err)
	}
	if err != nil {
		delete(s.peers, engine)
		return err
	}
	s.peers[engine] = address
	return nil
}

// notifyOnly tells prefill that nobody will pull: decode was aborted first, or has the whole prompt.
func (s *Server) notifyOnly(t *ticket) {
	if !t.complete() {
		return
	}
	ctx, cancel := context.WithTimeout(s.life, s.pullTimeout)
	defer cancel()
	conn, err := s.connect(ctx, t)
	if err != nil {
		s.metrics.failedNotifications.Inc()
		return
	}
	defer conn.Close()
	if conn.notify(*t.RequestID) != nil {
		s.metrics.failedNotifications.Inc()
	}
}

// held are the blocks of a P leg until somebody pulls them or the lease ends.
type held struct {
	table    []int32
	deadline time.Time
}

// hold keeps the blocks of a finished P leg and makes its ticket.
func (s *Server) hold(r *request, now time.Time) *ticket {
	kept := r.table
	if s.config.Faults.FreeEarly {
		s.pool.recycle(kept)
		kept = nil // the ticket itself is known on: its end is an ordinary one
	}
	s.held[r.id] = held{kept, now.Add(s.config.Lease)}
	if s.config.Faults.ForeignBlocks {
		s.shadow(r.id, r.table)
	}
	ids := make(blockIDs, len(r.table))
	for i, b := range r.table {
		ids[i] = int64(b)
	}
	host, port := s.sideHost, s.sidePort
	if s.config.Faults.WrongHost {
		host = "::1" // what localhost may be elsewhere; the side channel listens on IPv4
	}
	t := &ticket{
		DoRemotePrefill: true, BlockIDs: ids, EngineID: &s.config.EngineID, RequestID: &r.id, Host: &host, Port: &port,
		TPSize: 1, DCPSize: 1, PPSize: 1, NumTokens: r.computed, Mode: "pull",
	}
	if r.generated == 1 {
		t.CachedTokens = &r.hit
	}
	return t
}

// notified is the end of a pull, told by the peer.
func (s *Server) notified(id string) {
	h, ok := s.held[id]
	if !ok {
		s.log.errorf("Potentially invalid KV blocks for unrecognized request %s were retrieved by a decode worker. They may have expired.", id)
		s.metrics.lateNotifications.Inc()
		return
	}
	delete(s.held, id)
	s.unshadow(id)
	s.pool.release(h.table)
}

// expire frees what nobody pulled in time.
func (s *Server) expire(now time.Time) (freed bool) {
	if s.config.Faults.LeakOnAbort {
		return false
	}
	for id, h := range s.held {
		if now.Before(h.deadline) {
			continue
		}
		s.log.warnf("Releasing expired KV blocks for request %s which were retrieved by 0 remote worker(s) before lease expired.", id)
		delete(s.held, id)
		s.unshadow(id)
		if s.config.Faults.ServeExpired {
			s.pool.recycle(h.table)
		} else {
			s.pool.release(h.table)
		}
		s.metrics.expired.Inc()
		freed = true
	}
	return freed
}

func (s *Server) nextExpiry() (next time.Time, ok bool) {
	if s.config.Faults.LeakOnAbort {
		return next, false
	}
	for _, h := range s.held {
		if !ok || h.deadline.Before(next) {
			next, ok = h.deadline, true
		}
	}
	return next, ok
}
