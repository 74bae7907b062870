package dit

import (
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// meter is /metrics as recorded from vLLM-Omni 0.26: the vllm_omni: series, http_requests_total, and the process_
// series where the platform has them. There are no stage, transfer or diffusion series; the token counters stay 0.
type meter struct {
	running, waiting prometheus.Gauge
	success          *prometheus.CounterVec
	successCreated   *prometheus.GaugeVec
	latency          prometheus.Histogram
	requests         *prometheus.CounterVec
	handler          http.Handler
}

func newMeter(model string) *meter {
	own := prometheus.NewRegistry()
	reg := prometheus.WrapRegistererWith(prometheus.Labels{"model_name": model}, own)
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	const successHelp = "Total requests by completion reason (stop / length / abort / ...). Aborts cover client-disconnect / cancellation paths in addition to upstream FinishReason.ABORT."
	m := &meter{
		running: gauge("vllm_omni:num_requests_running", "Number of requests currently running across all pipeline stages."),
		waiting: gauge("vllm_omni:num_requests_waiting", "Number of requests waiting to be scheduled."),
		success: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vllm_omni:requests_success_total", Help: successHelp}, []string{"finished_reason"}),
		// The Python client writes a _created gauge beside every counter and histogram, also in the plain text format.
		successCreated: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vllm_omni:requests_success_created", Help: successHelp}, []string{"finished_reason"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "vllm_omni:e2e_request_latency_s",
			Help:    "Pipeline-global end-to-end request latency in seconds (user arrival to complete response).",
			Buckets: []float64{0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300},
		}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "http_requests_total", Help: "Total number of requests by method, status and handler."}, []string{"handler", "method", "status"}),
	}
	now := float64(time.Now().UnixNano()) / 1e9
	gauge("vllm_omni:e2e_request_latency_s_created", "Pipeline-global end-to-end request latency in seconds (user arrival to complete response).").Set(now)
	for _, c := range []struct{ name, help string }{
		{"vllm_omni:prompt_tokens", "Total prompt (input) tokens processed across all pipeline stages."},
		{"vllm_omni:generation_tokens", "Total generation (output) tokens produced across all pipeline stages."},
	} {
		reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: c.name + "_total", Help: c.help}))
		gauge(c.name+"_created", c.help).Set(now)
	}
	reg.MustRegister(m.success, m.successCreated, m.latency)
	own.MustRegister(m.requests, collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(own, promhttp.HandlerOpts{})
	return m
}

// finished counts a request that reached the engine. Requests refused at validation are not counted, and failures of
// the engine count as aborts: as recorded. Only complete ones have a latency.
func (m *meter) finished(reason string, arrived time.Time) {
	c := m.success.WithLabelValues(reason)
	if g := m.successCreated.WithLabelValues(reason); reason != "" {
		g.Set(float64(time.Now().UnixNano()) / 1e9)
	}
	c.Inc()
	if reason == "stop" {
		m.latency.Observe(time.Since(arrived).Seconds())
	}
}

func (m *meter) answered(handler, method string, status int) {
	m.requests.WithLabelValues(handler, method, strconv.Itoa(status/100)+"xx").Inc()
}
