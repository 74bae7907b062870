package ar

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"
)

// Buckets as in the recorded /metrics of vLLM 0.32.0.
var (
	tokenBuckets     = []float64{1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000}
	iterationBuckets = []float64{1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}
	ttftBuckets      = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560}
	itlBuckets       = []float64{.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80}
	latencyBuckets   = []float64{.3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680}
	xferBuckets      = []float64{.005, .01, .025, .05, .075, .1, .2, .3, .5, .75, 1, 5}
	postBuckets      = append([]float64{.001}, xferBuckets...)
	bytesBuckets     = prometheus.ExponentialBuckets(2048, 4, 12)
	descBuckets      = []float64{10, 20, 30, 50, 75, 100, 200, 400, 1000, 2000, 4000, 10000, 20000, 50000}
)

// metrics are the vllm:* series. Names, labels and types are those of the recordings; which request moves which series
// at which moment is what metrics_test.go compares with them.
type metrics struct {
	registry *prometheus.Registry
	labels   prometheus.Labels

	running, waiting, capacity, deferred, usage prometheus.Gauge
	fetching, fetched                           prometheus.Gauge

	prefixQueries, prefixHits, externalQueries, externalHits prometheus.Counter
	promptTokens, cachedTokens, generationTokens             prometheus.Counter
	preemptions                                              prometheus.Counter
	bySource, cachedBySource, success                        *prometheus.CounterVec

	failedTransfers, failedNotifications, expired, lateNotifications prometheus.Counter
	bytes, descriptors, xfer, post                                   prometheus.Histogram

	iteration, ttft, itl, tpot, e2e, queue, inference, prefillTime, decodeTime         prometheus.Histogram
	reqPrompt, reqGeneration, reqMax, reqN, reqParamMax, reqPreemptions, reqKVComputed prometheus.Histogram
}

