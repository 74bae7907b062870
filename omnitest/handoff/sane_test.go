package handoff

import (
	"fmt"
	"io/fs"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/fakepd"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

// measured is healthy evidence with all that Sane looks at.
func measured(ids ...string) *Evidence {
	e := healthy(ids...)
	d, n := &NIXL, float64(len(ids))
	for _, s := range []*Stage{&e.Decode, &e.Prefill} {
		e.held(s, 0, 0.5)
		for _, x := range []Series{d.Prompts, d.Outputs} {
			e.set(s, x, n)
		}
		e.set(s, d.PromptSum, 512*n)
		s.Page = &Page{Engines: []string{"0"}, Models: []string{"m"}}
	}
	e.set(&e.Decode, d.OutputSum, 16*n)
	e.set(&e.Decode, d.Cached, 512*n)
	e.set(&e.Prefill, d.OutputSum, n)
	e.set(&e.Prefill, d.Cached, 0)
	return e
}

// TestSane plants one insanity at a time. Each must be named, and the healthy page must pass.
func TestSane(t *testing.T) {
	d := &NIXL
	const good = "proven: decode counted 512 prompt tokens of 1 request, every way the same (1 engine of m); prefill counted 512 prompt tokens of 1 request, every way the same (1 engine of m)"
	for _, c := range []struct {
		name  string
		plant func(e *Evidence)
		want  string
	}{
		{"healthy", func(*Evidence) {}, good},
		{"content is not its business", func(e *Evidence) { e.Observations[0].Got = "garbage" }, good},
		{"a recompute is sane", func(e *Evidence) { e.recompute(); e.set(&e.Decode, d.Cached, 0) }, good},
		{"optional series absent", func(e *Evidence) {
			for _, x := range []Series{d.Prompts, d.Outputs, d.PromptSum, d.OutputSum, d.Cached, d.Recomputed} {
				e.on(&e.Decode, x, prom.Absent)
			}
		}, good},
		{"several engines summed", func(e *Evidence) { e.Decode.Page.Engines = []string{"0", "1"} }, strings.Replace(good, "1 engine of m", "2 engines of m", 1)},

		{"sources fall short", func(e *Evidence) { e.set(&e.Decode, d.External, 500); e.set(&e.Decode, d.Cached, 500) },
			"refuted: prompt tokens of decode by source do not add up: computed 0 + cached 0 + from the other engine 500 = 500, prompt_tokens 512"},
		{"claims a transfer and computes", func(e *Evidence) { e.set(&e.Decode, d.Iteration, 528) },
			"refuted: the steps of decode hold 512 prompt tokens (iteration_tokens 528 - generated 16), by source it computed 0"},
		{"F18 tokens counted twice", func(e *Evidence) { e.set(&e.Decode, d.LocalCompute, 512); e.set(&e.Decode, d.Iteration, 528) },
			"refuted: prompt tokens of decode by source do not add up: computed 512 + cached 0 + from the other engine 512 = 1024, prompt_tokens 512"},
		{"old epoch off by one", func(e *Evidence) { e.set(&e.Decode, d.Recomputed, 1) },
			"refuted: prompt tokens of decode by source do not add up: computed 0 + cached 0 + from the other engine 512 - recomputed 1 = 511, prompt_tokens 512"},
		{"prefill too", func(e *Evidence) { e.set(&e.Prefill, d.LocalHit, 7); e.set(&e.Prefill, d.Cached, 7) },
			"refuted: prompt tokens of prefill by source do not add up: computed 512 + cached 7 + from the other engine 0 = 519, prompt_tokens 512"},
		{"after a preemption that is doubt", func(e *Evidence) {
			e.set(&e.Decode, d.LocalCompute, 40)
			e.set(&e.Decode, d.Iteration, 56)
			e.set(&e.Decode, d.Preemptions, 1)
		},
			"inconclusive: prompt tokens of decode by source do not add up: computed 40 + cached 0 + from the other engine 512 = 552, prompt_tokens 512, but a request was preempted or aborted"},
		{"F18 inflated cached tokens", func(e *Evidence) { e.set(&e.Decode, d.Cached, 1024) },
			"refuted: vllm:prompt_tokens_cached_total of decode rose by 1024, by source it is 512"},
		{"histogram misses a request", func(e *Evidence) { e.set(&e.Decode, d.Prompts, 0) },
			"refuted: vllm:request_prompt_tokens_count of decode rose by 0, 1 request finished"},
		{"histogram of outputs has one more", func(e *Evidence) { e.set(&e.Prefill, d.Outputs, 2) },
			"refuted: vllm:request_generation_tokens_count of prefill rose by 2, 1 request finished"},
		{"lengths do not add up", func(e *Evidence) { e.set(&e.Decode, d.OutputSum, 17) },
			"refuted: vllm:request_generation_tokens_sum of decode rose by 17, vllm:generation_tokens_total by 16"},

		{"requests of somebody else", func(e *Evidence) {
			for _, x := range []Series{d.Finished, d.Prompts, d.Outputs} {
				e.set(&e.Decode, x, 2)
			}
		}, "inconclusive: decode finished 2 requests in the window, only 1 known: something else used the stack"},
		{"series absent", func(e *Evidence) { e.on(&e.Decode, d.Bytes, prom.Absent) }, "inconclusive: series absent: vllm:nixl_bytes_transferred_sum of decode"},
		{"series absent on prefill", func(e *Evidence) { e.on(&e.Prefill, d.Expired, prom.Absent) }, "inconclusive: series absent: vllm:nixl_num_kv_expired_reqs_total of prefill"},
		{"gauge absent", func(e *Evidence) { e.Prefill.UsageBefore, e.Prefill.UsageAfter = nil, nil }, "inconclusive: series absent: vllm:kv_cache_usage_perc of prefill"},
		{"gauge in percent", func(e *Evidence) { e.held(&e.Decode, 0, 42) }, "refuted: vllm:kv_cache_usage_perc of decode is 42, a share is from 0 to 1"},
		{"gauge below 0", func(e *Evidence) { e.held(&e.Decode, -0.1, 0) }, "refuted: vllm:kv_cache_usage_perc of decode is -0.1, a share is from 0 to 1"},
		{"a counter stands still", func(e *Evidence) { e.set(&e.Decode, d.Iteration, 0) },
			"inconclusive: vllm:iteration_tokens_total_sum of decode did not move although 1 request was answered"},
		{"reset", func(e *Evidence) { e.Decode.Resets = []string{"vllm:prompt_tokens_total fell from 900 to 12"} },
			"inconclusive: counter of decode fell back: vllm:prompt_tokens_total fell from 900 to 12: restarted?"},
		{"never idle", func(e *Evidence) { e.Decode.Problem = "decode never got idle within 30s: 1 running, 0 waiting" },
			"inconclusive: decode never got idle within 30s: 1 running, 0 waiting"},
		{"two engines behind one URL", func(e *Evidence) { e.Decode.Page.Alternates, e.Decode.MetricsURL = true, "http://lb/metrics" },
			"inconclusive: counters of decode fall and rise again while it is idle: two engines behind one URL? (http://lb/metrics)"},
		{"F15 negative counter", func(e *Evidence) { e.Decode.Page.Odd = []string{`vllm:prompt_tokens_total{engine="0"} is -3`} },
			`refuted: vllm:prompt_tokens_total{engine="0"} is -3 on decode's page: a counter`},
		{"NaN", func(e *Evidence) { e.Decode.Page.Odd = []string{`vllm:nixl_bytes_transferred_sum{engine="0"} is NaN`} },
			`inconclusive: vllm:nixl_bytes_transferred_sum{engine="0"} is NaN on decode's page: not measured`},
		{"minus infinity", func(e *Evidence) { e.Decode.Page.Odd = []string{`vllm:kv_cache_usage_perc is -Inf`} },
			`inconclusive: vllm:kv_cache_usage_perc is -Inf on decode's page: not measured`},
		{"labels of some only", func(e *Evidence) {
			e.Decode.Page.Bare = []string{"vllm:prompt_tokens_total lacks engine", "x lacks engine"}
		},
			"inconclusive: labels of decode are incomplete: vllm:prompt_tokens_total lacks engine, which others have and 1 more"},
		{"an engine vanished", func(e *Evidence) { e.Decode.Page.Gone = []string{"1"} }, "inconclusive: engine 1 vanished from decode's page inside the window"},
		{"no request", func(e *Evidence) { e.Observations, e.Flow.Records = nil, nil }, "inconclusive: no request was made in the window"},
		{"nothing measured", func(e *Evidence) { e.Decode, e.Prefill = Stage{}, Stage{} }, "inconclusive: nothing was judged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := measured("r")
			c.plant(e)
			assert.Equal(t, c.want, Sane(e).String())
		})
	}
}

