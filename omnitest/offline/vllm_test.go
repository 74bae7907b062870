package offline

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = time.Minute

func TestBatch(t *testing.T) {
	v := start(t, "well")
	require.Zero(t, v.PID())
	loaded, err := v.Load(within(t, patience))
	require.NoError(t, err)
	require.Equal(t, "0.0-m-float32", loaded.Version, "model and args must arrive")
	require.Equal(t, "3.11.2", loaded.Python)
	require.Equal(t, 250*time.Millisecond, loaded.Load)
	require.Positive(t, loaded.Took)
	again, err := v.Load(within(t, patience))
	require.NoError(t, err)
	require.Equal(t, loaded, again, "the second load starts nothing")

	got, err := v.Generate(within(t, patience), []Job{
		{Prompt: "red fox", MaxTokens: 3}, {PromptIDs: []int{104, 105}, Margins: true}, {Prompt: strings.Repeat("long", 50_000)},
	})
	require.NoError(t, err)
	require.Len(t, got, 3)
	assert.Equal(t, Result{
		Text: "red", TokenIDs: []int{114, 101, 100}, PromptTokens: 7, OutputTokens: 3, CachedTokens: -1, FinishReason: "length",
		FirstToken: 125 * time.Millisecond, LastToken: 500 * time.Millisecond, End: 500 * time.Millisecond, Clock: EngineClock,
	}, got[0])
	assert.Equal(t, "hi", got[1].Text)
	assert.Equal(t, []float64{0.5, 0.5}, got[1].Margins)
	assert.Equal(t, 16, got[2].OutputTokens, "the default of MaxTokens is that of vLLM's completions")
	assert.Equal(t, 200_000, got[2].PromptTokens)

	none, err := v.Generate(within(t, patience), nil)
	require.NoError(t, err)
	require.Empty(t, none)

	pid := v.PID()
	require.Positive(t, pid)
	require.NoError(t, v.Close())
	require.NoError(t, v.Close())
	require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH, "the process must be gone")
	_, err = v.Generate(within(t, patience), []Job{{Prompt: "x"}})
	require.Equal(t, Closed, KindOf(err))
}

func TestWrongJobsNeverReachTheEngine(t *testing.T) {
	v := &VLLM{Python: "/nonexistent/python"}
	for says, jobs := range map[string][]Job{
		"job 1 of 2 has an empty prompt":           {{Prompt: "x"}, {}},
		"job 0 of 1 has both Prompt and PromptIDs": {{Prompt: "x", PromptIDs: []int{1}}},
		"job 0 of 1: MaxTokens is -1":              {{Prompt: "x", MaxTokens: -1}},
		"vllm.LLM makes text only":                 {{Prompt: "x", Picture: &Picture{}}},
	} {
		_, err := v.Generate(within(t, patience), jobs)
		require.ErrorContains(t, err, says)
	}
	require.Zero(t, v.PID())
}

// Every way in which a process can fail has its kind, and an error that says what, where and what the log had to add.
func TestFailures(t *testing.T) {
	const job = "x"
	for _, c := range []struct {
		how  string
		kind Kind
		op   string
		says []string
	}{
		{"die-at-once", Died, "start", []string{"offline start: died: exited with code 1 after", "before it called", "Fatal Python error: init_fs_encoding"}},
		{"protocol", Protocol, "start", []string{"the runner speaks protocol 2, this program 1"}},
		{"greet-garbage", Protocol, "start", []string{`what came is no answer in JSON: "Loading checkpoint shards: 100%"`}},
		{"hang-up-at-once", Protocol, "start", []string{"it closed the connection and runs on"}},
		{"load-exception", Exception, "load", []string{"offline load: exception: OSError: no such model: m", "traceback ends with:\n      File \"x.py\", line 3\n    OSError", "runner.log"}},
		{"load-exit", Died, "load", []string{"exited with code 3", "RuntimeError: not enough memory"}},
		{"die", Died, "generate", []string{"offline generate: died: exited with code 139", "Segmentation fault in flash_attn"}},
		{"die-with-a-child", Died, "generate", []string{"exited with code 1", "child"}},
		{"garbage", Protocol, "generate", []string{`no answer in JSON: "INFO 11-24 engine core is fine"`}},
		{"hang-up", Protocol, "generate", []string{"it closed the connection and runs on"}},
		{`raw={"results":[]}`, Protocol, "generate", []string{"an answer without id"}},
		{`raw={"id":7}`, Protocol, "generate", []string{"an answer to call 7, which is not open"}},
		{`raw={"id":ID,"results":[]}`, Protocol, "generate", []string{"0 results for 1 jobs"}},
		{`raw={"id":ID,"results":{}}`, Protocol, "generate", []string{"the answer does not fit"}},
		{`raw={"id":ID,"results":[{}]}`, Protocol, "generate", []string{"result 0 of 1: text, token_ids, prompt_tokens or last_token is missing"}},
	} {
		t.Run(c.how, func(t *testing.T) {
			t.Parallel()
			v := start(t, c.how)
			_, err := v.Generate(within(t, patience), []Job{{Prompt: job}})
			require.Equal(t, c.kind, KindOf(err), "%v", err)
			for _, words := range append(c.says, "offline "+c.op+": ") {
				require.ErrorContains(t, err, words)
			}
			if c.op == "generate" { // it stays dead, with the same reason, and Close tells it too
				_, again := v.Generate(within(t, patience), []Job{{Prompt: job}})
				require.Equal(t, c.kind, KindOf(again))
				require.ErrorContains(t, v.Close(), c.says[len(c.says)-1])
			} else { // nothing is left
				require.Zero(t, v.PID())
				require.NoError(t, v.Close())
			}
		})
	}
}

