package metrics

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// The fewest requests that give a percentile a finite two-sided 95 % confidence interval from order statistics: the
// smallest n with p^n <= 0.025. Below it the maximum itself may lie under the true percentile, and "p99" is in truth the
// largest value seen (guidellm#1163: 12 identical runs with n = 71 gave p99 from 116 to 147 ms). So it is refused, and
// the maximum stands beside it.
const (
	MinP90 = 36
	MinP95 = 72
	MinP99 = 368

	MinP999 = 3688
)

// MinRequests is that number for any percentile p, 0 < p < 100: the smallest n with max(p, 1-p)^n <= 0.025. The median is
// exempt: it is given from the first value on, as the mean is.
func MinRequests(p float64) int {
	if p == 50 {
		return 1
	}
	q := max(p, 100-p) / 100
	n := max(1, int(math.Log(0.025)/math.Log(q)))
	for math.Pow(q, float64(n)) > 0.025 {
		n++
	}
	return n
}

// Dist is the distribution of one figure over a run. Mean, median and extremes are given from the first value on; high
// percentiles only from MinP90, MinP95, MinP99, MinP999 requests on.
type Dist struct {
	Unit     string `json:"unit"`     // "ms"
	N        int    `json:"n"`        // values; for ITL many per request
	Requests int    `json:"requests"` // requests they came from; percentiles are judged by this, as the gaps of one request are not independent
	Mean     Value  `json:"mean"`
	Median   Value  `json:"median"`
	Std      Value  `json:"std"` // population (divisor n), as vLLM
	P90      Value  `json:"p90"`
	P95      Value  `json:"p95"`
	P99      Value  `json:"p99"`
	P999     Value  `json:"p99.9"`
	Min      Value  `json:"min"`
	Max      Value  `json:"max"`

	Asked []AtPercentile `json:"percentiles,omitempty"` // those of Options.Percentiles
}

// AtPercentile is one percentile.
type AtPercentile struct {
	P     float64 `json:"p"` // 0..100
	Value Value   `json:"value"`
}

// Describe makes the distribution of values that came from this many requests. It sorts values in place. Without values
// everything is absent for the reason why.
func Describe(values []float64, requests int, unit, why string) Dist {
	d := Dist{Unit: unit, N: len(values), Requests: requests}
	if len(values) == 0 {
		none := Absent(why)
		d.Requests = 0
		d.Mean, d.Median, d.Std, d.Min, d.Max = none, none, none, none, none
		d.P90, d.P95, d.P99, d.P999 = none, none, none, none
		return d
	}
	slices.Sort(values)
	mean, std := moments(values)
	d.Mean, d.Std = Of(mean), Of(std)
	d.Min, d.Max = Of(values[0]), Of(values[len(values)-1])
	d.Median = Of(Percentile(values, 50))
	d.P90 = supported(values, requests, 90, MinP90)
	d.P95 = supported(values, requests, 95, MinP95)
	d.P99 = supported(values, requests, 99, MinP99)
	d.P999 = supported(values, requests, 99.9, MinP999)
	return d
}

// ask adds percentiles of the values that the distribution was described from, which are sorted by now.
func (d *Dist) ask(sorted, percentiles []float64) {
	for _, p := range percentiles {
		v := d.Mean // absent, with the reason
		if d.N > 0 {
			v = supported(sorted, d.Requests, p, MinRequests(p))
		}
		d.Asked = append(d.Asked, AtPercentile{p, v})
	}
}

// ParsePercentiles reads a list as `--metric-percentiles` takes it: "25,50,99.9".
func ParsePercentiles(list string) ([]float64, error) {
	var all []float64
	for _, text := range strings.Split(list, ",") {
		p, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
		if err != nil || !(p > 0 && p < 100) {
			return nil, fmt.Errorf("metric percentiles %q: %q: want numbers above 0 and below 100, like 50,95,99.9", list, strings.TrimSpace(text))
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all, nil
}

// String is the one-line form for logs: the tail is a percentile where n supports one, and always the maximum.
func (d Dist) String() string {
	if d.N == 0 {
		return NotMeasured + ": " + d.Mean.Reason()
	}
	tail := ""
	for _, p := range []struct {
		name string
		v    Value
	}{{"p99.9", d.P999}, {"p99", d.P99}, {"p95", d.P95}, {"p90", d.P90}} {
		if p.v.OK() {
			tail = fmt.Sprintf(", %s %s", p.name, p.v)
			break
		}
	}
	return fmt.Sprintf("mean %s %s, median %s%s, max %s (n %d)", d.Mean, d.Unit, d.Median, tail, d.Max, d.N)
}

func supported(sorted []float64, requests int, p float64, need int) Value {
	if requests < need {
		return Absent(fmt.Sprintf("%d requests, p%v needs %d; see max", requests, p, need))
	}
	return Of(Percentile(sorted, p))
}

// Percentile is the p-th percentile (0..100) of ascending values by linear interpolation between order statistics: R
// type 7, numpy's default and so vLLM's. It does not ask whether n supports p. NaN without values.
//
// gonum's stat.Quantile(LinInterp) is another definition: of 1,2,3,4 it gives 2 as the median.
func Percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 || p < 0 || p > 100 || math.IsNaN(p) {
		return math.NaN()
	}
	at := p / 100 * float64(len(sorted)-1)
	lo := int(at)
	if lo+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[lo] + (at-float64(lo))*(sorted[lo+1]-sorted[lo])
}

// moments gives mean and population standard deviation in two passes: the one-pass formula loses all digits where the
// spread is small beside the mean.
func moments(values []float64) (mean, std float64) {
	n := float64(len(values))
	for _, v := range values {
		mean += v / n
	}
	for _, v := range values {
		std += (v - mean) * (v - mean) / n
	}
	return mean, math.Sqrt(std)
}
