package proxy_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// text is 64 tokens (bytes), 4 blocks.
const text = "the sea is wide and blue, and BRAVO LIKES HIS TEA VERY STRONG!!!"

// planted is a reference stack with faults of the proxy.
type planted struct {
	t     *testing.T
	stack *refpd.Running
	entry *api.Client
}

func plant(t *testing.T, faults proxy.Faults, change func(*refpd.Stack)) planted {
	t.Helper()
	s := refpd.Stack{Proxy: proxy.Config{Faults: faults}}
	if change != nil {
		change(&s)
	}
	r := s.Start(t)
	return planted{t, r, &api.Client{BaseURL: r.Entry}}
}

// ask wants the whole text back, and the usage.
func (p planted) ask(limit time.Duration, stream bool) (*api.Text, error) {
	ctx, cancel := context.WithTimeout(p.t.Context(), limit)
	defer cancel()
	r := api.CompletionRequest{Prompt: text, Sampling: api.Sampling{MaxTokens: len(text), RequestID: "it"}}
	if stream {
		return p.entry.StreamComplete(ctx, r, nil)
	}
	return p.entry.Complete(ctx, r)
}

func (p planted) count(base, name string) float64 {
	p.t.Helper()
	s, err := prom.Scrape(p.t.Context(), nil, base+"/metrics")
	require.NoError(p.t, err)
	v, present := s.Sum(name, nil)
	require.True(p.t, present, "%s of %s", name, base)
	return v
}

// eventually waits for a counter to come to a value.
func (p planted) eventually(base, name string, want float64) {
	p.t.Helper()
	require.Eventually(p.t, func() bool { return p.count(base, name) == want }, refpd.Limit, 20*time.Millisecond, "%s is to become %v", name, want)
}

func (p planted) record() *flow.Record {
	p.t.Helper()
	var page flow.Page
	require.NoError(p.t, p.entry.GetJSON(p.t.Context(), flow.Path, &page))
	require.Len(p.t, page.Records, 1)
	return &page.Records[0]
}

const (
	expired  = "vllm:nixl_num_kv_expired_reqs_total"
	bytesIn  = "vllm:nixl_bytes_transferred_sum"
	usage    = "vllm:kv_cache_usage_perc"
	prompts  = "vllm:prompt_tokens_total"
	generate = "vllm:generation_tokens_total"
)

