package load_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
)

// Three turns of a conversation, each made from the answers before it, with half a second to think.
func TestConversationsCarryTheirHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		talk := load.Sessions{Turns: 3, Think: func(*rand.Rand) time.Duration { return 500 * ms }}
		plan := load.Plan{Concurrency: 2, Requests: 4, Warmup: 1}
		values, r, err := load.Converse(t.Context(), plan, talk, func(ctx context.Context, turn load.Turn[string]) (string, error) {
			if turn.Session < 0 {
				assert.Equal(t, -1, turn.Index)
				return "", nil
			}
			assert.Equal(t, 3*turn.Session+turn.Turn, turn.Index)
			return fmt.Sprintf("%s+%d.%d", strings.Join(turn.History, ""), turn.Session, turn.Turn), nap(ctx, time.Second)
		})
		require.NoError(t, err)
		assert.Equal(t, load.Counts{Sent: 12, OK: 12}, r.Counts)
		assert.Equal(t, load.Counts{Sent: 1, OK: 1}, r.Warmup)
		assert.Equal(t, "+2.0+2.0+2.1+2.2", values[8])
		assert.Equal(t, []string{"+0.0", "+0.0+0.1"}, values[:2])
		for i, c := range r.Calls {
			assert.Equal(t, i, c.Index)
			assert.Equal(t, i/3, c.Session)
			assert.Equal(t, i%3, c.Turn)
			// A conversation takes 4 s (three answers, two thoughts); the second of a lane follows at once.
			assert.Equal(t, time.Duration(c.Session/2)*4*time.Second+time.Duration(c.Turn)*1500*ms, c.Sent)
			assert.Equal(t, c.Sent, c.Due)
			assert.Equal(t, r.Calls[i/3*3].Lane, c.Lane, "one user, one lane")
		}
		assert.Equal(t, 8*time.Second, r.Wall)
	})
}

// Conversations of an open loop begin by its schedule; their later turns follow the answers.
func TestConversationsOfAnOpenLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		talk := load.Sessions{TurnsOf: func(session int) int { return session }} // 0 counts as 1
		plan := load.Plan{Arrivals: load.Constant{Rate: 2}, Requests: 4}
		_, r, err := load.Converse(t.Context(), plan, talk, func(ctx context.Context, turn load.Turn[int]) (int, error) {
			return turn.Turn, nap(ctx, time.Second)
		})
		require.NoError(t, err)
		require.Len(t, r.Calls, 1+1+2+3)
		for i, c := range r.Calls {
			assert.Equal(t, i, c.Index)
			assert.Equal(t, time.Duration(c.Session)*500*ms+time.Duration(c.Turn)*time.Second, c.Sent)
		}
		planned, _, ok := r.Rates()
		assert.True(t, ok)
		assert.InDelta(t, 2, planned, 1e-9, "of first turns")
	})
}

func TestAConversationEndsWithAFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		plan := load.Plan{Requests: 4, Concurrency: 4, Limit: time.Second, Grace: time.Second}
		_, r, err := load.Converse(t.Context(), plan, load.Sessions{Turns: 3}, func(_ context.Context, turn load.Turn[int]) (int, error) {
			switch {
			case turn.Session == 0 && turn.Turn == 1:
				return 0, errors.New("HTTP 503")
			case turn.Session == 1 && turn.Turn == 0:
				<-release
			case turn.Session == 2 && turn.Turn == 2:
				panic("last")
			}
			return 0, nil
		})
		assert.EqualError(t, err, "load: incomplete: call 3 stuck: had not returned 1s after its context ended (limit 1s)")
		assert.Equal(t, load.Counts{Sent: 9, OK: 6, Failed: 2, Stuck: 1, Skipped: 3}, r.Counts)
		var states []load.State
		for _, c := range r.Calls {
			states = append(states, c.State)
		}
		assert.Equal(t, []load.State{
			load.OK, load.Failed, load.Skipped, load.Stuck, load.Skipped, load.Skipped,
			load.OK, load.OK, load.Failed, load.OK, load.OK, load.OK}, states)
		close(release)
	})
}

func TestEndOfContextWhileTheUserThinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		talk := load.Sessions{Turns: 2, Think: func(*rand.Rand) time.Duration { return time.Hour }}
		_, r, err := load.Converse(ctx, load.Plan{}, talk, func(context.Context, load.Turn[int]) (int, error) { return 0, nil })
		assert.EqualError(t, err, "load: incomplete: 1 of 2 calls not sent: context deadline exceeded")
		assert.Equal(t, load.Counts{Sent: 1, OK: 1, NotSent: 1}, r.Counts)
	})
	_, _, err := load.Converse(t.Context(), load.Plan{}, load.Sessions{Turns: -1}, func(context.Context, load.Turn[int]) (int, error) { return 0, nil })
	assert.EqualError(t, err, "load: Sessions.Turns is -1")
	_, _, err = load.Converse[int](t.Context(), load.Plan{}, load.Sessions{}, nil)
	assert.EqualError(t, err, "load: no operation")
}

// A planned cancellation is neither a failure nor a success, and calls that were faster are not touched.
func TestPlannedCancellation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Concurrency: 4, Requests: 1000, Warmup: 20, Seed: 9, Cancel: load.Cancel{Rate: 0.3, Delay: 200 * ms}}
		op := func(ctx context.Context, i int) error {
			switch {
			case i < 0:
				return nap(ctx, time.Second)
			case i%10 == 0:
				return nap(ctx, 100*ms) // faster than the user
			case i%10 == 1:
				return errors.New("HTTP 503")
			}
			err := nap(ctx, time.Second)
			if err != nil {
				assert.ErrorIs(t, err, load.ErrAbandoned)
			}
			return err
		}
		r, err := load.Run(t.Context(), plan, op)
		require.NoError(t, err, "all was as planned")
		assert.Equal(t, load.Counts{Sent: 20, OK: 20}, r.Warmup, "no warm-up is cancelled")
		assert.Equal(t, 100, r.Failed)
		assert.InDelta(t, 0.3*800, r.Abandoned, 40) // standard deviation 13
		assert.Equal(t, 1000, r.OK+r.Failed+r.Abandoned)
		for _, c := range r.Calls {
			if c.State == load.Abandoned {
				assert.Equal(t, 200*ms, c.End-c.Sent)
				assert.EqualError(t, c.Err, "abandoned, as planned")
			}
		}

		again, err := load.Run(t.Context(), plan, op)
		require.NoError(t, err)
		plan.Seed = 10
		other, err := load.Run(t.Context(), plan, op)
		require.NoError(t, err)
		same := true
		for i := range r.Calls {
			assert.Equal(t, r.Calls[i].State, again.Calls[i].State, "the seed decides")
			same = same && r.Calls[i].State == other.Calls[i].State
		}
		assert.False(t, same)

		plan.Cancel = load.Cancel{Rate: 1, Delay: time.Hour}
		plan.Requests = 20
		r, err = load.Run(t.Context(), plan, op)
		require.NoError(t, err)
		assert.Zero(t, r.Abandoned)
		assert.Equal(t, 18, r.OK)
	})
}

// Cancelled calls end on the wire too: the server sees its clients leave.
func TestTheServerSeesAbandonedCalls(t *testing.T) {
	left := make(chan struct{}, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // the server notices a closed connection only when it has the body
		w.Header().Set("Content-Type", "text/event-stream")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		left <- struct{}{}
	}))
	defer server.Close()
	client := &api.Client{BaseURL: server.URL, Model: "m"}
	plan := load.Plan{Concurrency: 4, Requests: 8, Limit: time.Minute, Cancel: load.Cancel{Rate: 1, Delay: 50 * ms}}
	r, err := load.Run(t.Context(), plan, func(ctx context.Context, _ int) error {
		_, err := client.StreamComplete(ctx, api.CompletionRequest{Prompt: "x"}, nil)
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, load.Counts{Sent: 8, Abandoned: 8}, r.Counts)
	assert.Equal(t, api.Canceled, api.KindOf(r.Calls[0].Err))
	for range 8 {
		select {
		case <-left:
		case <-time.After(30 * time.Second):
			t.Fatal("the server still holds the request")
		}
	}
}

