package proxy

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the proxy's own series, in an own registry: several proxies live in one test process.
type metrics struct {
	handler      http.Handler
	requests     *prometheus.CounterVec   // route, outcome as in the ledger
	hops         *prometheus.HistogramVec // stage; whole leg, last byte included
	fallbacks    prometheus.Counter
	inFlight     prometheus.Gauge
	ledgerBroken prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "omnitest_proxy_requests_total", Help: "Finished client requests by route and outcome (ok, failed, cancelled).",
		}, []string{"route", "outcome"}),
		hops: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "omnitest_proxy_hop_seconds", Help: "Upstream requests by stage, from sending to the last byte or the failure.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500},
		}, []string{"stage"}),
		fallbacks: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "omnitest_proxy_fallbacks_total", Help: "Requests that decode served without a ticket because AllowFallback is set.",
		}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "omnitest_proxy_in_flight", Help: "Client requests being served.",
		}),
		ledgerBroken: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "omnitest_proxy_ledger_file_broken", Help: "1 once a record could not be appended to the ledger file.",
		}),
	}
	r := prometheus.NewRegistry()
	r.MustRegister(m.requests, m.hops, m.fallbacks, m.inFlight, m.ledgerBroken)
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{})
	return m
}
