package ar

import (
	"bytes"
	"errors"
	"net/http"
	"time"
	"unicode/utf8"
)

// completion is the answer of POST /v1/completions; field order as recorded.
type completion struct {
	ID          string             `json:"id"`
	Object      string             `json:"object"`
	Created     int64              `json:"created"`
	Model       string             `json:"model"`
	Choices     []completionChoice `json:"choices"`
	ServiceTier *string            `json:"service_tier"`
	Fingerprint string             `json:"system_fingerprint"`
	Usage       fullUsage          `json:"usage"`
	Ticket      *ticket            `json:"kv_transfer_params"`
	EC          *string            `json:"ec_transfer_params"`
	Metrics     *string            `json:"metrics"`
}

type completionChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *completionLogprobs `json:"logprobs"`
	FinishReason   *string             `json:"finish_reason"`
	StopReason     any                 `json:"stop_reason"`
	TokenIDs       []int32             `json:"token_ids"`
	PromptLogprobs *string             `json:"prompt_logprobs"`
	PromptTokenIDs []int32             `json:"prompt_token_ids"`
	RoutedExperts  *string             `json:"routed_experts"`
}

type fullUsage struct {
	usage
	Prompt     fullPromptDetails `json:"prompt_tokens_details"`
	Completion *string           `json:"completion_tokens_details"`
}

type fullPromptDetails struct {
	Cached     int  `json:"cached_tokens"`
	Created    *int `json:"created_cache_tokens"`
	Multimodal *int `json:"multimodal_tokens"`
}

type completionLogprobs struct {
	Offset   []int         `json:"text_offset"`
	Logprobs []float64     `json:"token_logprobs"`
	Tokens   []string      `json:"tokens"`
	Top      []topLogprobs `json:"top_logprobs"`
	at       int           // characters so far
}

// topLogprobs is an object in order of probability; several tokens may have the text "".
type topLogprobs []struct {
	text    string
	logprob float64
}

func (t topLogprobs) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	seen := map[string]bool{}
	for _, x := range t {
		if seen[x.text] {
			continue
		}
		if len(seen) > 0 {
			b.WriteByte(',')
		}
		seen[x.text] = true
		encodeJSON(&b, x.text)
		b.WriteByte(':')
		encodeJSON(&b, x.logprob)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func (l *completionLogprobs) add(e event) {
	l.Offset = append(l.Offset, l.at)
	l.Logprobs = append(l.Logprobs, e.logprob.logprob)
	l.Tokens = append(l.Tokens, e.text)
	top := topLogprobs{{e.text, e.logprob.logprob}}
	for _, a := range e.logprob.top {
		if a.token != e.token {
			top = append(top, struct {
				text    string
				logprob float64
			}{tokenText(a.token), a.logprob})
		}
	}
	l.Top = append(l.Top, top)
	l.at += utf8.RuneCountInString(e.text)
}

// tokenText is the text of a token by itself: a byte of a longer character has none.
func tokenText(token int32) string {
	if token < utf8.RuneSelf {
		return string([]byte{byte(token)})
	}
	return ""
}

// completionChunk is one streamed event.
type completionChunk struct {
	ID          string                  `json:"id"`
	Object      string                  `json:"object"`
	Created     int64                   `json:"created"`
	Model       string                  `json:"model"`
	Choices     []completionChunkChoice `json:"choices"`
	Usage       any                     `json:"usage,omitempty"`
	Fingerprint string                  `json:"system_fingerprint,omitempty"`
}

type completionChunkChoice struct {
	Index          int                 `json:"index"`
	Text           string              `json:"text"`
	Logprobs       *completionLogprobs `json:"logprobs"`
	FinishReason   *string             `json:"finish_reason"`
	StopReason     any                 `json:"stop_reason"`
	PromptTokenIDs []int32             `json:"prompt_token_ids"`
	TokenIDs       []int32             `json:"token_ids"`
}

// cachedUsage is the usage of the last event of a stream.
type cachedUsage struct {
	usage
	Prompt struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func (s *Server) fingerprint() string { return "vllm-" + Version }

// requestID is the client's, or random.
func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); id != "" {
		return id
	}
	return randomHex(16)
}

