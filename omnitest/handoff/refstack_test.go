package handoff_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// plan is a reference stack in this process: two AR engines with a real side channel between them, and the real proxy.
type plan struct {
	prefill, decode ar.Faults
	proxy           proxy.Faults
	fallback        bool
	deadPrefill     bool
	pictures        bool
	lease           time.Duration
}

const limit = refpd.Limit

func (p plan) start(t *testing.T) handoff.Source {
	t.Helper()
	c := refpd.Stack{
		Prefill: ar.Config{Faults: p.prefill, Lease: p.lease}, Decode: ar.Config{Faults: p.decode, Lease: p.lease},
		Proxy: proxy.Config{AllowFallback: p.fallback, Faults: p.proxy},
	}
	if p.deadPrefill {
		c.Proxy.Prefill = "http://127.0.0.1:1" // tcpmux: nobody listens
	}
	if p.pictures {
		c.DiT = &dit.Config{}
	}
	u := c.Start(t)
	return handoff.Source{
		Entry:         &api.Client{BaseURL: u.Entry},
		Prefill:       handoff.Endpoint{API: &api.Client{BaseURL: u.Prefill}},
		Decode:        handoff.Endpoint{API: &api.Client{BaseURL: u.Decode}},
		BytesPerToken: ar.BytesPerToken,
		Settle:        10 * time.Millisecond, IdleWithin: limit,
	}
}

// observe opens a window, sends one streamed request per prompt, one after the other, and closes it.
func observe(t *testing.T, s handoff.Source, prompts ...string) *handoff.Evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	w, err := handoff.Open(ctx, s)
	require.NoError(t, err)
	for i, prompt := range prompts {
		id := fmt.Sprintf("req-%d", i)
		answer, err := s.Entry.StreamComplete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt) + 1, RequestID: id}}, nil)
		o := handoff.Observed(answer, err)
		o.RequestID, o.Prompt, o.Want, o.WantFrom = id, prompt, prompt, "known answer"
		w.Observe(o)
	}
	e, err := w.Close(ctx)
	require.NoError(t, err)
	return e
}

// Two prompts of the same length that agree nowhere for long: 128 bytes are 128 tokens are 8 blocks.
var (
	sea = strings.Repeat("the sea is wide and blue, today. ", 4)[:128]
	tea = strings.Repeat("BRAVO LIKES HIS TEA VERY STRONG! ", 4)[:128]
)

