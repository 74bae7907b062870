package probe

import (
	"context"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

func TestJudgeForeign(t *testing.T) {
	// sureAt has one margin for all its letters, but for one.
	text := func(s string, at int, nats float64) *api.Text {
		margins := make([]float64, len(s))
		for i := range margins {
			margins[i] = 9
			if i == at {
				margins[i] = nats
			}
		}
		return answerOf(s, margins...)
	}
	nan := math.NaN()
	mine, theirs := "my own answer is about the sea", "the neighbour talks of mountains"
	for _, c := range []struct {
		name         string
		got, control *api.Text
		prompt       string // "": one that the answer does not repeat
		want         string
	}{
		{"own", text(mine, 0, 9), text(mine, 0, 9), "", "proven: 3 answers hold nothing of each other (2 at once, half of the prompts begin alike): 3 are their own to the last byte, 0 part at near ties"},
		{"secret", text("I heard that xyzzyxyzzyxyzzyx", 0, 9), text(mine, 0, 0.1), "", `refuted: 1 of 3 answers hold another's content (2 at once): a holds the secret "xyzzyxyzzyxyzzyx" of b`},
		{"another's from the start", text(theirs, 0, 9), text(mine, 0, 9), "", `refuted: 1 of 3 answers hold another's content (2 at once): bytes 0 to 32 of a, "the neighbour talks of mountains", are those of b`},
		{"one block of another's", text(mine[:16]+theirs[16:26], 0, 9), text(mine, -1, 9), "", `refuted: 1 of 3 answers hold another's content (2 at once): bytes 16 to 26 of a, "lks of mou", are those of b`},
		{"another's after a near tie", text(theirs, 0, 9), text(mine, 0, 0.1), "", `inconclusive: 1 of 3 answers look like another's (2 at once), but had left their own control where nobody knows that it was sure: bytes 0 to 32 of a`},
		{"another's, margins not told", text(theirs, 0, nan), answerOf(mine), "", `inconclusive: 1 of 3 answers look like another's`},
		{"another's, margins not told, the model repeats its prompt", answerOf(theirs), answerOf(mine), mine + " and more", `refuted: 1 of 3 answers hold another's content`},
		{"garbage", text("~~~~~~~~", 0, 9), text(mine, -1, 9), "", `inconclusive: 1 of 3 answers are neither their own nor a known neighbour's (2 at once): a: text diverges at byte 0: got "~~~~~~~~"`},
		{"near tie", text("my owl", 0, 9), text(mine, 5, 0.1), "", "proven: 3 answers hold nothing of each other (2 at once, half of the prompts begin alike): 2 are their own to the last byte, 1 part at near ties"},
	} {
		b := &neighbour{name: "b", secret: "xyzzyxyzzyxyzzyx", got: text(theirs, -1, 9), control: text(theirs, -1, 9)}
		third := &neighbour{name: "c", secret: "plughplughplughp", got: text("a third one says this", -1, 9), control: text("a third one says this", -1, 9)}
		a := &neighbour{name: "a", secret: "foobarfoobarfoob", got: c.got, control: c.control, request: api.CompletionRequest{Prompt: c.prompt}}
		assert.Contains(t, judgeForeign([]*neighbour{a, b, third}, []int{2}).String(), c.want, c.name)
	}
	same := &neighbour{name: "a", got: answerOf("x"), control: answerOf("x")}
	v := judgeForeign([]*neighbour{same, same}, []int{1, 2})
	assert.Equal(t, `inconclusive: all 2 prompts have the same answer "x": another's would not show`, v.String())
	assert.Len(t, v.Notes, 1, "no secrets")
	assert.Equal(t, "inconclusive: only 0 of 0 answers were their own to the end, 0 parted at near ties (1 at once)", judgeForeign(nil, []int{1}).String())

	// The loop that a small model ends in is nobody's.
	loop := strings.Repeat("yaml ", 9)
	a := &neighbour{name: "a", got: text("abc"+loop, -1, 9), control: text("abc"+strings.Repeat("duty ", 9), 3, 9)}
	b := &neighbour{name: "b", got: text("xyz"+loop, -1, 9), control: text("xyz"+loop, -1, 9)}
	assert.Contains(t, judgeForeign([]*neighbour{a, b, b}, []int{2}).String(), "inconclusive: 1 of 3 answers are neither their own nor a known neighbour's")
}

// mixer is a proxy that waits for two requests and answers each with the other's text, as a batch does that lost its order.
// A request that stays alone for a while gets its own.
func mixer(t *testing.T, next string) string {
	type swap struct{ first, second chan []byte }
	var mu sync.Mutex
	var waiting *swap
	exchange := func(own []byte) []byte {
		mu.Lock()
		if w := waiting; w != nil {
			waiting = nil
			mu.Unlock()
			w.second <- own
			return <-w.first
		}
		w := &swap{make(chan []byte, 1), make(chan []byte, 1)}
		waiting = w
		mu.Unlock()
		w.first <- own
		select {
		case other := <-w.second:
			return other
		case <-time.After(300 * time.Millisecond):
		}
		mu.Lock()
		alone := waiting == w
		if alone {
			waiting = nil
		}
		mu.Unlock()
		if alone {
			return own
		}
		return <-w.second
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		forward, err := http.NewRequestWithContext(r.Context(), r.Method, next+r.URL.Path, r.Body)
		if !assert.NoError(t, err) {
			return
		}
		answer, err := http.DefaultClient.Do(forward)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		assert.NoError(t, err)
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(exchange(body))
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestForeignContent(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	r, err := ForeignContent(t.Context(), s, Options{Tokens: 64})
	require.NoError(t, err)
	assert.Equal(t, "proven: 82 answers hold nothing of each other (1, 8, 32 at once, half of the prompts begin alike): 82 are their own to the last byte, 0 part at near ties", r.Verdict.String())
	assert.Equal(t, 164, r.Requests)
	assert.Len(t, r.Answers, 164)
	assert.Empty(t, r.Verdict.Notes)

	s.Entry = nil
	r, err = ForeignContent(t.Context(), s, Options{Tokens: 64, Rounds: 1, Concurrency: []int{0, 4}})
	require.NoError(t, err)
	assert.Equal(t, handoff.StateProven, r.Verdict.State, r.Verdict)
	assert.Equal(t, 15, r.Requests, "direct legs")

	s = sourceOf(f)
	s.Entry = &api.Client{BaseURL: mixer(t, f.Proxy.URL)}
	r, err = ForeignContent(t.Context(), s, Options{Tokens: 64, Rounds: 1, Concurrency: []int{1, 8}})
	require.NoError(t, err)
	assert.Regexp(t, `^refuted: [2-8] of 9 answers hold another's content \(1, 8 at once\): 1 at 8 #[1-8] holds the secret "[a-z]{16}" of 1 at 8 #[1-8]$`, r.Verdict.String())
}

func TestForeignContentCannotBeRun(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	s := sourceOf(f)
	s.Entry = &api.Client{BaseURL: fakepd.Hanging(t)}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	r, err := ForeignContent(ctx, s, Options{Limit: 100 * time.Millisecond, Rounds: 1, Concurrency: []int{4}})
	assert.ErrorContains(t, err, "foreign content: 4 of 4 requests failed: ")
	assert.ErrorContains(t, err, "no answer within 100ms")
	assert.Error(t, r.Verdict.Err())
	require.NoError(t, ctx.Err())

	short, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	_, err = ForeignContent(short, s, Options{})
	assert.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = ForeignContent(ctx, handoff.Source{}, Options{})
	assert.Error(t, err)
}

func TestCrowd(t *testing.T) {
	p, err := newProbe(sourceOf(fakepd.New(t)), Options{})
	require.NoError(t, err)
	p.whole = true
	crowd := p.crowd(5, "x")
	for i, x := range crowd {
		assert.Len(t, x.request.Prompt, 192)
		assert.Len(t, x.secret, secretLetters)
		assert.Equal(t, 96, strings.Index(x.request.Prompt, x.secret))
		assert.Equal(t, i%2 == 0, x.request.Prompt[:96] == crowd[0].request.Prompt[:96], "half begin alike")
	}
}

func TestAtOnce(t *testing.T) {
	var now, most, all atomic.Int64
	atOnce(50, 4, func(i int) {
		n := now.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(time.Millisecond)
		all.Add(int64(i))
		now.Add(-1)
	})
	assert.EqualValues(t, 49*50/2, all.Load())
	assert.LessOrEqual(t, most.Load(), int64(4))
}
