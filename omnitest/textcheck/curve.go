package textcheck

import (
	"fmt"
	"math"
	"strings"
)

// Curve is where, over many prompts, answers part from their controls: one row per block of tokens. It is the life table of the
// actuaries on the product-limit scale (E. L. Kaplan, P. Meier, J. Am. Stat. Assoc. 53, 1958, 457-481): who was undecided, or
// ended before the block did, leaves the table without a death.
type Curve struct {
	Block   int        `json:"block"` // tokens
	Answers int        `json:"answers"`
	Rows    []CurveRow `json:"rows"`
}

// CurveRow is one block.
type CurveRow struct {
	From, To  int      // tokens From up to, and without, To
	AtRisk    int      // answers that were right up to From and went through the block or parted in it
	Parted    int      // of them, where the control was sure
	Undecided int      // parted in this block at a near tie: no fault
	Rate      Interval // of parting in this block, by Wilson
	Kept      float64  // share of answers still right at To
}

// NewCurve counts partings by blocks of so many tokens; 0: 16, the block of the reference stack and the default of vLLM.
func NewCurve(all []Parting, block int) Curve {
	if block <= 0 {
		block = 16
	}
	c := Curve{Block: block, Answers: len(all)}
	longest := 0
	for _, p := range all {
		longest = max(longest, p.Compared, p.At+1)
	}
	kept := 1.0
	for from := 0; from < longest; from += block {
		row := CurveRow{From: from, To: from + block}
		for _, p := range all {
			switch {
			case p.At >= 0 && p.At < from, p.At < 0 && p.Compared < row.To:
			case p.At >= row.To || p.At < 0:
				row.AtRisk++
			case p.Undecided:
				row.Undecided++
			default:
				row.AtRisk++
				row.Parted++
			}
		}
		if row.AtRisk > 0 {
			kept *= 1 - float64(row.Parted)/float64(row.AtRisk)
		}
		row.Rate, row.Kept = Wilson(row.Parted, row.AtRisk), kept
		c.Rows = append(c.Rows, row)
	}
	return c
}

// String is a table, one line per block with at least one parting and the first and the last.
func (c Curve) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d answers, blocks of %d tokens\n  tokens       at risk  parted  undecided  rate (95 %%)      kept", c.Answers, c.Block)
	for i, r := range c.Rows {
		if i > 0 && i < len(c.Rows)-1 && r.Parted+r.Undecided == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n  %5d..%-5d %7d %7d %10d  %.3f to %.3f  %.3f", r.From, r.To-1, r.AtRisk, r.Parted, r.Undecided, r.Rate.Low, r.Rate.High, r.Kept)
	}
	return b.String()
}

// parted is how many answers parted where their controls were sure.
func (c Curve) parted() (n int) {
	for _, r := range c.Rows {
		n += r.Parted
	}
	return n
}

// PartedShare is the largest share of answers that may part from their controls where those were sure. Over equal KV 9 of 64
// prompts were seen to part at all (prefix miss against hit on one server, tpu-inference #3369), near ties among them. It
// takes 24 answers without a parting to say that less than this share would.
const PartedShare = 9.0 / 64

// PartingRate demands that the share of answers that part is surely below the bound: the upper end of its interval counts, so too
// few prompts do not pass.
func PartingRate(c Curve, b Bounds) Result {
	r := b.ask("parting-rate", "<=", or(b.PartedShare, PartedShare))
	n := c.parted()
	r.Value = Wilson(n, c.Answers).High
	r.Note = fmt.Sprintf("%d of %d answers part where the control was sure; the share may be as large as this (95 %%)", n, c.Answers)
	if n == 0 && !r.OK() {
		return r.unmeasured("none of %d answers parts, but the share may be as large as %s; ask more prompts", c.Answers, number(r.Value))
	}
	return r
}

// Onset is the block from which on answers part more often than before.
type Onset struct {
	From, To      int     // tokens From up to, and without, To; 0, 0: none
	Gain          float64 // log likelihood of two rates over that of one, in nats
	Before, After [2]int  // partings of answers x blocks at risk
}

// String gives "from tokens 64..79 on 12 of 14 part, before 0 of 48".
func (o Onset) String() string {
	if o.To == 0 {
		return "no onset"
	}
	return fmt.Sprintf("from tokens %d..%d on %d of %d answers and blocks part, before %d of %d", o.From, o.To-1, o.After[0], o.After[1], o.Before[0], o.Before[1])
}

// OnsetGain is the gain up to which an onset is chance. A constant rate of 0.005 to 0.3 a block, 8 to 64 answers of 4 to 32
// blocks, 30,000 draws: 99.9 % gained less than 7.7 nats, the most was 11.5 (TestOnsetGainIsMeasured).
const OnsetGain = 8

// Located finds the block in which drift begins: the split of the curve into a part with a low rate of parting and one with a
// higher rate that is most likely (a change point of a Bernoulli rate; D. V. Hinkley, E. A. Hinkley, Biometrika 57, 1970,
// 477-488). Drift from the very first block on has no before and shows in PartingRate alone.
func (c Curve) Located() Onset {
	var best Onset
	risk, parted := 0, c.parted()
	for _, r := range c.Rows {
		risk += r.AtRisk
	}
	k, n := 0, 0
	for i, r := range c.Rows {
		if i > 0 && n > 0 && risk > n {
			late, rest := parted-k, risk-n
			if gain := likelihood(k, n) + likelihood(late, rest) - likelihood(parted, risk); float64(k)/float64(n) < float64(late)/float64(rest) && gain > best.Gain {
				best = Onset{From: r.From, To: r.To, Gain: gain, Before: [2]int{k, n}, After: [2]int{late, rest}}
			}
		}
		k, n = k+r.Parted, n+r.AtRisk
	}
	return best
}

// likelihood is the log likelihood of k in n at its best rate.
func likelihood(k, n int) float64 {
	x := 0.0
	for _, m := range []int{k, n - k} {
		if m > 0 {
			x += float64(m) * math.Log(float64(m)/float64(n))
		}
	}
	return x
}

// NoOnset demands that answers do not part more often from some block on: errors that accumulate do.
func NoOnset(c Curve, b Bounds) Result {
	r := b.ask("divergence-onset", "<=", or(b.OnsetGain, OnsetGain))
	if c.Answers == 0 || len(c.Rows) < 2 {
		return r.unmeasured("%d answers of %d blocks have no course; ask for longer ones", c.Answers, len(c.Rows))
	}
	o := c.Located()
	r.Value, r.Note = o.Gain, o.String()
	return r
}
