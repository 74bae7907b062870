package perf

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// settings are the flags of this package. Those that `vllm bench serve` has too are named as there and mean the same; where it takes
// one value, most take a list here, and every combination is a row.
type settings struct {
	concurrency  list[int]      // -max-concurrency
	rates        list[float64]  // -request-rate, requests/s; +Inf: all at once, or a closed loop where a concurrency is given
	burstiness   list[float64]  // -burstiness: one
	inputLen     list[int]      // -random-input-len, tokens
	outputLen    list[int]      // -random-output-len, tokens
	rangeRatio   float64        // -random-range-ratio
	prompts      int            // -num-prompts, of each load run; 0: by the concurrency
	warmups      int            // -num-warmups; below 0: by the concurrency
	goodput      string         // -goodput
	seed         uint64         // -seed
	profile      string         // -profile
	figures      string         // -percentile-metrics
	percentiles  string         // -metric-percentiles
	saveResult   bool           // -save-result
	saveDetailed bool           // -save-detailed
	resultDir    string         // -result-dir
	label        string         // -label
	strictClient bool           // -strict-client
	plan         string         // -plan
	batch        list[int]      // -batch-size
	inputSize    list[api.Size] // -input-size: one
	outputSize   list[api.Size] // -output-size
	steps        int            // -num-inference-steps
	dtype        string         // -dtype
	theoryGPU    string         // -theory-gpu
	theoryModel  string         // -theory-model

	slos       metrics.SLOs
	definition metrics.Profile
	theory     *bounds // nil: not asked for
	asked      []float64
	names      []string // of figures that percentiles are given for
	given      map[string]bool
	flags      []string // as they were given, for the record
}

// figureNames are those that -percentile-metrics knows.
var figureNames = []string{"ttft", "tpot", "itl", "e2el"}

// register declares the flags.
func register(f *flag.FlagSet) *settings {
	s := &settings{
		concurrency: list[int]{parse: count}, rates: list[float64]{parse: rate}, burstiness: list[float64]{parse: shape, one: true},
		inputLen: list[int]{parse: count}, outputLen: list[int]{parse: count}, batch: list[int]{parse: count},
		inputSize: list[api.Size]{parse: size, one: true}, outputSize: list[api.Size]{parse: size},
	}
	f.Var(&s.concurrency, "max-concurrency", "requests in flight, `list`; with a finite -request-rate the cap of an open loop")
	f.Var(&s.rates, "request-rate", "requests/s of an open loop, `list`; inf: all at once, and with -max-concurrency a closed loop")
	f.Var(&s.burstiness, "burstiness", "shape of the gamma gaps between requests; below 1 they come in bursts (1: Poisson)")
	f.Var(&s.inputLen, "random-input-len", "prompt tokens, `list`")
	f.Var(&s.outputLen, "random-output-len", "tokens to generate, `list`")
	f.Float64Var(&s.rangeRatio, "random-range-ratio", 0, "lengths are uniform in [(1-r) L, (1+r) L]; 0 to below 1")
	f.IntVar(&s.prompts, "num-prompts", 0, "measured requests of each load run (0: a few for each one in flight; a p99 needs 368)")
	f.IntVar(&s.warmups, "num-warmups", 2, "requests before each load run, with prompts of their own")
	f.StringVar(&s.goodput, "goodput", "", "objectives in ms, \"ttft:500 tpot:50 e2el:5000\"")
	f.Uint64Var(&s.seed, "seed", 0, "of prompts and arrival times (not given: drawn, and recorded)")
	f.StringVar(&s.profile, "profile", metrics.VLLM.Name, "definitions of the figures: vllm, or vllm-omni")
	f.StringVar(&s.figures, "percentile-metrics", "ttft,tpot,itl,e2el", "figures that percentiles are given of")
	f.StringVar(&s.percentiles, "metric-percentiles", "99", "percentiles, \"50,95,99\"; one that the requests are too few for is not given")
	f.BoolVar(&s.saveResult, "save-result", false, "write each row also under the JSON keys of vllm bench serve")
	f.BoolVar(&s.saveDetailed, "save-detailed", false, "-save-result with the lists of each request's figures")
	f.StringVar(&s.resultDir, "result-dir", "", "folder of -save-result (beside result.json)")
	f.StringVar(&s.label, "label", "", "label of -save-result")
	f.BoolVar(&s.strictClient, "strict-client", false, "fail where the client's own error spoils the figures (INVALID-CLIENT)")
	f.StringVar(&s.plan, "plan", "small", "what is measured where no list is given: small, or design (the users' whole design, hours)")
	f.Var(&s.batch, "batch-size", "pictures of an offline batch, `list`")
	f.Var(&s.inputSize, "input-size", "size of the picture to edit")
	f.Var(&s.outputSize, "output-size", "size of the pictures to make, `list`")
	f.IntVar(&s.steps, "num-inference-steps", 20, "denoising steps")
	f.StringVar(&s.dtype, "dtype", "", "dtype that the engines were started with, for the record (not given: what is known)")
	f.StringVar(&s.theoryGPU, "theory-gpu", "", "GPU whose data sheet a prediction is made from (H200, ...), beside each row; with -theory-model")
	f.StringVar(&s.theoryModel, "theory-model", "", "model to predict: a built-in `name`, or a folder with its config.json or model_index.json")
	return s
}

