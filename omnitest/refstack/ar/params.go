package ar

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
)

// call is a parsed request body. fields remember the first schema error, so a parser reads as a list.
type call struct {
	fields  map[string]json.RawMessage
	err     *apiError
	stream  bool
	usage   bool // stream_options.include_usage
	running bool // stream_options.continuous_usage_stats
	ids     bool // return_token_ids
	ticket  *ticket
	hold    bool
}

func (c *call) raw(name string) (json.RawMessage, bool) {
	v, ok := c.fields[name]
	return v, ok && string(v) != "null"
}

func (c *call) fail(e *apiError) {
	if c.err == nil {
		c.err = e
	}
}

func (c *call) integer(name string, missing int) int {
	v, ok := c.raw(name)
	if !ok {
		return missing
	}
	var f float64
	if err := json.Unmarshal(v, &f); err != nil {
		if v[0] == '"' {
			c.fail(validation("int_parsing", "body."+name, "Input should be a valid integer, unable to parse string as an integer", pythonRepr(v), ""))
		} else {
			c.fail(validation("int_type", "body."+name, "Input should be a valid integer", pythonRepr(v), ""))
		}
		return missing
	}
	if f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		c.fail(validation("int_from_float", "body."+name, "Input should be a valid integer, got a number with a fractional part", pythonRepr(v), ""))
		return missing
	}
	return int(f)
}

func (c *call) number(name string, missing float64) float64 {
	v, ok := c.raw(name)
	if !ok {
		return missing
	}
	f := missing
	if json.Unmarshal(v, &f) != nil {
		c.fail(validation("float_type", "body."+name, "Input should be a valid number", pythonRepr(v), ""))
	}
	return f
}

func (c *call) boolean(name string) (b bool) {
	if v, ok := c.raw(name); ok && json.Unmarshal(v, &b) != nil {
		c.fail(validation("bool_type", "body."+name, "Input should be a valid boolean", pythonRepr(v), ""))
	}
	return b
}

func (c *call) text(name string) (s string) {
	if v, ok := c.raw(name); ok && json.Unmarshal(v, &s) != nil {
		c.fail(validation("string_type", "body."+name, "Input should be a valid string", pythonRepr(v), ""))
	}
	return s
}

// texts reads a string or a list of strings.
func (c *call) texts(name string) (list []string) {
	v, ok := c.raw(name)
	if !ok {
		return nil
	}
	var one string
	if json.Unmarshal(v, &one) == nil {
		return []string{one}
	}
	if json.Unmarshal(v, &list) != nil {
		c.fail(validation("list_type", "body."+name, "Input should be a valid list", pythonRepr(v), ""))
	}
	return list
}

// object reads a JSON object into dst; absent or null leaves it alone.
func (c *call) object(name string, dst any) bool {
	v, ok := c.raw(name)
	if !ok {
		return false
	}
	if v[0] != '{' || json.Unmarshal(v, dst) != nil {
		c.fail(validation("dict_type", "body."+name, "Input should be a valid dictionary", pythonRepr(v), ""))
	}
	return c.err == nil
}

