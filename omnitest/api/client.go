// Package api is the one HTTP client of the suite.
package api

import (
	"context"
	"errors"
	"image"
	"net/http"
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
}

var errStub = errors.New("api: not built yet")

// Complete sends a completion and reads the whole answer.
func (c *Client) Complete(ctx context.Context, r CompletionRequest) (*Text, error) {
	return nil, errStub
}

// StreamComplete sends a completion with stream=true and include_usage, and reads it event by event.
// each, if not nil, sees every event as it arrives; a returned error aborts the stream.
// On failure the *Text holds what had arrived.
func (c *Client) StreamComplete(ctx context.Context, r CompletionRequest, each func(Event) error) (*Text, error) {
	return nil, errStub
}

// Chat sends a chat completion and reads the whole answer.
func (c *Client) Chat(ctx context.Context, r ChatRequest) (*Text, error) { return nil, errStub }

// StreamChat is StreamComplete for chat.
func (c *Client) StreamChat(ctx context.Context, r ChatRequest, each func(Event) error) (*Text, error) {
	return nil, errStub
}

// Generate asks for pictures.
func (c *Client) Generate(ctx context.Context, r ImageRequest) (*Images, error) { return nil, errStub }

// Edit sends input pictures with an instruction.
func (c *Client) Edit(ctx context.Context, r EditRequest) (*Images, error) { return nil, errStub }

// Models lists the served model ids.
func (c *Client) Models(ctx context.Context) ([]string, error) { return nil, errStub }

// Health is nil when GET /health answers 200. vLLM's 200 has an empty body.
func (c *Client) Health(ctx context.Context) error { return errStub }

// Decode reads the pixels as RGBA at origin 0,0. The header was checked against the limits when the image arrived.
func (im *Image) Decode() (*image.RGBA, error) { return nil, errStub }

// ReadImage sniffs and limits a file's bytes without decoding its pixels.
func ReadImage(raw []byte, l Limits) (Image, error) { return Image{}, errStub }
