package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/omnitest/suite/omnitest/internal/proc"
)

const (
	firstPoll  = 10 * time.Millisecond
	lastPoll   = 500 * time.Millisecond
	oneAnswer  = 5 * time.Second        // a single health or models request
	silence    = 200 * time.Millisecond // without an answer is worth telling when the wait is over
	healthBody = 4 << 10                // as much of a health answer as is looked at
	modelsBody = 1 << 20
)

var (
	errEnded  = errors.New("the process ended") // while it was waited for
	errLate   = errors.New("ready timeout")
	errBadURL = errors.New("bad URL")
)

// probe is the client of the readiness wait. It follows no redirect: a login page answers 200 too. It keeps no connection
// and uses no proxy of the environment, which would answer in the engine's place.
var probe = &http.Client{
	Transport:     &http.Transport{DisableKeepAlives: true},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// waitReady polls the health of an instance until it is ready, watching at the same time whether its process ends. It
// gives the served model where the plan names none and the server tells.
func waitReady(ctx context.Context, plan Plan, done <-chan struct{}) (model string, err error) {
	start := time.Now()
	// One context for the four ends of the wait, so that each of them also ends a request in flight.
	wait, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	wait, cancel := context.WithTimeoutCause(wait, plan.ReadyTimeout, errLate)
	defer cancel()
	go func() {
		select {
		case <-done:
			ended(errEnded)
		case <-wait.Done():
		}
	}()
	last := plan.BaseURL + plan.HealthPath + " has not answered yet"
	for pause := firstPoll; ; pause = min(pause*3/2, lastPoll) {
		var ready bool
		if ready, last, err = health(wait, plan, last); err != nil {
			return "", err
		}
		if ready && plan.Model == "" {
			model = servedModel(wait, plan.BaseURL)
		}
		if ready && context.Cause(wait) != errEnded {
			return model, nil
		}
		select {
		case <-wait.Done():
		case <-time.After(pause):
			continue
		}
		switch cause := context.Cause(wait); cause {
		case errEnded:
			return "", errEnded
		case errLate:
			return "", fmt.Errorf("not ready after %s: %s", proc.Span(plan.ReadyTimeout), last)
		default:
			return "", fmt.Errorf("given up after %s: %w; %s", proc.Span(time.Since(start)), cause, last)
		}
	}
}

// health asks once. last says what the answer was, for a person; it stays as it was when the asking was cut short at
// once. An error means that no later answer can be better.
func health(ctx context.Context, plan Plan, last string) (ready bool, now string, err error) {
	url := plan.BaseURL + plan.HealthPath
	asked := time.Now()
	status, header, body, err := get(ctx, url, healthBody)
	switch {
	case err != nil && ctx.Err() != nil:
		if wait := time.Since(asked); wait > silence {
			last = fmt.Sprintf("%s has not answered for %s", url, proc.Span(wait))
		}
		return false, last, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, "nothing listens at " + url + " (connection refused)", nil
	case errors.Is(err, context.DeadlineExceeded):
		return false, fmt.Sprintf("%s did not answer within %s", url, proc.Span(oneAnswer)), nil
	case errors.Is(err, errBadURL):
		return false, "", err
	case err != nil:
		return false, fmt.Sprintf("health failed: %v", err), nil
	case status != http.StatusOK:
		return false, fmt.Sprintf("last health answer %d %s from %s%s", status, http.StatusText(status), url, quote(header, body)), nil
	case isHTML(header, body):
		return false, "", fmt.Errorf("health answered HTML, is this URL really an engine? GET %s gave 200%s", url, quote(header, body))
	case hasError(body):
		return false, fmt.Sprintf("last health answer 200 with an error inside from %s%s", url, quote(header, body)), nil
	}
	return true, "", nil // vLLM's 200 has an empty body and no content type: nothing more to look at
}

func get(ctx context.Context, url string, limit int64) (status int, header http.Header, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, oneAnswer)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err == nil && (req.URL.Host == "" || req.URL.Scheme != "http" && req.URL.Scheme != "https") {
		err = errors.New("want http://host:port")
	}
	if err != nil {
		return 0, nil, nil, fmt.Errorf("%w %q: %w", errBadURL, url, err)
	}
	res, err := probe.Do(req)
	if err != nil {
		return 0, nil, nil, err
	}
	defer res.Body.Close()
	body, err = io.ReadAll(io.LimitReader(res.Body, limit))
	return res.StatusCode, res.Header, body, err
}

// servedModel is the first id of /v1/models, "" where the server has no such list: a proxy need not.
func servedModel(ctx context.Context, base string) string {
	status, _, body, err := get(ctx, base+"/v1/models", modelsBody)
	if err != nil || status != http.StatusOK {
		return ""
	}
	var list struct {
		Data []struct{ ID string }
	}
	if json.Unmarshal(body, &list) != nil || len(list.Data) == 0 {
		return ""
	}
	return list.Data[0].ID
}

// version is what the server says of itself, "" where it does not: only provenance hangs on it, so no failure is told.
func version(ctx context.Context, base string) string {
	status, _, body, err := get(ctx, base+"/version", healthBody)
	var v struct{ Version string }
	if err != nil || status != http.StatusOK || json.Unmarshal(body, &v) != nil {
		return ""
	}
	return v.Version
}

func isHTML(h http.Header, body []byte) bool {
	return strings.Contains(h.Get("Content-Type"), "html") || bytes.HasPrefix(bytes.TrimSpace(body), []byte("<"))
}

func hasError(body []byte) bool {
	var object struct{ Error any }
	return json.Unmarshal(body, &object) == nil && object.Error != nil
}

// quote shows where a redirect leads, or the beginning of a body on one line.
func quote(h http.Header, body []byte) string {
	if to := h.Get("Location"); to != "" {
		return " to " + to
	}
	text := strings.Join(strings.Fields(strings.ToValidUTF8(string(body), "\uFFFD")), " ")
	if text == "" {
		return ""
	}
	if r := []rune(text); len(r) > 100 {
		text = string(r[:100]) + "..."
	}
	return fmt.Sprintf(": %q", text)
}
