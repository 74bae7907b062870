package ar

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func someText(n int, seed uint64) string {
	rng := rand.New(rand.NewPCG(seed, 9))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, "%d-%c ", rng.IntN(1e6), 'a'+rng.IntN(26))
	}
	return b.String()[:n]
}

// Sixteen clients, P and D: every text is its own.
func TestConcurrentHandoffs(t *testing.T) {
	p, d := serve(t, Config{}), serve(t, Config{})
	var wg sync.WaitGroup
	for c := range 16 {
		wg.Go(func() {
			for k := range 3 {
				prompt := someText(40+c*17, uint64(c*100+k))
				ticket := p.prefillLeg(prompt)
				text := d.complete(body{"prompt": prompt, "max_tokens": 1000, "temperature": 0, "kv_transfer_params": ticket}).text()
				assert.Equal(t, prompt, text)
			}
		})
	}
	wg.Wait()
	p.idle()
	d.idle()
	m := d.scrape()
	assert.Zero(t, m["num_preemptions_total"])
	assert.Equal(t, m["prompt_tokens_total"], m[`prompt_tokens_by_source_total{source="external_kv_transfer"}`]+
		m[`prompt_tokens_by_source_total{source="local_cache_hit"}`]+m[`prompt_tokens_by_source_total{source="local_compute"}`])
	assert.Zero(t, m[`prompt_tokens_by_source_total{source="local_compute"}`])
}

// A pool that is much too small: blocks are reused, requests preempted and computed again, prompts prefilled in chunks,
// and still every text is its own.
func TestChurn(t *testing.T) {
	p := serve(t, Config{Blocks: 40, MaxBatch: 64, MaxModelLen: 400})
	d := serve(t, Config{Blocks: 40, MaxBatch: 64, MaxModelLen: 400})
	var wg sync.WaitGroup
	for c := range 12 {
		wg.Go(func() {
			for k := range 4 {
				prompt := someText(30+c*13, uint64(c*10+k))
				b := body{"prompt": prompt, "max_tokens": 1000, "temperature": 0}
				if c%3 == 0 {
					b["kv_transfer_params"] = p.prefillLeg(prompt)
				}
				assert.Equal(t, prompt, d.complete(b).text())
			}
		})
	}
	wg.Wait()
	p.idle()
	d.idle()
	m := d.scrape()
	assert.NotZero(t, m["num_preemptions_total"], "the pool was not small enough for this test to mean anything")
	assert.Equal(t, m["request_num_preemptions_sum"], m["num_preemptions_total"])
}

// Long prompts are prefilled in chunks, and a prefix that was computed in chunks is found again.
func TestChunkedPrefillAndPrefixCache(t *testing.T) {
	i := serve(t, Config{MaxBatch: 100})
	prompt := someText(1000, 1)
	a := i.complete(body{"prompt": prompt, "max_tokens": 5, "temperature": 0})
	assert.Equal(t, prompt[:5], a.text())
	assert.Equal(t, 0, a.Usage.Details.Cached)
	m := i.scrape()
	assert.Equal(t, 1005.0, m["iteration_tokens_total_sum"])
	assert.Equal(t, 5.0, m["iteration_tokens_total_count"])
	a = i.complete(body{"prompt": prompt, "max_tokens": 5, "temperature": 0})
	assert.Equal(t, prompt[:5], a.text())
	assert.Equal(t, 992, a.Usage.Details.Cached, "62 full blocks of 16")
	a = i.complete(body{"prompt": prompt[:992], "max_tokens": 5})
	assert.Equal(t, 976, a.Usage.Details.Cached, "the last token is never taken from the cache")
}

