package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Mapped is one name of another tool and what it is here. Tools use the same words for different things, so the mapping is part
// of an import and is meant to be printed.
type Mapped struct {
	Theirs string
	Ours   string // "": has no counterpart, and was left out
	Note   string
}

// Import makes a document from the result file of another tool: `vllm bench serve --save-result`, aiperf's
// profile_export_aiperf.json, guidellm's benchmarks.json. Percentiles that the number of requests does not support are refused
// as everywhere, with the tool's figure in the reason. What the file does not say (the machine, the client's error, memory) is
// not measured.
func Import(path string) (Result, []Mapped, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Result{}, nil, fmt.Errorf("report: %w", err)
	}
	var head map[string]json.RawMessage
	if err := json.Unmarshal(raw, &head); err != nil {
		return Result{}, nil, fmt.Errorf("report: %s is no result file: %w", path, err)
	}
	has := func(keys ...string) bool {
		for _, k := range keys {
			if _, there := head[k]; !there {
				return false
			}
		}
		return true
	}
	var r Result
	var m []Mapped
	switch {
	case has("schema"):
		return Result{}, nil, fmt.Errorf("report: %s is a document of omnitest, if any: read it with Read", path)
	case has("completed", "mean_ttft_ms"):
		r, m, err = importVLLM(raw)
	case has("request_latency", "request_throughput") && (has("aiperf_version") || has("input_config")):
		r, m, err = importAIPerf(raw)
	case has("benchmarks", "metadata"):
		r, m, err = importGuideLLM(raw)
	default:
		err = errors.New("no document of omnitest (schema) and no file of vllm bench serve (completed, mean_ttft_ms), aiperf (aiperf_version, request_latency) or guidellm (metadata, benchmarks)")
	}
	if err != nil {
		return Result{}, nil, fmt.Errorf("report: %s: %w", path, err)
	}
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	for i := range r.Rows {
		if r.Rows[i].Name == "" {
			r.Rows[i].Name = base
		}
		r.Rows[i].Client.Verdict = metrics.ClientUnknown
		r.Rows[i].Client.Reasons = []string{r.Provenance.Tool + " does not measure its own error"}
		r.Rows[i].GPUMemory = metrics.Absent("not in the file")
		r.Rows[i].Hardware.Total.Absent = "not in the file"
	}
	r.Schema = Schema
	return r, m, nil
}

// MappingText is a mapping as a table.
func MappingText(m []Mapped) string {
	rows := [][]string{{"in the file", "here", "remark"}}
	for _, one := range m {
		ours := one.Ours
		if ours == "" {
			ours = "no counterpart"
		}
		rows = append(rows, []string{clean(one.Theirs), clean(ours), clean(one.Note)})
	}
	var b strings.Builder
	markdown(&b, rows, 3)
	return b.String()
}

// told is a figure of another tool's file; nil: the file does not have it.
func told(v *float64, name string) metrics.Value {
	if v == nil {
		return metrics.Absent("the file has no " + name)
	}
	return metrics.Of(*v)
}

// quoted is a percentile of another tool, refused where too few requests support it. The tool's figure stays readable.
func quoted(v *float64, name string, p float64, requests int) metrics.Value {
	if v == nil {
		return metrics.Absent("the file has no " + name)
	}
	if need := metrics.MinRequests(p); requests < need {
		return metrics.Absent(fmt.Sprintf("%d requests, p%g needs %d; the file says %.4g", requests, p, need, *v))
	}
	return metrics.Of(*v)
}

// noDist is a figure that the file does not have.
func noDist(why string) metrics.Dist { return metrics.Describe(nil, 0, "ms", why) }
