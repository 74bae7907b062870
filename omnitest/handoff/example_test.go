package handoff_test

import (
	"context"
	"fmt"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// One request through a proxy, judged by all three ledgers. The control is prefill asked alone, before the window opens.
func Example() {
	ctx := context.Background()
	source := handoff.Source{
		Entry:   &api.Client{BaseURL: "http://127.0.0.1:8000"},
		Prefill: handoff.Endpoint{API: &api.Client{BaseURL: "http://127.0.0.1:8100"}},
		Decode:  handoff.Endpoint{API: &api.Client{BaseURL: "http://127.0.0.1:8200"}},
		// 12 layers, 2 KV heads of 128, bf16: with it even a missing block shows.
		BytesPerToken: handoff.KVBytesPerToken(12, 2, 128, 2),
	}
	request := api.CompletionRequest{Prompt: "a prompt that nobody has sent before", Sampling: api.Sampling{MaxTokens: 32, Logprobs: 2}}
	control, err := source.Prefill.API.Complete(ctx, request)
	if err != nil {
		fmt.Println("control:", err)
		return
	}

	window, err := handoff.Open(ctx, source)
	if err != nil {
		fmt.Println(err)
		return
	}
	request.RequestID = "example-1"
	answer, err := source.Entry.StreamComplete(ctx, request, nil)
	seen := handoff.Observed(answer, err)
	seen.Prompt, seen.Want, seen.WantFrom, seen.Margins = request.Prompt, control.String(), "control: prefill alone", textcheck.MarginsOf(control)
	window.Observe(seen)
	evidence, err := window.Close(ctx)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(handoff.Proven(evidence))
}