// The pool keeps its books whatever happens: no block is lost, and none has two owners.
func TestPoolBooks(t *testing.T) {
	const blocks, size = 33, 4
	p := newPool(blocks, size)
	rng := rand.New(rand.NewPCG(3, 3))
	var tables [][]int32
	var hashes [][]blockHash
	steps := 20000
	if testing.Short() {
		steps = 2000
	}
	for range steps {
		if rng.IntN(2) == 0 {
			tokens := make([]int32, rng.IntN(40)) // few distinct contents: many hits
			for i := range tokens {
				tokens[i] = int32(rng.IntN(2) * (i / 8))
			}
			h := extendHashes(nil, tokens, size)
			table := p.match(h)
			hit := len(table)
			table, ok := p.take(table, (len(tokens)+size-1)/size-hit)
			if !ok {
				p.release(table)
				continue
			}
			for i := hit; i < len(h); i++ {
				p.register(table[i], h[i])
			}
			tables, hashes = append(tables, table), append(hashes, h)
		} else if len(tables) > 0 {
			k := rng.IntN(len(tables))
			for i, h := range hashes[k] { // what is held keeps its content
				b := tables[k][i]
				require.True(t, !p.hashed[b] || p.hash[b] == h)
			}
			p.release(tables[k])
			tables, hashes = append(tables[:k], tables[k+1:]...), append(hashes[:k], hashes[k+1:]...)
		}
		used := map[int32]int32{}
		for _, table := range tables {
			for _, b := range table {
				require.NotZero(t, b, "the null block")
				used[b]++
			}
		}
		for b, n := range used {
			require.Equal(t, n, p.refs[b])
		}
		require.Equal(t, blocks-1-len(used), p.free)
	}
	for _, table := range tables {
		p.release(table)
	}
	require.Equal(t, blocks-1, p.free)
	require.Zero(t, p.usage())
}

func TestOffline(t *testing.T) {
	s, err := New(Config{})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	var batch []Prompt
	for k := range 40 { // more than run at once
		batch = append(batch, Prompt{Text: someText(30+k, uint64(k)), MaxTokens: 10 + k})
	}
	got, err := s.Generate(ctx, batch)
	require.NoError(t, err)
	for k, o := range got {
		assert.Equal(t, batch[k].Text[:10+k], o.Text)
		assert.Equal(t, "length", o.FinishReason)
		assert.Equal(t, 30+k, o.PromptTokens)
		assert.Equal(t, 10+k, o.CompletionTokens)
		assert.Positive(t, o.FirstToken)
		assert.GreaterOrEqual(t, o.End, o.FirstToken)
	}
	_, err = s.Generate(ctx, []Prompt{{Text: ""}})
	assert.EqualError(t, err, "ar: prompt 0 of the batch is empty")
	_, err = s.Generate(ctx, []Prompt{{Text: someText(9000, 1)}})
	assert.EqualError(t, err, "ar: prompt 0 of the batch has 9000 tokens, max model len is 8192")
	cancel()
	select {
	case err := <-done:
		assert.NoError(t, err)
	case <-time.After(patience):
		t.Fatal("Run did not return")
	}
	_, err = s.Generate(context.Background(), batch)
	assert.EqualError(t, err, "ar: the engine has ended")
	assert.ErrorContains(t, s.Run(context.Background()), "one life")
}

// The end of ctx ends everything at once, open requests included.
func TestServeEnds(t *testing.T) {
	i := serve(t, Config{Timing: Timing{DecodePerStep: 50 * time.Millisecond}})
	failed := make(chan error, 1)
	go func() {
		got, err := send(context.Background(), i.url+"/v1/completions", body{"prompt": "x", "max_tokens": 8000, "ignore_eos": true, "stream": true})
		if err == nil && !strings.Contains(got, "EngineCore") {
			err = fmt.Errorf("a whole answer: %s", got)
		} else {
			err = nil
		}
		failed <- err
	}()
	i.eventually("running", func() bool { return i.scrape()["num_requests_running"] == 1 })
	i.stop()
	for _, c := range []chan error{i.done, failed} {
		select {
		case err := <-c:
			assert.NoError(t, err)
		case <-time.After(patience):
			t.Fatal("still there")
		}
	}
	i.done <- nil
}

func BenchmarkGenerate(b *testing.B) {
	for _, clients := range []int{1, 16} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			s, err := New(Config{})
			require.NoError(b, err)
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			go s.Run(ctx)
			batch := make([]Prompt, clients)
			for k := range batch {
				batch[k] = Prompt{Text: someText(512, uint64(k)), MaxTokens: 64}
			}
			for b.Loop() {
				_, err := s.Generate(ctx, batch)
				require.NoError(b, err)
			}
			b.ReportMetric(float64(b.N*clients*64)/b.Elapsed().Seconds(), "tokens/s")
		})
	}
}
