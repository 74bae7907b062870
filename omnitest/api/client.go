// Package api is the one HTTP client of the suite: completions, chat, images and edits of servers that speak the
// protocol of vLLM and vLLM-Omni.
//
// It measures and it distrusts. Every answer carries an Exchange: what was sent where, when the headers came, when each
// event came (taken as its bytes arrived, before they were parsed). Every failure is an *Error of one Kind: an HTML page,
// an error inside a 200, a stream without its end, a picture that claims a gigabyte are failures and never empty answers.
//
//	c := &api.Client{BaseURL: "http://127.0.0.1:8000"}
//	text, err := c.Complete(ctx, api.CompletionRequest{Prompt: "red fox", Sampling: api.Sampling{MaxTokens: 16}})
//	if api.KindOf(err) == api.Refused { ... }
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

// Client talks to one server. The zero value with BaseURL set works. Safe for concurrent use.
type Client struct {
	BaseURL string        // "http://127.0.0.1:8000", without /v1
	Model   string        // used by requests that name none; "": left out
	APIKey  string        // "": no Authorization header
	HTTP    *http.Client  // nil: an own transport with keep-alive and room for many connections
	Timeout time.Duration // one request, whole; 0: 5 minutes. A shorter context deadline wins
	Limits  Limits

	// Lean keeps no payloads: Event.Data of a stream is nil, and its memory is used again for the next event. For load, where
	// thousands of streams are open and every profile is computed from Event's other fields. Checks that look into the payloads
	// (textcheck's split characters) have nothing to look at then.
	Lean bool
}

const defaultTimeout = 5 * time.Minute

// transport is shared by all Clients, as http.DefaultTransport is: connections are pooled per host, and a Client stays a
// plain value that may be copied. It differs from the default where the default would spoil a measurement.
var transport = &http.Client{
	Transport: &http.Transport{
		Proxy:               nil, // a proxy from the environment would stand between client and engine unseen
		DisableCompression:  true,
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		MaxIdleConns:        0,
		MaxIdleConnsPerHost: 16384, // the default of 2 makes a load test open a connection per request
		// uvicorn closes a connection that was idle for 5 s (vLLM: VLLM_HTTP_TIMEOUT_KEEP_ALIVE). A POST that meets such a
		// connection fails and may not be repeated, so it must be dropped before the server does it.
		IdleConnTimeout: 3 * time.Second,
		ReadBufferSize:  16 << 10,
		// One stream per connection, as the clients of vLLM and vLLM-Omni have it. HTTP/2 would put all streams of a run on one
		// connection, where a large answer holds up all others.
		Protocols: http1(),
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

func http1() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	return p
}

func (c *Client) http() *http.Client {
	if c.HTTP != nil {
		return c.HTTP
	}
	return transport
}

// CloseIdle closes the pooled connections that no request is using, as a test that counts goroutines or sockets wants.
func (c *Client) CloseIdle() { c.http().CloseIdleConnections() }

func (c *Client) timeout() time.Duration {
	if c.Timeout > 0 {
		return c.Timeout
	}
	return defaultTimeout
}

// Check says what is wrong with BaseURL, without sending anything.
func (c *Client) Check() error {
	_, err := c.address("")
	return err
}

// address joins BaseURL and path.
func (c *Client) address(path string) (string, error) {
	base := strings.TrimRight(c.BaseURL, "/")
	switch {
	case base == "":
		return "", errors.New("api: Client.BaseURL is empty")
	case strings.HasSuffix(base, "/v1"):
		return "", fmt.Errorf("api: Client.BaseURL %q must not end in /v1: the paths begin with it", c.BaseURL)
	case !strings.HasPrefix(base, "http://") && !strings.HasPrefix(base, "https://"):
		return "", fmt.Errorf("api: Client.BaseURL %q must begin with http:// or https://", c.BaseURL)
	}
	return base + path, nil
}

// Get reads path, whatever its content type: metrics, files. The body is the caller's own. A status other than 200 is
// an *Error, and so is an answer beyond Limits.BodyBytes.
func (c *Client) Get(ctx context.Context, path string) (body []byte, header http.Header, err error) {
	x, err := c.send(ctx, outgoing{method: http.MethodGet, path: path, accept: "*/*"})
	if err != nil {
		return nil, nil, err
	}
	defer x.close()
	if body, err = x.readAll(nil); err != nil {
		return nil, x.ex.Header, err
	}
	return body, x.ex.Header, nil
}

// GetJSON reads path into out, as encoding/json does. HTML, a wrong content type and JSON that does not fit out are an
// *Error of kind Protocol, an error object inside the 200 is one of kind InBand.
func (c *Client) GetJSON(ctx context.Context, path string, out any) error {
	x, err := c.send(ctx, outgoing{method: http.MethodGet, path: path, accept: jsonType})
	if err != nil {
		return err
	}
	defer x.close()
	body, err := x.readJSON(nil)
	if err != nil {
		return err
	}
	if err := x.inBand(body); err != nil {
		return err
	}
	if err := json.Unmarshal(body, out); err != nil {
		return x.failBody(finding(Protocol, "unexpected JSON: %v", err), body)
	}
	return nil
}

// Models lists the served model ids. An answer without any is an error.
func (c *Client) Models(ctx context.Context) ([]string, error) {
	var page struct{ Data []struct{ ID string } }
	if err := c.GetJSON(ctx, "/v1/models", &page); err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(page.Data))
	for _, m := range page.Data {
		if m.ID != "" {
			ids = append(ids, m.ID)
		}
	}
	if len(ids) == 0 {
		e := finding(Protocol, "lists no model")
		e.Method, e.URL, e.Status = http.MethodGet, strings.TrimRight(c.BaseURL, "/")+"/v1/models", http.StatusOK
		return nil, e
	}
	return ids, nil
}

// Health is nil when GET /health answers 200. vLLM's 200 has an empty body. HTML is no health: some other web server
// answers on this port.
func (c *Client) Health(ctx context.Context) error {
	x, err := c.send(ctx, outgoing{method: http.MethodGet, path: "/health", accept: "*/*"})
	if err != nil {
		return err
	}
	defer x.close()
	body, err := x.readAll(nil)
	if err == nil && isHTML(x.ex.Header, body) {
		err = x.failBody(finding(Protocol, "%s", htmlMessage(x.ex.Header, body, c.BaseURL)), body)
	}
	return err
}