func TestSaneNotes(t *testing.T) {
	e := measured("r")
	e.Decode.Page = &Page{Strange: []string{"rpc_seconds is NaN", "x is NaN"}}
	e.Prefill.Page.Models = []string{"other"}
	v := Sane(e)
	assert.Equal(t, StateProven, v.State, v.String())
	assert.Contains(t, v.Notes, "rpc_seconds is NaN on decode's page, which no rule reads and 1 more")
	assert.Contains(t, v.Notes, "series of decode have no label engine or model_name: how many engines stand behind its page is not told")
	e = measured("r")
	e.Prefill.Page.Models = []string{"other"}
	assert.Contains(t, Sane(e).Notes, "prefill serves other, decode m")
}

// TestRecordedPagesAreSane: no page that real vLLM served is refuted, whatever was done to it in the case, and each case whose
// requests were all counted is proven.
func TestRecordedPagesAreSane(t *testing.T) {
	proven := 0
	for connector, d := range map[string]*Dialect{"nixl": &NIXL, "example": &Example} {
		cases, err := fs.ReadDir(recordings, "vllm-0.32.0/"+connector)
		require.NoError(t, err)
		for _, c := range cases {
			name := connector + "/" + c.Name()
			if !c.IsDir() || strings.Contains(name, "missing-remote") || strings.Contains(name, "after-first-chunk") {
				continue // the recorder's patience ended: half a second each to replay
			}
			e := evidenceOf(t, d, name, false)
			v := Sane(e)
			assert.NotEqual(t, StateRefuted, v.State, "%s: %s", name, v)
			if v.State == StateProven {
				proven++
				assert.Contains(t, v.String(), "(1 engine of tiny)", name)
			}
			if strings.Contains(name, "01-proper") || strings.Contains(name, "/10-") {
				assert.Equal(t, StateProven, v.State, "%s: %s", name, v)
			}
		}
	}
	t.Logf("%d recorded cases proven sane", proven)
	assert.GreaterOrEqual(t, proven, 20)
}

