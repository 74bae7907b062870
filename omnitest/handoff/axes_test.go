package handoff_test

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

var axesWindows = flag.Int("axes", 36, "how many healthy windows the tests of the workload axes draw; a third as many with trouble, and with a fault")

// trouble is what else happens in a window.
type trouble string

const (
	none           trouble = "none"
	delayed        trouble = "time passes between the legs, less than the lease"
	leftovers      trouble = "tickets from before that nobody pulled, whose leases end in the window"
	tightPrefill   trouble = "prefill's pool holds hardly more than one prompt: blocks are given to the next at once"
	leavesPrefill  trouble = "clients leave while prefill runs"
	leavesBetween  trouble = "clients leave between the legs"
	leavesWaiting  trouble = "clients leave while decode waits for KV"
	leavesDecoding trouble = "clients leave while decode generates"
	choices        trouble = "several choices behind one ticket"
	expires        trouble = "more time than the lease passes between the legs"
	reused         trouble = "more time than the lease passes between the legs, and a neighbour gets the blocks"
	tightDecode    trouble = "decode's pool is too small for all, it preempts"
)

// axes is one drawn case.
type axes struct {
	Trouble                     trouble
	Lanes                       int // requests in flight
	Requests                    []ask
	Block, Batch                int    // tokens per KV block, and per iteration: longer prompts are prefilled in chunks
	PrefillBlocks, DecodeBlocks int    // pool sizes; 0: plenty
	Same                        bool   // all requests have one prompt
	Ledger                      string // who keeps the flow ledger: "own" (the proxy), "taps" (around it), "none"
	Lease, Delay, After         time.Duration
	Seed                        uint64 // of the prompts
}

// ask is one request: its prompt in bytes, which are its tokens (a chat's template comes on top).
type ask struct {
	Tokens, Out, MinTokens, Logprobs, N int
	Chat, Stream                        bool
	PrefillHas, DecodeHas               int // that many of its first tokens were sent to the stage before the window
	Leaves                              bool
}

func (a axes) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s; lanes %d, block %d, batch %d, pools %d and %d, same prompt %v, ledger %s, lease %v, delay %v, seed %d",
		a.Trouble, a.Lanes, a.Block, a.Batch, a.PrefillBlocks, a.DecodeBlocks, a.Same, a.Ledger, a.Lease, a.Delay, a.Seed)
	for i, q := range a.Requests {
		fmt.Fprintf(&b, "\n  %s %+v", requestID(i), q)
	}
	return b.String()
}

// templateTokens bounds what the chat template adds to a message.
const templateTokens = 32