func newMetrics(c Config) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), labels: prometheus.Labels{"engine": "0", "model_name": c.Model}}
	m.registry.MustRegister(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	m.xfer = m.histogram("nixl_xfer_time_seconds", "Histogram of transfer duration for NIXL KV Cache transfers.", xferBuckets)
	m.post = m.histogram("nixl_post_time_seconds", "Histogram of transfer post time for NIXL KV Cache transfers.", postBuckets)
	m.bytes = m.histogram("nixl_bytes_transferred", "Histogram of bytes transferred per NIXL KV Cache transfers.", bytesBuckets)
	m.descriptors = m.histogram("nixl_num_descriptors", "Histogram of number of descriptors per NIXL  KV Cache transfers.", descBuckets)
	m.failedTransfers = m.counter("nixl_num_failed_transfers_total", "Number of failed NIXL KV Cache transfers, including handshake and notification failures.")
	m.failedNotifications = m.counter("nixl_num_failed_notifications_total", "Number of failed NIXL KV Cache notifications.")
	m.expired = m.counter("nixl_num_kv_expired_reqs_total", "Number of requests that had their KV expire. NOTE: This metric is tracked on the P instance.")
	m.lateNotifications = m.counter("nixl_num_notifications_after_expiry_total", "Number of completion notifications for requests that were no longer tracked, usually because their KV lease expired.")

	m.running = m.gauge("num_requests_running", "Number of requests in model execution batches.")
	m.waiting = m.gauge("num_requests_waiting", "Number of requests waiting to be processed.")
	byReason := m.gaugeVec("num_requests_waiting_by_reason", "Number of waiting requests by reason.", "reason")
	m.capacity, m.deferred = byReason.WithLabelValues("capacity"), byReason.WithLabelValues("deferred")
	byStage := m.gaugeVec("num_requests_kv_fetch_by_stage", "Number of waiting requests by async KV load stage.", "stage")
	byStage.WithLabelValues("waiting_to_start") // a pull starts when its blocks are allocated
	m.fetching, m.fetched = byStage.WithLabelValues("in_progress"), byStage.WithLabelValues("completed_waiting")
	m.usage = m.gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.")
	sleep := m.gaugeVec("engine_sleep_state", "Engine sleep state.", "sleep_state")
	sleep.WithLabelValues("awake").Set(1)
	sleep.WithLabelValues("weights_offloaded")
	sleep.WithLabelValues("discard_all")

	m.prefixQueries = m.counter("prefix_cache_queries_total", "Prefix cache queries, in terms of number of queried tokens.")
	m.prefixHits = m.counter("prefix_cache_hits_total", "Prefix cache hits, in terms of number of cached tokens.")
	m.externalQueries = m.counter("external_prefix_cache_queries_total", "External prefix cache queries from KV connector cross-instance cache sharing, in terms of number of queried tokens.")
	m.externalHits = m.counter("external_prefix_cache_hits_total", "External prefix cache hits from KV connector cross-instance cache sharing, in terms of number of cached tokens.")
	m.counter("mm_cache_queries_total", "Multi-modal cache queries, in terms of number of queried items.")
	m.counter("mm_cache_hits_total", "Multi-modal cache hits, in terms of number of cached items.")
	m.preemptions = m.counter("num_preemptions_total", "Cumulative number of preemption from the engine.")
	m.promptTokens = m.counter("prompt_tokens_total", "Number of prefill tokens processed.")
	m.bySource = m.counterVec("prompt_tokens_by_source_total", "Number of prompt tokens by source.", "source",
		"local_compute", "local_cache_hit", "external_kv_transfer")
	m.cachedTokens = m.counter("prompt_tokens_cached_total", "Number of cached prompt tokens (local + external).")
	m.cachedBySource = m.counterVec("prompt_tokens_cached_by_source_total", "Prefix-cache hit tokens by the cache tier that supplied them.", "source",
		"device", "host", "p2p", "disk", "external_unspecified")
	m.generationTokens = m.counter("generation_tokens_total", "Number of generation tokens processed.")
	m.success = m.counterVec("request_success_total", "Count of successfully processed requests.", "finished_reason",
		"stop", "length", "abort", "error", "repetition")

	m.reqPrompt = m.histogram("request_prompt_tokens", "Number of prefill tokens processed.", tokenBuckets)
	m.reqGeneration = m.histogram("request_generation_tokens", "Number of generation tokens processed.", tokenBuckets)
	m.iteration = m.histogram("iteration_tokens_total", "Histogram of number of tokens per engine_step.", iterationBuckets)
	m.reqMax = m.histogram("request_max_num_generation_tokens", "Histogram of maximum number of requested generation tokens.", tokenBuckets)
	m.reqN = m.histogram("request_params_n", "Histogram of the n request parameter.", []float64{1, 2, 5, 10, 20})
	m.reqParamMax = m.histogram("request_params_max_tokens", "Histogram of the max_tokens request parameter.", tokenBuckets)
	m.ttft = m.histogram("time_to_first_token_seconds", "Histogram of time to first token in seconds.", ttftBuckets)
	m.itl = m.histogram("inter_token_latency_seconds", "Histogram of inter-token latency in seconds.", itlBuckets)
	m.tpot = m.histogram("request_time_per_output_token_seconds", "Histogram of time_per_output_token_seconds per request.", itlBuckets)
	m.e2e = m.histogram("e2e_request_latency_seconds", "Histogram of e2e request latency in seconds.", latencyBuckets)
	m.queue = m.histogram("request_queue_time_seconds", "Histogram of time spent in WAITING phase for request.", latencyBuckets)
	m.inference = m.histogram("request_inference_time_seconds", "Histogram of time spent in RUNNING phase for request.", latencyBuckets)
	m.prefillTime = m.histogram("request_prefill_time_seconds", "Histogram of time spent in PREFILL phase for request.", latencyBuckets)
	m.decodeTime = m.histogram("request_decode_time_seconds", "Histogram of time spent in DECODE phase for request.", latencyBuckets)
	m.reqPreemptions = m.histogram("request_num_preemptions", "Histogram of the number of times a request was preempted.", []float64{1, 2, 3, 4, 5, 10, 20})
	m.reqKVComputed = m.histogram("request_prefill_kv_computed_tokens", "Histogram of new KV tokens computed during prefill (excluding cached tokens).", tokenBuckets)

	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "vllm:cache_config_info", Help: "Information of the LLMEngine CacheConfig",
		ConstLabels: prometheus.Labels{
			"engine": "0", "block_size": strconv.Itoa(c.BlockSize), "cache_dtype": "auto", "enable_prefix_caching": "True",
			"num_gpu_blocks": strconv.Itoa(c.Blocks), "num_cpu_blocks": "None", "num_gpu_blocks_override": "None",
			"kv_cache_memory_bytes": strconv.Itoa(c.Blocks * c.BlockSize * BytesPerToken),
			"kv_cache_size_tokens":  strconv.Itoa(c.Blocks * c.BlockSize), "prefix_caching_hash_algo": "sha256",
		},
	})
	info.Set(1)
	m.registry.MustRegister(info)
	return m
}