func TestNoSuchPython(t *testing.T) {
	v := &VLLM{Python: "/nonexistent/python", Log: filepath.Join(t.TempDir(), "log")}
	_, err := v.Load(within(t, patience))
	require.Equal(t, NotStarted, KindOf(err))
	require.ErrorContains(t, err, "/nonexistent/python")
	require.ErrorContains(t, err, "name the Python of an environment that has vllm")
	require.ErrorIs(t, err, os.ErrNotExist)
}

// An exception is the engine's answer and not its end.
func TestEngineLivesOnAfterAnException(t *testing.T) {
	t.Parallel()
	v := start(t, "exception-once")
	_, err := v.Generate(within(t, patience), []Job{{Prompt: "x"}})
	require.Equal(t, Exception, KindOf(err))
	require.ErrorContains(t, err, "offline generate: exception: ValueError: prompt too long")
	pid := v.PID()
	got, err := v.Generate(within(t, patience), []Job{{Prompt: "y"}})
	require.NoError(t, err)
	require.Equal(t, "y", got[0].Text)
	require.Equal(t, pid, v.PID())
}

func TestLimits(t *testing.T) {
	t.Run("it never calls", func(t *testing.T) {
		t.Parallel()
		v := start(t, "never-call")
		v.LoadTimeout = 300 * time.Millisecond
		_, err := v.Load(within(t, patience))
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "offline start: timeout: it has not called: limit of 300ms reached")
		require.Zero(t, v.PID(), "a load that failed leaves nothing running")
	})
	t.Run("load hangs", func(t *testing.T) {
		t.Parallel()
		v := start(t, "load-hang")
		v.LoadTimeout = 2 * time.Second
		_, err := v.Load(within(t, patience))
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "limit of 2s reached")
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("batch hangs, and close does not wait for it", func(t *testing.T) {
		t.Parallel()
		v := start(t, "hang")
		_, err := v.Load(within(t, patience))
		require.NoError(t, err)
		v.BatchTimeout = 300 * time.Millisecond
		_, err = v.Generate(within(t, patience), []Job{{Prompt: "x"}})
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "offline generate: timeout: no answer: limit of 300ms reached; the process still runs")
		_, err = v.Generate(within(t, patience), []Job{{Prompt: "x"}})
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "still busy with the call before")
		pid := v.PID()
		require.NoError(t, v.Close())
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	})
	t.Run("it does not read", func(t *testing.T) {
		t.Parallel()
		v := start(t, "deaf")
		_, err := v.Load(within(t, patience))
		require.NoError(t, err)
		v.BatchTimeout = 500 * time.Millisecond
		_, err = v.Generate(within(t, patience), []Job{{Prompt: strings.Repeat("more than a socket holds ", 1_000_000)}})
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "the request was not taken: limit of 500ms reached")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, v.Close(), "the request was not taken")
	})
	t.Run("load waits for a load", func(t *testing.T) {
		t.Parallel()
		v := start(t, "load-hang")
		loading := make(chan error, 1)
		go func() { _, err := v.Load(within(t, patience)); loading <- err }()
		require.Eventually(t, func() bool { return v.PID() != 0 }, patience, 10*time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := v.Load(ctx)
		require.Equal(t, Timeout, KindOf(err))
		require.ErrorContains(t, err, "waiting for a load that is under way")
		require.NoError(t, v.Close())
		require.Equal(t, Closed, KindOf(<-loading))
	})
	t.Run("close hangs", func(t *testing.T) {
		t.Parallel()
		v := start(t, "close-hang")
		_, err := v.Load(within(t, patience))
		require.NoError(t, err)
		v.StopGrace = 300 * time.Millisecond
		pid := v.PID()
		require.NoError(t, v.Close())
		require.ErrorIs(t, syscall.Kill(pid, 0), syscall.ESRCH)
	})
}

