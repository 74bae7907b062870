package imagecheck

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// Calibration collects how far pairs of pictures lie apart that should be equal, and pairs that should not, so that bounds
// come from a run and not from a belief. Not safe for concurrent use. The zero value is empty.
type Calibration struct {
	series map[pairMetric][]float64
	kinds  []string // in the order of their first pair
	pairs  map[string]int
}

type pairMetric struct{ kind, metric string }

// What pairs of a kind are.
const (
	PairRepeat = "repeat" // one arm, the same request twice, alone
	PairLoad   = "load"   // one arm, alone and beside others
	PairArm    = "arm"    // two arms, the same request
	PairOther  = "other"  // one arm, another seed or prompt: bounds must tell them from the others
)

// pairMetrics are what Add measures; higher: more alike.
var pairMetrics = []struct {
	name   string
	higher bool
}{{"PSNR", true}, {"SSIM", true}, {"SSIM-RGB", true}, {"tile-MAD", false}, {"elsewhere", false}, {"pHash64", false}, {"ExtP256", false}, {"colour", false}}

// Add measures a pair. Pictures of different size, or without a hash, are errors: such a run calibrates nothing.
func (c *Calibration) Add(kind string, a, b Picture) error {
	f := &finding{bounds: Bounds{}.withDefaults()}
	if a.derived == nil || !f.sameSize(a, b, "other picture") {
		return fmt.Errorf("calibrate, %s: %s: %w", kind, f.first, ErrSize)
	}
	rgb, err := SSIMRGB(a.Image, b.Image)
	if err != nil {
		return fmt.Errorf("calibrate, %s: %w", kind, err)
	}
	h, x, err := hashDistances(a, b)
	if err != nil {
		return fmt.Errorf("calibrate, %s: %w", kind, err)
	}
	ga, err := a.colours()
	if err != nil {
		return err
	}
	gb, err := b.colours()
	if err != nil {
		return err
	}
	_, colour := ga.Farthest(&gb)
	tile, _ := f.tiles(a, b).worstWindow(nil)
	f.elsewhere(boxMeans(a.luma(), noMove), nil, nil, b)
	values := map[string]float64{"PSNR": diffIn(a.Image, b.Image, nil).PSNR(), "SSIM": f.graySSIM(a, b, nil), "SSIM-RGB": rgb, "tile-MAD": tile,
		"elsewhere": f.metrics[len(f.metrics)-1].Value, "pHash64": float64(h), "ExtP256": float64(x), "colour": float64(colour)}
	if c.series == nil {
		c.series, c.pairs = map[pairMetric][]float64{}, map[string]int{}
	}
	if c.pairs[kind]++; c.pairs[kind] == 1 {
		c.kinds = append(c.kinds, kind)
	}
	for name, v := range values {
		c.series[pairMetric{kind, name}] = append(c.series[pairMetric{kind, name}], v)
	}
	return nil
}

// Pairs counts what was added of a kind.
func (c *Calibration) Pairs(kind string) int { return c.pairs[kind] }

// quantiles gives least, 5 %, median, 95 % and greatest.
func quantiles(v []float64) (q [5]float64) {
	s := slices.Clone(v)
	slices.Sort(s)
	for i, at := range []float64{0, 0.05, 0.5, 0.95, 1} {
		q[i] = s[int(math.Round(at*float64(len(s)-1)))]
	}
	return q
}

// Proposal is a bound that a run gives.
type Proposal struct {
	Field     string  // of Bounds
	Worst     float64 // of the pairs that must pass
	Bound     float64 // Worst with its margin
	Direction string
	Default   float64
	Nearest   float64 // of the pairs that must not pass; NaN: none were made
	Pairs     int
	Warning   string // "" or why it must not be used as it stands
}

// minPairs is how many pairs of a kind a proposal needs: the worst of fewer says little about the next.
const minPairs = 8

