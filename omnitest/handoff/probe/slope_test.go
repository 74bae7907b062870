package probe

import (
	"context"
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

func TestJudgeSlope(t *testing.T) {
	// As recorded on vLLM 0.32 for a CPU: blocks of 32 tokens, 4096 bytes per token.
	recorded := []slopePoint{{16, 1, 131072, 16, 1}, {31, 1, 131072, 31, 1}, {33, 2, 262144, 33, 1}, {65, 3, 393216, 65, 1}, {512, 16, 2097152, 512, 1}}
	with := func(change func(x *slopePoint)) []slopePoint {
		var all []slopePoint
		for _, x := range recorded {
			change(&x)
			all = append(all, x)
		}
		return all
	}
	const all = "16 tokens (1 block) 131072 bytes, 31 tokens (1 block) 131072 bytes, 33 tokens (2 blocks) 262144 bytes, 65 tokens (3 blocks) 393216 bytes, 512 tokens (16 blocks) 2097152 bytes"
	for _, c := range []struct {
		name   string
		points []slopePoint
		known  float64
		want   string
	}{
		{"recorded", recorded, 0, "proven: 4096 bytes per token, whole blocks: " + all},
		{"recorded, known", recorded, 4096, "proven: 4096 bytes per token, whole blocks: " + all},
		{"half the dtype", recorded, 8192, "refuted: 4096 bytes per token moved, 8192 wanted: another dtype or layout, or a part of the layers or heads (" + all + ")"},
		{"one block is always lost", with(func(x *slopePoint) { x.bytes -= 131072 }), 0, "refuted: each transfer lacks 131072 bytes (1 blocks of 131072): 16 tokens (1 block) 0 bytes"},
		{"the last tokens are lost", with(func(x *slopePoint) { x.bytes = float64(x.tokens) * 4096 }), 0, "refuted: the bytes do not grow with the blocks: 16 tokens (1 block) 65536 bytes, 31 tokens (1 block) 126976 bytes"},
		{"a ceiling", with(func(x *slopePoint) { x.bytes = min(x.bytes, 393216) }), 0, "refuted: the bytes do not grow with the blocks: "},
		{"always the same", with(func(x *slopePoint) { x.bytes = 131072 }), 0, "refuted: the bytes do not grow with the blocks: "},
		{"a state beside the blocks", with(func(x *slopePoint) { x.bytes += 500 }), 0, "inconclusive: each transfer has 500 bytes beside the 131072 of each block: "},
		{"a sliding window", with(func(x *slopePoint) { x.bytes, x.groups = min(x.bytes, 393216), 2 }), 0, "inconclusive: the tickets name 2 KV cache groups, whose bytes need not be proportional: "},
		{"two groups that are proportional", with(func(x *slopePoint) { x.groups = 2 }), 0, "proven: 4096 bytes per token"},
		{"claims alone", with(func(x *slopePoint) { x.bytes = 0 }), 0, "refuted: decode claims 657 transferred tokens, moved 0 bytes: "},
		{"nothing", with(func(x *slopePoint) { x.bytes, x.claimed = 0, 0 }), 0, "refuted: decode had a ticket each time and moved nothing: "},
		{"one length", recorded[:2], 0, "inconclusive: all prompts have the same number of blocks: 16 tokens (1 block) 131072 bytes, 31 tokens (1 block) 131072 bytes"},
		{"none", nil, 0, "inconclusive: all prompts have the same number of blocks: "},
	} {
		v := judgeSlope(c.points, 32, c.known)
		assert.Contains(t, v.String(), c.want, c.name)
		if v.State == handoff.StateProven {
			assert.InDelta(t, 4096, v.Numbers["bytes_per_token"], 1e-9, c.name)
		}
	}
}

// Whatever the model weighs: whole transfers are proportional, and one that lost anything is not proven.
func TestJudgeSlopeProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		perBlock := float64(rapid.IntRange(1, 1<<20).Draw(t, "bytes per block"))
		var points []slopePoint
		for _, blocks := range rapid.SliceOfNDistinct(rapid.IntRange(1, 1000), 3, 5, func(n int) int { return n }).Draw(t, "blocks") {
			points = append(points, slopePoint{tokens: blocks * 16, blocks: blocks, bytes: perBlock * float64(blocks), claimed: 1, groups: 1})
		}
		if v := judgeSlope(points, 16, 0); v.State != handoff.StateProven {
			t.Fatalf("whole transfers: %v", v)
		}
		lost := rapid.IntRange(0, len(points)-1).Draw(t, "lost")
		points[lost].bytes -= float64(rapid.IntRange(1, int(points[lost].bytes)).Draw(t, "bytes lost"))
		if v := judgeSlope(points, 16, 0); v.State == handoff.StateProven {
			t.Fatalf("a transfer in part: %v", v)
		}
	})
}

