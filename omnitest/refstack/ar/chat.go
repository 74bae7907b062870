package ar

import (
	"bytes"
	"encoding/json"
	"net/http"
	"time"
)

// chatCompletion is the answer of POST /v1/chat/completions; field order as recorded.
type chatCompletion struct {
	ID             string       `json:"id"`
	Object         string       `json:"object"`
	Created        int64        `json:"created"`
	Model          string       `json:"model"`
	Choices        []chatChoice `json:"choices"`
	ServiceTier    *string      `json:"service_tier"`
	Fingerprint    string       `json:"system_fingerprint"`
	Usage          fullUsage    `json:"usage"`
	PromptLogprobs *string      `json:"prompt_logprobs"`
	PromptTokenIDs []int32      `json:"prompt_token_ids"`
	PromptText     *string      `json:"prompt_text"`
	Ticket         *ticket      `json:"kv_transfer_params"`
	EC             *string      `json:"ec_transfer_params"`
	Metrics        *string      `json:"metrics"`
}

type chatChoice struct {
	Index         int           `json:"index"`
	Message       chatMessage   `json:"message"`
	Logprobs      *chatLogprobs `json:"logprobs"`
	FinishReason  *string       `json:"finish_reason"`
	StopReason    any           `json:"stop_reason"`
	TokenIDs      []int32       `json:"token_ids"`
	RoutedExperts *string       `json:"routed_experts"`
}

type chatMessage struct {
	Role         string  `json:"role"`
	Content      string  `json:"content"`
	Refusal      *string `json:"refusal"`
	Annotations  *string `json:"annotations"`
	Audio        *string `json:"audio"`
	FunctionCall *string `json:"function_call"`
	Reasoning    *string `json:"reasoning"`
}

type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	chatToken
	Top []chatToken `json:"top_logprobs"`
}

type chatToken struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func newChatToken(text string, logprob float64) chatToken {
	t := chatToken{text, logprob, make([]int, len(text))}
	for i := range len(text) {
		t.Bytes[i] = int(text[i])
	}
	return t
}

func newChatLogprob(e event) chatLogprob {
	l := chatLogprob{newChatToken(e.text, e.logprob.logprob), []chatToken{}}
	for _, a := range e.logprob.top {
		text := tokenText(a.token)
		if a.token == e.token {
			text = e.text
		}
		l.Top = append(l.Top, newChatToken(text, a.logprob))
	}
	return l
}

type chatChunk struct {
	ID          string            `json:"id"`
	Object      string            `json:"object"`
	Created     int64             `json:"created"`
	Model       string            `json:"model"`
	Choices     []chatChunkChoice `json:"choices"`
	Usage       any               `json:"usage,omitempty"`
	Fingerprint string            `json:"system_fingerprint,omitempty"`
	*chatOpening
}

// chatOpening is what only the first event of a choice carries.
type chatOpening struct {
	PromptTokenIDs []int32 `json:"prompt_token_ids"`
	PromptText     *string `json:"prompt_text"`
}

type chatChunkChoice struct {
	Index        int             `json:"index"`
	Delta        chatDelta       `json:"delta"`
	Logprobs     *chatLogprobs   `json:"logprobs"`
	FinishReason *string         `json:"finish_reason"`
	StopReason   json.RawMessage `json:"stop_reason,omitempty"` // null, but there, in the last event alone
	*chatTokenIDs
}

type chatTokenIDs struct {
	TokenIDs []int32 `json:"token_ids"`
}

type chatDelta struct {
	Role    string `json:"role,omitempty"`
	Content string `json:"content"`
}

// chatUsage is the usage of a stream's last event; created counts the full blocks that this prompt added to the cache.
type chatUsage struct {
	usage
	Prompt struct {
		Cached  int `json:"cached_tokens"`
		Created int `json:"created_cache_tokens"`
	} `json:"prompt_tokens_details"`
}

type chatRunningUsage struct {
	usage
	Completion *string `json:"completion_tokens_details"`
}

// created is by how many tokens the prompt made the prefix cache larger; a transferred prompt counts nothing (recorded
// case 16).
func (s *Server) created(r *request, e event) int {
	if e.external {
		return 0
	}
	return max(0, r.prompt/s.config.BlockSize*s.config.BlockSize-e.cached)
}

