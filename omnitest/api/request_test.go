package api_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"testing"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// seen is what arrived at a server.
type seen struct {
	path   string
	header http.Header
	body   string
	form   map[string][]string
	files  []sentFile
}

type sentFile struct {
	field, name, contentType string
	data                     []byte
}

// capture is a server that refuses everything and notes what it was asked.
func capture(t *testing.T) (*api.Client, *seen) {
	s := &seen{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		*s = seen{path: r.Method + " " + r.URL.Path, header: r.Header}
		kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if kind == "multipart/form-data" {
			if assert.Greater(t, r.ContentLength, int64(0), "the length is known, so it is sent") && assert.NoError(t, r.ParseMultipartForm(1<<20)) {
				s.form = r.MultipartForm.Value
				for field, files := range r.MultipartForm.File {
					for _, f := range files {
						in, err := f.Open()
						if assert.NoError(t, err) {
							data, _ := io.ReadAll(in)
							s.files = append(s.files, sentFile{field, f.Filename, f.Header.Get("Content-Type"), data})
						}
					}
				}
			}
		} else {
			b, _ := io.ReadAll(r.Body)
			s.body = string(b)
		}
		w.WriteHeader(400)
	})
	return c, s
}

func TestRequestBodies(t *testing.T) {
	seed := int64(0)
	hi := []api.Message{{Role: "user", Text: `say "红<b>"`}}
	for name, c := range map[string]struct {
		ask  func(*api.Client) error
		want string
	}{
		"the least": {
			func(c *api.Client) error {
				_, err := c.Complete(t.Context(), api.CompletionRequest{Prompt: "a"})
				return err
			},
			`{"prompt":"a","temperature":0}`,
		},
		"everything": {
			func(c *api.Client) error {
				c.Model = "client's"
				_, err := c.Complete(t.Context(), api.CompletionRequest{Model: "own", PromptIDs: []int{1, 2}, Sampling: api.Sampling{
					MaxTokens: 3, Temperature: 0.5, Seed: &seed, Stop: []string{"\n"}, N: 2, IgnoreEOS: true, Logprobs: 4, TokenIDs: true,
					Ticket: api.Ticket(`{ "b":1,  "a":[[1]]}`)}})
				return err
			},
			`{"model":"own","prompt":[1,2],"max_tokens":3,"temperature":0.5,"seed":0,"stop":["\n"],"n":2,"ignore_eos":true,"logprobs":4,"return_token_ids":true,"kv_transfer_params":{ "b":1,  "a":[[1]]}}`,
		},
		"extra comes last and may break a field": {
			func(c *api.Client) error {
				c.Model = "m"
				_, err := c.Complete(t.Context(), api.CompletionRequest{Prompt: "a", Sampling: api.Sampling{Extra: map[string]any{
					"temperature": "hot", "zz": nil, "add": json.RawMessage(`{"x": 1}`)}}})
				return err
			},
			`{"model":"m","prompt":"a","temperature":"hot","add":{"x": 1},"zz":null}`,
		},
		"streamed": {
			func(c *api.Client) error {
				_, err := c.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "a"}, nil)
				return err
			},
			`{"prompt":"a","temperature":0,"stream":true,"stream_options":{"include_usage":true}}`,
		},
		"chat": {
			func(c *api.Client) error {
				_, err := c.StreamChat(t.Context(), api.ChatRequest{Messages: hi, Sampling: api.Sampling{Logprobs: 2}}, nil)
				return err
			},
			`{"messages":[{"role":"user","content":"say \"红<b>\""}],"temperature":0,"logprobs":true,"top_logprobs":2,"stream":true,"stream_options":{"include_usage":true}}`,
		},
		"chat for a picture": {
			func(c *api.Client) error {
				_, err := c.Chat(t.Context(), api.ChatRequest{Messages: hi, Modalities: []string{"image"}, Image: &api.ImageParams{
					NegativePrompt: "blur", N: 2, Size: api.Size{W: 1376, H: 768}, Steps: 4, Seed: 7, TrueCFG: 4}})
				return err
			},
			`{"messages":[{"role":"user","content":"say \"红<b>\""}],"modalities":["image"],"temperature":0,` +
				`"extra_body":{"height":768,"width":1376,"num_outputs_per_prompt":2,"seed":7,"num_inference_steps":4,"true_cfg_scale":4,"negative_prompt":"blur"}}`,
		},
		"chat with pictures": {
			func(c *api.Client) error {
				_, err := c.Chat(t.Context(), api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "look", Images: []api.Input{
					{Data: []byte("\x89PNG\r\n\x1a\n")}, {Data: []byte("?"), Type: "image/x"}, {Data: []byte("?")}}}}})
				return err
			},
			`{"messages":[{"role":"user","content":[{"type":"text","text":"look"},` +
				`{"type":"image_url","image_url":{"url":"data:image/png;base64,` + base64.StdEncoding.EncodeToString([]byte("\x89PNG\r\n\x1a\n")) + `"}},` +
				`{"type":"image_url","image_url":{"url":"data:image/x;base64,Pw=="}},` +
				`{"type":"image_url","image_url":{"url":"data:application/octet-stream;base64,Pw=="}}]}],"temperature":0}`,
		},
		"picture": {
			func(c *api.Client) error {
				_, err := c.Generate(t.Context(), api.ImageRequest{Prompt: "fox", ImageParams: api.ImageParams{
					Size: api.Size{W: 512, H: 256}, Steps: 4, TrueCFG: 1}, Extra: map[string]any{"user": "me"}})
				return err
			},
			`{"prompt":"fox","n":1,"size":"512x256","response_format":"b64_json","output_format":"png","seed":0,"num_inference_steps":4,"true_cfg_scale":1,"user":"me"}`,
		},
		"picture of the engine's size": {
			func(c *api.Client) error {
				_, err := c.Generate(t.Context(), api.ImageRequest{Prompt: "fox"})
				return err
			},
			`{"prompt":"fox","n":1,"response_format":"b64_json","output_format":"png","seed":0}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			client, got := capture(t)
			assert.Equal(t, api.Refused, api.KindOf(c.ask(client)))
			assert.Equal(t, c.want, got.body)
			assert.True(t, json.Valid([]byte(got.body)))
			assert.Equal(t, asJSON, got.header.Get("Content-Type"))
		})
	}
}

func TestRequestHeaders(t *testing.T) {
	c, got := capture(t)
	c.Complete(t.Context(), api.CompletionRequest{Prompt: "a"})
	assert.Equal(t, "POST /v1/completions", got.path)
	for _, h := range []string{"X-Request-Id", "Authorization", "Accept-Encoding"} {
		assert.Empty(t, got.header.Values(h), h)
	}
	c.APIKey = "secret"
	_, err := c.StreamChat(t.Context(), api.ChatRequest{Sampling: api.Sampling{RequestID: "r-1"}}, nil)
	assert.Equal(t, "POST /v1/chat/completions", got.path)
	assert.Equal(t, "r-1", got.header.Get("X-Request-Id"))
	assert.Equal(t, "Bearer secret", got.header.Get("Authorization"))
	assert.Equal(t, "text/event-stream", got.header.Get("Accept"))
	assert.NotContains(t, err.Error(), "secret")
	c.Generate(t.Context(), api.ImageRequest{RequestID: "r-2"})
	assert.Equal(t, "POST /v1/images/generations", got.path)
	assert.Equal(t, "r-2", got.header.Get("X-Request-Id"))
	c.BaseURL += "/"
	c.Health(t.Context())
	assert.Equal(t, "GET /health", got.path)
}

func TestEdit(t *testing.T) {
	c, got := capture(t)
	c.Model = "qwen-image-edit"
	first, second := testPNG(t, 30, 20), encodeJPEG(t, noise(20, 30))
	_, err := c.Edit(t.Context(), api.EditRequest{
		Prompt: "make the fox 蓝色", RequestID: "e-1", Images: []api.Input{{Data: first}, {Data: second, Name: `b"1.jpg`}},
		Mask: &api.Input{Data: first}, ImageParams: api.ImageParams{Steps: 4, Seed: 42, TrueCFG: 2.5, NegativePrompt: " "},
		Extra: map[string]string{"strength": "0.7", "output_format": "webp"},
	})
	assert.Equal(t, api.Refused, api.KindOf(err))
	assert.Equal(t, "POST /v1/images/edits", got.path)
	assert.Equal(t, "e-1", got.header.Get("X-Request-Id"))
	assert.Equal(t, map[string][]string{
		"prompt": {"make the fox 蓝色"}, "model": {"qwen-image-edit"}, "n": {"1"}, "size": {"auto"}, "seed": {"42"}, "num_inference_steps": {"4"},
		"true_cfg_scale": {"2.5"}, "negative_prompt": {" "}, "response_format": {"b64_json"}, "output_format": {"webp"}, "strength": {"0.7"},
	}, got.form)
	assert.ElementsMatch(t, []sentFile{
		{"image", "image-1.png", "image/png", first}, {"image", `b"1.jpg`, "image/jpeg", second}, {"mask_image", "mask.png", "image/png", first},
	}, got.files)
	_, err = c.Edit(t.Context(), api.EditRequest{Prompt: "x", ImageParams: api.ImageParams{Size: api.Size{W: 8, H: 8}}})
	assert.Equal(t, api.Refused, api.KindOf(err))
	assert.Equal(t, []string{"8x8"}, got.form["size"])
	assert.Empty(t, got.files, "no picture is a request too: the server must refuse it")
}

func TestEditAnswer(t *testing.T) {
	raw := testPNG(t, 12, 10)
	c := answer(t, 200, asJSON, `{"created":5,"data":[{"b64_json":"`+base64.StdEncoding.EncodeToString(raw)+`"}],"output_format":"png","size":"12x10","cot_output":"a fox","metrics":null}`)
	out, err := c.Edit(t.Context(), api.EditRequest{Prompt: "x", Images: []api.Input{{Data: raw}}})
	require.NoError(t, err)
	assert.True(t, bytes.Equal(raw, out.Items[0].Raw))
	assert.Equal(t, "a fox", out.Plan)
}
