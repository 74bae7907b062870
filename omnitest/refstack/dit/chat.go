package dit

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// chat is POST /v1/chat/completions: the last user message is the prompt, its image parts make it an edit. Diffusion
// parameters stand under "extra_body" or flat at the top (both recorded). An unknown model and stream=true are accepted
// and ignored; every failure of the engine is a 500 of type BadRequestError.
func (s *Server) chat(w http.ResponseWriter, r *http.Request) *failure {
	arrived := time.Now()
	raw, fields, bad := readJSON(w, r)
	if bad != nil {
		return bad
	}
	m, ok := fields["messages"]
	if !ok {
		return invalid(missing("messages", pyRepr(raw)))
	}
	prompt, urls, bad := lastUser(m)
	if bad != nil {
		return bad
	}
	var extra map[string]json.RawMessage
	if e, ok := fields["extra_body"]; ok && json.Unmarshal(e, &extra) == nil {
		for k, v := range extra {
			fields[k] = v
		}
	}
	const failed = "Image generation"
	fails := func(err error) *failure { return engineFailure(failed, "BadRequestError", err) }
	f := form{fields: fields}
	j := Job{Prompt: prompt}
	width, _ := f.integer("width", 0, 1, 0)
	height, _ := f.integer("height", 0, 1, 0)
	j.W, j.H = int(width), int(height)
	if j.W == 0 || j.H == 0 {
		j.W, j.H = 0, 0
	}
	steps, _ := f.integer("num_inference_steps", defaultSteps, 1, 0)
	seed, overflow := f.integer("seed", int64(rand.Uint32()), 1, 0)
	n, _ := f.integer("num_outputs_per_prompt", 1, 1, 0)
	j.TrueCFG = f.float("true_cfg_scale", 0, 1, 0)
	size := f.str("size", "")
	if len(f.problems) > 0 {
		return invalid(f.problems...)
	}
	if size != "" {
		if j.W, j.H, bad = parseSize(size); bad != nil {
			return bad
		}
	}
	if overflow != nil {
		return fails(overflow)
	}
	for _, u := range urls {
		// A picture that cannot be read is dropped by the real server, and the edit then fails for want of one.
		b, err := fetch(r.Context(), u)
		if err == nil {
			if m, bad := pixels(b); bad == nil {
				j.Inputs = append(j.Inputs, m)
				continue
			}
		}
		return fails(errors.New("Missing preprocess images that should have been created by the preprocess function."))
	}
	if len(j.Inputs) > maxInputs {
		return badRequest("Received %d input images. At most %d images are supported by this model.", len(j.Inputs), maxInputs)
	}
	j.Steps, j.Seed = int(steps), seed
	b, err := s.run(r.Context(), arrived, j, int(max(1, n)))
	if err != nil {
		return fails(err)
	}
	mixed, bad := s.mixed(fields["modalities"], prompt, j.Seed)
	if bad != nil {
		return bad
	}
	mixed.late = s.cfg.Faults.MixedOrder
	return sendChat(w, s.cfg.Model, b, mixed, len(strings.Fields(prompt)))
}

// lastUser gives the text and the image URLs of the last message of a user.
func lastUser(raw json.RawMessage) (text string, urls []string, f *failure) {
	var messages []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(raw, &messages); err != nil {
		return "", nil, invalid(problem{kind: "list_type", loc: []string{"'messages'"}, msg: "Input should be a valid list", input: pyRepr(raw)})
	}
	for i := len(messages) - 1; i >= 0; i-- {
		if messages[i].Role != "user" {
			continue
		}
		if json.Unmarshal(messages[i].Content, &text) == nil {
			return text, nil, nil
		}
		var parts []struct {
			Type     string `json:"type"`
			Text     string `json:"text"`
			ImageURL struct {
				URL string `json:"url"`
			} `json:"image_url"`
		}
		if err := json.Unmarshal(messages[i].Content, &parts); err != nil {
			return "", nil, badRequest("Invalid content of message %d: want a string or a list of parts.", i)
		}
		var words []string
		for _, p := range parts {
			switch p.Type {
			case "text":
				words = append(words, p.Text)
			case "image_url":
				urls = append(urls, p.ImageURL.URL)
			}
		}
		return strings.Join(words, " "), urls, nil
	}
	return "", nil, &failure{status: http.StatusBadRequest, kind: "BadRequestError", message: "No text prompt found in messages."}
}

// sendChat answers with a list of image parts; each carries the same timings, the top-level metrics stay null.
// Usage is made up as the real server makes it up: words in, one token out.
func sendChat(w http.ResponseWriter, model string, b *batch, mixed mixture, words int) *failure {
	body, file := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(body)
	defer buffers.Put(file)
	stages, err := json.Marshal(stageMetrics{b.stages, b.peakMB})
	if err != nil {
		return engineFailure("Image encoding", "", err)
	}
	name, err := json.Marshal(model)
	if err != nil {
		return engineFailure("Image encoding", "", err)
	}
	out := append((*body)[:0], `{"id":"chatcmpl-`+randomHex(8)+`","object":"chat.completion","created":`...)
	out = strconv.AppendInt(out, time.Now().Unix(), 10)
	out = append(out, `,"model":`...)
	out = append(out, name...)
	out = append(out, `,"choices":[{"index":0,"message":{"role":"assistant","content":[`...)
	text := mixed.text
	if mixed.late {
		text = nil
	}
	out = append(out, text...)
	for i, r := range b.results {
		if i > 0 || len(text) > 0 {
			out = append(out, ',')
		}
		f := appender{(*file)[:0]}
		if err := packed.Encode(&f, r.Image); err != nil {
			return engineFailure("Image encoding", "", err)
		}
		*file = f.b
		out = append(out, `{"type":"image_url","image_url":{"url":"data:image/png;base64,`...)
		out = appendBase64(out, *file)
		out = append(out, `"},`...)
		out = append(out, stages[1:]...)
	}
	if mixed.late && len(mixed.text) > 0 {
		out = append(append(out, ','), mixed.text...)
	}
	out = append(out, `],"refusal":null,"annotations":null,"audio":`...)
	out = append(out, mixed.audio()...)
	out = append(out, `,"function_call":null,"reasoning":null},`...)
	out = append(out, `"logprobs":null,"finish_reason":"stop","stop_reason":null,"token_ids":null,"routed_experts":null}],`...)
	out = append(out, `"service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":`...)
	out = strconv.AppendInt(out, int64(words), 10)
	out = append(out, `,"total_tokens":`...)
	out = strconv.AppendInt(out, int64(words+1), 10)
	out = append(out, `,"completion_tokens":1,"prompt_tokens_details":null},"prompt_logprobs":null,"prompt_token_ids":null,`...)
	out = append(out, `"prompt_text":null,"kv_transfer_params":null,"ec_transfer_params":null,"metrics":null}`...)
	*body = out
	writeBody(w, http.StatusOK, "application/json", out)
	return nil
}
