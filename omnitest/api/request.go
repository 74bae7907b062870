package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
)

// payload is a request body in pieces, so that a picture of megabytes is sent from where it lies.
type payload [][]byte

func (p payload) attach(req *http.Request) {
	if p == nil {
		return
	}
	for _, piece := range p {
		req.ContentLength += int64(len(piece))
	}
	req.GetBody = func() (io.ReadCloser, error) { // the transport asks again when a kept connection turns out dead
		if len(p) == 1 {
			return io.NopCloser(bytes.NewReader(p[0])), nil
		}
		pieces := slices.Clone(net.Buffers(p))
		return io.NopCloser(&pieces), nil
	}
	req.Body, _ = req.GetBody()
}

// fields is a JSON object under construction. Values are kept encoded: encoding/json would re-format a ticket that has
// to be handed on byte for byte.
type fields struct {
	keys   []string
	values [][]byte
	err    error
}

// set adds or replaces a field.
func (f *fields) set(key string, value any) {
	var raw []byte
	switch v := value.(type) {
	case json.RawMessage:
		raw = v
	case string:
		raw = quote(v)
	case float64:
		raw = encode(v, &f.err)
	case int:
		raw = strconv.AppendInt(nil, int64(v), 10)
	default:
		raw = encode(v, &f.err)
	}
	if i := slices.Index(f.keys, key); i >= 0 {
		f.values[i] = raw
		return
	}
	f.keys, f.values = append(f.keys, key), append(f.values, raw)
}

func quote(s string) []byte {
	var err error
	return encode(s, &err) // a string always encodes
}

func encode(v any, failed *error) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // a prompt with < in it should read the same in the server's log
	if err := e.Encode(v); err != nil && *failed == nil {
		*failed = fmt.Errorf("api: %w", err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// extra merges what the caller adds, in the order of the keys.
func (f *fields) extra(m map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		f.set(key, m[key])
	}
}

func (f *fields) bytes() []byte {
	n := 2
	for i := range f.keys {
		n += len(f.keys[i]) + len(f.values[i]) + 4
	}
	b := append(make([]byte, 0, n), '{')
	for i, key := range f.keys {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, quote(key)...)
		b = append(b, ':')
		b = append(b, f.values[i]...)
	}
	return append(b, '}')
}

func (f *fields) sampling(s *Sampling, chat bool) {
	if s.MaxTokens != 0 {
		f.set("max_tokens", s.MaxTokens)
	}
	f.set("temperature", s.Temperature)
	if s.Seed != nil {
		f.set("seed", *s.Seed)
	}
	if s.Stop != nil {
		f.set("stop", s.Stop)
	}
	if s.N != 0 {
		f.set("n", s.N)
	}
	if s.IgnoreEOS {
		f.set("ignore_eos", true)
	}
	switch {
	case s.Logprobs > 0 && chat:
		f.set("logprobs", true)
		f.set("top_logprobs", s.Logprobs)
	case s.Logprobs > 0:
		f.set("logprobs", s.Logprobs)
	}
	if s.TokenIDs {
		f.set("return_token_ids", true)
	}
	if s.Ticket != nil {
		if !json.Valid(s.Ticket) && f.err == nil {
			f.err = errors.New("api: Sampling.Ticket is no JSON (a broken one goes into Extra)")
		}
		f.set("kv_transfer_params", s.Ticket)
	}
}

func (f *fields) streamed() {
	f.set("stream", true)
	f.set("stream_options", json.RawMessage(`{"include_usage":true}`))
}

func (f *fields) model(own, client string) {
	if own == "" {
		own = client
	}
	if own != "" {
		f.set("model", own)
	}
}

func (r *CompletionRequest) encode(model string, stream bool) ([]byte, error) {
	var f fields
	f.model(r.Model, model)
	switch {
	case r.PromptIDs != nil && r.Prompt != "":
		return nil, errors.New("api: CompletionRequest has both Prompt and PromptIDs")
	case r.PromptIDs != nil:
		f.set("prompt", r.PromptIDs)
	default:
		f.set("prompt", r.Prompt)
	}
	f.sampling(&r.Sampling, false)
	if stream {
		f.streamed()
	}
	f.extra(r.Extra)
	return f.bytes(), f.err
}

func (r *ChatRequest) encode(model string, stream bool) ([]byte, error) {
	var f fields
	f.model(r.Model, model)
	f.set("messages", json.RawMessage(encodeMessages(r.Messages)))
	if r.Modalities != nil {
		f.set("modalities", r.Modalities)
	}
	f.sampling(&r.Sampling, true)
	if p := r.Image; p != nil {
		var in fields
		if p.Size != (Size{}) {
			in.set("height", p.Size.H)
			in.set("width", p.Size.W)
		}
		in.set("num_outputs_per_prompt", max(p.N, 1))
		in.diffusion(p)
		f.set("extra_body", json.RawMessage(in.bytes()))
		f.err = errors.Join(f.err, in.err)
	}
	if stream {
		f.streamed()
	}
	f.extra(r.Extra)
	return f.bytes(), f.err
}

// diffusion sets the parameters that the image route and the chat route name alike.
func (f *fields) diffusion(p *ImageParams) {
	f.set("seed", p.Seed)
	if p.Steps != 0 {
		f.set("num_inference_steps", p.Steps)
	}
	if p.TrueCFG != 0 {
		f.set("true_cfg_scale", p.TrueCFG)
	}
	if p.NegativePrompt != "" {
		f.set("negative_prompt", p.NegativePrompt)
	}
}

func (r *ImageRequest) encode(model string) ([]byte, error) {
	var f fields
	f.model(r.Model, model)
	f.set("prompt", r.Prompt)
	f.set("n", max(r.N, 1))
	if r.Size != (Size{}) {
		f.set("size", r.Size.String())
	}
	f.set("response_format", "b64_json")
	f.set("output_format", "png")
	f.diffusion(&r.ImageParams)
	f.extra(r.Extra)
	return f.bytes(), f.err
}

// encodeMessages writes pictures as data URLs straight into the body: they are the bulk of it.
func encodeMessages(messages []Message) []byte {
	size := 2
	for i := range messages {
		size += len(messages[i].Text) + 64
		for _, in := range messages[i].Images {
			size += base64.StdEncoding.EncodedLen(len(in.Data)) + 96
		}
	}
	b := append(make([]byte, 0, size), '[')
	for i := range messages {
		m := &messages[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(append(b, `{"role":`...), quote(m.Role)...)
		b = append(b, `,"content":`...)
		if m.Images == nil {
			b = append(append(b, quote(m.Text)...), '}')
			continue
		}
		b = append(append(b, `[{"type":"text","text":`...), quote(m.Text)...)
		for _, in := range m.Images {
			b = append(b, `},{"type":"image_url","image_url":{"url":"data:`...)
			b = append(append(b, in.mediaType()...), ";base64,"...)
			b = append(base64.StdEncoding.AppendEncode(b, in.Data), `"}`...)
		}
		b = append(b, "}]}"...)
	}
	return append(b, ']')
}

// mediaType is the type to declare for a file that is sent. What is no picture is sent all the same: that is a test.
func (in *Input) mediaType() string {
	if in.Type != "" {
		return in.Type
	}
	if format := sniff(in.Data); format != "" {
		return "image/" + format
	}
	return "application/octet-stream"
}