// pythonRepr is close enough to repr() for the messages: strings in single quotes, containers by size.
func pythonRepr(v json.RawMessage) string {
	var x any
	json.Unmarshal(v, &x)
	switch x := x.(type) {
	case string:
		return "'" + strings.NewReplacer(`\`, `\\`, "'", `\'`, "\n", `\n`).Replace(x) + "'"
	case []any:
		return fmt.Sprintf("'<list of %d items>'", len(x))
	case map[string]any:
		return fmt.Sprintf("'<dict of %d items>'", len(x))
	case bool:
		return map[bool]string{true: "True", false: "False"}[x]
	default:
		return string(v)
	}
}

// sampling reads what completions and chat have in common. limit is the max_tokens of a client that names none; 0: all
// the context that is left.
func (c *call) sampling(limit int) sampling {
	p := sampling{
		maxTokens: c.integer("max_tokens", limit), minTokens: c.integer("min_tokens", 0),
		temperature: c.number("temperature", 1), ignoreEOS: c.boolean("ignore_eos"),
		stops: c.texts("stop"), logprobs: -1, n: c.integer("n", 1),
		seed: rand.Uint64(), // only a seed makes sampling repeatable, as everywhere
	}
	if _, ok := c.raw("seed"); ok {
		p.seed = uint64(c.integer("seed", 0))
	}
	if v, ok := c.raw("stop_token_ids"); ok && json.Unmarshal(v, &p.stopIDs) != nil {
		c.fail(validation("list_type", "body.stop_token_ids", "Input should be a valid list", pythonRepr(v), ""))
	}
	maxName := "max_tokens"
	if _, ok := c.raw("max_completion_tokens"); ok {
		maxName = "max_completion_tokens"
		p.maxTokens = c.integer(maxName, limit)
	}
	c.stream, c.ids = c.boolean("stream"), c.boolean("return_token_ids")
	var options struct {
		IncludeUsage bool `json:"include_usage"`
		Continuous   bool `json:"continuous_usage_stats"`
	}
	if c.object("stream_options", &options) && !c.stream {
		c.fail(badRequest("stream_options", "Stream options can only be defined when `stream=True`. (parameter=stream_options)"))
	}
	c.usage, c.running = options.IncludeUsage, options.IncludeUsage && options.Continuous
	var t ticket
	if c.object("kv_transfer_params", &t) {
		c.hold = t.DoRemoteDecode
		if t.DoRemotePrefill {
			c.ticket = &t
		}
	}
	_, given := c.raw(maxName)
	switch {
	case given && p.maxTokens < 1:
		c.fail(invalid(maxName, "%s must be at least 1, got %d.", p.maxTokens, maxName, p.maxTokens))
	case p.temperature < 0:
		c.fail(invalid("temperature", "temperature must be non-negative, got %s.", pythonFloat(p.temperature), pythonFloat(p.temperature)))
	case p.n < 1:
		c.fail(invalid("n", "n must be at least 1, got %d.", p.n, p.n))
	case p.n > 1 && p.temperature == 0: // as vLLM 0.32 answers it
		c.fail(badRequest("", "n must be 1 when using greedy sampling, got %d.", p.n))
	case p.minTokens < 0 || given && p.minTokens > p.maxTokens:
		c.fail(invalid("min_tokens", "min_tokens must be between 0 and max_tokens=%d, got %d.", p.minTokens, p.maxTokens, p.minTokens))
	}
	p.stops = withoutEmpty(p.stops)
	return p
}

func withoutEmpty(list []string) []string {
	var kept []string
	for _, s := range list {
		if s != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

func pythonFloat(f float64) string {
	if f == math.Trunc(f) {
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprint(f)
}

// prompts reads the four forms of "prompt": a string, strings, token ids, lists of token ids.
func (c *call) prompts() [][]int32 {
	v, ok := c.raw("prompt")
	if !ok {
		c.fail(errNoPrompt)
		return nil
	}
	var list [][]int32
	var one string
	var many []string
	var ids []int32
	switch {
	case json.Unmarshal(v, &one) == nil:
		list = [][]int32{encode(one)}
	case json.Unmarshal(v, &many) == nil:
		for _, s := range many {
			list = append(list, encode(s))
		}
	case json.Unmarshal(v, &ids) == nil:
		list = [][]int32{ids}
	case json.Unmarshal(v, &list) == nil:
	default:
		c.fail(validation("string_type", "body.prompt.str", "Input should be a valid string", pythonRepr(v), ""))
		return nil
	}
	if len(list) == 0 {
		c.fail(errNoPrompt)
	}
	for _, p := range list {
		if len(p) == 0 {
			c.fail(errNoPrompt)
		}
		for _, t := range p {
			if t < 0 || t >= vocabSize {
				c.fail(badRequest("", "Token id %d is out of vocabulary", t))
				return nil
			}
		}
	}
	return list
}

// messages reads chat messages. Content is a string, null, or parts; a picture part becomes one placeholder token.
func (c *call) messages() []message {
	v, ok := c.raw("messages")
	if !ok {
		c.fail(validation("missing", "body.messages", "Field required", fmt.Sprintf("'<dict of %d items>'", len(c.fields)), ""))
		return nil
	}
	var raw []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if v[0] != '[' {
		c.fail(validation("list_type", "body.messages", "Input should be a valid list", pythonRepr(v), ""))
		return nil
	}
	if err := json.Unmarshal(v, &raw); err != nil {
		c.fail(validation("dict_type", "body.messages.0", "Input should be a valid dictionary", pythonRepr(v), ""))
		return nil
	}
	if len(raw) == 0 {
		c.fail(errNoMessages)
		return nil
	}
	list := make([]message, len(raw))
	for i, m := range raw {
		list[i].role = m.Role
		var s string
		var parts []struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}
		switch {
		case len(m.Content) == 0 || json.Unmarshal(m.Content, &s) == nil: // null leaves s empty
			list[i].content = encode(s)
		case json.Unmarshal(m.Content, &parts) == nil:
			for _, p := range parts {
				switch p.Type {
				case "text", "input_text":
					list[i].content = append(list[i].content, encode(p.Text)...)
				case "image_url", "input_image", "image", "image_pil", "image_embeds":
					list[i].content = append(list[i].content, Image)
				default:
					c.fail(badRequest("", "Unknown part type: %s", p.Type))
				}
			}
		default:
			loc := fmt.Sprintf("body.messages.%d.content", i)
			c.fail(validation("string_type", loc, "Input should be a valid string", pythonRepr(m.Content), ""))
		}
	}
	return list
}
