package probe

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/internal/prom"
)

const timingClaim = "a ticket brings decode's first token sooner"

// timingGain is how far below 1 the interval of the ratio must lie: what spares a few percent needs no handoff. Measured on a
// reference decode that ignores its tickets, 192 tokens at 1 ms each, on a busy machine: of 20 runs of 6 pairs two had an
// interval that ended below 1, the lowest at 0.999.
//
// timingLoss is what a ticket must cost before that is held against it: the longest transfer recorded took 68 ms (2048 tokens,
// 24 MiB, vLLM 0.26 over loopback), so a short prompt may well be slower with its ticket (on the reference stack 1.7 to 4.3 times,
// 0.3 ms against 0.7); several times that is a stall. The stall that was seen in the field took 30 s (llm-d router #2451).
const (
	timingGain = 0.95
	timingLoss = 250 * time.Millisecond
)

// Timing is advisory: it compares decode's time to first token for a prompt with a ticket and for an unseen one of the same
// length without, in Rounds (0: 10, 6 at least) pairs, which of the two goes first alternating pair by pair (ABBA). It gives
// the ratio with a 95 % interval (Hodges and Lehmann's of the log ratios), both medians, and how long transfers take by decode's own histogram.
//
//   - proven: the whole interval of the ratio is below 0.95
//   - refuted: it is above 1, and the whole interval of the loss above 250 ms
//   - inconclusive, "advisory": all else. On a short prompt or a small model the difference drowns: give thousands of Tokens
//
// The leg to prefill is not part of any time. It sends 3 requests per pair, and 3 before that are not counted: the first
// transfer of two engines shakes hands. The stack should be idle.
func Timing(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	n := p.times(10)
	switch {
	case p.dialect().Ask == nil:
		return p.done(timingClaim, handoff.StateInconclusive, "no-tickets", "advisory: connector %s has no tickets", p.dialect().Name)
	case n < leastPairs:
		return p.done(timingClaim, handoff.StateInconclusive, "too-few", "advisory: %d pairs have no 95 %% interval, %d are the fewest", n, leastPairs)
	}
	if _, err := p.timingPair(ctx, "warm-up", true); err != nil {
		return p.result, fmt.Errorf("timing: %w", err)
	}
	before, scrapeErr := p.decodePage(ctx)
	var pairs []timingPair
	for i := range n {
		pair, err := p.timingPair(ctx, fmt.Sprint(i+1), i%2 == 0)
		if err != nil {
			return p.result, fmt.Errorf("timing: %w", err)
		}
		pairs = append(pairs, pair)
	}
	v := judgeTiming(pairs)
	told := ""
	if scrapeErr == nil {
		var after *prom.Snapshot
		if after, scrapeErr = p.decodePage(ctx); scrapeErr == nil {
			told = transferTime(before, after, v.Numbers)
		}
	}
	if scrapeErr != nil {
		told = "transfer time not measured: " + scrapeErr.Error()
	}
	v.Reasons[0].Text += "; " + told
	p.result.Verdict = v
	return p.result, nil
}

// timingPair are the times to first token of two prompts of one length.
type timingPair struct {
	with, without time.Duration
	tokens        int
}

func (p *probe) timingPair(ctx context.Context, name string, ticketFirst bool) (pair timingPair, err error) {
	with := &subject{name: "with, " + name, request: p.timed()}
	without := &subject{name: "without, " + name, request: p.timed()}
	if err := p.prefill(ctx, with); err != nil { // before either time is taken: prefill may share a machine with decode
		return pair, err
	}
	legs := []func() error{
		func() (err error) { pair.with, pair.tokens, err = p.firstToken(ctx, with, with.ticket); return err },
		func() (err error) { pair.without, _, err = p.firstToken(ctx, without, nil); return err },
	}
	if !ticketFirst {
		slices.Reverse(legs)
	}
	for _, leg := range legs {
		if err := leg(); err != nil {
			return pair, err
		}
	}
	return pair, nil
}

// timed is a fresh prompt of which the first tokens alone are wanted.
func (p *probe) timed() api.CompletionRequest {
	r := p.sized(p.Tokens, nil)
	if r.MaxTokens = p.Output; r.MaxTokens == 0 {
		r.MaxTokens = 4
	}
	return r
}

