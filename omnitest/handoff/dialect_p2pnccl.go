package handoff

import (
	"fmt"
	"net"
	"regexp"
)

// p2pAddresses is how an X-Request-Id carries the addresses of both engines.
var p2pAddresses = regexp.MustCompile(`___prefill_addr_(.+?)___decode_addr_(.+?)_[0-9A-Za-z-]+$`)

// P2PNCCL is P2pNcclConnector. Not recorded. There is no ticket: the engines find each other by addresses inside the request
// id, ___prefill_addr_<ip:port>___decode_addr_<ip:port>_<uuid>, and tensors by that id. Engines that add a suffix of their own
// to it (the default since #27987) never meet, and decode waits for ever without a word. No series of its own is known.
var P2PNCCL = func() Dialect {
	d := vllm
	d.Name, d.Connectors = "p2p-nccl", []string{"P2pNcclConnector"}
	d.RequestID = func(id string) error {
		m := p2pAddresses.FindStringSubmatch(id)
		if m == nil {
			return fmt.Errorf("request id %q names no addresses (want ___prefill_addr_<ip:port>___decode_addr_<ip:port>_<uuid>)", id)
		}
		for i, side := range []string{"prefill", "decode"} {
			if host, port, err := net.SplitHostPort(m[i+1]); err != nil || badHost(host) != "" || badPort(port) != "" {
				return fmt.Errorf("request id names %q as %s's address", m[i+1], side)
			}
		}
		return nil
	}
	d.Lacks = "p2p-nccl: no ticket and no series of its own, so the verdict rests on tokens and content"
	return d
}()
