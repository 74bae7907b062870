package proxy

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// stages are the configured ones.
func (p *Proxy) stages() map[string]string {
	all := map[string]string{"prefill": p.c.Prefill, "decode": p.c.Decode, "dit": p.c.DiT, "speech": p.c.Speech}
	for name, base := range all {
		if base == "" {
			delete(all, name)
		}
	}
	return all
}

// health is 200 with an empty body, as vLLM's, when every configured stage says so within 2 s; else 503 with each stage's
// state. It tells that the stages live, not that a handoff works: only a request can.
func (p *Proxy) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeoutCause(r.Context(), healthLimit, errLimit(healthLimit))
	defer cancel()
	var (
		wait   sync.WaitGroup
		mu     sync.Mutex
		states = map[string]string{}
		sick   bool
	)
	for name, base := range p.stages() {
		wait.Go(func() {
			state := "ok"
			if _, err := p.get(ctx, base+"/health", "", healthLimit); err != nil {
				state = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			states[name], sick = state, sick || state != "ok"
		})
	}
	wait.Wait()
	if sick {
		writeJSON(w, http.StatusServiceUnavailable, map[string]any{"status": "unhealthy", "stages": states})
	}
}

// models passes on decode's list, or the DiT's where there is no decode.
func (p *Proxy) models(w http.ResponseWriter, r *http.Request) {
	stage, base := "decode", p.c.Decode
	if base == "" {
		stage, base = "dit", p.c.DiT
	}
	body, err := p.get(r.Context(), base+"/v1/models", r.Header.Get("Authorization"), modelsLimit)
	if err != nil {
		w.Header().Set(StageHeader, stage)
		writeError(w, http.StatusBadGateway, "BadGatewayError", "", stage+": "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

// get reads a small answer of a stage; any status but 200 is an error.
func (p *Proxy) get(ctx context.Context, url, authorization string, limit time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, limit, errLimit(limit))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	resp, err := p.http.Do(req)
	if err != nil {
		return nil, plainError(ctx, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, plainError(ctx, err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.New(statusCause(resp.StatusCode, body))
	}
	return body, nil
}

// plainError drops the URL from an error, and says "limit of 2s reached" instead of "context deadline exceeded".
func plainError(ctx context.Context, err error) error {
	var limit errLimit
	if errors.As(context.Cause(ctx), &limit) {
		return limit
	}
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
