package netfault_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/netfault"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// sea is 512 tokens (bytes), 32 blocks, 512 KiB of KV.
var sea = strings.Repeat("the sea is wide and blue, today. ", 16)[:512]

// said is how much of the prompt is asked back: enough to know it, little enough for a busy machine.
const said = 40

var askTicket = json.RawMessage(`{"do_remote_decode":true,"do_remote_prefill":false}`)

// pair is a prefill and a decode engine that have not met: decode remembers the address of a side channel that it has used, and
// would pass a link by.
type pair struct {
	prefill, decode *api.Client
	side            *netfault.Link
}

func newPair(t *testing.T, policy string) *pair {
	t.Helper()
	return &pair{
		prefill: &api.Client{BaseURL: refpd.Engine(t, "prefill", ar.Config{})},
		decode:  &api.Client{BaseURL: refpd.Engine(t, "decode", ar.Config{LoadFailure: policy})},
	}
}

// ticket asks prefill for one and leads its side channel through the link, which is made with the first ticket.
func (p *pair) ticket(t *testing.T, ctx context.Context, prompt string) json.RawMessage {
	t.Helper()
	given, err := p.prefill.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 1, Ticket: askTicket}})
	require.NoError(t, err)
	var ticket map[string]any
	require.NoError(t, json.Unmarshal(given.Ticket, &ticket))
	if p.side == nil {
		p.side = listen(t, fmt.Sprintf("%v:%v", ticket["remote_host"], ticket["remote_port"]))
	}
	ticket["remote_port"] = p.side.Port()
	b, err := json.Marshal(ticket)
	require.NoError(t, err)
	return b
}

func (p *pair) ask(ctx context.Context, prompt string, ticket json.RawMessage) (string, error) {
	answer, err := p.decode.Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: said, Ticket: ticket}})
	if err != nil {
		return "", err
	}
	return answer.String(), nil
}

// counter of an engine; a series that is absent fails the test.
func counter(t *testing.T, c *api.Client, name string, labels prom.Labels) float64 {
	t.Helper()
	s, err := prom.Scrape(t.Context(), nil, c.BaseURL+"/metrics")
	require.NoError(t, err)
	v, present := s.Sum(name, labels)
	require.True(t, present, name)
	return v
}

const (
	failedTransfers = "vllm:nixl_num_failed_transfers_total"
	movedBytes      = "vllm:nixl_bytes_transferred_sum"
)

// TestSideChannel: what decode does when the KV cache does not come as it should. Each fault meets an engine that has never
// spoken to the peer, and is seen at the link.
func TestSideChannel(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		policy string
		fault  func(*netfault.Link)
		failed bool // under policy fail: the request; under recompute: the transfer
	}{
		{"healthy", "fail", func(*netfault.Link) {}, false},
		{"late", "fail", func(l *netfault.Link) { l.Delay(100*time.Millisecond, 50*time.Millisecond) }, false},
		{"slow", "fail", func(l *netfault.Link) { l.Slow(1 << 20) }, false},
		{"reset", "fail", func(l *netfault.Link) { l.Reset(0) }, true},
		{"reset", "recompute", func(l *netfault.Link) { l.Reset(0) }, true},
		{"refused", "fail", (*netfault.Link).Refuse, true},
		{"refused", "recompute", (*netfault.Link).Refuse, true},
		{"cut in the middle", "fail", func(l *netfault.Link) { l.CutAfter(100_000) }, true},
		{"cut in the middle", "recompute", func(l *netfault.Link) { l.CutAfter(100_000) }, true},
	} {
		t.Run(c.name+", policy "+c.policy, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 3*refpd.Limit)
			defer cancel()
			p := newPair(t, c.policy)
			ticket := p.ticket(t, ctx, sea)
			c.fault(p.side)
			began := time.Now()
			got, err := p.ask(ctx, sea, ticket)
			took := time.Since(began)
			switch {
			case c.failed && c.policy == "fail":
				var e *api.Error
				require.ErrorAs(t, err, &e, "%q", got)
				assert.Equal(t, 500, e.Status)
			default:
				require.NoError(t, err)
				assert.Equal(t, sea[:said], got)
			}
			if c.failed {
				assert.Equal(t, 1.0, counter(t, p.decode, failedTransfers, nil))
				assert.Zero(t, counter(t, p.decode, movedBytes, nil), "half a transfer is none")
			} else {
				assert.Zero(t, counter(t, p.decode, failedTransfers, nil))
				assert.Equal(t, float64(len(sea)*ar.BytesPerToken), counter(t, p.decode, movedBytes, nil))
				assert.GreaterOrEqual(t, p.side.Seen().Down, int64(len(sea)*ar.BytesPerToken), "it came through the link")
			}
			switch c.name {
			case "late": // greeting and blocks: two round trips
				assert.GreaterOrEqual(t, took, 4*50*time.Millisecond)
			case "slow": // 512 KiB
				assert.Greater(t, took, 400*time.Millisecond)
			case "cut in the middle":
				assert.Equal(t, int64(100_000), p.side.Seen().Down)
			}

			require.NoError(t, p.side.Heal())
			other := "A" + sea[1:]
			got, err = p.ask(ctx, other, p.ticket(t, ctx, other))
			require.NoError(t, err, "healed, with a new ticket")
			assert.Equal(t, other[:said], got)
		})
	}
}

