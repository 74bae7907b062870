package wiretap_test

import (
	"fmt"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
	"github.com/omnitest/suite/omnitest/wiretap"
)

// A picture's three legs are one record, by the proxy's ids or, without any, because its client is the only one that waits. A text
// in the same window is no picture without a DiT.
func TestPictures(t *testing.T) {
	t.Parallel()
	for _, ids := range []bool{true, false} {
		t.Run(fmt.Sprintf("ids=%v", ids), func(t *testing.T) {
			t.Parallel()
			p, d := refpd.Engine(t, "prefill", ar.Config{}), refpd.Engine(t, "decode", ar.Config{})
			taps, u := serve(t, wiretap.Config{Prefill: p, Decode: d, DiT: pictures(t)})
			toDiT := u.DiT
			if !ids {
				toDiT = strip(t, u.DiT)
			}
			px, err := proxy.New(proxy.Config{Prefill: u.Prefill, Decode: u.Decode, DiT: toDiT})
			require.NoError(t, err)
			entry := start(t, px)
			require.NoError(t, taps.Front(entry))
			s := handoff.Source{
				Entry: &api.Client{BaseURL: u.Entry}, Ledger: taps, BytesPerToken: ar.BytesPerToken,
				Prefill: handoff.Endpoint{API: &api.Client{BaseURL: p}}, Decode: handoff.Endpoint{API: &api.Client{BaseURL: d}},
				Settle: 10e6, IdleWithin: limit,
			}
			w, err := handoff.Open(t.Context(), s)
			require.NoError(t, err)
			prompt := `A blue poster with the words "ACME 7"`
			answer, err := s.Entry.Generate(t.Context(), api.ImageRequest{Prompt: prompt, RequestID: "pic", ImageParams: api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 2}})
			require.NoError(t, err)
			require.Len(t, answer.Items, 1)
			w.Observe(handoff.Observation{RequestID: "pic", Prompt: prompt, Want: prompt, WantFrom: "known answer"})
			text, err := s.Entry.Complete(t.Context(), api.CompletionRequest{Prompt: prompts[0], Sampling: api.Sampling{MaxTokens: 129, RequestID: "text"}})
			o := handoff.Observed(text, err)
			o.RequestID, o.Want, o.WantFrom = "text", prompts[0], "known answer"
			w.Observe(o)
			e, err := w.Close(t.Context())
			require.NoError(t, err)
			require.Len(t, e.Flow.Records, 2, "%v", e.Flow)
			assert.Len(t, e.Flow.Records[0].Hops, 3)
			assert.Equal(t, prompt, e.Flow.Records[0].Hop("decode").Plan)
			assert.Equal(t, prompt, e.Flow.Records[0].Hop("dit").Plan)
			assert.Empty(t, e.Flow.Records[1].Hop("decode").Plan, "a text is no plan")
			for _, v := range []handoff.Verdict{handoff.Proven(e), handoff.PayloadProven(e), handoff.Conformant(e), handoff.Bounded(e), handoff.NoSilentFallback(e)} {
				assert.Equal(t, handoff.StateProven, v.State, "%s: %s", v.Claim, v)
			}
		})
	}
}

// strip passes requests on without their id.
func strip(t *testing.T, to string) string {
	u, err := url.Parse(to)
	require.NoError(t, err)
	srv := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(u)
		p.Out.Header.Del("X-Request-Id")
	}})
	t.Cleanup(srv.Close)
	return srv.URL
}

// pictures starts a DiT.
func pictures(t *testing.T) string {
	d, err := dit.New(dit.Config{})
	require.NoError(t, err)
	srv := httptest.NewServer(d.Handler())
	t.Cleanup(srv.Close)
	return srv.URL
}