func TestBytesSlope(t *testing.T) {
	t.Parallel()
	// page lets decode publish other counters than it keeps.
	page := func(change func(m map[string]float64)) func(f *fakepd.Pair) {
		return func(f *fakepd.Pair) {
			f.Decode.Page = func(e *fakepd.Engine) (int, string) {
				m := maps.Clone(e.Counters)
				change(m)
				return 200, e.Text(m)
			}
		}
	}
	for _, c := range []struct {
		name     string
		plant    func(f *fakepd.Pair)
		options  Options
		want     string
		requests int
	}{
		{"healthy", func(*fakepd.Pair) {}, Options{}, "proven: 1024 bytes per token, whole blocks: 48 tokens (3 blocks) 49152 bytes, 96 tokens (6 blocks) 98304 bytes, 193 tokens (13 blocks) 212992 bytes", 6},
		{"twice", func(*fakepd.Pair) {}, Options{Rounds: 2, Tokens: 64}, "proven: 1024 bytes per token", 12},
		{"half of the bytes", page(func(m map[string]float64) { m[fakepd.Bytes] /= 2 }), Options{}, "refuted: 512 bytes per token moved, 1024 wanted", 6},
		{"long transfers break off", page(func(m map[string]float64) { m[fakepd.Bytes] = min(m[fakepd.Bytes], 300000) }), Options{},
			"refuted: the bytes do not grow with the blocks: 48 tokens (3 blocks) 49152 bytes, 96 tokens (6 blocks) 98304 bytes, 193 tokens (13 blocks) 152544 bytes: 16384, 16384, 11734 bytes a block: transfers in part?", 6},
		{"claims", func(f *fakepd.Pair) { f.MoveNothing = true }, Options{}, "refuted: decode claims 337 transferred tokens, moved 0 bytes", 6},
		{"recompute", func(f *fakepd.Pair) { f.IgnoreTicket = true }, Options{}, "refuted: decode had a ticket each time and moved nothing", 6},
		{"absent", page(func(m map[string]float64) { delete(m, fakepd.Bytes) }), Options{}, "inconclusive: vllm:nixl_bytes_transferred_sum of decode: absent", 2},
		{"preempted", page(func(m map[string]float64) { m[fakepd.Preemptions] = m[fakepd.Finished] }), Options{}, "inconclusive: decode preempted 1 time", 2},
		{"not fresh", page(func(m map[string]float64) { m[fakepd.LocalHit] = 16 * m[fakepd.Finished] }), Options{}, "inconclusive: decode had 16 tokens of a fresh prompt itself: are the prompts all different?", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fakepd.New(t)
			c.plant(f)
			r, err := BytesSlope(t.Context(), sourceOf(f), c.options)
			require.NoError(t, err)
			assert.Contains(t, r.Verdict.String(), c.want)
			assert.Equal(t, c.requests, r.Requests)
		})
	}
	s := sourceOf(fakepd.New(t))
	s.Dialect = &handoff.Example
	r, err := BytesSlope(t.Context(), s, Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: connector example has no tickets", r.Verdict.String())
	d := handoff.NIXL
	d.Bytes = handoff.Series{}
	s.Dialect = &d
	r, err = BytesSlope(t.Context(), s, Options{})
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: connector nixl does not count bytes", r.Verdict.String())
}

func TestBytesSlopeCannotBeRun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	f := fakepd.New(t)
	s := sourceOf(f)
	s.Decode.API = &api.Client{BaseURL: fakepd.Hanging(t)}
	s.Decode.MetricsURL = f.Decode.Srv.URL + "/metrics"
	_, err := BytesSlope(ctx, s, Options{Limit: 100 * time.Millisecond})
	assert.ErrorContains(t, err, "bytes slope: decode 48 tokens (decode): no answer within 100ms")
	_, err = BytesSlope(ctx, handoff.Source{}, Options{})
	assert.Error(t, err)
	assert.NoError(t, ctx.Err())
}

func TestTicketGroups(t *testing.T) {
	assert.Equal(t, 2, ticketGroups([]byte(`{"remote_block_ids":[[1,2],[3]]}`)))
	assert.Equal(t, 1, ticketGroups([]byte(`{"remote_block_ids":[1,2]}`)))
	assert.Equal(t, 1, ticketGroups([]byte(`{}`)))
}
