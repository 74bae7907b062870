package proxy

import (
	"context"
	"net/http"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client that nobody here wrote.
func TestOpenAIClient(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r := newRig(t, nil)
	client := openai.NewClient(option.WithBaseURL(r.url+"/v1"), option.WithAPIKey("k"), option.WithMaxRetries(0))

	r.d.answer = saysJSON(string(recording(t, "vllm-0.32.0-completion.json")))
	text, err := client.Completions.New(ctx, openai.CompletionNewParams{
		Model: "tiny", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("The quick")}, MaxTokens: openai.Int(16),
	})
	require.NoError(t, err)
	assert.Equal(t, "eh quickB6x appleBB shor quickmps apple apple applej apple", text.Choices[0].Text)
	assert.EqualValues(t, 16, text.Usage.CompletionTokens)
	assert.Equal(t, "Bearer k", r.d.calls()[0].header.Get("Authorization"))
	assert.JSONEq(t, recordedTicket(t), string(r.d.calls()[0].fields(t)["kv_transfer_params"]))

	r.d.answer = says(200, "text/event-stream; charset=utf-8", recording(t, "vllm-0.32.0-chat-stream.sse"))
	stream := client.Chat.Completions.NewStreaming(ctx, openai.ChatCompletionNewParams{
		Model: "tiny", Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage("hello")}, MaxCompletionTokens: openai.Int(16),
	})
	events, finish := 0, ""
	for stream.Next() {
		events++
		if c := stream.Current().Choices; len(c) > 0 && c[0].FinishReason != "" {
			finish = c[0].FinishReason
		}
	}
	require.NoError(t, stream.Err())
	assert.Equal(t, "length", finish)
	assert.Greater(t, events, 10)

	r.d.answer = completion(plan)
	picture, err := client.Images.Generate(ctx, openai.ImageGenerateParams{Model: "tiny", Prompt: "a shop", Size: "1024x1024"})
	require.NoError(t, err)
	assert.Equal(t, "aGk=", picture.Data[0].B64JSON)
	assert.Equal(t, plan, r.last().Hop("dit").Plan)

	models, err := client.Models.List(ctx)
	require.NoError(t, err)
	assert.Equal(t, "tiny", models.Data[0].ID)

	r.p.answer = func(http.ResponseWriter, *http.Request, []byte) { panic(http.ErrAbortHandler) }
	_, err = client.Completions.New(ctx, openai.CompletionNewParams{Model: "tiny", Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String("x")}})
	var apiError *openai.Error
	require.ErrorAs(t, err, &apiError)
	assert.Equal(t, 502, apiError.StatusCode)
	assert.Equal(t, "prefill: no answer: EOF", apiError.Message)
	assert.Equal(t, "BadGatewayError", apiError.Type)
}