// draw draws a case with one of the given troubles.
func draw(t *rapid.T, troubles ...trouble) axes {
	a := axes{
		Trouble: rapid.SampledFrom(troubles).Draw(t, "trouble"),
		Lanes:   rapid.SampledFrom([]int{1, 1, 1, 8, 32}).Draw(t, "lanes"),
		Block:   rapid.SampledFrom([]int{16, 8, 32}).Draw(t, "block"),
		Batch:   rapid.SampledFrom([]int{2048, 48}).Draw(t, "batch"),
		Ledger:  rapid.SampledFrom([]string{"own", "taps", "none"}).Draw(t, "ledger"),
		Seed:    rapid.Uint64Range(1, 1<<20).Draw(t, "seed"),
		Lease:   30 * time.Second,
	}
	leaves := a.leaves()
	n := a.Lanes
	switch {
	case a.Trouble == choices, a.Trouble == expires, a.Trouble == leftovers: // neighbours would make another axis of it: who gets the blocks that were freed
		a.Lanes, n = 1, rapid.IntRange(1, 2).Draw(t, "requests")
	case a.Trouble == reused:
		a.Lanes, n = 2, 2
	case a.Trouble == tightDecode:
		a.Lanes = rapid.SampledFrom([]int{4, 8}).Draw(t, "lanes")
		n = a.Lanes
	case a.Trouble == tightPrefill, leaves, a.Lanes == 1:
		a.Lanes = min(a.Lanes, 8)
		n = rapid.IntRange(1, 4).Draw(t, "requests") * a.Lanes
		n = min(n, 16)
	}
	a.Same = n > 1 && a.Trouble == none && rapid.IntRange(0, 7).Draw(t, "same") == 0
	for range n {
		a.Requests = append(a.Requests, a.drawAsk(t))
	}
	if a.Same {
		for i := range a.Requests {
			a.Requests[i].Tokens, a.Requests[i].PrefillHas, a.Requests[i].DecodeHas = a.Requests[0].Tokens, 0, 0
			a.Requests[i].Out = min(a.Requests[i].Out, a.Requests[0].Tokens+1)
			a.Requests[i].MinTokens = 0
		}
	}
	longest, total := 0, 0
	for _, q := range a.Requests {
		longest, total = max(longest, q.Tokens+templateTokens), max(total, q.Tokens+templateTokens+q.Out)
	}
	blocks := func(tokens int) int { return tokens/a.Block + 2 } // one is never used
	switch a.Trouble {
	case delayed:
		a.Delay = time.Duration(rapid.IntRange(1, 50).Draw(t, "delay")) * time.Millisecond
	case leftovers:
		a.Lease = time.Second // far more than one request needs between its legs
	case expires:
		a.Lease, a.Delay = 50*time.Millisecond, 600*time.Millisecond
	case reused: // room for one prompt: the second is computed over the first
		tokens := rapid.IntRange(2*a.Block, 6*a.Block).Draw(t, "tokens")
		for i := range a.Requests {
			a.Requests[i] = ask{Tokens: tokens, Out: tokens + 1, Stream: a.Requests[i].Stream}
		}
		a.Lease, a.Delay, a.PrefillBlocks = 50*time.Millisecond, 600*time.Millisecond, 1+(tokens+a.Block)/a.Block
	case tightPrefill:
		a.PrefillBlocks = blocks(longest) + rapid.IntRange(0, 4).Draw(t, "spare")
	case tightDecode:
		a.DecodeBlocks = blocks(total) + rapid.IntRange(0, 4).Draw(t, "spare")
	case leavesPrefill, leavesWaiting:
		a.After = time.Duration(rapid.IntRange(0, 30).Draw(t, "after")) * time.Millisecond
	}
	if leaves {
		for i := range a.Requests { // the first one always, so that a case is what its name says
			if a.Requests[i].Leaves = i == 0 || rapid.IntRange(0, 2).Draw(t, "leaves") == 0; a.Requests[i].Leaves {
				q := &a.Requests[i]
				q.Tokens, q.Out, q.PrefillHas, q.DecodeHas, q.MinTokens = 192, 193, 0, 0, 0
				q.Stream = q.Stream || a.Trouble == leavesDecoding
			}
		}
	}
	return a
}

func (a axes) leaves() bool {
	switch a.Trouble {
	case leavesPrefill, leavesBetween, leavesWaiting, leavesDecoding:
		return true
	}
	return false
}

func (a axes) drawAsk(t *rapid.T) ask {
	q := ask{
		Chat:   rapid.IntRange(0, 3).Draw(t, "chat") == 0,
		Stream: rapid.Bool().Draw(t, "stream"),
	}
	most := 6
	if a.Lanes > 8 {
		most = 3
	}
	k := rapid.IntRange(1, most).Draw(t, "blocks")
	switch rapid.SampledFrom([]string{"below", "exact", "less", "more", "long"}).Draw(t, "length") {
	case "below":
		q.Tokens = rapid.IntRange(1, a.Block-1).Draw(t, "tokens")
	case "exact":
		q.Tokens = k * a.Block
	case "less":
		q.Tokens = k*a.Block - 1
	case "more":
		q.Tokens = k*a.Block + 1
	case "long":
		q.Tokens = rapid.IntRange(49, 260).Draw(t, "tokens") // more than the small batch: up to six chunks
	}
	if a.Trouble == tightDecode {
		q.Tokens = rapid.IntRange(2*a.Block, 4*a.Block).Draw(t, "tokens")
	}
	q.Out = rapid.SampledFrom([]int{q.Tokens + 1, q.Tokens + 1, q.Tokens, 1, 5}).Draw(t, "out")
	q.MinTokens = rapid.SampledFrom([]int{0, 0, min(q.Tokens, q.Out)}).Draw(t, "min_tokens")
	q.Logprobs = rapid.SampledFrom([]int{0, 0, 2}).Draw(t, "logprobs")
	if !q.Chat {
		q.PrefillHas = rapid.SampledFrom([]int{0, 0, q.Tokens}).Draw(t, "prefill has")
		q.DecodeHas = rapid.SampledFrom([]int{0, 0, q.Tokens / 2, q.Tokens}).Draw(t, "decode has")
	}
	if a.Trouble == choices {
		q.N = rapid.IntRange(2, 3).Draw(t, "n")
	}
	return q
}

