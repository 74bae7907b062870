package wiretap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/wiretap"
)

const limit = refpd.Limit

// serve starts taps and gives their URLs.
func serve(t testing.TB, c wiretap.Config) (*wiretap.Taps, wiretap.URLs) {
	t.Helper()
	taps, err := wiretap.New(c)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	urls, ended := make(chan wiretap.URLs, 1), make(chan error, 1)
	go func() { ended <- taps.Serve(ctx, func(u wiretap.URLs) { urls <- u }) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			assert.NoError(t, err)
		case <-time.After(limit):
			t.Error("the taps did not end")
		}
	})
	select {
	case u := <-urls:
		return taps, u
	case <-time.After(limit):
		t.Fatal("the taps did not start")
	}
	panic("unreachable")
}

// tapped is a reference stack whose proxy calls its engines through taps. Without front, clients go to the proxy directly.
func tapped(t *testing.T, front bool, decode ar.Faults, c proxy.Config) (s handoff.Source, taps *wiretap.Taps, proxyURL string) {
	t.Helper()
	p := refpd.Engine(t, "prefill", ar.Config{})
	d := refpd.Engine(t, "decode", ar.Config{Faults: decode})
	taps, u := serve(t, wiretap.Config{Prefill: p, Decode: d})
	c.Prefill, c.Decode = u.Prefill, u.Decode
	px, err := proxy.New(c)
	require.NoError(t, err)
	entry := start(t, px)
	s = handoff.Source{
		Entry: &api.Client{BaseURL: entry}, Ledger: taps,
		Prefill:       handoff.Endpoint{API: &api.Client{BaseURL: p}},
		Decode:        handoff.Endpoint{API: &api.Client{BaseURL: d}},
		BytesPerToken: ar.BytesPerToken,
		Settle:        10 * time.Millisecond, IdleWithin: limit,
	}
	if front {
		require.NoError(t, taps.Front(entry))
		s.Entry = &api.Client{BaseURL: u.Entry}
	}
	return s, taps, entry
}

func start(t *testing.T, p *proxy.Proxy) string {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	addr, ended := make(chan string, 1), make(chan error, 1)
	go func() { ended <- p.Serve(ctx, func(a string) { addr <- a }) }()
	t.Cleanup(func() { cancel(); <-ended })
	select {
	case a := <-addr:
		return "http://" + a
	case <-time.After(limit):
		t.Fatal("the proxy did not start")
	}
	panic("unreachable")
}

var prompts = []string{strings.Repeat("the sea is wide and blue, today. ", 4)[:128], strings.Repeat("BRAVO LIKES HIS TEA VERY STRONG! ", 4)[:128]}

// observe sends the prompts one after the other, streamed or not in turn.
func observe(t *testing.T, s handoff.Source, prompts ...string) *handoff.Evidence {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*limit)
	defer cancel()
	w, err := handoff.Open(ctx, s)
	require.NoError(t, err)
	for i, prompt := range prompts {
		id := fmt.Sprintf("req-%d", i)
		r := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt) + 1, RequestID: id}}
		var answer *api.Text
		if i%2 == 0 {
			answer, err = s.Entry.StreamComplete(ctx, r, nil)
		} else {
			answer, err = s.Entry.Complete(ctx, r)
		}
		o := handoff.Observed(answer, err)
		o.RequestID, o.Prompt, o.Want, o.WantFrom = id, prompt, prompt, "known answer"
		w.Observe(o)
	}
	e, err := w.Close(ctx)
	require.NoError(t, err)
	return e
}

// ownLedger is what the proxy itself says of the same requests.
func ownLedger(t *testing.T, proxy string) []flow.Record {
	t.Helper()
	var page flow.Page
	require.NoError(t, (&api.Client{BaseURL: proxy}).GetJSON(t.Context(), flow.Path+"?since=0", &page))
	return page.Records
}