func (s *Server) serveChat(w http.ResponseWriter, r *http.Request) {
	c, ok := s.parse(w, r)
	if !ok {
		return
	}
	p := c.sampling(0)
	messages := c.messages()
	if c.boolean("logprobs") {
		p.logprobs = c.integer("top_logprobs", 0)
	}
	if c.err != nil {
		writeError(w, c.err)
		return
	}
	prompt, begin := chatPrompt(messages)
	id := "chatcmpl-" + requestID(r)
	out, rs, failure := s.start(id, true, c, p, [][]int32{prompt}, begin)
	if failure != nil {
		writeError(w, failure)
		return
	}
	defer s.abandon(rs)
	if c.stream {
		s.streamChat(w, r, c, id, out, rs)
		return
	}
	answer := chatCompletion{ID: id, Object: "chat.completion", Created: time.Now().Unix(), Model: s.config.Model,
		Fingerprint: s.fingerprint(), Choices: make([]chatChoice, len(rs))}
	for i := range rs {
		answer.Choices[i].Index, answer.Choices[i].Message.Role = i, "assistant"
		if p.logprobs >= 0 {
			answer.Choices[i].Logprobs = &chatLogprobs{Content: []chatLogprob{}}
		}
	}
	if c.ids {
		answer.PromptTokenIDs = prompt
	}
	answer.Usage.usage.Prompt = len(prompt)
	texts := make([]bytes.Buffer, len(rs))
	err := gather(r.Context(), out, len(rs), func(e event) error {
		choice := &answer.Choices[e.index]
		texts[e.index].WriteString(e.text)
		answer.Usage.usage.Completion++
		if c.ids {
			choice.TokenIDs = append(choice.TokenIDs, e.token)
		}
		if e.logprob != nil {
			choice.Logprobs.Content = append(choice.Logprobs.Content, newChatLogprob(e))
		}
		if e.finish != "" {
			choice.FinishReason, choice.StopReason = &e.finish, e.stopReason()
			if e.index == 0 {
				created := s.created(rs[0], e)
				answer.Usage.Prompt.Cached, answer.Usage.Prompt.Created = e.cached, &created
			}
			if e.ticket != nil {
				answer.Ticket = e.ticket
			}
		}
		return nil
	})
	if s.failed(w, err) {
		return
	}
	for i := range texts {
		answer.Choices[i].Message.Content = texts[i].String()
	}
	answer.Usage.usage.sum()
	s.answer(w, answer)
}

func (s *Server) streamChat(w http.ResponseWriter, r *http.Request, c *call, id string, out *outbox, rs []*request) {
	st := newStreamer(w)
	if s.config.Faults.ErrorIn200 {
		st.fail(errInternal)
		return
	}
	choice := make([]chatChunkChoice, 1)
	chunk := chatChunk{ID: id, Object: "chat.completion.chunk", Created: time.Now().Unix(), Model: s.config.Model, Choices: choice}
	prompt := rs[0].prompt
	total := chatUsage{usage: usage{Prompt: prompt}}
	completions := make([]int, len(rs))
	runningUsage := func(n int) {
		if c.running {
			u := usage{Prompt: prompt, Completion: n}
			chunk.Usage = chatRunningUsage{usage: u.sum()}
		}
	}
	open := len(rs)
	err := gather(r.Context(), out, len(rs), func(e event) error {
		q := rs[e.index]
		if s.config.Faults.TruncateStream && completions[e.index] >= half(q) {
			return errCut
		}
		if completions[e.index] == 0 {
			choice[0] = chatChunkChoice{Index: e.index, Delta: chatDelta{Role: "assistant"}}
			chunk.chatOpening = &chatOpening{}
			if c.ids {
				chunk.PromptTokenIDs = q.promptIDs
			}
			runningUsage(0)
			if err := st.send(chunk); err != nil {
				return err
			}
			chunk.chatOpening = nil
		}
		completions[e.index]++
		total.usage.Completion++
		choice[0] = chatChunkChoice{Index: e.index, Delta: chatDelta{Content: e.text}, FinishReason: nullable(e.finish), chatTokenIDs: &chatTokenIDs{}}
		if e.logprob != nil {
			choice[0].Logprobs = &chatLogprobs{[]chatLogprob{newChatLogprob(e)}}
		}
		if c.ids {
			choice[0].TokenIDs = []int32{e.token}
		}
		runningUsage(completions[e.index])
		if e.finish != "" {
			choice[0].StopReason, _ = json.Marshal(e.stopReason())
			if e.index == 0 {
				total.Prompt.Cached, total.Prompt.Created = e.cached, s.created(q, e)
			}
			if open--; open == 0 && !c.usage {
				chunk.Fingerprint = s.fingerprint()
			}
		}
		return st.send(chunk)
	})
	if !st.ended(err) {
		return
	}
	if c.usage {
		total.usage.sum()
		chunk.Choices, chunk.Usage, chunk.Fingerprint = []chatChunkChoice{}, total, s.fingerprint()
		st.send(chunk)
	}
	st.done()
}
