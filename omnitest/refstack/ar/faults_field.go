package ar

import "errors"

// What the switches of Faults do where it is more than a condition.

// endsAtOnce is fault no-ticket-on-stop: a prefill leg whose first token is the end of text. Which prompts meet it depends on
// the prompt alone, so that a control on the same engine and a repetition do not disagree.
func (s *Server) endsAtOnce(r *request) bool {
	if !s.config.Faults.NoTicketOnStop || !r.hold || r.generated > 0 || !s.mayStop(r) {
		return false
	}
	sum := 0
	for _, t := range r.tokens[:r.prompt] {
		sum += int(t)
	}
	return sum%3 == 0
}

// plantedFailure is the failure of a pull that is not even tried.
func (s *Server) plantedFailure() error {
	switch f := s.config.Faults; {
	case f.TransferFails != "":
		return &transferError{"transfer_failed", errors.New("fault transfer-fails")}
	case f.GarbageOnFailure && s.everySecond():
		return &transferError{"transfer_failed", errors.New("fault garbage-on-failure")}
	}
	return nil
}

// everySecond is true at the first call, the third, and so on. The scheduler goroutine alone asks.
func (s *Server) everySecond() bool {
	s.pulls++
	return s.pulls%2 == 1
}

// store puts a block that arrived into memory. Fault wrong-layout reads what prefill laid out as K, V of one slice after the
// other as if it were the keys of all slices and then the values of all. The caller holds the pool's mu.
func (s *Server) store(block, arrived []byte) {
	if !s.config.Faults.WrongLayout {
		copy(block, arrived)
		return
	}
	n := s.pool.blockSize * rowBytes
	for i := range kvSlices {
		copy(block[2*i*n:][:n], arrived[i*n:])
		copy(block[(2*i+1)*n:][:n], arrived[(kvSlices+i)*n:])
	}
}

// loadOf is from how many open requests on fault corrupt-under-load strikes.
const loadOf = 4

// corruptUnderLoad zeroes the block in the middle of what was just pulled. A corrupted block enters the prefix cache like any
// other, as wrong KV does in vLLM (recorded case 06): the same prompt stays wrong when the load is over.
func (s *Server) corruptUnderLoad(r *request) {
	if !s.config.Faults.CorruptUnderLoad || len(s.open) < loadOf || !s.everySecond() {
		return
	}
	pulled := r.table[r.computed/s.config.BlockSize:]
	s.pool.mu.Lock()
	clear(s.pool.block(pulled[len(pulled)/2]))
	s.pool.mu.Unlock()
}

// firstPeer is the prefill engine that a decode engine with fault stale-peer met first. A restart shows by another agent, be it
// at the same address and under the same engine id or not.
type firstPeer struct {
	engine, agent string
	broken        bool
}

// met judges how talking to an engine went. What goes wrong with an engine that was never met breaks nothing.
func (f *firstPeer) met(engine, agent string, err error) error {
	switch {
	case f.agent == "" && err == nil:
		f.engine, f.agent = engine, agent
	case f.agent == "":
	case f.broken, err == nil && agent != f.agent:
		f.broken = true
		err = errors.New("NIXL_ERR_REMOTE_DISCONNECT: stale agent of " + f.engine)
	case err != nil && engine == f.engine:
		f.broken = true
	}
	return err
}
