package stamped

import (
	"fmt"
	"math"
	"slices"
	"sync"
)

// State is how an answer ended.
type State string

const (
	StateDone  State = "done"
	StateLeft  State = "left"  // the client left, or the server was closed
	StateFault State = "fault" // as planted
)

// Request is one request for tokens. Times are in ns on the clock of Now.
type Request struct {
	ID           string  `json:"id"` // X-Request-Id, else the id of the answer
	Path         string  `json:"path"`
	Stream       bool    `json:"stream"`
	Arrived      int64   `json:"arrived"` // its last byte: by the kernel on Linux, else when it was read
	Read         int64   `json:"read"`    // its last byte was read
	PromptTokens int     `json:"prompt_tokens"`
	Asked        int     `json:"asked"`             // tokens
	Due          []int64 `json:"due,omitempty"`     // per token; of an answer that is not streamed only the last
	Written      []int64 `json:"written,omitempty"` // per token, just before the write
	Ended        int64   `json:"ended"`             // just before the write of its last bytes: what the client sends next comes after it
	State        State   `json:"state"`
	Blocked      int     `json:"blocked,omitempty"` // writes that the reader's full buffers put off; these are late by its fault
}

// Truth is what a server knows of itself. Requests that have not ended are only counted.
type Truth struct {
	Options      Options   `json:"options"`
	Now          int64     `json:"now"`
	Running      int       `json:"running"`
	Requests     []Request `json:"requests"`       // by arrival
	InFlightPeak int       `json:"in_flight_peak"` // exact, over [arrived, ended) of Requests
	ArrivalRate  float64   `json:"arrival_rate"`   // requests/s between the first and the last arrival; 0: fewer than two
	TTFT         Spread    `json:"ttft"`           // first written - arrived
	ITL          Spread    `json:"itl"`            // between two writes of an answer
	Late         Spread    `json:"late"`           // written - due: the server's own error
	Backlog      Spread    `json:"backlog"`        // read - arrived: what it had to catch up on; no error as long as it is under the TTFT
}

// Spread is a distribution in ms. N 0: nothing was measured, and the figures mean nothing.
type Spread struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// NewSpread sorts ns in place. Percentiles interpolate between order statistics (type 7, NumPy's default).
func NewSpread(ns []int64) Spread {
	if len(ns) == 0 {
		return Spread{}
	}
	slices.Sort(ns)
	at := func(p float64) float64 {
		x := p * float64(len(ns)-1)
		lo := int(math.Floor(x))
		hi := min(lo+1, len(ns)-1)
		return (float64(ns[lo]) + (x-float64(lo))*float64(ns[hi]-ns[lo])) / 1e6
	}
	return Spread{N: len(ns), P50: at(.5), P99: at(.99), Max: at(1)}
}

// ledger collects the requests.
type ledger struct {
	mu      sync.Mutex
	running int
	ended   []*Request
	// since the start, for /metrics
	prompt, generated, finished int
}

func (l *ledger) begin(*Request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running++
}

// end is told how a request ended. Not first: only how it ended is new.
func (l *ledger) end(r *Request, state State, at int64, blocked int, first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.State == StateDone {
		l.finished--
	}
	if r.State, r.Ended, r.Blocked = state, at, blocked; state == StateDone {
		l.finished++
	}
	if !first {
		return
	}
	l.running--
	l.ended = append(l.ended, r)
	l.prompt += r.PromptTokens
	if r.Stream {
		l.generated += len(r.Written)
	} else if len(r.Written) > 0 {
		l.generated += r.Asked
	}
}

func (l *ledger) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = nil
}

func (l *ledger) truth(o Options, events bool) Truth {
	l.mu.Lock()
	t := Truth{Options: o, Now: Now(), Running: l.running, Requests: make([]Request, len(l.ended))}
	for i, r := range l.ended {
		t.Requests[i] = *r
	}
	l.mu.Unlock()
	slices.SortStableFunc(t.Requests, func(a, b Request) int { return int(min(1, max(-1, a.Arrived-b.Arrived))) })
	t.describe()
	if !events {
		for i := range t.Requests {
			t.Requests[i].Due, t.Requests[i].Written = nil, nil
		}
	}
	return t
}

// Last is the truth of the last n requests alone: tools send some of their own before a measurement. It needs the events.
func (t Truth) Last(n int) Truth {
	t.Requests = t.Requests[max(0, len(t.Requests)-n):]
	t.describe()
	return t
}

// describe makes the figures from Requests.
func (t *Truth) describe() {
	var ttft, itl, late, backlog []int64
	for _, r := range t.Requests {
		backlog = append(backlog, r.Read-r.Arrived)
		for k, w := range r.Written {
			late = append(late, w-r.Due[k])
			switch {
			case k > 0:
				itl = append(itl, w-r.Written[k-1])
			case r.Stream:
				ttft = append(ttft, w-r.Arrived)
			}
		}
	}
	t.TTFT, t.ITL, t.Late, t.Backlog = NewSpread(ttft), NewSpread(itl), NewSpread(late), NewSpread(backlog)
	t.InFlightPeak = peak(t.Requests)
	t.ArrivalRate = 0
	if n := len(t.Requests); n > 1 && t.Requests[n-1].Arrived > t.Requests[0].Arrived {
		t.ArrivalRate = float64(n-1) / (float64(t.Requests[n-1].Arrived-t.Requests[0].Arrived) / 1e9)
	}
}

// peak sweeps over the beginnings and ends; an end at the moment of a beginning comes first.
func peak(rs []Request) int {
	type edge struct {
		at    int64
		delta int
	}
	edges := make([]edge, 0, 2*len(rs))
	for _, r := range rs {
		edges = append(edges, edge{r.Arrived, 1}, edge{r.Ended, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(min(1, max(-1, a.at-b.at)))
		}
		return a.delta - b.delta
	})
	most, now := 0, 0
	for _, e := range edges {
		now += e.delta
		most = max(most, now)
	}
	return most
}

// page is /metrics: the series that a client's own count is held against, by vLLM's names.
func (l *ledger) page(model string) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b []byte
	add := func(name, kind, labels string, v int) {
		b = fmt.Appendf(b, "# TYPE %s %s\n%s{model_name=%q%s} %d\n", name, kind, name, model, labels, v)
	}
	add("vllm:num_requests_running", "gauge", "", l.running)
	add("vllm:num_requests_waiting", "gauge", "", 0)
	add("vllm:prompt_tokens_total", "counter", "", l.prompt)
	add("vllm:generation_tokens_total", "counter", "", l.generated)
	add("vllm:request_success_total", "counter", `,finished_reason="length"`, l.finished)
	return b
}