// TestSaneWindow: through real scrapes. The healthy fake is sane, and each lie of its page is told apart.
func TestSaneWindow(t *testing.T) {
	t.Parallel()
	// labelled is the fake's page as engines with these labels would serve it.
	labelled := func(e *fakepd.Engine, labels string, only func(name string) bool) string {
		lines := strings.Split(strings.TrimSpace(e.Text(e.Counters)), "\n")
		for i, line := range lines {
			series, value, _ := strings.Cut(line, " ")
			name, had, _ := strings.Cut(strings.TrimSuffix(series, "}"), "{")
			if !only(name) {
				continue
			}
			if had != "" {
				had += ","
			}
			lines[i] = name + "{" + had + labels + "} " + value
		}
		return strings.Join(lines, "\n") + "\n"
	}
	all := func(string) bool { return true }
	for _, c := range []struct {
		name string
		page func(e *fakepd.Engine) (int, string)
		want string
	}{
		{"healthy", nil, "proven: decode counted 100 prompt tokens of 1 request, every way the same; prefill counted 100 prompt tokens of 1 request, every way the same"},
		{"labelled, with labels that nobody knows", func(e *fakepd.Engine) (int, string) {
			return 200, labelled(e, `engine="0",model_name="m",pod="p-1",weird="a\"b"`, all)
		}, "proven: decode counted 100 prompt tokens of 1 request, every way the same (1 engine of m); prefill"},
		{"scientific notation", func(e *fakepd.Engine) (int, string) {
			text := ""
			for k, v := range e.Counters {
				text += fmt.Sprintf("%s %.6e\n", k, v)
			}
			return 200, text
		}, "proven: decode counted 100 prompt tokens of 1 request, every way the same; prefill"},
		{"two engines on one page", func(e *fakepd.Engine) (int, string) {
			zero := maps.Clone(e.Counters)
			for k := range zero {
				zero[k] = 0
			}
			other := fakepd.Engine{Counters: zero}
			idle := labelled(&other, `engine="1",model_name="m"`, all)
			return 200, labelled(e, `engine="0",model_name="m"`, all) + idle
		}, "proven: decode counted 100 prompt tokens of 1 request, every way the same (2 engines of m); prefill"},
		{"two pages put together", func(e *fakepd.Engine) (int, string) { return 200, e.Text(e.Counters) + "vllm:prompt_tokens_total 0\n" },
			"inconclusive: vllm:prompt_tokens_total stands more than once on decode's page: pages of several engines put together?"},
		{"a label that some lack", func(e *fakepd.Engine) (int, string) {
			return 200, labelled(e, `engine="0"`, func(name string) bool { return name != "vllm:prompt_tokens_total" })
		}, "inconclusive: labels of decode are incomplete: vllm:prompt_tokens_total lacks engine, which others have"},
		{"NaN", func(e *fakepd.Engine) (int, string) {
			return 200, strings.Replace(e.Text(e.Counters), fmt.Sprintf("%s %g\n", fakepd.Bytes, e.Counters[fakepd.Bytes]), fakepd.Bytes+" NaN\n", 1)
		}, "inconclusive: vllm:nixl_bytes_transferred_sum is NaN on decode's page: not measured; series absent: vllm:nixl_bytes_transferred_sum of decode"},
		{"infinite", func(e *fakepd.Engine) (int, string) {
			return 200, strings.Replace(e.Text(e.Counters), fmt.Sprintf("%s %g\n", fakepd.Generated, e.Counters[fakepd.Generated]), fakepd.Generated+" +Inf\n", 1)
		}, "inconclusive: vllm:generation_tokens_total is +Inf on decode's page: not measured; series absent: vllm:generation_tokens_total of decode"},
		{"negative", func(e *fakepd.Engine) (int, string) {
			return 200, e.Text(e.Counters) + fakepd.LocalHit[:len(fakepd.LocalHit)-1] + ",engine=\"1\"} -5\n"
		}, `refuted: vllm:prompt_tokens_by_source_total{engine="1",source="local_cache_hit"} is -5 on decode's page: a counter`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := fakepd.New(t)
			f.Decode.Page = c.page
			v := Sane(window(t, sourceOf(f), 1))
			assert.True(t, strings.HasPrefix(v.String(), c.want), "got  %s\nwant %s", v, c.want)
		})
	}
	t.Run("blind", func(t *testing.T) {
		t.Parallel()
		f := fakepd.New(t)
		f.Blind = true
		assert.Equal(t, StateInconclusive, Sane(window(t, sourceOf(f), 1)).State)
	})
}
