package proxy

import (
	"bytes"
	"encoding/json"
	"mime"
	"slices"
	"strconv"
	"strings"
)

// generations is POST /v1/images/generations.
func (c *call) generations() *failure {
	body, f := c.readObject()
	if f != nil {
		return f
	}
	if c.p.c.DiT == "" {
		return noStage("dit")
	}
	var prompt string
	switch raw := body.get("prompt"); {
	case raw == nil:
		return missingField("prompt")
	case json.Unmarshal(raw, &prompt) != nil:
		return badRequest("Bad Request", "body.prompt", "1 validation error:\n  {'type': 'string_type', 'loc': ('body', 'prompt'), 'msg': 'Input should be a valid string'}")
	}
	if c.p.c.Prefill != "" {
		if prompt, f = c.planFromPrompt(prompt); f != nil {
			return f
		}
		body = body.set("prompt", quote(prompt))
	}
	return c.paint("/v1/images/generations", c.r.Header.Get("Content-Type"), c.ditModel(body).pieces(), prompt)
}

// edits is POST /v1/images/edits: a form whose pictures, megabytes of them, are sent on from where they were read.
func (c *call) edits() *failure {
	raw, f := c.readBody()
	if f != nil {
		return f
	}
	if c.p.c.DiT == "" {
		return noStage("dit")
	}
	kind := c.r.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(kind)
	if err != nil || media != "multipart/form-data" || params["boundary"] == "" {
		return missingField("prompt") // what FastAPI says to a body that is no form
	}
	form, err := parseForm(raw, params["boundary"])
	if err != nil {
		return badRequest("Bad Request", "body", "reading the form: %v", err)
	}
	p, ok := form.value("prompt")
	if !ok {
		return missingField("prompt")
	}
	prompt := string(p)
	if c.p.c.Prefill != "" {
		if prompt, f = c.planFromPrompt(prompt); f != nil {
			return f
		}
		form.set("prompt", []byte(prompt))
	}
	switch {
	case c.p.c.DiTModel != "":
		form.set("model", []byte(c.p.c.DiTModel))
	case c.p.c.Prefill != "":
		form.drop("model")
	}
	return c.paint("/v1/images/edits", kind, form.pieces(), prompt)
}

// chat is POST /v1/chat/completions: text, or a picture where the request asks for one.
func (c *call) chat() *failure {
	const path = "/v1/chat/completions"
	body, f := c.readObject()
	if f != nil {
		return f
	}
	if !wantsPicture(body) {
		return c.text(path, body)
	}
	if c.p.c.DiT == "" {
		return noStage("dit")
	}
	var messages []object
	if f := readMessages(body.get("messages"), &messages); f != nil {
		return f
	}
	last := lastUser(messages)
	prompt := contentText(messages[last].get("content"))
	if c.p.c.Prefill != "" {
		ask, f := c.askPlan()
		if f != nil {
			return f
		}
		texts := make([]object, len(messages))
		for i, m := range messages {
			texts[i] = m
			if content := m.get("content"); len(content) > 0 && content[0] == '[' {
				texts[i] = m.set("content", quote(contentText(content)))
			}
		}
		if prompt, f = c.planLegs(path, ask.set("messages", joinObjects(texts))); f != nil {
			return f
		}
		messages[last] = messages[last].set("content", replaceText(messages[last].get("content"), prompt))
		body = body.set("messages", joinObjects(messages))
	}
	return c.paint(path, c.r.Header.Get("Content-Type"), c.ditModel(body).pieces(), prompt)
}

// paint is the last leg: the DiT's answer, pictures of megabytes, passes to the client as it is.
func (c *call) paint(path, kind string, body pieces, prompt string) *failure {
	rep, f := c.send(leg{stage: "dit", path: path, kind: kind, body: body, plan: prompt})
	if f != nil {
		return f
	}
	return rep.relay()
}

// ditModel puts the DiT's model name in the place of the client's. The client names the model it sees at the proxy, the AR
// one, and a DiT refuses a name that is not its own.
func (c *call) ditModel(body object) object {
	switch {
	case c.p.c.DiTModel != "":
		return body.set("model", quote(c.p.c.DiTModel))
	case c.p.c.Prefill != "":
		return body.drop("model")
	}
	return body // a DiT alone: its own name is the one that the client sees
}

