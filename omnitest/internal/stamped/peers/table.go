package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const intro = `# What load clients report, beside the truth

Written by ` + "`make peers`" + `; do not edit. Each client was asked for the same load from the same server, one after the other.
The server (` + "`omnitest/internal/stamped`" + `) plants a TTFT of %v and a token each %v, %d tokens an answer, and records when each
request arrived and when each event was written. In each cell stands what the client reported, and in brackets what the server
knows. A difference is the error of the client, and of the wire.

- TTFT: true is first event written - request arrived (by the kernel, on Linux). ITL: the median gap between two chunks of an answer; true is that of the writes.
  aiperf's is its inter_chunk_latency. guidellm reports no gaps: its inter_token_latency is a mean for each request, so it cannot show
  what happens to single gaps.
- req/s: true is requests / (last end - first arrival). arrivals/s: by the server, of the open loop; planned is %g. Of 400
  Poisson arrivals the rate varies by 5 %% from seed to seed; vllm stretches its schedule to the planned length.
- in flight: the most requests at once, by the server; in brackets the client's own figure, where it has one.
- late p99: the server's own error, written - due. Where it is not small against the figures, the row says more about the machine than
  about the client.
- CPU: seconds of all processes of the client, its start included. The clients of others start Python and make their prompts in it.
- p99 of %d requests is their maximum or near it: no p99 at all.

`

func render(rows []row, versions []string, before, after, note string, bound bool) string {
	var b strings.Builder
	fmt.Fprintf(&b, intro, ttft, interval, tokens, plans[3].Rate, plans[0].Requests)
	fmt.Fprintf(&b, "%s; %s. Load average %s before, %s after. ", time.Now().UTC().Format("2006-01-02"), processor(), before, after)
	if bound {
		b.WriteString("Server on core 0, client on core 1. ")
	} else {
		b.WriteString("Server and client share all cores: no taskset, or one core. ")
	}
	if note != "" {
		b.WriteString(note + " ")
	}
	fmt.Fprintf(&b, "%s; ours is load.Plan, api.Client (Lean, connections opened before) and metrics.VLLM of this checkout.\n", strings.Join(versions, ", "))
	b.WriteString("\n| load | client | requests | TTFT median, ms | TTFT p99, ms | ITL median, ms | req/s | arrivals/s | in flight | late p99, ms | CPU, s |\n|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n")
	for _, r := range rows {
		if r.Err != nil {
			line, _, _ := strings.Cut(r.Err.Error(), "\n")
			fmt.Fprintf(&b, "| %v | %s | failed: %s | | | | | | | | |\n", r.Plan, r.Tool, line)
			continue
		}
		arrivals, peak := "", fmt.Sprint(r.Truth.InFlightPeak)
		if r.Plan.Rate > 0 {
			arrivals = fmt.Sprintf("%.2f", r.Truth.ArrivalRate)
		}
		if r.Said.Peak > 0 {
			peak += fmt.Sprintf(" (%d)", r.Said.Peak)
		}
		fmt.Fprintf(&b, "| %v | %s | %d | %.1f (%.1f) | %.1f (%.1f) | %.2f (%.2f) | %.2f (%.2f) | %s | %s | %.2f | %.1f |\n", r.Plan, r.Tool, r.Plan.Requests,
			r.Said.TTFT50, r.Truth.TTFT.P50, r.Said.TTFT99, r.Truth.TTFT.P99, r.Said.ITL50, r.Truth.ITL.P50, r.Said.Rate, r.Completed, arrivals, peak,
			r.Truth.Late.P99, r.CPU.Seconds())
	}
	for _, r := range rows {
		if r.Tool == "ours" && r.Err == nil && r.Plan.Rate > 0 {
			fmt.Fprintf(&b, "\nOurs also says how late it sent the requests of the open loop: median %.3f ms, p99 %.3f ms.\n", r.Said.Dispatch50, r.Said.Dispatch99)
		}
	}
	b.WriteString("\nThe result files of plan c1 (" + fmt.Sprint(plans[0].Requests) + " requests, one at a time) lie beside this page, one folder a tool. They are as the tools\n" +
		"wrote them, but for folders and the machine's name, and lists of requests are cut to the first three.\n")
	return b.String()
}

// keep stores a tool's result files of the smallest plan.
func (b *bench) keep(out string, t tool) error {
	for _, name := range t.files {
		text, err := os.ReadFile(b.result(t.name, plans[0], name))
		if err != nil {
			return err
		}
		if text, err = b.trim(name, text); err != nil {
			return fmt.Errorf("%s/%s: %w", t.name, name, err)
		}
		if err := os.MkdirAll(filepath.Join(out, t.name), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(out, t.name, name), text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var kernel = regexp.MustCompile(`Linux-[^"]*`)

// trim takes out folders and the machine's name, and all but three of a list of requests.
func (b *bench) trim(name string, text []byte) ([]byte, error) {
	host, _ := os.Hostname()
	pairs := []string{b.tokenizer(), "MODEL", b.cache, "CACHE", b.work, "RESULTS", b.server.URL, "http://127.0.0.1:8000"}
	if host != "" {
		pairs = append(pairs, host, "HOST")
	}
	s := kernel.ReplaceAllString(strings.NewReplacer(pairs...).Replace(string(text)), "Linux")
	const most = 3
	if strings.HasSuffix(name, ".jsonl") {
		lines := strings.SplitAfter(s, "\n")
		return []byte(strings.Join(lines[:min(most, len(lines))], "")), nil
	}
	if !strings.Contains(s, `"generative_benchmark"`) {
		return []byte(s), nil
	}
	// guidellm's: only the lists of requests are touched, the rest keeps its order and its digits
	var doc struct {
		Benchmarks []struct {
			Requests struct {
				Successful []json.RawMessage `json:"successful"`
			} `json:"requests"`
		} `json:"benchmarks"`
	}
	if err := json.Unmarshal([]byte(s), &doc); err != nil {
		return nil, err
	}
	for _, bm := range doc.Benchmarks {
		for i, r := range bm.Requests.Successful {
			if i < most {
				continue
			}
			at := strings.Index(s, string(r))
			if at < 0 {
				return nil, fmt.Errorf("request %d is not where it was read", i)
			}
			from := strings.LastIndexByte(s[:at], ',')
			s = s[:from] + s[at+len(r):]
		}
	}
	if !json.Valid([]byte(s)) {
		return nil, fmt.Errorf("cutting its requests broke it")
	}
	return []byte(s), nil
}
