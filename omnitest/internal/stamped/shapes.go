package stamped

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Token is the text of each token. A space and a letter are one token for every byte-level tokenizer that has merges at all.
const Token = " a"

const fingerprint = `,"system_fingerprint":"stamped"`

// text of n tokens.
func text(n int) string { return strings.Repeat(Token, n) }

// promptTokens counts: ids as they are, texts by their bytes. Several prompts are added up.
func promptTokens(a ask) int {
	raw := a.Prompt
	if len(raw) == 0 {
		raw = a.Messages
	}
	return count(raw)
}

func count(raw json.RawMessage) int {
	if len(raw) == 0 {
		return 0
	}
	switch raw[0] {
	case '"':
		var s string
		_ = json.Unmarshal(raw, &s)
		return len(s)
	case '[':
		if n := listLength(raw); n > 0 && raw[1] != '"' && raw[1] != '{' && raw[1] != '[' {
			return n
		}
		var list []json.RawMessage
		_ = json.Unmarshal(raw, &list)
		n := 0
		for _, e := range list {
			n += count(e)
		}
		return n
	case '{': // a message, or a part of one
		var m struct {
			Content json.RawMessage `json:"content"`
			Text    json.RawMessage `json:"text"`
		}
		_ = json.Unmarshal(raw, &m)
		return count(m.Content) + count(m.Text)
	}
	return 1
}

// listLength counts the elements of a flat list without reading them: a prompt may be fifty thousand ids.
func listLength(raw json.RawMessage) int {
	if len(raw) < 3 {
		return 0
	}
	n := 1
	for _, c := range raw {
		if c == ',' {
			n++
		}
	}
	return n
}

func (s *Server) model(asked string) string {
	switch {
	case s.opts.Model != "":
		return s.opts.Model
	case asked != "":
		return asked
	}
	return "stamped"
}

func modelList(model string) any {
	return map[string]any{"object": "list", "data": []any{map[string]any{"id": model, "object": "model", "created": 1, "owned_by": "vllm",
		"root": model, "parent": nil, "max_model_len": 131072, "permission": []any{}}}}
}

func tokenized(n int) any {
	return map[string]any{"count": n, "max_model_len": 131072, "tokens": make([]int, n), "token_strs": nil}
}

func errorObject(message, kind string, code int) any {
	return map[string]any{"error": map[string]any{"message": message, "type": kind, "param": nil, "code": code}}
}

// open is the beginning of each event of an answer.
func (st *stream) open(b []byte) []byte {
	b = append(b, `{"id":"`...)
	b = append(b, st.id...)
	b = append(b, `","object":"`...)
	b = append(b, st.object...)
	b = append(b, `","created":`...)
	b = strconv.AppendInt(b, st.created, 10)
	b = append(b, `,"model":`...)
	return append(b, st.model...)
}

func (st *stream) usage(b []byte, tokens int, details bool) []byte {
	b = strconv.AppendInt(append(b, `,"usage":{"prompt_tokens":`...), int64(st.req.PromptTokens), 10)
	b = strconv.AppendInt(append(b, `,"total_tokens":`...), int64(st.req.PromptTokens+tokens), 10)
	b = strconv.AppendInt(append(b, `,"completion_tokens":`...), int64(tokens), 10)
	if details {
		b = append(b, `,"prompt_tokens_details":{"cached_tokens":0}`...)
	}
	return append(b, '}')
}

// role is chat's first event, before any token.
func (st *stream) role(b []byte) []byte {
	b = st.open(append(b, "data: "...))
	b = append(b, `,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]`...)
	if st.continuous {
		b = st.usage(b, 0, false)
	}
	return append(b, `,"prompt_token_ids":null,"prompt_text":null}`+"\n\n"...)
}

// event is the one that carries token i.
func (st *stream) event(b []byte, i int, stamp *Stamp) []byte {
	from := len(b)
	last := i == st.n-1
	b = st.open(append(b, "data: "...))
	finish := "null"
	if last {
		finish = `"length"`
	}
	if st.chat {
		b = append(b, `,"choices":[{"index":0,"delta":{"content":"`+Token+`"},"logprobs":null,"finish_reason":`...)
		b = append(b, finish...)
		if last {
			b = append(b, `,"stop_reason":null`...)
		}
		b = append(b, `,"token_ids":null}]`...)
	} else {
		b = append(b, `,"choices":[{"index":0,"text":"`+Token+`","logprobs":null,"finish_reason":`...)
		b = append(b, finish...)
		b = append(b, `,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]`...)
	}
	if st.continuous || last && st.fault == UsageOnChoice {
		b = st.usage(b, i+1, false)
	}
	if last && !st.withUsage {
		b = append(b, fingerprint...)
	}
	var room [96]byte
	tail := room[:0]
	if stamp != nil {
		tail = appendStamp(tail, *stamp)
	}
	const filler = `,"pad":""`
	if fill := st.bytes - (len(b) - from + len(tail) + len("}\n\n")); fill > 0 {
		b = append(b, `,"pad":"`...)
		for range max(0, fill-len(filler)) {
			b = append(b, 'x')
		}
		b = append(b, '"')
	}
	b = append(b, tail...)
	return append(b, "}\n\n"...)
}

// end is what follows the last token: the usage, if asked for, and [DONE].
func (st *stream) end(b []byte) []byte {
	if st.withUsage && st.fault != UsageOnChoice {
		b = st.open(append(b, "data: "...))
		b = append(b, `,"choices":[]`...)
		b = st.usage(b, st.n, true)
		b = append(b, fingerprint+"}\n\n"...)
	}
	if st.fault != NoDone {
		b = append(b, "data: [DONE]\n\n"...)
	}
	return b
}

// whole is an answer that is not streamed.
func (st *stream) whole(b []byte) []byte {
	b = st.open(b)
	if st.chat {
		b = fmt.Appendf(b, `,"choices":[{"index":0,"message":{"role":"assistant","content":%q,"refusal":null,"annotations":null,"audio":null,"function_call":null,"reasoning":null},"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null}]`, text(st.n))
	} else {
		b = fmt.Appendf(b, `,"choices":[{"index":0,"text":%q,"logprobs":null,"finish_reason":"length","stop_reason":null,"token_ids":null,"prompt_logprobs":null,"prompt_token_ids":null}]`, text(st.n))
	}
	b = append(b, `,"service_tier":null`+fingerprint...)
	b = st.usage(b, st.n, true)
	return append(b, `,"kv_transfer_params":null}`...)
}