// expect says what the verdict of Proven must be, from the axes and from nothing that the window showed, but for what no client
// can choose: whether it left in time, and whether decode preempted. The other judgements are silent as well: none refutes, and
// on a window without trouble each is proven that has the instruments for it.
func (a axes) expect(e *handoff.Evidence) error {
	left := 0
	for _, o := range e.Observations {
		if o.Err != nil {
			left++
		}
	}
	preemptions, told := e.Decode.Delta(handoff.NIXL.Preemptions)
	state, rules := handoff.StateProven, []string{}
	switch a.Trouble {
	case leavesPrefill, leavesBetween, leavesWaiting, leavesDecoding:
		if left > 0 {
			state, rules = handoff.StateInconclusive, []string{"own-deadline"}
		}
	case choices:
		// Decode pulls once for each choice, prefill frees the blocks at the first pull (real vLLM's notification names the
		// request, and its count is one): the others read blocks that are no longer held for them.
		state, rules = handoff.StateInconclusive, []string{"late-pull"}
		more := 0.0
		for _, q := range a.Requests {
			more += float64(q.N - 1)
		}
		if late, _ := e.Prefill.Delta(handoff.NIXL.LateNotices); late != more {
			return fmt.Errorf("%.0f late pulls, %.0f choices after the first", late, more)
		}
	case expires:
		state, rules = handoff.StateInconclusive, []string{"late-pull", "lease-expired"}
	case reused:
		// By its content. Whether it is recognised as the neighbour's depends on where in the prompt the blocks had their place.
		state, rules = handoff.StateRefuted, []string{"late-pull"}
	case tightDecode:
		if !told || preemptions > 0 {
			state, rules = handoff.StateInconclusive, []string{"preempted"}
		}
	}
	if err := must(handoff.Proven(e), state, rules...); err != nil {
		return err
	}
	for _, j := range judgements {
		v := j.judge(e)
		if v.State == handoff.StateRefuted || state == handoff.StateProven && v.State != handoff.StateProven && slices.Contains(j.with, a.Ledger) {
			return fmt.Errorf("judgement %s", v.Err())
		}
	}
	return nil
}

// judgements are the passive ones beside Proven, and with whose ledger each can be proven.
var judgements = []struct {
	judge func(*handoff.Evidence) handoff.Verdict
	with  []string
}{
	{handoff.Moved, []string{"own", "taps", "none"}},
	{handoff.Countable, []string{"own", "taps", "none"}},
	{handoff.Sane, []string{"own", "taps", "none"}},
	{handoff.Bounded, []string{"own", "taps", "none"}},
	{handoff.NoSilentFallback, []string{"own", "taps", "none"}},
	{handoff.TicketsWellFormed, []string{"own", "taps"}},
	{handoff.Conformant, []string{"taps"}}, // it needs the bodies
	{handoff.PayloadProven, nil},           // there are no pictures here
}

// must compares a verdict with the state and the rules that it has to name.
func must(v handoff.Verdict, state handoff.State, rules ...string) error {
	if v.State != state {
		return fmt.Errorf("%s, want %s", v.State, state)
	}
	for _, r := range rules {
		if !v.Has(r) {
			return fmt.Errorf("%s does not name %s", v.State, r)
		}
	}
	return nil
}

// windows draws n cases and tells under which seed.
func windows(t *testing.T, n int, property func(*rapid.T)) {
	t.Helper()
	set := func(name, value string) {
		was := flag.Lookup(name).Value.String()
		require.NoError(t, flag.Set(name, value))
		t.Cleanup(func() { require.NoError(t, flag.Set(name, was)) })
	}
	seed := flag.Lookup("rapid.seed").Value.String()
	if seed == "0" {
		seed = fmt.Sprint(rand.Uint32())
	}
	set("rapid.seed", seed)
	checks := n
	if testing.Short() { // rapid makes a fifth of them then, and of one none
		checks = max(n, 5)
	}
	set("rapid.checks", fmt.Sprint(checks))
	set("rapid.nofailfile", "true") // the seed is enough, and a test leaves nothing in the tree
	again := fmt.Sprintf("go test ./omnitest/handoff -run '^%s$' -axes=%d -rapid.seed=%s", t.Name(), *axesWindows, seed)
	defer func() {
		if t.Failed() {
			t.Log("again: " + again)
		}
	}()
	rapid.Check(t, property)
	t.Logf("%d windows, seed %s; again: %s", n, seed, again)
}

