package canary

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/metrics"
)

// SelftestOptions of a Selftest. The zero value works, and takes less than a minute.
type SelftestOptions struct {
	Streams []int         // levels of streams at once; nil: 64, 128, ... 2048
	Rates   []float64     // levels of requests/s; nil: 100, 200, 500, 1000, 2000, 4000
	Level   time.Duration // of one level, about; 0: 4 s, which the canary's p99 needs
	Limit   time.Duration // of all of it; 0: 55 s
	// ServerCPUs are the cores that the server is bound to, on Linux; nil: it shares all of them with the client, so that what is
	// found is a lower bound of what the client can do alone.
	ServerCPUs []int
	Progress   io.Writer // gets a line per level as it is measured; nil: none
}

func (o SelftestOptions) filled() SelftestOptions {
	if o.Streams == nil {
		o.Streams = []int{64, 128, 256, 512, 1024, 2048}
	}
	if o.Rates == nil {
		o.Rates = []float64{100, 200, 500, 1000, 2000, 4000}
	}
	if o.Level <= 0 {
		o.Level = 4 * time.Second
	}
	if o.Limit <= 0 {
		o.Limit = 55 * time.Second
	}
	return o
}

// Selftest finds out how much this client measures on this machine before it spoils its own figures: it raises streams, then
// request rate, against a server with planted times (a process of its own), each level beside a canary. A sweep ends after two
// invalid levels in a row. The knee is the last level whose verdict is valid.
//
// The program must call stamped.Main first thing in main, as cmd/omnitest does: the server is this program started anew.
func Selftest(ctx context.Context, o SelftestOptions) (Capacity, error) {
	o = o.filled()
	began := time.Now()
	c := Capacity{Schema: CapacitySchema, Date: began.UTC().Format(time.RFC3339), Machine: ThisMachine()}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Limit, fmt.Errorf("selftest: the limit of %v ran out", o.Limit))
	defer cancel()
	server, err := stamped.Spawn(ctx, planted(o.ServerCPUs))
	if err != nil {
		return c, fmt.Errorf("selftest: %w", err)
	}
	defer server.Stop()

	var streams, rates []Level
	for _, n := range o.Streams {
		tokens := max(2, int((o.Level/2-plantedTTFT)/plantedITL)) // two waves: the second starts when the first ends, not at one moment
		streams = append(streams, Level{Streams: n, Calls: 2 * n, Tokens: tokens})
	}
	for _, r := range o.Rates {
		rates = append(rates, Level{Rate: r, Calls: max(2, int(r*o.Level.Seconds())), Tokens: 4})
	}
	header := true
	for _, sweep := range [][]Level{streams, rates} {
		invalid := 0
		for _, l := range sweep {
			if left := o.Limit - time.Since(began); left < o.Level+2*time.Second {
				l.Failure = fmt.Sprintf("not measured: %v are left of the limit of %v", left.Round(time.Second), o.Limit)
				l.Client = NotMeasured(l.Failure)
				c.Levels = append(c.Levels, l)
				continue
			}
			l, err := l.measure(ctx, server)
			if err != nil {
				l.Failure, l.Client = err.Error(), NotMeasured(err.Error())
				if ctx.Err() != nil {
					l.Failure = "not measured: " + context.Cause(ctx).Error()
				}
			}
			c.Levels = append(c.Levels, l)
			if o.Progress != nil {
				if header {
					fmt.Fprintln(o.Progress, levelHeader)
				}
				header = false
				fmt.Fprintln(o.Progress, l)
			}
			if invalid++; l.Client.Verdict == metrics.ClientValid {
				invalid = 0
			}
			if invalid == 2 {
				break
			}
		}
	}
	c.find()
	if ctx.Err() != nil && len(c.Levels) == 0 {
		return c, context.Cause(ctx)
	}
	return c, nil
}

// find picks the knees: the last valid level of each sweep, as achieved.
func (c *Capacity) find() {
	none := metrics.Absent("no level was valid")
	c.Streams, c.EventRate, c.RequestRate = none, none, none
	for _, l := range c.Levels {
		switch {
		case l.Client.Verdict != metrics.ClientValid || l.Failure != "":
		case l.Rate > 0:
			c.RequestRate = metrics.Of(l.Rate)
		default:
			c.Streams, c.EventRate = metrics.Of(float64(l.Streams)), l.EventRate
		}
	}
}

const levelHeader = "streams   req/s  events/s  late p50  late p99 canary p99  ITL err  TTFT err p99  dispatch p99   CPU  mock p99  verdict    (ms)"

// String is the level's line under levelHeader.
func (l Level) String() string {
	f := func(v metrics.Value, scale float64, format string) string {
		if x, ok := v.Get(); ok {
			return fmt.Sprintf(format, x*scale)
		}
		return "-"
	}
	or := func(v, other metrics.Value) metrics.Value { // n does not support the p99: the maximum, which is no less
		if v.OK() {
			return v
		}
		return other
	}
	streams, rate := "-", "-"
	if l.Streams > 0 {
		streams = fmt.Sprint(l.Streams)
	}
	if l.Rate > 0 {
		rate = fmt.Sprint(l.Rate)
	}
	line := fmt.Sprintf("%7s %7s %9s %9s %9s %10s %8s %13s %13s %5s %9s  %s", streams, rate, f(l.EventRate, 1, "%.0f"),
		f(l.Late.P50, 1, "%.3f"), f(or(l.Late.P99, l.Late.Max), 1, "%.2f"), f(or(l.Client.Event.P99, l.Client.Event.Max), 1, "%.2f"), f(l.ITLError, 100, "%.2f%%"),
		f(or(l.TTFTError.P99, l.TTFTError.Max), 1, "%.2f"), f(or(l.Client.Dispatch.P99, l.Client.Dispatch.Max), 1, "%.2f"), f(l.Client.CPU, 1, "%.2f"),
		f(or(l.ServerLate.P99, l.ServerLate.Max), 1, "%.2f"), l.Client.Verdict)
	if l.Failure != "" {
		return line + ": " + l.Failure
	}
	for i, r := range l.Client.Reasons {
		line += map[bool]string{true: ": ", false: "; "}[i == 0] + r
	}
	return line
}

// Print writes the machine and the knees.
func (c Capacity) Print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "machine\t%s\n", c.Machine)
	fmt.Fprintf(t, "streams at once\t%v\t(%v events/s)\n", c.Streams, c.EventRate)
	fmt.Fprintf(t, "requests/s\t%v\n", c.RequestRate)
	return t.Flush()
}
