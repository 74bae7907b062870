package ar

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// sampling is what a client may ask of one output.
type sampling struct {
	maxTokens   int
	minTokens   int
	temperature float64
	seed        uint64
	ignoreEOS   bool
	stops       []string
	stopIDs     []int32
	logprobs    int // how many alternatives; -1: no log probabilities at all
	n           int // outputs of the same prompt, for the metrics
}

// state of a request inside the scheduler.
type state int

const (
	waiting state = iota
	loading       // waiting for remote KV
	stuck         // an invalid ticket: real vLLM 0.32.0 never answers such a request
	running
	finished
)

// request is one sequence. The scheduler goroutine owns it once submitted; out is the way back.
type request struct {
	id        string // the engine's own id: the response id, "-<choice>" for completions, and 8 random hex digits
	index     int    // choice
	sampling  sampling
	prompt    int     // prompt tokens
	promptIDs []int32 // never written: handlers read it while the scheduler appends to tokens
	start     int     // the position that the first output token reads
	tokens    []int32
	ticket    *ticket // D leg
	hold      bool    // P leg (do_remote_decode)
	out       *outbox

	state    state
	admitted bool
	loaded   bool // remote KV is there: only the last prompt token is computed again
	aborted  bool
	cancel   context.CancelFunc // ends the pull
	table    []int32
	hashes   []blockHash
	cached   int // full blocks already registered
	computed int // tokens whose KV is in table
	hit      int // prompt tokens found in the local prefix cache at admission
	external int // prompt tokens credited to the transfer
	prefill  int // prompt tokens really computed before the first output token
	cursor   int // next position to read

	generated   int
	preemptions int
	rng         *rand.Rand
	detok       detokenizer
	text        stopper

	arrival, scheduled, first, last time.Time
}

// event is one thing that happened to an output: a token, its end, or a failure.
type event struct {
	index    int
	text     string
	token    int32 // -1: none
	logprob  *tokenLogprob
	finish   string // "stop", "length"; "": goes on
	stop     string // the stop string that matched
	stopID   int32  // the stop token id that matched, if > 0
	cached   int    // prompt tokens from the local prefix cache (usage)
	external bool   // the prompt came from another engine
	ticket   *ticket
	err      *apiError
}

type tokenLogprob struct {
	token   int32
	logprob float64
	top     []alternative
}

type alternative struct {
	token   int32
	logprob float64
}

// outbox is an unbounded mailbox: a slow client must not stop the batch.
type outbox struct {
	mu     sync.Mutex
	events []event
	ready  chan struct{} // capacity 1
}

func newOutbox() *outbox { return &outbox{ready: make(chan struct{}, 1)} }

func (o *outbox) put(e event) {
	o.mu.Lock()
	o.events = append(o.events, e)
	o.mu.Unlock()
	select {
	case o.ready <- struct{}{}:
	default:
	}
}

// get waits for events and gives all there are, reusing buf.
func (o *outbox) get(ctx context.Context, buf []event) ([]event, error) {
	for {
		o.mu.Lock()
		if len(o.events) > 0 {
			got := o.events
			o.events = buf[:0]
			o.mu.Unlock()
			return got, nil
		}
		o.mu.Unlock()
		select {
		case <-o.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// stopper holds back text that may be the beginning of a stop string.
type stopper struct {
	held string
}

// add takes a delta and gives the text that is safe to send; match is the stop string found, if any.
func (s *stopper) add(delta string, stops []string) (text, match string) {
	if len(stops) == 0 {
		return delta, ""
	}
	s.held += delta
	at := -1
	for _, stop := range stops {
		if i := strings.Index(s.held, stop); i >= 0 && (at < 0 || i < at) {
			at, match = i, stop
		}
	}
	if at >= 0 {
		text, s.held = s.held[:at], ""
		return text, match
	}
	keep := 0
	for _, stop := range stops {
		for n := min(len(stop)-1, len(s.held)); n > keep; n-- {
			if strings.HasSuffix(s.held, stop[:n]) {
				keep = n
				break
			}
		}
	}
	text, s.held = s.held[:len(s.held)-keep], s.held[len(s.held)-keep:]
	return text, ""
}

// flush gives what was held back when the output ends otherwise.
func (s *stopper) flush() string {
	text := s.held
	s.held = ""
	return text
}