// tally counts what a run has drawn.
type tally map[string]int

// add counts a window under what was expected of it, and on each axis where it lies. A request is on an axis as often as it is.
func (n tally) add(a axes, what string) {
	n[what]++
	n[fmt.Sprintf("axis: %d lanes", a.Lanes)]++
	n["axis: ledger "+a.Ledger]++
	n["axis: one prompt for all"] += count(a.Same)
	for _, q := range a.Requests {
		n["axis: below one block"] += count(q.Tokens < a.Block)
		n["axis: whole blocks"] += count(q.Tokens%a.Block == 0)
		n["axis: blocks and 1"] += count(q.Tokens > a.Block && q.Tokens%a.Block == 1)
		n["axis: blocks less 1"] += count(q.Tokens > a.Block && q.Tokens%a.Block == a.Block-1)
		n["axis: in chunks"] += count(q.Tokens > a.Batch)
		n["axis: prefill has it"] += count(q.PrefillHas >= a.Block)
		n["axis: decode has a part"] += count(q.DecodeHas >= a.Block && q.DecodeHas < q.Tokens)
		n["axis: decode has it"] += count(q.DecodeHas >= a.Block && q.DecodeHas == q.Tokens)
		n["axis: chat"] += count(q.Chat)
		n["axis: stream"] += count(q.Stream)
		n["axis: min_tokens"] += count(q.MinTokens > 0)
		n["axis: logprobs"] += count(q.Logprobs > 0)
	}
}

func count(is bool) int {
	if is {
		return 1
	}
	return 0
}

// log prints the tally, and fails a run of 300 windows or more that left an axis out.
func (n tally) log(t *testing.T, windows int) {
	for _, what := range slices.Sorted(maps.Keys(n)) {
		t.Logf("%6d  %s", n[what], what)
		if windows >= 300 && n[what] == 0 {
			t.Errorf("no window was drawn with %s", what)
		}
	}
}

// TestAxesHealthy: over prompt lengths around blocks and chunks, cached prefixes, APIs, concurrency, delays and a prefill pool
// that gives its blocks to the next at once, a healthy stack is proven in every window. One false alarm is a failure.
func TestAxesHealthy(t *testing.T) {
	t.Parallel()
	seen := tally{}
	windows(t, *axesWindows, func(rt *rapid.T) {
		a := draw(rt, none, none, none, none, none, none, delayed, delayed, delayed, tightPrefill, tightPrefill, tightPrefill, leftovers)
		e := a.window(rt, t, faults{})
		if err := a.expect(e); err != nil {
			rt.Fatalf("false alarm: %v\n%s\n%s", err, a, e.Report())
		}
		seen.add(a, string(a.Trouble))
	})
	seen.log(t, *axesWindows)
}

// TestAxesTrouble: a client that leaves, several choices, a lease that ends and a decode that preempts leave doubt, and the
// doubt has the right name: no handoff failed, so none is refuted, and none passes for proven. Where a neighbour got the blocks
// of a lease that ended, the handoff did fail.
func TestAxesTrouble(t *testing.T) {
	t.Parallel()
	seen := tally{}
	windows(t, max(1, *axesWindows/3), func(rt *rapid.T) {
		a := draw(rt, leavesPrefill, leavesBetween, leavesWaiting, leavesDecoding, choices, expires, reused, tightDecode)
		e := a.window(rt, t, faults{})
		if err := a.expect(e); err != nil {
			rt.Fatalf("%v\n%s\n%s", err, a, e.Report())
		}
		seen.add(a, string(a.Trouble)+": "+handoff.Proven(e).State.String())
	})
	seen.log(t, 0)
}

// faults is a planted failure and where it can be seen at all.
type faults struct {
	name            string
	prefill, decode ar.Faults
	proxy           proxy.Faults
	shows           func(axes) bool // nil: everywhere
}

