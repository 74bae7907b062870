package dit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const patience = 30 * time.Second // the machine may be busy; nothing here is a measurement

// series reads one series of /metrics; absent: ok is false.
func series(t testing.TB, s *Server, name string) (v float64, ok bool) {
	t.Helper()
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(w.Body.String())
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(m[1], 64)
	require.NoError(t, err)
	return v, true
}

const (
	running = `vllm_omni:num_requests_running{model_name="reference-dit"}`
	waiting = `vllm_omni:num_requests_waiting{model_name="reference-dit"}`
	stopped = `vllm_omni:requests_success_total{finished_reason="stop",model_name="reference-dit"}`
	aborted = `vllm_omni:requests_success_total{finished_reason="abort",model_name="reference-dit"}`
)

func eventually(t testing.TB, s *Server, name string, want float64) {
	t.Helper()
	require.Eventually(t, func() bool { v, _ := series(t, s, name); return v == want }, patience, 2*time.Millisecond, "%s never became %g", name, want)
}

// ask sends a generation over a real connection.
func ask(ctx context.Context, url, body string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/images/generations", strings.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("%d: %s", res.StatusCode, b)
	}
	return nil
}

func tiny(seed int) string {
	return fmt.Sprintf(`{"prompt":"x","size":"64x64","num_inference_steps":1,"seed":%d}`, seed)
}

// slow is a planted time for one step of a 64x64 picture.
func slow(d time.Duration) Timing {
	return Timing{PerStep: time.Duration(float64(d) * 1e6 / (64 * 64))}
}

func TestRequestsQueueInOrder(t *testing.T) {
	s := server(t, Config{Timing: slow(100 * time.Millisecond)})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	var mu sync.Mutex
	var order []int
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			assert.NoError(t, ask(t.Context(), web.URL, tiny(i)))
			mu.Lock()
			order = append(order, i)
			mu.Unlock()
		})
		require.Eventually(t, func() bool { // it has arrived before the next one is sent
			sum := 0.0
			for _, name := range []string{running, waiting, stopped} {
				v, _ := series(t, s, name)
				sum += v
			}
			return sum >= float64(i+1)
		}, patience, time.Millisecond)
	}
	wg.Wait()
	assert.Equal(t, []int{0, 1, 2, 3}, order)
	n, _ := series(t, s, stopped)
	assert.Equal(t, 4.0, n)
}

func TestQueue(t *testing.T) {
	q := newQueue(2)
	got := func(n int) chan error {
		c := make(chan error, 1)
		before := waitLen(q)
		go func() { _, err := q.acquire(t.Context(), n); c <- err }()
		require.Eventually(t, func() bool { return waitLen(q) > before || len(c) > 0 }, patience, time.Millisecond)
		return c
	}
	n, err := q.acquire(t.Context(), 5)
	require.NoError(t, err)
	assert.Equal(t, 2, n, "more pictures than slots: all slots")

	big := got(2)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := q.acquire(ctx, 2); gone <- err }()
	require.Eventually(t, func() bool { return waitLen(q) == 2 }, patience, time.Millisecond)
	small := got(1)
	leave()
	assert.ErrorIs(t, <-gone, context.Canceled)
	assert.Equal(t, 2, waitLen(q), "a request that gave up stays in the queue")

	q.release(1)
	assert.Empty(t, small, "the small one overtook the big one")
	q.release(1)
	require.NoError(t, <-big)
	q.release(2)
	require.NoError(t, <-small)
	q.release(1)
	assert.Equal(t, 2, q.free)
}

// When the head gives up, the one behind it may fit at once.
func TestQueueHeadLeaves(t *testing.T) {
	q := newQueue(2)
	_, err := q.acquire(t.Context(), 1)
	require.NoError(t, err)
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() { _, err := q.acquire(ctx, 2); gone <- err }()
	require.Eventually(t, func() bool { return waitLen(q) == 1 }, patience, time.Millisecond)
	next := make(chan error, 1)
	go func() { _, err := q.acquire(t.Context(), 1); next <- err }()
	require.Eventually(t, func() bool { return waitLen(q) == 2 }, patience, time.Millisecond)
	leave()
	assert.Error(t, <-gone)
	select {
	case err := <-next:
		assert.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("the request behind the one that left was forgotten")
	}
}

