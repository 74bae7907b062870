package workload

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/omnitest/suite/omnitest/api"
)

// traceChunk is how many tokens one hash id of a trace stands for, as in Mooncake's traces.
const traceChunk = 512

// WriteTimedTrace writes a schedule with the lengths of its requests as JSON lines in the form of Mooncake's traces (timestamp in ms,
// input_length, output_length, hash_ids), so that another tool can send the same load:
//
//	vllm bench serve --dataset-name timed_trace --self-timed --timed-trace-sec-multiplier 0.001 --timed-trace-chunk-hash-size 512
//
// The prompts are the tool's own. Each has hash ids of its own, so it shares no prefix with another; without any vLLM 0.32 sends an
// empty prompt.
func WriteTimedTrace(w io.Writer, due []time.Duration, requests func(i int) api.CompletionRequest) error {
	b := bufio.NewWriter(w)
	lines := json.NewEncoder(b)
	next := 0
	for i, d := range due {
		r := requests(i)
		line := struct {
			Timestamp json.Number `json:"timestamp"`
			Input     int         `json:"input_length"`
			Output    int         `json:"output_length"`
			Hashes    []int       `json:"hash_ids"`
		}{json.Number(fmt.Sprintf("%d.%06d", d/time.Millisecond, d%time.Millisecond)), len(r.PromptIDs), r.MaxTokens, nil}
		if r.PromptIDs == nil {
			line.Input = len(r.Prompt)
		}
		for left := line.Input; left > 0; left -= traceChunk {
			line.Hashes = append(line.Hashes, next)
			next++
		}
		if err := lines.Encode(line); err != nil {
			return err
		}
	}
	return b.Flush()
}
