package handoff

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Dialect is what one KV connector calls things: its series on /metrics and the shape of its ticket. A new connector is a
// new value of this type in a file of its own and a line in the table known; the rules stay as they are. A series with an empty
// Name is one that the connector does not have, or whose name nobody has seen.
type Dialect struct {
	Name string

	// Connectors are the values of kv_connector that speak it. Signs are beginnings of names of series that it alone has; Marks
	// are keys that only its tickets have. Detect goes by these. With none of them a dialect must be named in Source.Dialect.
	Connectors, Signs, Marks []string

	// TicketBy says who makes the ticket that decode is sent: "prefill" answers with it, "proxy" makes it up for both legs, ""
	// there is none: blocks are found by content, or engines agree by other means.
	TicketBy string
	// Ask is the kv_transfer_params object that makes prefill keep the blocks and answer with a ticket; nil: it gives none,
	// or how to ask is not known, and the flow rules about tickets do not apply.
	Ask json.RawMessage
	// Ticket is the shape of what decode is sent, required keys first.
	Ticket []Key
	// Check is what the shape cannot say, one text for each fault of a ticket; nil: nothing.
	Check func(ticket map[string]json.RawMessage) []string
	// RequestID says what is wrong with the X-Request-Id of a leg, where that carries the rendezvous; nil: any id will do.
	RequestID func(id string) error

	// TailBlock: decode may compute the last part of each prompt itself, up to one block and one token: ExampleConnector
	// loads (N-2)/B*B of N tokens (recorded for N = 33, B = 32: nothing). Otherwise it may compute one token per request,
	// the last: vLLM needs its logits. TailUnknown: what moves together is not known and may be more than a block; then a
	// part that decode computed itself is doubt, and only the whole is a refutation.
	TailBlock, TailUnknown bool

	// Lacks says which evidence this dialect cannot give and what its verdicts rest on instead; "": it gives all.
	Lacks string
	// PrefillLabels and DecodeLabels pick a stage's series where both stand on one page; nil: each has its own.
	PrefillLabels, DecodeLabels prom.Labels
	// Settle is the interval at which engines publish, if that is longer than a step: Source.Settle is at least this.
	Settle time.Duration

	// On decode unless said otherwise. All are sums over engines.
	PromptTokens, Generated Series
	External                Series // prompt tokens that came from the other engine; credited when matched
	LocalCompute, LocalHit  Series
	Recomputed              Series // only in old epochs (vLLM 0.16 to 0.19)
	Cached                  Series // LocalHit and External, told a second time
	Iteration               Series // tokens computed or generated: minus Generated it is what the engine prefilled itself
	Bytes, Transfers        Series // physical evidence
	FailedTransfers         Series
	FailedNotifications     Series
	Preemptions             Series
	Finished                Series
	Prompts, PromptSum      Series // histogram of the prompt lengths of finished requests
	Outputs, OutputSum      Series // and of their outputs
	Expired, LateNotices    Series // on prefill: tickets that nobody pulled in time, tickets pulled after that

	Running, Waiting, Usage Series // gauges, both stages
	Config                  Series // has the label block_size
}

// Series names one series or a sum over several.
type Series struct {
	Name     string
	Labels   prom.Labels
	Optional bool // its absence is normal for some versions
}

// String gives the series in the notation of the metrics page.
func (s Series) String() string {
	if len(s.Labels) == 0 {
		return s.Name
	}
	parts := make([]string, 0, len(s.Labels))
	for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
		parts = append(parts, k+`="`+s.Labels[k]+`"`)
	}
	return s.Name + "{" + strings.Join(parts, ",") + "}"
}

func bySource(source string) Series {
	return Series{Name: "vllm:prompt_tokens_by_source_total", Labels: prom.Labels{"source": source}}
}

func optional(name string) Series { return Series{Name: name, Optional: true} }

// vllm holds what every connector of vLLM shares. Names as recorded from vLLM 0.26.0 and 0.32.0.
//
// Left out on purpose: request_prefill_kv_computed_tokens_sum rises by the whole prompt on a perfect NIXL handoff;
// external_prefix_cache_hits_total and prompt_tokens_cached_by_source_total{p2p} rise although the transfer failed.
var vllm = Dialect{
	PromptTokens: Series{Name: "vllm:prompt_tokens_total"},
	Generated:    Series{Name: "vllm:generation_tokens_total"},
	External:     bySource("external_kv_transfer"),
	LocalCompute: bySource("local_compute"),
	LocalHit:     bySource("local_cache_hit"),
	Recomputed:   optional("vllm:prompt_tokens_recomputed_total"),
	Cached:       optional("vllm:prompt_tokens_cached_total"),
	Iteration:    Series{Name: "vllm:iteration_tokens_total_sum"}, // a histogram whose own name ends in _total
	Preemptions:  Series{Name: "vllm:num_preemptions_total"},
	Finished:     Series{Name: "vllm:request_success_total"},
	Prompts:      optional("vllm:request_prompt_tokens_count"),
	PromptSum:    optional("vllm:request_prompt_tokens_sum"),
	Outputs:      optional("vllm:request_generation_tokens_count"),
	OutputSum:    optional("vllm:request_generation_tokens_sum"),
	Running:      Series{Name: "vllm:num_requests_running"},
	Waiting:      Series{Name: "vllm:num_requests_waiting"},
	Usage:        Series{Name: "vllm:kv_cache_usage_perc"},
	Config:       Series{Name: "vllm:cache_config_info"},
}

