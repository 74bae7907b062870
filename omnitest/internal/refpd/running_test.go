package refpd_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/refpd"
)

func ask(t *testing.T, r *refpd.Running, prompt string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*refpd.Limit)
	defer cancel()
	a, err := (&api.Client{BaseURL: r.Entry}).Complete(ctx, api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: len(prompt)}})
	if err != nil {
		return "", err
	}
	return a.String(), nil
}

// recovered asks until an answer comes, and allows for so many failures.
func recovered(t *testing.T, r *refpd.Running, prompt string, failures int) string {
	t.Helper()
	for {
		text, err := ask(t, r, prompt)
		if err == nil {
			return text
		}
		failures--
		require.GreaterOrEqual(t, failures, 0, "%v", err)
	}
}

// A restarted stage is at its old URL, and decode finds a restarted prefill again after one request that failed: it had
// remembered the side channel of the former life, as vLLM does.
func TestRestart(t *testing.T) {
	t.Parallel()
	const prompt = "the same words before and after the restart, forty-eight"
	r := refpd.Stack{}.Start(t)
	text, err := ask(t, r, prompt)
	require.NoError(t, err)
	require.Equal(t, prompt, text)

	before := *r
	require.NoError(t, r.Restart(t.Context(), "decode"))
	require.NoError(t, r.Restart(t.Context(), "proxy"))
	require.Equal(t, prompt, recovered(t, r, prompt, 2), "two kept connections may be broken: to the proxy, and from it to decode")

	require.NoError(t, r.Restart(t.Context(), "prefill"))
	a, err := (&api.Client{BaseURL: r.Prefill}).Complete(t.Context(), api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 1, Ticket: handoff.NIXL.Ask}})
	require.NoError(t, err)
	_, err = (&api.Client{BaseURL: r.Decode}).Complete(t.Context(), api.CompletionRequest{Prompt: "other words, so that decode has to pull, although of the same length"[:len(prompt)], Sampling: api.Sampling{Ticket: a.Ticket}})
	require.ErrorContains(t, err, "500", "the side channel that decode remembers is gone")
	require.Equal(t, prompt+" and more", recovered(t, r, prompt+" and more", 1))
	assert.Equal(t, before.Entry+before.Prefill+before.Decode, r.Entry+r.Prefill+r.Decode)
}

func TestBreak(t *testing.T) {
	t.Parallel()
	r := refpd.Stack{}.Start(t)
	mend, err := r.Break(t.Context(), "decode")
	require.NoError(t, err)
	_, err = http.Get(r.Decode + "/health")
	require.ErrorContains(t, err, "refused")
	require.NoError(t, r.Kill("decode"), "it is down already")
	require.NoError(t, mend())
	assert.Equal(t, "well again", recovered(t, r, "well again", 1))
}

func TestRunningRefuses(t *testing.T) {
	t.Parallel()
	r := refpd.Stack{}.Start(t)
	assert.EqualError(t, r.Restart(t.Context(), "dit"), `refpd: no stage "dit" was started`)
	_, err := r.Break(t.Context(), "entry")
	assert.EqualError(t, err, `refpd: no stage "entry" was started`)
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	assert.ErrorIs(t, r.Restart(ctx, "prefill"), context.DeadlineExceeded, "down, and the caller had no time to wait for it")
	require.NoError(t, r.Restart(t.Context(), "prefill"), "a later call starts it")
}
