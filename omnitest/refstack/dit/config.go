// Package dit is the diffusion transformer of the reference stack.
package dit

import (
	"context"
	"errors"
	"image"
	"net/http"
	"time"
)

// Config is one DiT server. The zero value serves model "reference-dit" on a free port.
type Config struct {
	Model    string `json:",omitempty"` // "": "reference-dit"
	Listen   string `json:",omitempty"` // "": 127.0.0.1:0
	MaxBatch int    `json:",omitempty"` // pictures denoised at once; 0: 1, as vLLM-Omni's default (requests queue)
	Faults   Faults
	Timing   Timing
}

// Server is a running DiT.
type Server struct{}

// New builds the server; nothing listens yet.
func New(c Config) (*Server, error) { return nil, errors.New("dit: not built yet") }

// Serve listens until ctx ends. ready, if not nil, is called once with the real address.
func (s *Server) Serve(ctx context.Context, ready func(addr string)) error { return nil }

// Handler is the HTTP surface, for tests without a listener.
func (s *Server) Handler() http.Handler { return nil }

// Job is one in-process picture (no HTTP): the offline entry. Inputs empty: generation; else an edit.
type Job struct {
	Prompt string
	W, H   int // 0: 1024x1024, or the first input's size
	Steps  int // 0: 20
	Seed   int64
	Inputs []image.Image
	Mask   image.Image // white = may change; nil: the region the prompt names
}

// Result is one picture with its own stage times.
type Result struct {
	Image   *image.RGBA
	Stages  map[string]time.Duration // "text_encoder", "diffuse", "vae.decode"
	TextBox image.Rectangle          // where the text was painted; empty: none
	Region  image.Rectangle          // where an edit was allowed to change; empty: not an edit
}

// Render runs one job on the caller's goroutine. Deterministic in (Job): same job, same pixels.
func (s *Server) Render(ctx context.Context, j Job) (*Result, error) { return nil, nil }

// TextBox tells where Render will paint the text of a prompt, without painting it: tests crop goldens with it.
func TextBox(prompt string, w, h int) image.Rectangle { return image.Rectangle{} }

// Region tells which rectangle an edit instruction names; empty: the whole picture (style edits).
func Region(instruction string, w, h int) image.Rectangle { return image.Rectangle{} }