// Propose sets each bound at the worst value of the pairs that must pass, moved outward by margin (0: 0.5) of its distance to
// their median and by at least a tenth of its own size. Where all pairs were bit-identical there is nothing to calibrate: the
// default stands. A bound that pairs of other prompts or seeds would keep as well comes with a warning.
func (c *Calibration) Propose(margin float64) []Proposal {
	if margin == 0 {
		margin = 0.5
	}
	d := Bounds{}.withDefaults()
	var out []Proposal
	for _, w := range []struct {
		field, metric string
		kinds         []string
		def           float64
		whole         bool // of a whole number
	}{
		{"LoadPSNR", "PSNR", []string{PairRepeat, PairLoad}, d.LoadPSNR, false},
		{"LoadSSIM", "SSIM", []string{PairRepeat, PairLoad}, d.LoadSSIM, false},
		{"PHash64", "pHash64", []string{PairRepeat, PairLoad}, float64(d.PHash64), true},
		{"ExtP256", "ExtP256", []string{PairRepeat, PairLoad}, float64(d.ExtP256), true},
		{"GridColour", "colour", []string{PairRepeat, PairLoad}, float64(d.GridColour), true},
		{"ElsewhereMAD", "elsewhere", []string{PairRepeat, PairLoad}, d.ElsewhereMAD, false},
		{"ParityPSNR", "PSNR", []string{PairArm}, d.ParityPSNR, false},
		{"ParitySSIM", "SSIM-RGB", []string{PairArm}, d.ParitySSIM, false},
	} {
		var v []float64
		for _, k := range w.kinds {
			v = append(v, c.series[pairMetric{k, w.metric}]...)
		}
		if len(v) == 0 {
			continue
		}
		higher := slices.ContainsFunc(pairMetrics, func(m struct {
			name   string
			higher bool
		}) bool {
			return m.name == w.metric && m.higher
		})
		q := quantiles(v)
		p := Proposal{Field: w.field, Default: w.def, Pairs: len(v), Nearest: math.NaN(), Direction: "<=", Worst: q[4]}
		if higher {
			p.Direction, p.Worst = ">=", q[0]
		}
		others := c.series[pairMetric{PairOther, w.metric}]
		if len(others) > 0 {
			p.Nearest = slices.Min(others)
			if higher {
				p.Nearest = slices.Max(others)
			}
		}
		switch {
		case higher && (math.IsInf(p.Worst, 1) || p.Worst >= 1 && w.metric != "PSNR"), !higher && p.Worst == 0:
			p.Bound, p.Warning = w.def, "all pairs were identical: the default stands"
		case higher:
			middle := q[2]
			if math.IsInf(middle, 1) {
				middle = p.Worst
			}
			if w.metric == "PSNR" { // in dB: a tenth of the error is 0.4 dB
				p.Bound = p.Worst - max(margin*(middle-p.Worst), 0.5)
			} else { // of what is missing to 1
				p.Bound = p.Worst - max(margin*(middle-p.Worst), 0.1*(1-p.Worst))
			}
		default:
			p.Bound = p.Worst + max(margin*(p.Worst-q[2]), 0.1*p.Worst)
		}
		if w.whole {
			p.Bound = math.Ceil(p.Bound)
		}
		switch beyond := p.Nearest >= p.Bound; {
		case p.Warning != "":
		case len(v) < minPairs:
			p.Warning = fmt.Sprintf("%d pairs, at least %d are needed", len(v), minPairs)
		case !math.IsNaN(p.Nearest) && (higher && beyond || !higher && p.Nearest <= p.Bound):
			p.Warning = "other pictures keep this bound too: it tells nothing"
		}
		out = append(out, p)
	}
	return out
}

// Report prints the distribution of every metric by kind of pair, and what Propose makes of them.
func (c *Calibration) Report(w io.Writer, margin float64) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "pairs\tmetric\tn\tleast\t5 %\tmedian\t95 %\tgreatest")
	for _, kind := range c.kinds {
		for _, m := range pairMetrics {
			v := c.series[pairMetric{kind, m.name}]
			q := quantiles(v)
			fmt.Fprintf(t, "%s\t%s\t%d", kind, m.name, len(v))
			for _, x := range q {
				fmt.Fprintf(t, "\t%s", number(x))
			}
			fmt.Fprintln(t)
		}
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "bound\tworst\tproposed\tdefault\tother pictures\tn\t")
	for _, p := range c.Propose(margin) {
		fmt.Fprintf(t, "%s\t%s\t%s %s\t%s\t%s\t%d\t%s\n", p.Field, number(p.Worst), p.Direction, number(p.Bound), number(p.Default), number(p.Nearest), p.Pairs, p.Warning)
	}
	return t.Flush()
}

// GoRow prints the proposals that carry no warning as a Row to put into a Table.
func GoRow(s Setup, run string, proposals []Proposal) string {
	var fields []string
	for _, p := range proposals {
		if p.Warning == "" {
			fields = append(fields, p.Field+": "+number(p.Bound))
		}
	}
	slices.SortFunc(fields, cmp.Compare)
	return fmt.Sprintf("{Setup: imagecheck.Setup{Engine: %q, Model: %q, GPU: %q, DType: %q}, Bounds: imagecheck.Bounds{%s},\n\tRun: %q},\n",
		s.Engine, s.Model, s.GPU, s.DType, strings.Join(fields, ", "), run)
}
