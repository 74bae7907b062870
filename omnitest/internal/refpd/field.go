package refpd

import (
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// Failure is one failure of the field and how it is planted in a reference stack.
type Failure struct {
	ID, What string
	Faults   string // the switches that make it, see refstack.ParseFaults; "" for the healthy stack
	Tune     func(*Stack)
}

// Field are the failures that production has seen, F1 to F21, with their sources in vLLM and its surroundings, and a few more (P:
// the proxy, M: the metrics) that nobody wants to see. A letter after the number is another way to the same symptom.
var Field = []Failure{
	{"F1", "the proxy never relays the ticket, decode prefills again (vLLM #26896, #21037)", "proxy.drop-ticket", nil},
	{"F1b", "decode ignores the ticket it was given", "decode.silent-recompute", nil},
	{"F2", "a failed pull is answered 200 with garbage (vLLM #52234)", "decode.garbage-on-failure", nil},
	{"F3", "prefill gave the blocks to somebody else: another user's answer (vLLM #52234)", "prefill.foreign-blocks", nil},
	{"F3b", "prefill frees a ticket's blocks before they were pulled", "prefill.free-early", nil},
	{"F4", "\"full KV hit\", and the output diverges at token 0 (vLLM #52617)", "decode.wrong-layout", nil},
	{"F4b", "a hit is claimed, no bytes move", "decode.claim-hit-without-bytes", nil},
	{"F5", "the lease ended while decode queued, freed blocks are read (vLLM #21570, #25897)", "proxy.late-decode,prefill.serve-expired", short},
	{"F6", "the proxy dies between the legs (vLLM #41269, llm-d)", "proxy.die-between-legs", nil},
	{"F6b", "prefill never frees what nobody pulls", "prefill.leak-on-abort", nil},
	{"F7", "blocks of an aborted receive are never freed on decode (vLLM #46283, #58188)", "decode.leak-on-abort", slow},
	{"F8", "an abort with the transfer in flight kills the engine core (vLLM #43226, #46240)", "decode.die-on-abort", slow},
	{"F9", "after a restart of its peer decode fails every request and stays Ready (vLLM #49238)", "decode.stale-peer", nil},
	{"F10", "the handshake is refused, the servers are healthy (vLLM #23086, #42895)", "decode.handshake-mismatch", nil},
	{"F11", "wrong blocks behind a partial prefix hit (vLLM #48633, #48758)", "decode.front-trim", nil},
	{"F12", "prefill's failure is not told to decode, which waits (vLLM #50754)", "decode.wait-forever,prefill.wrong-host", nil},
	{"F13", "the legs' request ids differ, decode waits in silence (vLLM #27987)", "proxy.strip-ticket-id", nil},
	{"F14", "end of text as prefill's first token: no ticket (vllm-ascend #13870)", "prefill.no-ticket-on-stop", nil},
	{"F15", "a counter falls under preemption and takes decode down (vLLM #36755)", "decode.die-on-preemption", crowded},
	{"F16", "corruption under load (vLLM #52627, sglang #23020)", "decode.corrupt-under-load", nil},
	{"F16b", "part of the KV is wrong while the best token still wins", "prefill.lost-head", nil},
	{"F17", "the ticket names a wrong side channel, decode recomputes (vLLM #27083)", "prefill.wrong-host", recompute},
	{"F18", "cached_tokens tells of a hit where decode computed all (vLLM #44607, llm-d router #916)", "proxy.rewrite-cached,decode.silent-recompute", nil},
	{"F19", "a failed generation is 200 with an error inside (smg #2382)", "decode.error-in-200", nil},
	{"F19b", "an error of decode becomes an empty answer", "proxy.swallow-error,decode.transfer-fails=fail", nil},
	{"F20", "decode is asked at once, waits and recomputes (llm-d router #2451)", "proxy.concurrent-dispatch", nil},
	{"F21", "prefill fails, decode alone answers 200 (llm-d sidecar up to v0.8)", "proxy.silent-fallback,prefill.fails", nil},
	// Not failures of the field, and wrong all the same.
	{"P1", "the proxy crosses tickets", "proxy.cross-tickets", nil},
	{"P2", "the proxy alters the ticket", "proxy.alter-ticket", nil},
	{"P3", "prefill is asked with the client's limits", "proxy.keep-limits", nil},
	{"P4", "decode is asked with prefill's limits", "proxy.lose-limits", nil},
	{"P5", "prefill is asked twice", "proxy.second-prefill", nil},
	{"D1", "the DiT is sent the plan of another picture", "proxy.cross-plans", nil},
	{"D2", "the DiT answers with an earlier picture", "dit.repeat-picture", nil},
	{"T1", "pulling the KV takes longer than computing it", "", sluggish},
	{"M1", "decode's transfer series are missing", "decode.missing-series", nil},
	{"M2", "decode's counters fall", "decode.counter-reset", nil},
	{"M3", "prefill's blocks arrive as zeros", "prefill.zero-blocks", nil},
}

func short(s *Stack) { s.Prefill.Lease = 300 * time.Millisecond }

// slow lets a transfer take long enough to be left in its middle.
func slow(s *Stack) { s.Decode.Timing.TransferPerBlock = 10 * time.Millisecond }

// sluggish is a network that costs more than it saves.
func sluggish(s *Stack) { s.Decode.Timing.TransferPerBlock = 40 * time.Millisecond }

func recompute(s *Stack) { s.Decode.LoadFailure = "recompute" }

// crowded makes decode's pool so small that four long requests do not fit.
func crowded(s *Stack) { s.Decode.Blocks = 40 }

// Stack is a reference stack with this failure planted, a DiT included.
func (f Failure) Stack(t testing.TB) Stack {
	t.Helper()
	faults, err := refstack.ParseFaults(f.Faults)
	if err != nil {
		t.Fatal(err)
	}
	s := Stack{
		Prefill: ar.Config{Faults: faults.Prefill, Lease: 2 * time.Second}, Decode: ar.Config{Faults: faults.Decode},
		DiT: &dit.Config{Faults: faults.DiT},
	}
	s.Proxy.Faults = faults.Proxy
	if f.Tune != nil {
		f.Tune(&s)
	}
	return s
}