func waitLen(q *queue) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.wait.Len()
}

// Recorded: a running request is not stopped when its client leaves; a waiting one is not run.
func TestDisconnect(t *testing.T) {
	s := server(t, Config{Timing: slow(300 * time.Millisecond)})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	ctx, leave := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	go func() { errs <- ask(ctx, web.URL, tiny(1)) }()
	eventually(t, s, running, 1)
	go func() { errs <- ask(ctx, web.URL, tiny(2)) }()
	eventually(t, s, waiting, 1)
	leave()
	for range 2 {
		assert.ErrorIs(t, <-errs, context.Canceled)
	}
	eventually(t, s, aborted, 1)
	eventually(t, s, stopped, 1)
	eventually(t, s, running, 0)
	eventually(t, s, waiting, 0)
}

func TestFaultStall(t *testing.T) {
	s := server(t, Config{Faults: Faults{Stall: true}})
	web := httptest.NewServer(s.Handler())
	defer web.Close()
	ctx, leave := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { errs <- ask(ctx, web.URL, tiny(1)) }()
	eventually(t, s, running, 1)
	select {
	case err := <-errs:
		t.Fatal("answered: ", err)
	case <-time.After(100 * time.Millisecond):
	}
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/health", nil))
	assert.Equal(t, 200, w.Code, "a stalled engine still says that it is healthy")
	leave()
	require.Error(t, <-errs)
	eventually(t, s, running, 0)
	eventually(t, s, aborted, 1)
}

func serve(t *testing.T, c Config) (s *Server, url string, stop func() error) {
	t.Helper()
	s = server(t, c)
	ctx, cancel := context.WithCancel(context.Background())
	addr, done := make(chan string, 1), make(chan error, 1)
	go func() { done <- s.Serve(ctx, func(a string) { addr <- a }) }()
	select {
	case a := <-addr:
		url = "http://" + a
	case err := <-done:
		t.Fatal(err)
	}
	stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(patience):
			return errors.New("Serve does not end")
		}
	})
	t.Cleanup(func() { assert.NoError(t, stop()) })
	return s, url, stop
}

// Recorded: told to stop, the server refuses at once and still answers what is in flight.
func TestStopFinishesWhatRuns(t *testing.T) {
	s, url, stop := serve(t, Config{Timing: slow(400 * time.Millisecond)})
	errs := make(chan error, 1)
	go func() { errs <- ask(t.Context(), url, tiny(1)) }()
	eventually(t, s, running, 1)
	require.NoError(t, stop())
	assert.NoError(t, <-errs)
	assert.ErrorContains(t, ask(t.Context(), url, tiny(2)), "refused")
}

func TestStopEndsAStall(t *testing.T) {
	s, url, stop := serve(t, Config{Faults: Faults{Stall: true}})
	errs := make(chan error, 1)
	go func() { errs <- ask(t.Context(), url, tiny(1)) }()
	eventually(t, s, running, 1)
	began := time.Now()
	require.NoError(t, stop())
	assert.Error(t, <-errs)
	assert.Less(t, time.Since(began), patience)
}

func TestServeOnATakenPort(t *testing.T) {
	_, url, _ := serve(t, Config{})
	s := server(t, Config{Listen: strings.TrimPrefix(url, "http://")})
	assert.ErrorContains(t, s.Serve(t.Context(), nil), "dit: listen")
}

// What is planted is a lower bound of what is told; the margin above it belongs to the machine.
func TestPlantedTimes(t *testing.T) {
	s := server(t, Config{Timing: Timing{PerStep: time.Second, Encode: 30 * time.Millisecond}})
	stages := func(body string) map[string]any {
		_, all := generate(t, s, body)
		return all["metrics"].(map[string]any)["stage_durations"].(map[string]any)
	}
	const mp = 160 * 160 / 1e6
	m := stages(`{"prompt":"x","size":"160x160","num_inference_steps":4,"seed":1}`)
	assert.GreaterOrEqual(t, m["ReferencePipeline.diffuse"], 4*mp)
	assert.Less(t, m["ReferencePipeline.diffuse"], 4*mp+5)
	assert.GreaterOrEqual(t, m["ReferencePipeline.text_encoder.forward"], 0.03)
	assert.Less(t, m["ReferencePipeline.text_encoder.forward"], 5.0)
	assert.GreaterOrEqual(t, m["stage_0_gen_ms"], 4*mp*1e3+30, "milliseconds, of the whole")
	cfg := stages(`{"prompt":"x","size":"160x160","num_inference_steps":4,"seed":1,"true_cfg_scale":4}`)
	assert.GreaterOrEqual(t, cfg["ReferencePipeline.diffuse"], 8*mp, "guidance doubles a step")
	two := stages(`{"prompt":"x","size":"160x160","num_inference_steps":4,"seed":1,"n":2}`)
	assert.GreaterOrEqual(t, two["ReferencePipeline.diffuse"], 8*mp, "one slot: pictures one after the other")
}