// A caller that goes away leaves its batch running; the next batch gets its own answer and not that one.
func TestAbandonedBatch(t *testing.T) {
	t.Parallel()
	v := start(t, "slow-once")
	_, err := v.Load(within(t, patience))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(within(t, patience))
	time.AfterFunc(100*time.Millisecond, cancel)
	_, err = v.Generate(ctx, []Job{{Prompt: "first"}})
	require.Equal(t, Canceled, KindOf(err))
	require.ErrorIs(t, err, context.Canceled)
	got, err := v.Generate(within(t, patience), []Job{{Prompt: "second"}})
	require.NoError(t, err)
	require.Equal(t, "second", got[0].Text)
}

func TestCloseEndsABatchInFlight(t *testing.T) {
	t.Parallel()
	v := start(t, "hang")
	_, err := v.Load(within(t, patience))
	require.NoError(t, err)
	time.AfterFunc(200*time.Millisecond, func() { v.Close() })
	_, err = v.Generate(within(t, patience), []Job{{Prompt: "x"}})
	require.Equal(t, Closed, KindOf(err), "%v", err)
}

func TestCloseEndsALoad(t *testing.T) {
	t.Parallel()
	v := start(t, "load-hang")
	time.AfterFunc(500*time.Millisecond, func() { v.Close() })
	_, err := v.Load(within(t, patience))
	require.Equal(t, Closed, KindOf(err), "%v", err)
}

func TestManyCallers(t *testing.T) {
	t.Parallel()
	v := start(t, "well")
	failed := make(chan error, 16)
	for i := range cap(failed) {
		go func() {
			want := strings.Repeat(string(rune('a'+i)), 9)
			got, err := v.Generate(within(t, patience), []Job{{Prompt: want}, {Prompt: "other"}})
			if err == nil && (got[0].Text != want || got[1].Text != "other") {
				err = errors.New("crossed answers: " + got[0].Text + " for " + want)
			}
			failed <- err
		}()
	}
	for range cap(failed) {
		require.NoError(t, <-failed)
	}
}

// What an engine claims is checked before it counts.
func TestLyingResults(t *testing.T) {
	str, num, sec := func(s string) *string { return &s }, func(n int) *int { return &n }, func(f float64) *float64 { return &f }
	good := func() wireResult {
		return wireResult{Text: str("ab"), TokenIDs: []int{1, 2}, PromptTokens: num(3), FinishReason: "length", LastToken: sec(1), FirstToken: sec(0.5), Clock: EngineClock}
	}
	job := Job{PromptIDs: []int{7, 8, 9}, MaxTokens: 2}
	w := good()
	r, err := w.result(&job)
	require.NoError(t, err)
	require.Equal(t, 2, r.OutputTokens)

	w = good()
	w.FirstToken, w.Clock, w.CachedTokens = nil, BatchClock, num(0)
	r, err = w.result(&job)
	require.NoError(t, err)
	require.Equal(t, NotMeasured, r.FirstToken, "not measured is never 0")
	require.Equal(t, time.Second, r.End)
	require.Zero(t, r.CachedTokens, "0 cached tokens is a measurement")

	for says, spoil := range map[string]func(*wireResult){
		"is missing":                        func(w *wireResult) { w.Text = nil },
		"prompt_tokens is 4, 3 were sent":   func(w *wireResult) { w.PromptTokens = num(4) },
		"3 output tokens, max_tokens was 2": func(w *wireResult) { w.TokenIDs = []int{1, 2, 3} },
		"no finish_reason":                  func(w *wireResult) { w.FinishReason = "" },
		"clock is":                          func(w *wireResult) { w.Clock = "sundial" },
		"first token at 2 s, last at 1 s":   func(w *wireResult) { w.FirstToken = sec(2) },
		"first token at NaN s, last at -1":  func(w *wireResult) { w.FirstToken, w.LastToken = nil, sec(-1) },
	} {
		w := good()
		spoil(&w)
		_, err := w.result(&job)
		require.ErrorContains(t, err, says)
	}
	w, job.Margins = good(), true
	_, err = w.result(&job)
	require.ErrorContains(t, err, "0 margins for 2 tokens")
	w.Margins = []*float64{sec(0.25), nil}
	r, err = w.result(&job)
	require.NoError(t, err)
	require.True(t, math.IsNaN(r.Margins[1]))
}
