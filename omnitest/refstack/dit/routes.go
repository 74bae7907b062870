package dit

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// router is the route table. Unlike http.ServeMux it answers 404 and 405 with FastAPI's bodies and never redirects.
type router struct {
	routes map[string]route
	meter  *meter
}

type route struct {
	methods []string
	serve   func(http.ResponseWriter, *http.Request)
}

func (s *Server) routes() *router {
	get, post := []string{http.MethodGet}, []string{http.MethodPost}
	empty := func(w http.ResponseWriter, _ *http.Request) { w.Header()["Content-Type"] = nil }
	fails := func(status int, kind, message string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, status, (&failure{status: status, kind: kind, message: message}).body())
		}
	}
	return &router{meter: s.meter, routes: map[string]route{
		"/health": {get, empty},
		"/ping":   {[]string{http.MethodGet, http.MethodPost}, empty},
		"/version": {get, func(w http.ResponseWriter, _ *http.Request) {
			writeJSON(w, 200, map[string]string{"version": "0.26.0"})
		}},
		"/load":                  {get, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, 200, map[string]int{"server_load": 0}) }},
		"/metrics":               {get, s.meter.handler.ServeHTTP},
		"/v1/models":             {get, s.models},
		"/v1/images/generations": {post, answering(s.generations)},
		"/v1/images/edits":       {post, answering(s.edits)},
		"/v1/chat/completions":   {post, answering(s.chat)},
		// Text routes exist in a pure diffusion server and fail, each in its own words (recorded).
		"/v1/completions":  {post, fails(500, "InternalServerError", "'State' object has no attribute 'openai_serving_completion'")},
		"/tokenize":        {post, fails(500, "InternalServerError", "'NoneType' object has no attribute 'create_tokenize'")},
		"/v1/audio/speech": {post, answering(s.speech)},
	}}
}

func (t *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	seen := &statusWriter{ResponseWriter: w, status: http.StatusOK}
	rt, ok := t.routes[r.URL.Path]
	switch {
	case !ok:
		writeJSON(seen, http.StatusNotFound, map[string]string{"detail": "Not Found"})
		t.meter.answered("none", r.Method, seen.status)
		return
	case !slices.Contains(rt.methods, r.Method):
		w.Header().Set("Allow", strings.Join(rt.methods, ", "))
		writeJSON(seen, http.StatusMethodNotAllowed, map[string]string{"detail": "Method Not Allowed"})
	default:
		rt.serve(seen, r)
	}
	if r.URL.Path != "/health" && r.URL.Path != "/ping" && r.URL.Path != "/metrics" { // recorded: not counted
		t.meter.answered(r.URL.Path, r.Method, seen.status)
	}
}

type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController flush a stream.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// answering turns a returned error into its answer.
func answering(f func(http.ResponseWriter, *http.Request) *failure) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := f(w, r); err != nil {
			writeJSON(w, err.status, err.body())
		}
	}
}

// writeJSON writes a small body in one piece, with its length. Nothing can be done about a client that is gone.
func writeJSON(w http.ResponseWriter, status int, v any) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeBody(w, status, "application/json", []byte(strings.TrimSuffix(b.String(), "\n")))
}

func writeBody(w http.ResponseWriter, status int, kind string, body []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	_, _ = w.Write(body)
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	type permission struct {
		ID                 string  `json:"id"`
		Object             string  `json:"object"`
		Created            int64   `json:"created"`
		AllowCreateEngine  bool    `json:"allow_create_engine"`
		AllowSampling      bool    `json:"allow_sampling"`
		AllowLogprobs      bool    `json:"allow_logprobs"`
		AllowSearchIndices bool    `json:"allow_search_indices"`
		AllowView          bool    `json:"allow_view"`
		AllowFineTuning    bool    `json:"allow_fine_tuning"`
		Organization       string  `json:"organization"`
		Group              *string `json:"group"`
		IsBlocking         bool    `json:"is_blocking"`
	}
	type card struct {
		ID          string       `json:"id"`
		Object      string       `json:"object"`
		Created     int64        `json:"created"`
		OwnedBy     string       `json:"owned_by"`
		Root        string       `json:"root"`
		Parent      *string      `json:"parent"`
		MaxModelLen *int         `json:"max_model_len"`
		Permission  []permission `json:"permission"`
	}
	now := time.Now().Unix()
	writeJSON(w, 200, struct {
		Object string `json:"object"`
		Data   []card `json:"data"`
	}{"list", []card{{
		ID: s.cfg.Model, Object: "model", Created: now, OwnedBy: "vllm", Root: s.cfg.Model,
		Permission: []permission{{
			ID: "modelperm-" + randomHex(8), Object: "model_permission", Created: now,
			AllowSampling: true, AllowLogprobs: true, AllowView: true, Organization: "*",
		}},
	}}})
}