// TestFaultsOnTheReferenceStack: what each fault looks like from outside on true engines. The healthy stack comes first, by the
// same measures.
func TestFaultsOnTheReferenceStack(t *testing.T) {
	t.Parallel()
	whole := float64(len(text) * ar.BytesPerToken)
	lease := func(d time.Duration) func(*refpd.Stack) { return func(s *refpd.Stack) { s.Prefill.Lease = d } }
	for name, c := range map[string]struct {
		faults proxy.Faults
		change func(*refpd.Stack)
		check  func(*testing.T, planted)
	}{
		"healthy": {check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text, answer.String())
			assert.Equal(t, whole, p.count(p.stack.Decode, bytesIn))
			assert.Equal(t, 1.0, p.count(p.stack.Prefill, generate))
			assert.Equal(t, float64(len(text)), p.count(p.stack.Prefill, prompts))
			p.eventually(p.stack.Prefill, usage, 0)
			assert.Zero(t, p.count(p.stack.Prefill, expired))
		}},
		"late-decode": {faults: proxy.Faults{LateDecode: true}, change: lease(time.Second), check: func(t *testing.T, p planted) {
			_, err := p.ask(refpd.Limit, true)
			assert.NoError(t, err, "a good answer, of blocks that were free")
			assert.Equal(t, 1.0, p.count(p.stack.Prefill, expired))
			assert.Equal(t, whole, p.count(p.stack.Decode, bytesIn))
		}},
		"die-between-legs": {faults: proxy.Faults{DieBetweenLegs: true}, change: lease(3 * time.Second), check: func(t *testing.T, p planted) {
			_, err := p.ask(refpd.Limit, true)
			assert.Equal(t, api.Transport, api.KindOf(err), "%v", err)
			assert.Positive(t, p.count(p.stack.Prefill, usage), "the blocks are stranded")
			assert.Zero(t, p.count(p.stack.Decode, prompts))
			p.eventually(p.stack.Prefill, expired, 1)
			p.eventually(p.stack.Prefill, usage, 0)
		}},
		"strip-ticket-id": {faults: proxy.Faults{StripTicketID: true}, check: func(t *testing.T, p planted) {
			_, err := p.ask(2*time.Second, true)
			assert.ErrorIs(t, err, context.DeadlineExceeded, "decode waits and says nothing")
			require.Eventually(t, func() bool { return p.record().Outcome == "cancelled" }, refpd.Limit, 20*time.Millisecond)
			assert.NotContains(t, string(p.record().Hop("decode").TicketIn), "remote_request_id")
		}},
		"alter-ticket": {faults: proxy.Faults{AlterTicket: true}, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err, "200, and decode lives")
			assert.Equal(t, text[:48], answer.String()[:48], "three blocks are right")
			assert.NotEqual(t, text, answer.String(), "one is not")
			assert.Equal(t, whole, p.count(p.stack.Decode, bytesIn), "and the counters see nothing")
		}},
		"keep-limits": {faults: proxy.Faults{KeepLimits: true}, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text, answer.String())
			assert.Equal(t, float64(len(text)), p.count(p.stack.Prefill, generate), "prefill decodes too")
			assert.Equal(t, whole, p.count(p.stack.Decode, bytesIn))
		}},
		"lose-limits": {faults: proxy.Faults{LoseLimits: true}, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text[:1], answer.String())
		}},
		"drop-ticket": {faults: proxy.Faults{DropTicket: true}, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.LessOrEqual(t, answer.Usage.CachedTokens, 0, "what the next one lies about")
		}},
		"rewrite-cached": {faults: proxy.Faults{RewriteCached: true, DropTicket: true}, check: func(t *testing.T, p planted) {
			for _, stream := range []bool{false, true} {
				answer, err := p.ask(refpd.Limit, stream)
				require.NoError(t, err)
				assert.Equal(t, len(text), answer.Usage.CachedTokens)
			}
			assert.Zero(t, p.count(p.stack.Decode, bytesIn), "nothing of the sort")
		}},
		"concurrent-dispatch": {faults: proxy.Faults{ConcurrentDispatch: true}, change: lease(time.Second), check: func(t *testing.T, p planted) {
			began := time.Now()
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text, answer.String(), "the right text")
			assert.GreaterOrEqual(t, time.Since(began), 1500*time.Millisecond, "late")
			assert.Zero(t, p.count(p.stack.Decode, bytesIn))
			p.eventually(p.stack.Prefill, expired, 1)
		}},
		"silent-fallback": {faults: proxy.Faults{SilentFallback: true}, change: func(s *refpd.Stack) { s.Proxy.Prefill = "http://127.0.0.1:1" }, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text, answer.String())
			assert.Empty(t, answer.Exchange.Header.Get(proxy.FallbackHeader))
			assert.Zero(t, p.count(p.stack.Decode, bytesIn))
			rec := p.record()
			assert.Equal(t, "ok", rec.Outcome)
			assert.False(t, rec.Fallback)
			assert.Contains(t, rec.Hop("prefill").Error, "connection refused")
		}},
		"second-prefill": {faults: proxy.Faults{SecondPrefill: true}, change: lease(3 * time.Second), check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Equal(t, text, answer.String())
			assert.Equal(t, 2.0, p.count(p.stack.Prefill, generate))
			assert.Equal(t, whole, p.count(p.stack.Decode, bytesIn))
			p.eventually(p.stack.Prefill, expired, 1)
			p.eventually(p.stack.Prefill, usage, 0)
		}},
		"swallow-error": {faults: proxy.Faults{SwallowError: true}, change: func(s *refpd.Stack) { s.Decode.Faults.TransferFails = "fail" }, check: func(t *testing.T, p planted) {
			answer, err := p.ask(refpd.Limit, true)
			require.NoError(t, err)
			assert.Empty(t, strings.TrimSpace(answer.String()))
			assert.Equal(t, "200 with an error inside: Internal server error", p.record().Hop("decode").Error)
			assert.Equal(t, 1.0, p.count(p.stack.Decode, "vllm:nixl_num_failed_transfers_total"))
			answer, err = p.ask(refpd.Limit, false)
			require.NoError(t, err)
			assert.Empty(t, answer.String())
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.check(t, plant(t, c.faults, c.change))
		})
	}
}