// planted are failures of each stage.
var planted = []faults{
	{name: "decode.silent-recompute", decode: ar.Faults{SilentRecompute: true}},
	{name: "decode.claim-hit-without-bytes", decode: ar.Faults{ClaimHitWithoutBytes: true}},
	{name: "decode.transfer-fails=recompute", decode: ar.Faults{TransferFails: "recompute"}},
	{name: "decode.transfer-fails=fail", decode: ar.Faults{TransferFails: "fail"}},
	{name: "decode.garbage-on-failure", decode: ar.Faults{GarbageOnFailure: true}},
	{name: "decode.handshake-mismatch", decode: ar.Faults{HandshakeMismatch: true}},
	{name: "decode.wrong-layout", decode: ar.Faults{WrongLayout: true}, shows: readsMoved(0)},
	{name: "decode.front-trim", decode: ar.Faults{FrontTrim: true}, shows: readsMoved(1)},
	{name: "prefill.zero-blocks", prefill: ar.Faults{ZeroBlocks: true}, shows: readsMoved(0)},
	{name: "proxy.drop-ticket", proxy: proxy.Faults{DropTicket: true}},
	{name: "proxy.second-prefill", proxy: proxy.Faults{SecondPrefill: true}},
	{name: "proxy.alter-ticket", proxy: proxy.Faults{AlterTicket: true}, shows: func(a axes) bool { return a.Ledger != "none" }},
	{name: "proxy.lose-limits", proxy: proxy.Faults{LoseLimits: true}, shows: func(a axes) bool {
		return slices.ContainsFunc(a.Requests, func(q ask) bool { return min(q.Out, q.Tokens) > 1 })
	}},
}

// readsMoved: garbled blocks show where some answer reads four bytes or more that moved, and that decode did not compute again.
// hit is how many blocks decode must have had before them.
func readsMoved(hit int) func(axes) bool {
	return func(a axes) bool {
		return slices.ContainsFunc(a.Requests, func(q ask) bool {
			had := min(q.DecodeHas, q.Tokens-1) / a.Block
			return had >= hit && min(q.Tokens-1, q.Out)-had*a.Block >= 4
		})
	}
}

// TestAxesFaults: on the same axes a planted failure is never proven, however the workload looks.
func TestAxesFaults(t *testing.T) {
	t.Parallel()
	seen := tally{}
	windows(t, max(1, *axesWindows/3), func(rt *rapid.T) {
		a := draw(rt, none, none, delayed) // a tight prefill would only wait: tickets that nobody pulls fill it for a lease
		f := rapid.SampledFrom(planted).Filter(func(f faults) bool { return f.shows == nil || f.shows(a) }).Draw(rt, "fault")
		e := a.window(rt, t, f)
		v := handoff.Proven(e)
		if v.State == handoff.StateProven {
			rt.Fatalf("proven with %s planted\n%s\n%s", f.name, a, e.Report())
		}
		seen.add(a, f.name+": "+v.State.String())
	})
	seen.log(t, 0)
}

// A property that cannot fail proves nothing: a healthy case is held to a stack with a fault, and to a proxy that Proven has
// nothing against and another judgement has.
func TestAxesCanFail(t *testing.T) {
	a := axes{Trouble: none, Lanes: 1, Block: 16, Batch: 2048, Ledger: "taps", Lease: 30 * time.Second, Seed: 1, Requests: []ask{{Tokens: 100, Out: 101}}}
	var e *handoff.Evidence
	windows(t, 1, func(rt *rapid.T) { e = a.window(rt, t, planted[0]) })
	require.EqualError(t, a.expect(e), "refuted, want proven")
	require.Contains(t, e.Report(), "against: decode computed 100 of 100 prompt tokens itself (iteration_tokens +201, bytes 0)")

	windows(t, 1, func(rt *rapid.T) { e = a.window(rt, t, faults{}) })
	require.NoError(t, a.expect(e))
	e.Flow.Records[0].Hops[1].RequestID = "another"
	require.NoError(t, handoff.Proven(e).Err())
	require.EqualError(t, a.expect(e), `judgement the proxy speaks the two-leg protocol: refuted: the legs carry different request ids: prefill "axis-0", decode "another"`)
}