// TestReferenceStack is the fault matrix of this room: each failure of the real engine and proxy code gets its own verdict.
func TestReferenceStack(t *testing.T) {
	t.Parallel()
	const moved = "decode took 256 of 256 prompt tokens from prefill (262144 bytes), computed 0 itself"
	for _, c := range []struct {
		name          string
		plan          plan
		proven, moved string // beginnings of the verdicts; moved "": as proven
		contains      []string
	}{
		{name: "healthy", proven: "proven: " + moved + "; 2 answers as wanted (known answer)", moved: "proven: " + moved},
		{name: "drop-ticket", plan: plan{proxy: proxy.Faults{DropTicket: true}},
			proven: "refuted: decode computed 256 of 256 prompt tokens itself (iteration_tokens +", contains: []string{"bytes 0); request req-0: ticket was sent by prefill at +", " ms, never forwarded by proxy (and 1 more like it)"}},
		{name: "cross-tickets", plan: plan{proxy: proxy.Faults{CrossTickets: true}},
			proven: "refuted: request req-1: decode was given the ticket of request req-0", contains: []string{"; request req-1: bytes 0 to 127 of the answer are the text of request req-0: \"the sea is wide"}, // the last token is decode's own
		},
		{name: "silent-recompute", plan: plan{decode: ar.Faults{SilentRecompute: true}},
			proven: "refuted: decode computed 256 of 256 prompt tokens itself (iteration_tokens +", contains: []string{", bytes 0)"}},
		{name: "claim-hit-without-bytes", plan: plan{decode: ar.Faults{ClaimHitWithoutBytes: true}},
			proven: "refuted: decode computed 256 of 256 prompt tokens itself", contains: []string{"decode claims 256 transferred tokens, moved 0 bytes"}},
		{name: "transfer-fails=fail", plan: plan{decode: ar.Faults{TransferFails: "fail"}},
			proven: "refuted: decode counted 2 failed transfers; ", contains: []string{"request req-0: request failed: "}},
		{name: "transfer-fails=recompute", plan: plan{decode: ar.Faults{TransferFails: "recompute"}},
			proven: "refuted: decode counted 2 failed transfers; decode computed 256 of 256 prompt tokens itself"},
		{name: "missing-series", plan: plan{decode: ar.Faults{MissingSeries: true}}, proven: "inconclusive: series absent: vllm:nixl_bytes_transferred_count of decode and"},
		{name: "counter-reset", plan: plan{decode: ar.Faults{CounterReset: true}}, proven: "inconclusive: counter of decode fell back: "},
		{name: "zero-blocks", plan: plan{prefill: ar.Faults{ZeroBlocks: true}},
			proven: "refuted: request req-0: text diverges at byte 0: got ", moved: "proven: " + moved},
		{name: "foreign-blocks", plan: plan{prefill: ar.Faults{ForeignBlocks: true}},
			proven: "refuted: request req-1: bytes 0 to 127 of the answer are the text of request req-0: \"the sea is wide", moved: "proven: " + moved},
		{name: "truncate-stream", plan: plan{decode: ar.Faults{TruncateStream: true}}, proven: "refuted: request req-0: request failed: "},
		{name: "error-in-200", plan: plan{decode: ar.Faults{ErrorIn200: true}}, proven: "refuted: request req-0: request failed: "},
		{name: "dead prefill", plan: plan{deadPrefill: true}, proven: "refuted: request req-0: request failed: ", contains: []string{"prefill", "connection refused"}},
		{name: "dead prefill, fallback allowed", plan: plan{deadPrefill: true, fallback: true},
			proven: "refuted: decode computed 256 of 256 prompt tokens itself", contains: []string{"request req-0: proxy let decode run without a ticket and declared it: prefill: ", "connection refused (and 1 more like it)"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e := observe(t, c.plan.start(t), sea, tea)
			v, m := handoff.Proven(e).String(), handoff.Moved(e).String()
			assert.True(t, strings.HasPrefix(v, c.proven), "Proven gave %q\nwant      %q ...", v, c.proven)
			for _, part := range c.contains {
				assert.Contains(t, v, part)
			}
			if c.moved == "" {
				c.moved = c.proven
			}
			assert.True(t, strings.HasPrefix(m, c.moved), "Moved gave %q\nwant     %q ...", m, c.moved)
		})
	}
}

// Sixteen at once, four lanes: the counters are sums, the flow and the content still tell each request from the others.
func TestReferenceConcurrent(t *testing.T) {
	t.Parallel()
	for _, fault := range []bool{false, true} {
		t.Run(fmt.Sprintf("cross-tickets=%v", fault), func(t *testing.T) {
			t.Parallel()
			s := plan{proxy: proxy.Faults{CrossTickets: fault}}.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
			defer cancel()
			w, err := handoff.Open(ctx, s)
			require.NoError(t, err)
			var lanes sync.WaitGroup
			for lane := range 4 {
				lanes.Go(func() {
					for i := range 4 {
						id := fmt.Sprintf("lane-%d-%d", lane, i)
						prompt := strings.Repeat(fmt.Sprintf("%c%d says: ", 'a'+lane, i), 8+4*longer(fault, i))
						answer, err := s.Entry.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt) + 1, RequestID: id}})
						o := handoff.Observed(answer, err)
						o.Prompt, o.Want, o.WantFrom = prompt, prompt, "known answer"
						w.Observe(o)
					}
				})
			}
			lanes.Wait()
			e, err := w.Close(ctx)
			require.NoError(t, err)
			v := handoff.Proven(e)
			if !fault {
				assert.NoError(t, v.Err())
				assert.Equal(t, 16.0, v.Numbers["decode.transfers"])
				assert.Equal(t, float64(ar.BytesPerToken), v.Numbers["decode.bytes_per_token"])
				return
			}
			assert.Equal(t, handoff.StateRefuted, v.State)
			assert.True(t, v.Has("ticket-crossed"), v.String())
			assert.True(t, v.Has("foreign-content"), v.String())
		})
	}
}

