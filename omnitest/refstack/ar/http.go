package ar

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"
)

const maxBody = 64 << 20 // chat requests carry pictures

// Handler is the HTTP surface, for tests without a listener. Run must be going for it to answer completions; tickets
// that it makes name port 0, because no side channel listens.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	route := func(method, path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != method { // a HEAD is not a GET here, as in FastAPI
				w.Header().Set("Allow", method)
				writeJSON(w, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
				return
			}
			h(w, r)
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusNotFound, map[string]string{"detail": "Not Found"})
	})
	route("POST", "/v1/completions", s.counted(s.serveCompletions))
	route("POST", "/v1/chat/completions", s.counted(s.serveChat))
	route("POST", "/tokenize", s.serveTokenize)
	route("POST", "/detokenize", s.serveDetokenize)
	route("GET", "/v1/models", s.serveModels)
	route("GET", "/metrics", s.serveMetrics)
	route("GET", "/health", s.serveHealth)
	route("GET", "/ping", s.serveHealth)
	route("GET", "/version", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"version": Version})
	})
	route("GET", "/load", func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]int64{"server_load": s.serving.Load()})
	})
	return mux
}

func (s *Server) counted(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.serving.Add(1)
		defer s.serving.Add(-1)
		burn(s.config.Timing.BurnPerRequest)
		h(w, r)
	}
}

func (s *Server) serveHealth(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	stopped := s.stopped
	s.mu.Unlock()
	if stopped {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
}

func (s *Server) serveModels(w http.ResponseWriter, _ *http.Request) {
	now := time.Now().Unix()
	permission := struct {
		ID            string  `json:"id"`
		Object        string  `json:"object"`
		Created       int64   `json:"created"`
		CreateEngine  bool    `json:"allow_create_engine"`
		Sampling      bool    `json:"allow_sampling"`
		Logprobs      bool    `json:"allow_logprobs"`
		SearchIndices bool    `json:"allow_search_indices"`
		View          bool    `json:"allow_view"`
		FineTuning    bool    `json:"allow_fine_tuning"`
		Organization  string  `json:"organization"`
		Group         *string `json:"group"`
		IsBlocking    bool    `json:"is_blocking"`
	}{ID: "modelperm-" + randomHex(16), Object: "model_permission", Created: now, Sampling: true, Logprobs: true, View: true, Organization: "*"}
	type model struct {
		ID          string  `json:"id"`
		Object      string  `json:"object"`
		Created     int64   `json:"created"`
		OwnedBy     string  `json:"owned_by"`
		Root        string  `json:"root"`
		Parent      *string `json:"parent"`
		MaxModelLen int     `json:"max_model_len"`
		Permission  []any   `json:"permission"`
	}
	writeJSON(w, http.StatusOK, struct {
		Object string  `json:"object"`
		Data   []model `json:"data"`
	}{"list", []model{{ID: s.config.Model, Object: "model", Created: now, OwnedBy: "omnitest", Root: s.config.Model,
		MaxModelLen: s.config.MaxModelLen, Permission: []any{permission}}}})
}

func (s *Server) serveTokenize(w http.ResponseWriter, r *http.Request) {
	c, ok := s.parse(w, r)
	if !ok {
		return
	}
	var ids []int32
	if _, chat := c.raw("messages"); chat {
		ids, _ = chatPrompt(c.messages())
	} else {
		ids = encode(c.text("prompt"))
	}
	if c.err != nil {
		writeError(w, c.err)
		return
	}
	writeJSON(w, http.StatusOK, struct {
		Count       int      `json:"count"`
		MaxModelLen int      `json:"max_model_len"`
		Tokens      []int32  `json:"tokens"`
		Strs        []string `json:"token_strs"`
	}{len(ids), s.config.MaxModelLen, ids, nil})
}

func (s *Server) serveDetokenize(w http.ResponseWriter, r *http.Request) {
	c, ok := s.parse(w, r)
	if !ok {
		return
	}
	var ids []int32
	if v, ok := c.raw("tokens"); !ok || json.Unmarshal(v, &ids) != nil {
		writeError(w, validation("list_type", "body.tokens", "Input should be a valid list", pythonRepr(v), ""))
		return
	}
	for _, t := range ids {
		if t < 0 || t >= vocabSize {
			writeError(w, badRequest("", "Token id %d is out of vocabulary", t))
			return
		}
	}
	writeJSON(w, http.StatusOK, map[string]string{"prompt": decode(ids)})
}

// parse reads a JSON body and checks the model name; false: the error is written.
func (s *Server) parse(w http.ResponseWriter, r *http.Request) (*call, bool) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		writeError(w, errMediaType)
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	switch {
	case err != nil || !utf8.Valid(body):
		writeJSON(w, http.StatusBadRequest, map[string]string{"detail": "There was an error parsing the body"})
		return nil, false
	case len(bytes.TrimSpace(body)) == 0:
		writeError(w, validation("missing", "body", "Field required", "'None'", ""))
		return nil, false
	}
	c := &call{}
	if err := json.Unmarshal(body, &c.fields); err != nil {
		if json.Valid(body) {
			writeError(w, validation("model_attributes_type", "body", "Input should be a valid dictionary or object to extract fields from", pythonRepr(body), ""))
		} else {
			writeError(w, invalidJSON(err, len(body)))
		}
		return nil, false
	}
	if name := c.text("model"); name != "" && name != s.config.Model && c.err == nil {
		writeError(w, unknownModel(name, s.config.Model))
		return nil, false
	}
	return c, true
}