func (c *call) planFromPrompt(prompt string) (string, *failure) {
	ask, f := c.askPlan()
	if f != nil {
		return "", f
	}
	return c.planLegs("/v1/completions", ask.set("prompt", quote(prompt)))
}

// askPlan is what both kinds of AR request for a plan have in common. Greedy, because a plan that changes by itself would
// change the picture. vLLM shortens an answer that does not fit behind its prompt, but refuses a max_tokens above the length
// of its context (recorded from 0.32: "max_tokens=4096 cannot be greater than max_model_len=2048").
func (c *call) askPlan() (object, *failure) {
	model, maxLen, f := c.askModel()
	if f != nil {
		return nil, f
	}
	tokens := c.p.c.PlanTokens
	if maxLen > 0 {
		tokens = min(tokens, maxLen)
	}
	return object(nil).
		set("model", quote(model)).
		set("max_tokens", strconv.AppendInt(nil, int64(tokens), 10)).
		set("temperature", []byte("0")), nil
}

// pictureKeys are the diffusion parameters that no text request has. vLLM-Omni reads them under "extra_body" (raw JSON) and
// at the top level (where the OpenAI client puts its extra_body).
var pictureKeys = []string{
	"height", "width", "size", "num_inference_steps", "guidance_scale", "true_cfg_scale", "negative_prompt",
	"num_outputs_per_prompt", "layers", "strength",
}

func wantsPicture(body object) bool {
	var modalities []string
	if json.Unmarshal(orNull(body.get("modalities")), &modalities) == nil && slices.Contains(modalities, "image") {
		return true
	}
	extra, _ := parseObject(orNull(body.get("extra_body")))
	return slices.ContainsFunc(pictureKeys, func(key string) bool { return body.has(key) || extra.has(key) })
}

func orNull(raw json.RawMessage) json.RawMessage {
	if raw == nil {
		return json.RawMessage("null")
	}
	return raw
}

func readMessages(raw json.RawMessage, into *[]object) *failure {
	if raw == nil {
		return missingField("messages")
	}
	list, err := parseList(raw)
	for _, m := range list {
		var o object
		if o, err = parseObject(m); err != nil {
			break
		}
		*into = append(*into, o)
	}
	if err != nil || lastUser(*into) < 0 {
		return badRequest("BadRequestError", "messages", "messages: want a list of messages with one of role user: the picture is made from its text")
	}
	return nil
}

func lastUser(messages []object) int {
	for i, m := range slices.Backward(messages) {
		if string(m.get("role")) == `"user"` {
			return i
		}
	}
	return -1
}

// contentText is the text of a message's content: a string, or the text parts of a list, joined by line ends as vLLM does.
func contentText(content json.RawMessage) string {
	var text string
	if json.Unmarshal(orNull(content), &text) == nil {
		return text
	}
	var texts []string
	parts, _ := parseList(content)
	for _, raw := range parts {
		if t, ok := textOf(raw); ok {
			texts = append(texts, t)
		}
	}
	return strings.Join(texts, "\n")
}

// textOf reads a content part {"type":"text","text":"..."}. Other parts, pictures above all, are not decoded.
func textOf(part []byte) (text string, ok bool) {
	o, err := parseObject(part)
	if err != nil || string(o.get("type")) != `"text"` {
		return "", false
	}
	return text, json.Unmarshal(orNull(o.get("text")), &text) == nil
}

// replaceText is a content with its text replaced and all other parts kept, in their order.
func replaceText(content json.RawMessage, text string) json.RawMessage {
	if len(content) == 0 || content[0] != '[' {
		return quote(text)
	}
	textPart := object(nil).set("type", []byte(`"text"`)).set("text", quote(text)).pieces().bytes()
	var out [][]byte
	placed := false
	parts, _ := parseList(content)
	for _, part := range parts {
		switch _, isText := textOf(part); {
		case !isText:
			out = append(out, part)
		case !placed:
			out, placed = append(out, textPart), true
		}
	}
	if !placed {
		out = append([][]byte{textPart}, out...)
	}
	return slices.Concat([]byte("["), bytes.Join(out, []byte(",")), []byte("]"))
}

func joinObjects(list []object) json.RawMessage {
	out := make([][]byte, len(list))
	for i, o := range list {
		out[i] = o.pieces().bytes()
	}
	return slices.Concat([]byte("["), bytes.Join(out, []byte(",")), []byte("]"))
}