// A foreign proxy's handoff is judged as our own: the taps and the proxy's own ledger tell the same story.
func TestSameVerdictAsTheProxysOwnLedger(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		faults proxy.Faults
		want   string
	}{
		{"healthy", proxy.Faults{}, "proven: decode took 256 of 256 prompt tokens from prefill (262144 bytes), computed 0 itself; 2 answers as wanted (known answer)"},
		{"drop-ticket", proxy.Faults{DropTicket: true}, "refuted: decode computed 256 of 256 prompt tokens itself"},
		{"cross-tickets", proxy.Faults{CrossTickets: true}, "refuted: request req-1: decode was given the ticket of request req-0"},
	} {
		for _, front := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/front=%v", c.name, front), func(t *testing.T) {
				t.Parallel()
				s, _, u := tapped(t, front, ar.Faults{}, proxy.Config{Faults: c.faults})
				e := observe(t, s, prompts...)
				v := handoff.Proven(e)
				assert.True(t, strings.HasPrefix(v.String(), c.want), "got %s", v)

				own := ownLedger(t, u)
				require.Len(t, e.Flow.Records, 2)
				require.Len(t, own, 2)
				for i := range own {
					got := e.Flow.Records[i]
					assert.Equal(t, shape(own[i]), shape(got))
					want := "stages"
					if front {
						want = "client"
					}
					assert.Equal(t, want, got.Taps)
					for _, h := range got.Hops {
						assert.NotEmpty(t, h.Sent, h.Stage)
						assert.Positive(t, h.FirstByteMS)
						assert.GreaterOrEqual(t, h.EndMS, h.FirstByteMS)
					}
				}
				tapped := handoff.Conformant(e)
				e.Flow.Records = own
				if front { // without, the taps have not seen the client's request
					assert.Equal(t, handoff.Conformant(e).State, tapped.State, "%s\n%s", handoff.Conformant(e), tapped)
				}
				own2 := handoff.Proven(e)
				require.Equal(t, len(v.Reasons), len(own2.Reasons), "%s\n%s", v, own2)
				for i := range v.Reasons {
					assert.Equal(t, v.Reasons[i].Rule, own2.Reasons[i].Rule)
				}
			})
		}
	}
}

// shape is what two ledgers of one request must agree on: all but times and addresses.
func shape(r flow.Record) string {
	type hop struct {
		Stage, ID, ResponseID, Error string
		Status                       int
		In, Out                      json.RawMessage
		Bytes                        int64
	}
	s := fmt.Sprintf("%s %s %v %d %s %q\n", r.RequestID, r.Route, r.Stream, r.Status, r.Outcome, r.Error)
	for _, h := range r.Hops {
		b, _ := json.Marshal(hop{h.Stage, h.RequestID, h.ResponseID, h.Error, h.Status, h.TicketIn, h.TicketOut, h.Bytes})
		s += string(b) + "\n"
	}
	return s
}

// A broken stage fails requests as a broken stage does, and is whole again when healed.
func TestBreakAndHeal(t *testing.T) {
	t.Parallel()
	s, taps, _ := tapped(t, true, ar.Faults{}, proxy.Config{PrefillLimit: 300 * time.Millisecond})
	ask := func(id string) error {
		_, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: prompts[0], Sampling: api.Sampling{MaxTokens: 8, RequestID: id}})
		return err
	}
	require.NoError(t, ask("a"))
	mend, err := taps.Break(t.Context(), "prefill")
	require.NoError(t, err)
	assert.ErrorContains(t, ask("b"), "prefill: 503 Service Unavailable: refused by the tap")
	require.NoError(t, mend())
	require.NoError(t, ask("c"))
	require.NoError(t, taps.Hang("prefill"))
	assert.ErrorContains(t, ask("d"), "no answer within 300ms")
	require.NoError(t, taps.Heal("prefill"))
	require.NoError(t, ask("e"))

	var story []string
	want := []string{"a ok 200 ", "b failed 502 503 Service Unavailable: refused by the tap", "c ok 200 ", "d failed 504 proxy went away: no answer", "e ok 200 "}
	require.Eventually(t, func() bool { // the tap learns that the proxy has left some time after its client does
		page, err := taps.Page(t.Context(), 0)
		story = nil
		for _, r := range page.Records {
			story = append(story, fmt.Sprintf("%s %s %d %s", r.RequestID, r.Outcome, r.Status, r.Hops[0].Error))
		}
		return err == nil && slices.Equal(want, story)
	}, refpd.Limit, 10*time.Millisecond, "want %q", want)

	_, err = taps.Break(t.Context(), "vae")
	assert.EqualError(t, err, `wiretap: there is no tap in front of stage "vae"`)
	assert.EqualError(t, taps.Refuse("prefill", 200), "wiretap: refuse with 200: want a status from 400 to 599")
}
