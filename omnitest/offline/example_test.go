package offline_test

import (
	"context"
	"fmt"

	"github.com/omnitest/suite/omnitest/offline"
)

// The reference engine repeats its prompt; offline.VLLM takes its place where a model is to be measured.
func Example() {
	var engine offline.Engine = &offline.Reference{}
	defer engine.Close()
	results, err := engine.Generate(context.Background(), []offline.Job{{Prompt: "A red fox", MaxTokens: 5}, {Prompt: "你好", MaxTokens: 64}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, r := range results {
		fmt.Printf("%q: %d prompt tokens, %d output tokens, %s\n", r.Text, r.PromptTokens, r.OutputTokens, r.FinishReason)
	}
	// Output:
	// "A red": 9 prompt tokens, 5 output tokens, length
	// "你好": 6 prompt tokens, 7 output tokens, stop
}