func (m *metrics) counter(name, help string) prometheus.Counter {
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "vllm:" + name, Help: help, ConstLabels: m.labels})
	m.registry.MustRegister(c)
	return c
}

// counterVec registers a counter whose label values are all there from the start, at 0.
func (m *metrics) counterVec(name, help, label string, values ...string) *prometheus.CounterVec {
	c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vllm:" + name, Help: help, ConstLabels: m.labels}, []string{label})
	m.registry.MustRegister(c)
	for _, v := range values {
		c.WithLabelValues(v)
	}
	return c
}

func (m *metrics) gauge(name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "vllm:" + name, Help: help, ConstLabels: m.labels})
	m.registry.MustRegister(g)
	return g
}

func (m *metrics) gaugeVec(name, help, label string) *prometheus.GaugeVec {
	g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "vllm:" + name, Help: help, ConstLabels: m.labels}, []string{label})
	m.registry.MustRegister(g)
	return g
}

func (m *metrics) histogram(name, help string, buckets []float64) prometheus.Histogram {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "vllm:" + name, Help: help, ConstLabels: m.labels, Buckets: buckets})
	m.registry.MustRegister(h)
	return h
}

// admitted counts the cache look-ups of a request, once: at its first admission. A transfer that fails later is not
// taken back (recorded cases 26 to 31).
func (m *metrics) admitted(r *request, claimed bool) {
	m.prefixQueries.Add(float64(r.prompt))
	m.prefixHits.Add(float64(r.hit))
	m.cachedBySource.WithLabelValues("device").Add(float64(r.hit))
	m.externalQueries.Add(float64(r.prompt - r.hit))
	if claimed {
		m.externalHits.Add(float64(r.external))
		m.cachedBySource.WithLabelValues("p2p").Add(float64(r.external))
	}
}

// token counts one output token; the prompt is credited with the first.
func (m *metrics) token(r *request, now time.Time) {
	m.generationTokens.Inc()
	if r.generated == 1 {
		r.first = now
		m.ttft.Observe(now.Sub(r.arrival).Seconds())
		m.promptTokens.Add(float64(r.prompt))
		m.cachedTokens.Add(float64(r.hit + r.external))
		m.bySource.WithLabelValues("local_compute").Add(float64(r.prompt - r.hit - r.external))
		m.bySource.WithLabelValues("local_cache_hit").Add(float64(r.hit))
		m.bySource.WithLabelValues("external_kv_transfer").Add(float64(r.external))
	} else {
		m.itl.Observe(now.Sub(r.last).Seconds())
	}
	r.last = now
}