// firstToken streams an answer of decode: a completion's first event carries its first token, even if that is no text yet.
func (p *probe) firstToken(ctx context.Context, x *subject, ticket json.RawMessage) (at time.Duration, tokens int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Limit, fmt.Errorf("no answer within %v", p.Limit))
	defer cancel()
	r, role := x.request, "decode "+x.name
	r.Ticket = ticket
	t, err := p.Source.Decode.API.StreamComplete(ctx, r, nil)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	if err == nil && len(t.Events) == 0 {
		err = fmt.Errorf("a stream without events")
	}
	p.keep(role, "decode", r, t, err)
	if err != nil {
		return 0, 0, fmt.Errorf("%s (decode): %w", role, err)
	}
	return t.Events[0].At, promptTokens(t, p.Tokens), nil
}

// judgeTiming compares the pairs.
func judgeTiming(pairs []timingPair) handoff.Verdict {
	v := handoff.Verdict{Claim: timingClaim, Numbers: map[string]float64{}}
	var ratios, losses, with, without []float64
	for _, x := range pairs {
		if x.with <= 0 || x.without <= 0 {
			continue // no clock is that fast: not measured
		}
		with, without = append(with, ms(x.with)), append(without, ms(x.without))
		ratios, losses = append(ratios, math.Log(x.with.Seconds()/x.without.Seconds())), append(losses, ms(x.with-x.without))
	}
	say := func(s handoff.State, rule, format string, args ...any) handoff.Verdict {
		v.State, v.Reasons = s, []handoff.Reason{{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)}}
		return v
	}
	ratio, ok := hodgesLehmann(ratios)
	loss, _ := hodgesLehmann(losses)
	if !ok {
		return say(handoff.StateInconclusive, "too-few", "advisory: %d pairs were measured, %d are the fewest", len(ratios), leastPairs)
	}
	ratio = interval{math.Exp(ratio.estimate), math.Exp(ratio.low), math.Exp(ratio.high)}
	v.Numbers["with_ms"], v.Numbers["without_ms"] = median(with), median(without)
	v.Numbers["ratio"], v.Numbers["ratio_low"], v.Numbers["ratio_high"] = ratio.estimate, ratio.low, ratio.high
	text := fmt.Sprintf("decode's first token came after %.1f ms with a ticket, %.1f ms without (medians of %d pairs of %d tokens): ratio %.2f, 95 %% interval %.2f to %.2f",
		median(with), median(without), len(ratios), pairs[0].tokens, ratio.estimate, ratio.low, ratio.high)
	switch {
	case ratio.high < timingGain:
		return say(handoff.StateProven, "sooner", "%s", text)
	case ratio.low > 1 && loss.low > ms(timingLoss):
		return say(handoff.StateRefuted, "later", "%s: the ticket costs %.0f ms (%.0f to %.0f), more than computing the prompt", text, loss.estimate, loss.low, loss.high)
	}
	return say(handoff.StateInconclusive, "drowned", "advisory: %s: no clear gain", text)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// transferSeconds is NixlConnector's histogram of transfers, on decode.
const transferSeconds = "vllm:nixl_xfer_time_seconds"

// transferTime tells the mean of decode's own histogram between two scrapes.
func transferTime(before, after *prom.Snapshot, numbers map[string]float64) string {
	sum, s1 := prom.Delta(before, after, transferSeconds+"_sum", nil)
	count, s2 := prom.Delta(before, after, transferSeconds+"_count", nil)
	if s1 == prom.Present {
		s1 = s2
	}
	switch {
	case s1 != prom.Present:
		return fmt.Sprintf("transfer time not measured: %s %s", transferSeconds, s1)
	case count == 0:
		return "transfer time not measured: decode counted no transfer"
	}
	numbers["transfer_ms"], numbers["transfers"] = 1000*sum/count, count
	return fmt.Sprintf("a transfer took %.1f ms (decode's mean of %.0f)", 1000*sum/count, count)
}

// direct scrapes without a proxy from the environment.
var direct = &http.Client{Transport: &http.Transport{IdleConnTimeout: 3 * time.Second}}

func (p *probe) decodePage(ctx context.Context) (*prom.Snapshot, error) {
	ctx, cancel := context.WithTimeout(ctx, p.Limit)
	defer cancel()
	client, url := direct, p.Source.Decode.MetricsURL
	if own := p.Source.Decode.API.HTTP; own != nil {
		client = own
	}
	if url == "" {
		url = p.Source.Decode.API.BaseURL + "/metrics"
	}
	return prom.Scrape(ctx, client, url)
}
