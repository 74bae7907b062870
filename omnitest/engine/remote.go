package engine

import (
	"errors"
	"strings"
	"time"
)

// Remote is an engine that runs already, attached by URL. It is never stopped.
type Remote struct {
	URL          string        // base URL without /v1, "http://host:8000"
	MetricsURL   string        // "": URL + /metrics
	Model        string        // "": asked from /v1/models
	ReadyTimeout time.Duration // 0: 60 s; it may still be loading
	HealthPath   string        // "": /health
}

var _ Engine = Remote{}

// Kind is "remote".
func (Remote) Kind() string { return "remote" }

// Ports is nil: there is nothing to start.
func (Remote) Ports() []string { return nil }

// Plan starts nothing and says where to look.
func (r Remote) Plan(Place) (Plan, error) {
	if r.URL == "" {
		return Plan{}, errors.New("a remote engine needs its URL")
	}
	base := strings.TrimRight(r.URL, "/")
	metrics := r.MetricsURL
	if metrics == "" {
		metrics = base + "/metrics"
	}
	return Plan{BaseURL: base, MetricsURL: metrics, Model: r.Model, HealthPath: r.HealthPath, ReadyTimeout: r.ReadyTimeout}, nil
}