// longer gives prompts of different lengths to healthy lanes; crossed ones stay alike, because a ticket with too few
// blocks kills decode.
func longer(fault bool, i int) int {
	if fault {
		return 0
	}
	return i
}

// A picture's requester never sees the text that decode made: the plan in the flow ledger is its content.
func TestReferencePicture(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		plan  plan
		want  string
		moved handoff.State
	}{
		{"healthy", plan{pictures: true}, "proven: decode took 128 of 128 prompt tokens from prefill (131072 bytes), computed 0 itself; 1 answer as wanted (known answer)", handoff.StateProven},
		{"zero-blocks", plan{pictures: true, prefill: ar.Faults{ZeroBlocks: true}}, "refuted: text diverges at byte 0: got ", handoff.StateProven},
		{"drop-ticket", plan{pictures: true, proxy: proxy.Faults{DropTicket: true}}, "refuted: decode computed 128 of 128 prompt tokens itself (iteration_tokens +", handoff.StateRefuted},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := c.plan.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
			defer cancel()
			w, err := handoff.Open(ctx, s)
			require.NoError(t, err)
			_, err = s.Entry.Generate(ctx, api.ImageRequest{Prompt: sea, RequestID: "pic", ImageParams: api.ImageParams{Size: api.Size{W: 128, H: 128}, Steps: 2, Seed: 1}})
			w.Observe(handoff.Observation{RequestID: "pic", Prompt: sea, Want: sea, WantFrom: "known answer", Err: err})
			e, err := w.Close(ctx)
			require.NoError(t, err)
			v := handoff.Proven(e)
			assert.True(t, strings.HasPrefix(v.String(), c.want), v.String())
			assert.Equal(t, c.moved, handoff.Moved(e).State, handoff.Moved(e).String())
		})
	}
}

// A prompt that decode has seen does not move again: nothing to prove by it.
func TestReferenceLocalHit(t *testing.T) {
	t.Parallel()
	s := plan{}.start(t)
	require.NoError(t, handoff.Proven(observe(t, s, sea)).Err())
	v := handoff.Proven(observe(t, s, sea))
	assert.Equal(t, "proven: decode took 16 of 128 prompt tokens from prefill (16384 bytes), had 112, computed 0 itself; 1 answer as wanted (known answer)", v.String(),
		"the last block is never reused, it moves again")

	got, err := handoff.BytesPerToken(observe(t, s, tea))
	require.NoError(t, err)
	assert.Equal(t, handoff.KVBytesPerToken(ar.Layers, ar.KVHeads, ar.HeadDim, 2), got)
}

// A ticket that nobody pulls holds its blocks for the lease and no longer; a leak holds them for ever.
func TestReferenceBlocksReleased(t *testing.T) {
	t.Parallel()
	for _, leak := range []bool{false, true} {
		t.Run(fmt.Sprintf("leak=%v", leak), func(t *testing.T) {
			t.Parallel()
			s := plan{lease: 300 * time.Millisecond, prefill: ar.Faults{LeakOnAbort: leak}}.start(t)
			base, err := handoff.ReadUsage(t.Context(), s)
			require.NoError(t, err)
			answer, err := s.Prefill.API.Complete(t.Context(), api.CompletionRequest{Prompt: sea, Sampling: api.Sampling{MaxTokens: 1, Ticket: handoff.NIXL.Ask}})
			require.NoError(t, err)
			require.NoError(t, handoff.CheckTicket(&handoff.NIXL, answer.Ticket))

			within := limit
			if leak {
				within = 2 * time.Second
			}
			err = handoff.BlocksReleased(t.Context(), s, base, within)
			if !leak {
				assert.NoError(t, err)
				return
			}
			var l *handoff.Leak
			require.ErrorAs(t, err, &l)
			assert.Equal(t, "prefill", l.Stage)
			assert.ErrorContains(t, err, "prefill did not release its KV blocks within 2s: usage 0.0039, baseline 0.0000 (+0.0039), 0 running, 0 waiting")
		})
	}
}

