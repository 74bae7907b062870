package stack

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/refstack/ar"
)

// strangers is a pair of engines that somebody else runs, with faults; the stack under test attaches them by URL, so that
// it cannot know that they are the reference.
func strangers(t *testing.T, faults refstack.Faults, blockP, blockD int) (p, d Stage) {
	t.Helper()
	s, err := launch(t, Spec{Faults: faults, Stages: map[engine.Stage]Stage{
		engine.Prefill: {BlockSize: blockP, Lease: time.Second}, engine.Decode: {BlockSize: blockD},
	}})
	require.NoError(t, err)
	remote := func(stage engine.Stage) Stage {
		return Stage{Engine: EngineRemote, URL: s.Instance(stage).BaseURL}
	}
	return remote(engine.Prefill), remote(engine.Decode)
}

func attach(p, d Stage, proxy bool) Spec {
	spec := Spec{Stages: map[engine.Stage]Stage{engine.Prefill: p, engine.Decode: d}}
	if proxy {
		spec.Stages[engine.Proxy] = Stage{}
	}
	return spec
}

func TestSmokePasses(t *testing.T) {
	p, d := strangers(t, refstack.Faults{}, 16, 16)
	for _, proxy := range []bool{true, false} {
		s, err := launch(t, attach(p, d, proxy))
		require.NoError(t, err)
		if !proxy {
			continue
		}
		var page flow.Page
		client := api.Client{BaseURL: s.Entry().BaseURL}
		require.NoError(t, client.GetJSON(t.Context(), flow.Path, &page))
		require.Len(t, page.Records, 1, "the smoke request, once")
		assert.Contains(t, page.Records[0].RequestID, "omnitest-smoke-")
	}
}

// The reference engines are made for each other: no request is spent, so that counters begin at nothing.
func TestNoSmokeOnTheReferenceStack(t *testing.T) {
	s, err := launch(t, Spec{})
	require.NoError(t, err)
	var page flow.Page
	client := api.Client{BaseURL: s.Entry().BaseURL}
	require.NoError(t, client.GetJSON(t.Context(), flow.Path, &page))
	require.Empty(t, page.Records)
}

// Each pair answers every health check. Only a request tells that it does not work, and in which leg.
func TestHealthLies(t *testing.T) {
	for _, c := range []struct {
		name           string
		faults         refstack.Faults
		blockP, blockD int
		leg            engine.Stage
		says           string
	}{
		{"the transfer fails", refstack.Faults{Decode: ar.Faults{TransferFails: "fail"}}, 16, 16, engine.Decode, "Internal server error"},
		{"an error inside a 200", refstack.Faults{Decode: ar.Faults{ErrorIn200: true}}, 16, 16, engine.Decode, "error inside a 200 answer"},
		{"block sizes differ", refstack.Faults{}, 16, 32, engine.Decode, ""},
	} {
		for _, proxy := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/proxy=%v", c.name, proxy), func(t *testing.T) {
				p, d := strangers(t, c.faults, c.blockP, c.blockD)
				_, err := launch(t, attach(p, d, proxy))
				var smoke *SmokeError
				require.ErrorAs(t, err, &smoke)
				t.Log(err)
				assert.Equal(t, c.leg, smoke.Stage)
				assert.ErrorContains(t, err, "health lies: all stages answer their health check, but a request through prefill and decode fails in the "+string(c.leg)+" leg: ")
				assert.ErrorContains(t, err, c.says)
				assert.ErrorContains(t, err, "skip_smoke: true starts the stack all the same")
				if proxy {
					assert.Regexp(t, `ledger /v1/completions .*prefill 200 .*, decode (200|500) `, err.Error())
				}

				skip := attach(p, d, proxy)
				skip.SkipSmoke = true
				_, err = launch(t, skip)
				require.NoError(t, err)
			})
		}
	}
}

// A prefill engine without a KV connector computes, answers and gives no ticket.
func TestSmokeWithoutATicket(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.Header().Set("Content-Type", "application/json")
			fmt.Fprint(w, `{"id":"cmpl-1","object":"text_completion","model":"m","choices":[{"index":0,"text":"x","finish_reason":"length"}],"kv_transfer_params":null}`)
		}
	}))
	defer plain.Close()
	_, d := strangers(t, refstack.Faults{}, 16, 16)
	for _, proxy := range []bool{true, false} {
		_, err := launch(t, attach(Stage{Engine: EngineRemote, URL: plain.URL, Model: "m"}, d, proxy))
		var smoke *SmokeError
		require.ErrorAs(t, err, &smoke)
		assert.Equal(t, engine.Prefill, smoke.Stage, err)
		assert.ErrorContains(t, err, "ticket")
	}
}

// A decode engine that never answers must not hold a start for ever: the start's own deadline counts.
func TestSmokeThatHangs(t *testing.T) {
	release := make(chan struct{})
	hangs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			<-release
		}
	}))
	defer hangs.Close()
	defer close(release)
	p, _ := strangers(t, refstack.Faults{}, 16, 16)
	for _, proxy := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		_, err := Launch(ctx, attach(p, Stage{Engine: EngineRemote, URL: hangs.URL, Model: "reference"}, proxy), Options{Dir: t.TempDir()})
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		var smoke *SmokeError
		require.ErrorAs(t, err, &smoke)
		assert.Equal(t, engine.Decode, smoke.Stage, err)
	}
}