// lacks puts on record what no rule could look at.
func lacks(c *exam) {
	if c.d.Lacks != "" {
		c.note("%s", c.d.Lacks)
	}
	if strings.HasPrefix(c.DialectFrom, "assumed") {
		c.note("dialect %s %s", c.d.Name, c.DialectFrom)
	}
}

// tail is how many tokens of its prompts decode may compute itself.
func (d *Dialect) tail(requests, blockSize int) float64 {
	if d.TailBlock || d.TailUnknown {
		return float64(requests * (blockSize + 1))
	}
	return float64(requests)
}

// decodeSeries and prefillSeries are what a window keeps of each stage.
func (d *Dialect) decodeSeries() []Series {
	return named(d.PromptTokens, d.Generated, d.External, d.LocalCompute, d.LocalHit, d.Recomputed, d.Cached, d.Iteration, d.Bytes,
		d.Transfers, d.FailedTransfers, d.FailedNotifications, d.Preemptions, d.Finished, d.Prompts, d.PromptSum, d.Outputs, d.OutputSum)
}

func (d *Dialect) prefillSeries() []Series {
	return named(d.PromptTokens, d.Generated, d.External, d.LocalCompute, d.LocalHit, d.Recomputed, d.Cached, d.Iteration, d.Preemptions,
		d.Finished, d.Prompts, d.PromptSum, d.Outputs, d.OutputSum, d.Expired, d.LateNotices)
}

// series are the fields that name one.
func (d *Dialect) series() []*Series {
	return []*Series{&d.PromptTokens, &d.Generated, &d.External, &d.LocalCompute, &d.LocalHit, &d.Recomputed, &d.Cached, &d.Iteration,
		&d.Bytes, &d.Transfers, &d.FailedTransfers, &d.FailedNotifications, &d.Preemptions, &d.Finished, &d.Prompts, &d.PromptSum,
		&d.Outputs, &d.OutputSum, &d.Expired, &d.LateNotices, &d.Running, &d.Waiting, &d.Usage, &d.Config}
}

// staged is the dialect as it is spoken on the page of one stage, "prefill" or "decode": with that stage's labels.
func (d *Dialect) staged(stage string) *Dialect {
	labels := d.PrefillLabels
	if stage == "decode" {
		labels = d.DecodeLabels
	}
	if len(labels) == 0 {
		return d
	}
	own := *d
	for _, s := range own.series() {
		all := maps.Clone(labels)
		maps.Copy(all, s.Labels)
		s.Labels = all
	}
	return &own
}

func named(all ...Series) []Series {
	kept := all[:0]
	for _, s := range all {
		if s.Name != "" {
			kept = append(kept, s)
		}
	}
	return kept
}

// known are the dialects that Detect can find, or a caller name, and that saved evidence is read back in.
var known = []*Dialect{&NIXL, &NIXLPush, &Example, &Mooncake, &P2PNCCL, &LMCache, &LMCacheMP, &Offloading}

// Known finds a dialect by its name, as Evidence.Dialect tells it: "nixl", "multi(nixl+lmcache-mp)", "omni(0>1)". nil: none.
func Known(name string) *Dialect {
	for _, d := range known {
		if d.Name == name {
			return d
		}
	}
	if list, ok := argument(name, "multi"); ok {
		var children []*Dialect
		for part := range strings.SplitSeq(list, "+") {
			child := Known(part)
			if child == nil {
				return nil
			}
			children = append(children, child)
		}
		return Multi(children...)
	}
	if stages, ok := argument(name, "omni"); ok {
		if p, d, ok := strings.Cut(stages, ">"); ok {
			return Omni(p, d)
		}
	}
	return nil
}

// argument is what stands between the brackets of kind(...).
func argument(name, kind string) (string, bool) {
	rest, ok := strings.CutPrefix(name, kind+"(")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(rest, ")")
}