// relay stands between decode and prefill's side channel and zeroes a part of every block on its way, from the fraction `from`
// on to `to`. The protocol: a greeting of 3+n+4 bytes whose last 4 are the size of a block, a status byte, the blocks.
func relay(t *testing.T, upstream string, zero func(block []byte)) (port int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			decode, err := ln.Accept()
			if err != nil {
				return
			}
			prefill, err := net.Dial("tcp", upstream)
			if err != nil {
				decode.Close()
				return
			}
			go func() { io.Copy(prefill, decode); prefill.Close() }()
			go func() {
				defer decode.Close()
				pass := func(n int, change func([]byte)) []byte {
					b := make([]byte, n)
					if _, err := io.ReadFull(prefill, b); err != nil {
						return nil
					}
					change(b)
					if _, err := decode.Write(b); err != nil {
						return nil
					}
					return b
				}
				keep := func([]byte) {}
				head := pass(3, keep)
				if head == nil {
					return
				}
				rest := pass(int(binary.LittleEndian.Uint16(head[1:]))+4, keep)
				if rest == nil || pass(1, keep) == nil {
					return
				}
				for size := int(binary.LittleEndian.Uint32(rest[len(rest)-4:])); pass(size, zero) != nil; {
				}
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

// TestReferenceMargins: KV that is wrong in part, and a text that is right all the same. Only the margins tell.
func TestReferenceMargins(t *testing.T) {
	t.Parallel()
	// A block is 4 slices (2 layers x 2 heads), each 16 rows of K and 16 of V: 8 matrices of equal size.
	matrix := func(which ...int) func([]byte) {
		return func(block []byte) {
			for _, m := range which {
				n := len(block) / (2 * ar.Layers * ar.KVHeads)
				clear(block[m*n : (m+1)*n])
			}
		}
	}
	for _, c := range []struct {
		name string
		zero func(block []byte)
		want string
	}{
		{"whole", matrix(), ""},
		{"values of one head", matrix(7), "part of the KV is missing or wrong although the text is right: step "},
		{"values of one layer", matrix(5, 7), "part of the KV is missing or wrong although the text is right: step "},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := plan{}.start(t)
			ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
			defer cancel()
			r := api.CompletionRequest{Prompt: sea, Sampling: api.Sampling{MaxTokens: len(sea), Logprobs: 2}}
			control, err := s.Prefill.API.Complete(ctx, r)
			require.NoError(t, err)
			p := r
			p.MaxTokens, p.Ticket = 1, handoff.NIXL.Ask
			given, err := s.Prefill.API.Complete(ctx, p)
			require.NoError(t, err)
			var ticket map[string]any
			require.NoError(t, json.Unmarshal(given.Ticket, &ticket))
			ticket["remote_port"] = relay(t, fmt.Sprintf("%v:%v", ticket["remote_host"], ticket["remote_port"]), c.zero)
			r.Ticket, err = json.Marshal(ticket)
			require.NoError(t, err)
			got, err := s.Decode.API.Complete(ctx, r)
			require.NoError(t, err)
			require.Equal(t, sea, got.String(), "the text is right")

			err = textcheck.SameMargins(control, got, 0)
			if c.want == "" {
				assert.NoError(t, err)
				assert.NoError(t, textcheck.SameMargins(control, got, 1e-9), "not by the least")
				return
			}
			require.Error(t, err)
			assert.True(t, strings.HasPrefix(err.Error(), c.want), err.Error())
			t.Log(err)
			assert.NoError(t, textcheck.SameMargins(control, got, 1e3))
		})
	}
}
