package workload

// The presets are quantiles that were computed from public data (type 7, the same as metrics.Percentile), so anyone can compute them
// again. The tie between the lengths of a prompt and of its answer is lost: each is drawn for itself.

// ChatInput and ChatOutput are the token counts of a chat service: 19,366 requests of one hour, Azure LLM inference trace 2023,
// conversation (Patel et al., "Splitwise", ISCA 2024). Means 1,154.7 and 211.1.
//
// Source: github.com/Azure/AzurePublicDataset at b469a113, data/AzureLLMInferenceTrace_conv.csv, columns ContextTokens and GeneratedTokens.
var (
	ChatInput = Quantiles{Name: "Azure LLM trace 2023, conversation, context tokens", At: []Quantile{
		{0, 2}, {.01, 29}, {.05, 181}, {.10, 207}, {.25, 396}, {.50, 1020}, {.75, 1189}, {.90, 2734.5}, {.95, 4083}, {.99, 4142}, {1, 14050}}}
	ChatOutput = Quantiles{Name: "Azure LLM trace 2023, conversation, generated tokens", At: []Quantile{
		{0, 7}, {.01, 16}, {.05, 41}, {.10, 54}, {.25, 85}, {.50, 129}, {.75, 395}, {.90, 424}, {.95, 451}, {.99, 601}, {1, 1000}}}
)

// CodeInput and CodeOutput are those of a coding assistant: long prompts, very short answers. 8,819 requests, means 2,047.8 and 27.9.
//
// Source: as above, data/AzureLLMInferenceTrace_code.csv.
var (
	CodeInput = Quantiles{Name: "Azure LLM trace 2023, code, context tokens", At: []Quantile{
		{0, 3}, {.01, 17}, {.05, 75}, {.10, 147}, {.25, 578}, {.50, 1469}, {.75, 2744.5}, {.90, 5187.6}, {.95, 7303.3}, {.99, 7436}, {1, 7437}}}
	CodeOutput = Quantiles{Name: "Azure LLM trace 2023, code, generated tokens", At: []Quantile{
		{0, 6}, {.05, 6.1}, {.10, 7}, {.25, 9}, {.50, 13}, {.75, 24}, {.90, 55}, {.95, 90}, {.99, 251.5}, {1, 1899}}}
)

// PictureWords are the words of a prompt for a picture: the 1,632 prompts of PartiPrompts (Yu et al., "Scaling autoregressive models
// for content-rich text-to-image generation", 2022). Mean 9.1. They were written to test models; a service's own prompts may be longer.
//
// Source: github.com/google-research/parti at 5a657978, PartiPrompts.tsv, column Prompt, split at white space.
var PictureWords = Quantiles{Name: "PartiPrompts, words", At: []Quantile{
	{0, 1}, {.01, 1}, {.05, 2}, {.10, 2}, {.25, 5}, {.50, 8}, {.75, 10.25}, {.90, 19}, {.95, 25}, {.99, 36}, {1, 67}}}

// EditWords are the words of an edit instruction: the 737 single-turn instructions of ImgEdit-Bench (Ye et al., "ImgEdit: a unified
// image editing dataset and benchmark", 2025). Mean 12.2.
//
// Source: github.com/PKU-YuanGroup/ImgEdit at 547185d1, Benchmark/Basic/basic_edit.json, field prompt, split at white space.
var EditWords = Quantiles{Name: "ImgEdit-Bench, words", At: []Quantile{
	{0, 3}, {.01, 5}, {.05, 6}, {.10, 7}, {.25, 8}, {.50, 10}, {.75, 15}, {.90, 20}, {.95, 22}, {.99, 31}, {1, 44}}}

// ChatPreset is chat traffic as completions: prompts and answers as long as those of a chat service.
func ChatPreset() Text { return Text{Input: ChatInput, Output: ChatOutput} }

// PicturePreset asks for pictures of 1024x1024 on prompts as long as those of PartiPrompts.
func PicturePreset() Pictures { return Pictures{Words: PictureWords} }

// EditPreset sends one input of 1024x1024 with an instruction as long as those of ImgEdit-Bench.
func EditPreset() Edits { return Edits{Words: EditWords} }
