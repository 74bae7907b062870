// Package canary measures the measuring side: how late this process reads what has already arrived.
//
// A client that is late itself reports the server as slow, and nothing in its own figures shows it: the mean of the
// inter-token latencies stays right while median and p99 are destroyed. So during a run a [Canary] reads a loopback stream of
// its own through the same [api.Client] code that reads the run's answers. Its events have known times; how late they are read
// is the client's error at that moment. [Canary.Stop] adds what else tells about the client (dispatch, CPU, steal, pauses,
// coalesced reads) and gives the verdict.
//
//	c, err := canary.Start(ctx, canary.Options{})
//	answers, run, err := load.Collect(ctx, plan, ...)
//	clientError := c.Stop(run, samples...)
//
// # What the lateness is
//
// The writer lives in this process too, because a program that is imported cannot always start another. A stalled process
// stalls writer and reader alike: an event that is stamped when it is written and subtracted when it is read saw nothing of a
// SIGSTOP. So the events stand on an absolute schedule, and lateness is read - due: after 50 ms of silence the five events
// that were due meanwhile are 45, 35, 25, 15 and 5 ms late, as the events of a server would be that arrived meanwhile.
//
// read - due is an upper bound: it holds the writer's own wake-up, which a server's event does not have. On Linux the writer
// wakes by a timerfd, that is through the same poller as a socket, so on a quiet machine the bound is some 100 µs. read -
// written ([metrics.ClientError].Read) is the lower bound, blind for a process that stood still. The truth lies between, and
// the verdict is on the upper one.
//
// The canary samples time, not requests: stalls that together take less than 1 % of the run do not move the p99, neither here nor in
// the run's own figures. They stand in p99.9 and max.
package canary

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Options of a canary. The zero value works.
type Options struct {
	Cadence time.Duration // between two events; 0: 10 ms. A p99 needs 368 events
	Bytes   int           // of one event on the wire, at least 160; 0: 220, as vLLM's chunks have
	// Client is the client of the run: the canary reads by a copy of it, so that its settings and transport are what is
	// measured. Its Limits and its Timeout are not taken over. nil: a Client with nothing set.
	Client *api.Client
}

const (
	streamEvents = 512 // events of one stream; then the next one begins on the same connection, so that memory stays bounded
	startLimit   = 5 * time.Second
	stopLimit    = 2 * time.Second // how long Stop waits for events that are due
)

func (o Options) filled() (Options, error) {
	if o.Cadence < 0 || o.Bytes < 0 {
		return o, fmt.Errorf("canary: negative number in the options %+v", o)
	}
	if o.Cadence == 0 {
		o.Cadence = 10 * time.Millisecond
	}
	if o.Cadence < time.Millisecond {
		return o, fmt.Errorf("canary: cadence %v is under 1ms: the canary would be a load of its own", o.Cadence)
	}
	if o.Bytes == 0 {
		o.Bytes = 220
	}
	return o, nil
}

// Canary is a measurement under way.
type Canary struct {
	options Options
	server  *writer
	client  api.Client
	cancel  context.CancelFunc
	done    chan struct{}
	ended   time.Duration // of the reading, since the writer's base; valid after done
	stop    sync.Once
	end     time.Duration // the moment of the first Stop
	began   usage
	count   atomic.Int64 // events read

	mu     sync.Mutex
	events []event // in the order of their due times
	errs   []error // of streams that broke, the first few
	broke  int
}

// event is what is known of one event of the canary. Times are since the writer's base.
type event struct{ due, written, read time.Duration }

// Start starts a canary and waits until its first event was read. It ends with ctx or with Stop.
func Start(ctx context.Context, o Options) (*Canary, error) {
	o, err := o.filled()
	if err != nil {
		return nil, err
	}
	server, err := newWriter(o)
	if err != nil {
		return nil, fmt.Errorf("canary: %w", err)
	}
	c := &Canary{options: o, server: server, done: make(chan struct{})}
	if o.Client != nil {
		c.client = *o.Client
	}
	c.client.BaseURL, c.client.Model, c.client.APIKey, c.client.Limits = server.url(), "canary", "", api.Limits{}
	c.client.Timeout = streamEvents*o.Cadence + time.Hour // a stalled canary is a finding, no failure
	ctx, c.cancel = context.WithCancel(ctx)
	ticking := make(chan struct{})
	go c.read(ctx, ticking)
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case <-ticking:
	case <-limit.C:
		err = errors.Join(append(c.broken(), fmt.Errorf("canary: no event was read within %v", startLimit))...)
	case <-c.done:
		err = errors.Join(append(c.broken(), errors.New("canary: ended before its first event"))...)
	}
	if err != nil {
		c.shut()
		return nil, err
	}
	c.began = readUsage()
	return c, nil
}