// A peer that is gone without a word: decode waits, and says nothing, until the connection is known to be dead.
func TestSideChannelHalfOpen(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*refpd.Limit)
	defer cancel()
	p := newPair(t, "fail")
	ticket := p.ticket(t, ctx, sea)
	p.side.HalfOpen()
	answered := make(chan error, 1)
	go func() {
		_, err := p.ask(ctx, sea, ticket)
		answered <- err
	}()
	require.Eventually(t, func() bool { return p.side.Seen().Connections > 0 }, patience, 5*time.Millisecond)
	select {
	case err := <-answered:
		t.Fatalf("decode answered over a dead side channel: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	assert.Equal(t, netfault.Seen{Connections: 1}, p.side.Seen(), "nothing passed, either way")
	require.NoError(t, p.side.Heal())
	var e *api.Error
	require.ErrorAs(t, <-answered, &e)
	assert.Equal(t, 500, e.Status)
	assert.Equal(t, 1.0, counter(t, p.decode, failedTransfers, nil))
}

// TestLegs: proxies between two links, two of them without patience for one stage. Faults of a leg are told with the stage, and healing needs
// no new proxy.
func TestLegs(t *testing.T) {
	t.Parallel()
	toP := listen(t, refpd.Engine(t, "prefill", ar.Config{}))
	toD := listen(t, refpd.Engine(t, "decode", ar.Config{}))
	entry := func(prefill, decode time.Duration) *api.Client {
		p, err := proxy.New(proxy.Config{Prefill: toP.URL(), Decode: toD.URL(), PrefillLimit: prefill, DecodeLimit: decode})
		require.NoError(t, err)
		front := httptest.NewServer(p)
		t.Cleanup(func() { front.Close(); p.Close() })
		return &api.Client{BaseURL: front.URL}
	}
	patient, hastyP, hastyD := entry(refpd.Limit, refpd.Limit), entry(time.Second, refpd.Limit), entry(refpd.Limit, time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 6*refpd.Limit)
	defer cancel()
	turn := 0
	ask := func(entry *api.Client) error {
		turn++ // a prompt that decode has not seen
		prompt := fmt.Sprintf("%02d ", turn) + sea
		answer, err := entry.StreamComplete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: said}}, nil)
		if err == nil && answer.String() != prompt[:said] {
			return fmt.Errorf("got %q", answer.String())
		}
		return err
	}
	require.NoError(t, ask(patient))
	for _, c := range []struct {
		name  string
		entry *api.Client
		fault func()
		want  string // in the error; "": none
	}{
		{"prefill refuses", patient, toP.Refuse, "prefill: dial tcp "},
		{"prefill is gone", hastyP, toP.HalfOpen, "prefill: no answer within 1s"},
		{"prefill is cut off in the header", patient, func() { toP.CutAfter(17) }, "unexpected EOF"},
		{"prefill is cut off in the body", patient, func() { toP.CutAfter(250) }, "prefill: answer broke off after "},
		{"prefill is reset", patient, func() { toP.Reset(0) }, "prefill: "},
		{"prefill is far away", patient, func() { toP.Delay(50*time.Millisecond, 10*time.Millisecond) }, ""},
		{"decode refuses", patient, toD.Refuse, "decode: dial tcp "},
		{"decode is gone", hastyD, toD.HalfOpen, "decode: no answer within 1s"},
		{"decode is cut off", patient, func() { toD.CutAfter(3000) }, "truncated: "},
		{"decode is slow", hastyD, func() { toD.Slow(300) }, "decode: no answer within 1s"}, // the request alone takes longer,
		{"decode is far away", patient, func() { toD.Delay(50*time.Millisecond, 10*time.Millisecond) }, ""},
	} {
		c.fault()
		err := ask(c.entry)
		if c.want == "" {
			assert.NoError(t, err, c.name)
		} else {
			assert.ErrorContains(t, err, c.want, c.name)
		}
		require.NoError(t, toP.Heal())
		require.NoError(t, toD.Heal())
		require.NoError(t, ask(patient), "healed after: %s", c.name)
	}
}