func nullable(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func (e event) stopReason() any {
	switch {
	case e.stop != "":
		return e.stop
	case e.stopID > 0:
		return e.stopID
	}
	return nil
}

func (s *Server) serveCompletions(w http.ResponseWriter, r *http.Request) {
	c, ok := s.parse(w, r)
	if !ok {
		return
	}
	p := c.sampling(16)
	prompts := c.prompts()
	p.logprobs = c.integer("logprobs", -1)
	echo := c.boolean("echo")
	if c.err != nil {
		writeError(w, c.err)
		return
	}
	id := "cmpl-" + requestID(r)
	out, rs, failure := s.start(id, false, c, p, prompts, 0)
	if failure != nil {
		writeError(w, failure)
		return
	}
	defer s.abandon(rs)
	if c.stream {
		s.streamCompletion(w, r, c, id, out, rs)
		return
	}
	answer := completion{ID: id, Object: "text_completion", Created: time.Now().Unix(), Model: s.config.Model,
		Fingerprint: s.fingerprint(), Choices: make([]completionChoice, len(rs))}
	for i, r := range rs {
		choice := &answer.Choices[i]
		choice.Index = i
		if p.logprobs >= 0 {
			choice.Logprobs = &completionLogprobs{}
		}
		if c.ids {
			choice.PromptTokenIDs = prompts[i/p.n]
		}
		if echo {
			choice.Text = decode(prompts[i/p.n])
		}
		if i%p.n == 0 {
			answer.Usage.usage.Prompt += r.prompt
		}
	}
	texts := make([]bytes.Buffer, len(rs))
	err := gather(r.Context(), out, len(rs), func(e event) error {
		choice := &answer.Choices[e.index]
		texts[e.index].WriteString(e.text)
		answer.Usage.usage.Completion++
		if c.ids {
			choice.TokenIDs = append(choice.TokenIDs, e.token)
		}
		if e.logprob != nil {
			choice.Logprobs.add(e)
		}
		if e.finish != "" {
			choice.FinishReason, choice.StopReason = &e.finish, e.stopReason()
			answer.Usage.Prompt.Cached += e.cached
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
		answer.Choices[i].Text += texts[i].String()
	}
	answer.Usage.usage.sum()
	s.answer(w, answer)
}

// failed writes the error of a request that does not stream; a client that went away gets nothing.
func (s *Server) failed(w http.ResponseWriter, err error) bool {
	if err == nil {
		return false
	}
	if e := (*apiError)(nil); errors.As(err, &e) {
		writeError(w, e)
	}
	return true
}

// answer writes a whole response, or what the faults make of it.
func (s *Server) answer(w http.ResponseWriter, v any) {
	switch {
	case s.config.Faults.ErrorIn200:
		e := *errInternal
		writeJSON(w, http.StatusOK, struct {
			Error apiError `json:"error"`
		}{e})
	case s.config.Faults.TruncateStream:
		truncated(w, v)
	default:
		writeJSON(w, http.StatusOK, v)
	}
}

var errCut = errors.New("fault truncate-stream")

func (s *Server) streamCompletion(w http.ResponseWriter, r *http.Request, c *call, id string, out *outbox, rs []*request) {
	st := newStreamer(w)
	if s.config.Faults.ErrorIn200 {
		st.fail(errInternal)
		return
	}
	choice := make([]completionChunkChoice, 1)
	chunk := completionChunk{ID: id, Object: "text_completion", Created: time.Now().Unix(), Model: s.config.Model, Choices: choice}
	var total cachedUsage
	n := rs[0].sampling.n
	for i, r := range rs {
		if i%n == 0 {
			total.usage.Prompt += r.prompt
		}
	}
	completions, offsets := make([]int, len(rs)), make([]int, len(rs))
	open := len(rs)
	err := gather(r.Context(), out, len(rs), func(e event) error {
		q := rs[e.index]
		if s.config.Faults.TruncateStream && completions[e.index] >= half(q) {
			return errCut
		}
		completions[e.index]++
		total.usage.Completion++
		choice[0] = completionChunkChoice{Index: e.index, Text: e.text, FinishReason: nullable(e.finish), StopReason: e.stopReason()}
		if e.logprob != nil {
			choice[0].Logprobs = &completionLogprobs{at: offsets[e.index]}
			choice[0].Logprobs.add(e)
			offsets[e.index] = choice[0].Logprobs.at
		}
		if c.ids {
			choice[0].TokenIDs = []int32{e.token}
			if completions[e.index] == 1 {
				choice[0].PromptTokenIDs = q.promptIDs
			}
		}
		if c.running {
			u := usage{Prompt: q.prompt, Completion: completions[e.index]}
			chunk.Usage = u.sum()
		}
		if e.finish != "" {
			total.Prompt.Cached += e.cached
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
		chunk.Choices, chunk.Usage, chunk.Fingerprint = []completionChunkChoice{}, total, s.fingerprint()
		st.send(chunk)
	}
	st.done()
}

// ended reports whether the stream may be closed properly; an engine's error has become an event, a cut or a client
// that went away leaves the stream as it is.
func (st *streamer) ended(err error) bool {
	if e := (*apiError)(nil); errors.As(err, &e) {
		st.fail(e)
	}
	return err == nil
}