// check is called after parsing: it says what cannot be run before anything is started, and fills in what was not given.
func (s *settings) check(f *flag.FlagSet) error {
	if f.NArg() > 0 {
		return fmt.Errorf("%q is no flag: values stand behind =, lists have commas and no spaces, as in -max-concurrency=1,4", f.Arg(0))
	}
	s.given = map[string]bool{}
	f.Visit(func(f *flag.Flag) { s.given[f.Name] = true })
	var all []error
	bad := func(format string, args ...any) { all = append(all, fmt.Errorf(format, args...)) }
	if !(s.rangeRatio >= 0 && s.rangeRatio < 1) {
		bad("-random-range-ratio=%v: want 0 to below 1", s.rangeRatio)
	}
	if s.prompts < 0 {
		bad("-num-prompts=%d: want at least 1", s.prompts)
	}
	if s.given["num-prompts"] && s.prompts == 0 {
		bad("-num-prompts=0: want at least 1")
	}
	if s.warmups < 0 {
		bad("-num-warmups=%d: want 0 or more", s.warmups)
	}
	if s.steps < 1 {
		bad("-num-inference-steps=%d: want at least 1", s.steps)
	}
	var err error
	if s.slos, err = metrics.ParseSLOs(s.goodput); err != nil {
		bad("-%w", err)
	}
	if s.asked, err = metrics.ParsePercentiles(s.percentiles); err != nil {
		bad("-metric-percentiles: %w", err)
	}
	for _, name := range strings.Split(s.figures, ",") {
		if name = strings.TrimSpace(name); !slices.Contains(figureNames, name) {
			bad("-percentile-metrics=%s: %q: want some of %s", s.figures, name, strings.Join(figureNames, ", "))
		}
		s.names = append(s.names, name)
	}
	switch s.profile {
	case metrics.VLLM.Name:
		s.definition = metrics.VLLM
	case metrics.VLLMOmni.Name:
		s.definition = metrics.VLLMOmni
	default:
		bad("-profile=%s: want %s or %s", s.profile, metrics.VLLM.Name, metrics.VLLMOmni.Name)
	}
	if s.plan != "small" && s.plan != "design" {
		bad("-plan=%s: want small or design", s.plan)
	}
	if s.theory, err = boundsOf(s.theoryModel, s.theoryGPU, s.dtype); err != nil {
		bad("%w", err)
	}
	// A concurrency that the requests cannot hold would be reported as one that it never was.
	if most := slices.Max(append(s.concurrencies(), 1)); s.prompts > 0 && s.prompts < most && s.closed() {
		bad("-num-prompts=%d: -max-concurrency=%d cannot be held with so few", s.prompts, most)
	}
	if !s.given["seed"] {
		s.seed = rand.Uint64N(1 << 31)
	}
	return errors.Join(all...)
}

// closed tells whether there is a closed loop to run.
func (s *settings) closed() bool {
	return s.rates.values == nil || slices.ContainsFunc(s.rates.values, func(r float64) bool { return math.IsInf(r, 1) })
}

// lines are the flags that were given, as a result records them. Folders are left out.
func (s *settings) lines(f *flag.FlagSet) []string {
	var all []string
	f.Visit(func(f *flag.Flag) {
		switch {
		case strings.HasPrefix(f.Name, "test."), f.Name == "result-dir":
		case f.Name == "theory-model":
			all = append(all, "-theory-model="+filepath.Base(s.theoryModel)) // may be a folder: its name tells the model
		default:
			all = append(all, fmt.Sprintf("-%s=%s", f.Name, f.Value))
		}
	})
	return all
}

// list is a flag with one value, or several with commas.
type list[T any] struct {
	values []T // nil: not given
	text   string
	parse  func(string) (T, error)
	one    bool // takes no list
}

func (l *list[T]) String() string { return l.text }

func (l *list[T]) Set(text string) error {
	l.text, l.values = text, nil
	for _, part := range strings.Split(text, ",") {
		v, err := l.parse(strings.TrimSpace(part))
		if err != nil {
			return err
		}
		l.values = append(l.values, v)
	}
	if l.one && len(l.values) > 1 {
		return errors.New("want one value")
	}
	return nil
}

// or is the list, or what stands for one that was not given.
func (l *list[T]) or(values ...T) []T {
	if l.values != nil {
		return l.values
	}
	return values
}

func count(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		return 0, fmt.Errorf("%q: want a whole number of at least 1", text)
	}
	return n, nil
}

func rate(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0) {
		return 0, fmt.Errorf("%q: want requests per second above 0, or inf", text)
	}
	return v, nil
}

func shape(text string) (float64, error) {
	v, err := strconv.ParseFloat(text, 64)
	if err != nil || !(v > 0) || math.IsInf(v, 1) {
		return 0, fmt.Errorf("%q: want a number above 0", text)
	}
	return v, nil
}

func size(text string) (api.Size, error) {
	v, err := api.ParseSize(text)
	if err != nil || v.W < 16 || v.H < 16 {
		return v, fmt.Errorf("%q: want WIDTHxHEIGHT of at least 16x16", text)
	}
	return v, nil
}

// arrivals of an open loop, as vllm bench serve draws them.
func (s *settings) arrivals(rate float64) load.Arrivals {
	return load.VLLM{Rate: rate, Burstiness: s.burstiness.or(1)[0]}
}

// requests of a load run with so many in flight: as many for each.
func (s *settings) requests(inFlight, each int) int { return cmp.Or(s.prompts, each*inFlight) }