func TestBatchedPicturesShareTheirTime(t *testing.T) {
	s := server(t, Config{MaxBatch: 4, Timing: slow(500 * time.Millisecond)})
	began := time.Now()
	pics, all := generate(t, s, `{"prompt":"x","size":"64x64","num_inference_steps":1,"seed":1,"n":4}`)
	assert.Len(t, pics, 4)
	d := all["metrics"].(map[string]any)["stage_durations"].(map[string]any)["ReferencePipeline.diffuse"].(float64)
	assert.GreaterOrEqual(t, d, 0.5)
	assert.Less(t, d, 2.0, "one after the other would take that long; four slots took %v in all", time.Since(began))
}

func TestJitterSpreadsThePlantedTime(t *testing.T) {
	s := server(t, Config{Timing: Timing{Encode: 10 * time.Millisecond, Jitter: 1}})
	short := false
	for range 40 {
		r, err := s.Render(t.Context(), Job{Prompt: "x", W: 16, H: 16, Steps: 1})
		require.NoError(t, err)
		short = short || r.Stages["text_encoder"] < 8*time.Millisecond
	}
	assert.True(t, short, "40 waits of 0-20 ms, none below 8")
}

func TestMemoryGrows(t *testing.T) {
	s := server(t, Config{Timing: Timing{GrowPerRequest: 1 << 20}})
	for range 3 {
		generate(t, s, tiny(1))
	}
	assert.Len(t, s.kept, 3)
	assert.Len(t, s.kept[2], 1<<20)
}

func TestMetricsSeries(t *testing.T) {
	s := server(t, Config{})
	_, ok := series(t, s, stopped)
	assert.False(t, ok, "no request yet: absent, not 0 (recorded)")
	generate(t, s, tiny(1))
	r := httptest.NewRequest(http.MethodPost, "/v1/images/generations", strings.NewReader(`{"prompt":"x","n":0}`))
	r.Header.Set("Content-Type", "application/json")
	s.Handler().ServeHTTP(httptest.NewRecorder(), r)
	s.Handler().ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/nowhere", nil))
	for name, want := range map[string]float64{
		running: 0, waiting: 0, stopped: 1,
		`vllm_omni:e2e_request_latency_s_count{model_name="reference-dit"}`:                1,
		`vllm_omni:e2e_request_latency_s_bucket{model_name="reference-dit",le="300"}`:      1,
		`vllm_omni:prompt_tokens_total{model_name="reference-dit"}`:                        0,
		`vllm_omni:generation_tokens_total{model_name="reference-dit"}`:                    0,
		`http_requests_total{handler="/v1/images/generations",method="POST",status="2xx"}`: 1,
		`http_requests_total{handler="/v1/images/generations",method="POST",status="4xx"}`: 1,
		`http_requests_total{handler="none",method="GET",status="4xx"}`:                    1,
	} {
		v, ok := series(t, s, name)
		assert.True(t, ok, "%s is absent", name)
		assert.Equal(t, want, v, name)
	}
	_, ok = series(t, s, aborted)
	assert.False(t, ok, "a request refused at validation is not counted (recorded)")
	long := fmt.Sprintf(`{"prompt":%q,"size":"64x64"}`, strings.Repeat("word ", 1200))
	r = httptest.NewRequest(http.MethodPost, "/v1/images/generations", strings.NewReader(long))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	assert.Equal(t, 500, w.Code)
	assert.Contains(t, w.Body.String(), "Image generation failed: `prompt` is too long after applying the Qwen prompt template: got 1500 tokens")
	v, _ := series(t, s, aborted)
	assert.Equal(t, 1.0, v, "a request that the engine fails counts as aborted (recorded)")
}