// start submits the outputs of a request: n for each prompt, choices counted through. All share one outbox.
func (s *Server) start(id string, chat bool, c *call, p sampling, prompts [][]int32, begin int) (*outbox, []*request, *apiError) {
	if c.hold && s.config.Faults.Fails {
		return nil, nil, errInternal
	}
	out := newOutbox()
	var rs []*request
	for _, prompt := range prompts {
		left := s.config.MaxModelLen - len(prompt)
		if left < 1 {
			return nil, nil, invalid("input_tokens", "This model's maximum context length is %d tokens. However, your prompt contains %d input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the input prompt.",
				len(prompt), s.config.MaxModelLen, len(prompt))
		}
		for range p.n {
			r := &request{index: len(rs), sampling: p, prompt: len(prompt), promptIDs: prompt, start: begin, tokens: slices.Clone(prompt), out: out, hold: c.hold}
			if c.ticket != nil && !s.config.Faults.ignores(chat, len(prompt)) {
				t := *c.ticket
				r.ticket = &t
			}
			if r.sampling.maxTokens == 0 || r.sampling.maxTokens > left {
				r.sampling.maxTokens = left
			}
			r.id = fmt.Sprintf("%s-%s", id, randomHex(8)) // random, and so different on prefill and decode
			if !chat {
				r.id = fmt.Sprintf("%s-%d-%s", id, r.index, randomHex(8))
			} else if p.n > 1 {
				r.id = fmt.Sprintf("%d_%s", r.index, r.id)
			}
			rs = append(rs, r)
		}
	}
	if !s.enqueue(rs) {
		return nil, nil, errEngineDead
	}
	return out, rs, nil
}

// abandon is called when the client may have gone; aborting what has ended does nothing.
func (s *Server) abandon(rs []*request) {
	s.do(func() {
		for _, r := range rs {
			s.abort(r)
		}
	})
}

// usage is the token account of a response.
type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"`
}

func (u *usage) sum() usage {
	u.Total = u.Prompt + u.Completion
	return *u
}

var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writeJSON writes compact JSON without HTML escapes, and its length.
func writeJSON(w http.ResponseWriter, status int, v any) {
	b := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(b)
	b.Reset()
	encodeJSON(b, v)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	w.Write(b.Bytes())
}

func encodeJSON(b *bytes.Buffer, v any) {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic("ar: own answer does not marshal: " + err.Error())
	}
	b.Truncate(b.Len() - 1) // the encoder's newline
}

// streamer writes server-sent events, each flushed by itself: an event is an arrival on the wire.
type streamer struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	buf bytes.Buffer
}

// newStreamer sends the header at once, before anything is computed: a failure from here on is an event in a 200.
func newStreamer(w http.ResponseWriter) *streamer {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	s := &streamer{w: w, rc: http.NewResponseController(w)}
	s.rc.Flush()
	return s
}

func (s *streamer) send(v any) error {
	s.buf.Reset()
	s.buf.WriteString("data: ")
	encodeJSON(&s.buf, v)
	s.buf.WriteString("\n\n")
	return s.write(s.buf.Bytes())
}

func (s *streamer) write(b []byte) error {
	if _, err := s.w.Write(b); err != nil {
		return err
	}
	return s.rc.Flush()
}

func (s *streamer) fail(e *apiError) {
	s.write([]byte(sseError(e)))
	s.done()
}

func (s *streamer) done() { s.write([]byte("data: [DONE]\n\n")) }

// truncated writes half of a body under the length of the whole: fault truncate-stream for a client that does not
// stream. net/http closes the connection, because the promise was not kept.
func truncated(w http.ResponseWriter, v any) {
	var b bytes.Buffer
	encodeJSON(&b, v)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.Write(b.Bytes()[:b.Len()/2])
}

// half is after how many tokens fault truncate-stream cuts: half of what a healthy engine would give.
func half(r *request) int { return max(1, min(r.sampling.maxTokens, r.prompt-r.start)/2) }

// gather runs a request to its end and hands over every event; the first error ends it.
func gather(ctx context.Context, out *outbox, open int, each func(event) error) error {
	var buf []event
	for open > 0 {
		events, err := out.get(ctx, buf)
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.err != nil {
				return e.err
			}
			if err := each(e); err != nil {
				return err
			}
			if e.finish != "" {
				open--
			}
		}
		buf = events
	}
	return nil
}