// read makes one stream after the other until ctx ends.
func (c *Canary) read(ctx context.Context, ticking chan struct{}) {
	defer func() {
		c.ended = time.Since(c.server.base())
		close(c.done)
	}()
	var once sync.Once
	request := api.CompletionRequest{Prompt: "tick", Sampling: api.Sampling{MaxTokens: streamEvents}}
	for ctx.Err() == nil {
		n := 0
		text, err := c.client.StreamComplete(ctx, request, func(api.Event) error {
			if n++; n <= streamEvents { // the finish and [DONE] follow
				c.count.Add(1)
			}
			once.Do(func() { close(ticking) })
			return nil
		})
		c.keep(text)
		if err != nil && ctx.Err() == nil {
			c.mu.Lock()
			if c.broke++; c.broke <= 3 {
				c.errs = append(c.errs, err)
			}
			c.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-time.After(c.options.Cadence): // a client that cannot connect must not spin
			}
		}
	}
}

// keep takes the events of one stream. Which ones they are is told by the answer's id, which names the first: the order on one
// connection is the writer's. Nothing has to be parsed out of them, so a client that keeps no payloads is measured too.
func (c *Canary) keep(text *api.Text) {
	digits, found := strings.CutPrefix(text.ID, idPrefix)
	first, err := strconv.Atoi(digits)
	if !found || err != nil || len(text.Events) == 0 {
		return
	}
	start := text.Exchange.Start.Sub(c.server.base())
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range text.Events {
		if i == streamEvents {
			break // the finish and [DONE]
		}
		due, written, ok := c.server.times(first + i)
		if !ok {
			break // the same: a stream that was cut short by Stop
		}
		c.events = append(c.events, event{due, written, start + text.Events[i].At})
	}
}

// Stop ends the canary and judges the client over the run: what load measured, and the run's samples. Events of the canary
// count while the run lasted (from run.Began over run.Wall; a zero Result: since Start); CPU, steal and the runtime's figures
// are from Start to Stop. A second Stop judges the same events.
func (c *Canary) Stop(run load.Result, samples ...metrics.Sample) metrics.ClientError {
	now := readUsage()
	c.stop.Do(func() {
		c.end = time.Since(c.server.base())
		c.await(c.end)
		c.shut()
	})

	from, to := time.Duration(0), min(c.end, c.ended) // ctx may have ended it before
	if !run.Began.IsZero() && run.Wall > 0 {
		from = run.Began.Sub(c.server.base())
		to = min(to, from+run.Wall)
	}
	late, floor := c.lateness(from, to)
	e := metrics.ClientError{
		Event: describe(late, c.none()), Read: describe(floor, c.none()),
		Dispatch:  dispatch(run),
		Coalesced: coalesced(samples),
		LittleGap: littleGap(run, samples),
	}
	now.since(c.began, &e)
	e.Verdict, e.Reasons = judge(e, expected(samples), c.options.Cadence)
	return e
}

// await waits until the events that are due before end were read, at most stopLimit: the last ones are the late ones.
func (c *Canary) await(end time.Duration) {
	due := int64(end / c.options.Cadence)
	limit := time.Now().Add(stopLimit)
	for c.count.Load() < due && time.Now().Before(limit) {
		select {
		case <-c.done:
			return
		case <-time.After(time.Millisecond):
		}
	}
}

func (c *Canary) shut() {
	c.cancel()
	c.server.close()
	<-c.done
}

// lateness gives read - due and read - written, in ms, of the events that were due in the interval. An event that was due and
// never read is at least as late as the time that passed since.
func (c *Canary) lateness(from, to time.Duration) (late, floor []float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	next := c.options.Cadence
	unread := func(until, seen time.Duration) { // events that were due before until; at seen it was clear that they were not read
		for ; next < until; next += c.options.Cadence {
			if next >= from && next <= to {
				late = append(late, ms(seen-next))
			}
		}
	}
	for _, e := range c.events {
		unread(e.due, e.read)
		next = e.due + c.options.Cadence
		if e.due >= from && e.due <= to {
			late = append(late, ms(e.read-e.due))
			floor = append(floor, ms(e.read-e.written))
		}
	}
	unread(to, c.ended)
	return late, floor
}

func (c *Canary) broken() []error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]error{}, c.errs...)
}

// none says why there is no event.
func (c *Canary) none() string {
	if errs := c.broken(); len(errs) > 0 {
		return fmt.Sprintf("the canary's stream broke: %v", errs[0])
	}
	return "no event of the canary was due while the run lasted"
}

// NotMeasured is the client's error of a run without a canary, and why it had none.
func NotMeasured(why string) metrics.ClientError {
	none := metrics.Absent(why)
	no := metrics.Lateness{P50: none, P99: none, P999: none, Max: none}
	return metrics.ClientError{Dispatch: no, Event: no, Read: no, CPU: none, CPUShare: none, Steal: none, GCs: none, GCPause: none,
		Sched: none, Coalesced: none, LittleGap: none, Verdict: metrics.ClientUnknown, Reasons: []string{why}}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