// finished counts a request that ended by itself or by an error; an aborted one leaves no trace, as recorded.
func (m *metrics) finished(r *request, reason string, now time.Time) {
	if r.generated == 0 { // a failed load still observes every histogram, and an iteration of 0 tokens (recorded case 31)
		if r.scheduled.IsZero() {
			r.scheduled = now
		}
		r.first, r.last = now, now
		m.ttft.Observe(now.Sub(r.arrival).Seconds())
		m.iteration.Observe(0)
	}
	m.success.WithLabelValues(reason).Inc()
	m.e2e.Observe(now.Sub(r.arrival).Seconds())
	m.reqPrompt.Observe(float64(r.prompt))
	m.reqGeneration.Observe(float64(r.generated))
	m.reqMax.Observe(float64(r.generated)) // the largest output of a request's choices, not what was asked for
	m.reqParamMax.Observe(float64(r.sampling.maxTokens))
	m.reqN.Observe(float64(r.sampling.n))
	m.reqPreemptions.Observe(float64(r.preemptions))
	// By admission, not by what was computed: recorded +N on a perfect handoff, so it proves nothing.
	m.reqKVComputed.Observe(float64(r.prompt - r.hit))
	m.queue.Observe(r.scheduled.Sub(r.arrival).Seconds())
	m.inference.Observe(r.last.Sub(r.scheduled).Seconds())
	m.prefillTime.Observe(r.first.Sub(r.scheduled).Seconds())
	m.decodeTime.Observe(r.last.Sub(r.first).Seconds())
	m.tpot.Observe(r.last.Sub(r.first).Seconds() / float64(max(1, r.generated-1)))
}

func (m *metrics) transferred(t moved) {
	m.bytes.Observe(float64(t.bytes))
	m.descriptors.Observe(float64(t.descriptors))
	m.xfer.Observe(t.took.Seconds())
	m.post.Observe(t.post.Seconds())
}

// gauges are set before an iteration computes, and after it before any client learns of its tokens.
func (s *Server) gauges() {
	m := s.metrics
	m.running.Set(float64(len(s.running)))
	capacity := len(s.waiting) + int(s.arriving.Load())
	m.waiting.Set(float64(capacity + s.loading + s.stuck))
	m.capacity.Set(float64(capacity))
	m.deferred.Set(float64(s.loading + s.stuck))
	m.fetching.Set(float64(s.loading + s.stuck))
	fetched := 0
	for _, r := range s.waiting {
		if r.loaded {
			fetched++
		}
	}
	m.fetched.Set(float64(fetched))
	m.usage.Set(s.pool.usage())
	s.ended.Store(s.requests)
}

// formerLife is what fault counter-reset adds to every counter per restart that is still to come.
const formerLife = 1e6

// serveMetrics writes the text format. Fault missing-series leaves the transfer series out. Fault counter-reset makes
// every counter fall with each request that ends: it starts with a large total of former lives and loses one life per
// request, so any two scrapes around a request see a reset, however many scrapes there are.
func (s *Server) serveMetrics(w http.ResponseWriter, _ *http.Request) {
	families, err := s.metrics.registry.Gather()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	lives := 0.0
	if s.config.Faults.CounterReset {
		lives = max(0, 1000-float64(s.ended.Load()))
	}
	w.Header().Set("Content-Type", "text/plain; version=1.0.0; charset=utf-8")
	for _, f := range families {
		if s.config.Faults.MissingSeries && transferSeries(f.GetName()) {
			continue
		}
		for _, x := range f.Metric {
			if x.Counter != nil {
				*x.Counter.Value += lives * formerLife
			}
			if x.Histogram != nil {
				*x.Histogram.SampleSum += lives * formerLife
				*x.Histogram.SampleCount += uint64(lives * formerLife)
				for _, b := range x.Histogram.Bucket {
					*b.CumulativeCount += uint64(lives * formerLife)
				}
			}
		}
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return
		}
	}
}

func transferSeries(name string) bool {
	name = strings.TrimPrefix(name, "vllm:")
	return strings.HasPrefix(name, "nixl_") || strings.HasPrefix(name, "external_prefix_cache_") ||
		strings.HasPrefix(name, "prompt_tokens_by_source") || strings.HasPrefix(name, "prompt_tokens_cached_by_source")
}