func TestThrottle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at []time.Duration
		slow := load.Throttle(t.Context(), 100*ms, func(e int) error {
			at = append(at, time.Since(began))
			if e == 3 {
				return errors.New("enough")
			}
			return nil
		})
		for e := range 3 {
			require.NoError(t, slow(e))
		}
		time.Sleep(time.Second) // the server paused: that is not made up
		assert.EqualError(t, slow(3), "enough")
		assert.NoError(t, slow(4))
		assert.Equal(t, []time.Duration{0, 100 * ms, 200 * ms, 1200 * ms, 1300 * ms}, at)

		ctx, cancel := context.WithCancelCause(t.Context())
		slow = load.Throttle[int](ctx, time.Hour, nil)
		require.NoError(t, slow(0))
		time.AfterFunc(ms, func() { cancel(errors.New("user left")) })
		assert.EqualError(t, slow(1), "user left")
	})
}

// A slow reader is felt by the server: its writes block when the buffers of the connection are full.
func TestASlowReaderHoldsUpTheServer(t *testing.T) {
	const events, size = 64, 1 << 20 // far more than the buffers of a connection
	wrote := make(chan int, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		n := 0
		defer func() { wrote <- n }()
		for ; n < events; n++ {
			if _, err := fmt.Fprintf(w, "data: {\"choices\":[{\"index\":0,\"text\":%q}]}\n\n", strings.Repeat("x", size)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	client := &api.Client{BaseURL: server.URL, Model: "m"}
	seen := 0
	r, err := load.Run(t.Context(), load.Plan{Cancel: load.Cancel{Rate: 1, Delay: time.Second}}, func(ctx context.Context, _ int) error {
		_, err := client.StreamComplete(ctx, api.CompletionRequest{Prompt: "x"}, load.Throttle(ctx, time.Hour, func(api.Event) error {
			seen++
			return nil
		}))
		return err
	})
	require.NoError(t, err)
	assert.Equal(t, load.Counts{Sent: 1, Abandoned: 1}, r.Counts)
	assert.LessOrEqual(t, seen, 1)
	assert.Less(t, <-wrote, events, "the server wrote all of it to a client that read one event")
}

// Half of the calls take 0.5 s, half 2 s, and half of all are chosen to leave after 1 s. Of the chosen only the fast ones are OK: a mean
// over all that are OK is 0.3 s too good, one without the chosen is right.
func TestLeavingCallsAreMarkedWhetherTheyLeftOrNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		plan := load.Plan{Concurrency: 8, Requests: 4000, Cancel: load.Cancel{Rate: 0.5, Delay: time.Second}}
		r, err := load.Run(t.Context(), plan, func(ctx context.Context, i int) error {
			return nap(ctx, []time.Duration{500 * time.Millisecond, 2 * time.Second}[i%2])
		})
		require.NoError(t, err)
		mean := func(take func(load.Call) bool) float64 {
			sum, n := 0.0, 0.0
			for _, c := range r.Calls {
				if take(c) {
					sum, n = sum+(c.End-c.Sent).Seconds(), n+1
				}
			}
			return sum / n
		}
		assert.InDelta(t, 1.0, mean(func(c load.Call) bool { return c.State == load.OK }), 0.05)
		assert.InDelta(t, 1.25, mean(func(c load.Call) bool { return !c.Leaving }), 0.05)
		for _, c := range r.Calls {
			if c.State == load.Abandoned {
				require.True(t, c.Leaving)
			}
		}
	})
}
