package metrics

import (
	"fmt"
	"maps"
	"slices"

	"github.com/omnitest/suite/omnitest/flow"
)

// RunBreakdown says where the time of a run's successes went, on average.
type RunBreakdown struct {
	Requests int         `json:"requests"` // that were taken apart
	Total    Value       `json:"total_ms"` // mean
	Parts    []PartShare `json:"parts"`    // in the order of Parts, those that no request had left out
	Residual PartShare   `json:"residual"` // mean; its share can be negative where parts overlap
	Worst    Value       `json:"worst_residual_share"`
	Notes    []string    `json:"notes,omitempty"` // distinct, with their counts
	Missing  []string    `json:"missing,omitempty"`
}

// PartShare is one part of the time. The mean is over all requests that were taken apart, so that the parts add up: a request that did
// not have the part adds 0.
type PartShare struct {
	Part     string `json:"part"`
	Requests int    `json:"requests"` // that had it
	Mean     Value  `json:"mean_ms"`
	Share    Value  `json:"share"` // of the total, 0..1
}

// BreakDownRun takes the successes of a run apart by the proxy's records, found by request id. Samples without a record and records
// that do not fit are counted in Missing with the first reasons.
func BreakDownRun(samples []Sample, records []flow.Record) RunBreakdown {
	byID := map[string]*flow.Record{}
	for i := range records {
		byID[records[i].RequestID] = &records[i]
	}
	var run RunBreakdown
	var missing, notes tally
	sums, had := map[string]float64{}, map[string]int{}
	untold := map[string]string{}
	total, residual, worst := 0.0, 0.0, 0.0
	for i := range samples {
		s := &samples[i]
		if s.refused() != nil {
			continue
		}
		r := byID[s.Exchange.RequestID]
		if r == nil {
			missing.add("no record of the request")
			continue
		}
		b, err := BreakDown(s, r)
		if err != nil {
			missing.add(err.Error())
			continue
		}
		run.Requests++
		total += b.Total
		residual += b.Residual
		if share, ok := b.ResidualShare().Get(); ok {
			worst = max(worst, share)
		}
		for part, v := range b.Parts {
			if t, ok := v.Get(); ok {
				sums[part] += t
				had[part]++
			} else {
				untold[part] = v.Reason()
			}
		}
		for _, n := range b.Notes {
			notes.add(n)
		}
	}
	run.Missing, run.Notes = missing.lines(maxFailures), notes.lines(maxFailures)
	if run.Requests == 0 {
		none := Absent("no request could be taken apart")
		run.Total, run.Worst, run.Residual = none, none, PartShare{Part: "residual", Mean: none, Share: none}
		return run
	}
	n := float64(run.Requests)
	share := func(part string, sum float64, had int) PartShare {
		p := PartShare{Part: part, Requests: had, Mean: Of(sum / n), Share: Absent("the requests took no time")}
		if total > 0 {
			p.Share = Of(sum / total)
		}
		return p
	}
	run.Total, run.Worst, run.Residual = Of(total/n), Of(worst), share("residual", residual, run.Requests)
	for _, part := range Parts {
		switch {
		case had[part] > 0:
			run.Parts = append(run.Parts, share(part, sums[part], had[part]))
		case untold[part] != "":
			v := Absent(untold[part])
			run.Parts = append(run.Parts, PartShare{Part: part, Mean: v, Share: v})
		}
		delete(sums, part)
	}
	for _, part := range slices.Sorted(maps.Keys(sums)) { // of stages that this room does not know
		run.Parts = append(run.Parts, share(part, sums[part], had[part]))
	}
	return run
}

// Err is nil if the parts account for the run: every success was taken apart, and the mean residual is below limit (0.02) of
// the total.
func (run *RunBreakdown) Err(limit float64) error {
	share, ok := run.Residual.Share.Get()
	switch {
	case len(run.Missing) > 0:
		return fmt.Errorf("metrics: breakdown: %d requests were taken apart, not all: %s", run.Requests, run.Missing[0])
	case !ok:
		return fmt.Errorf("metrics: breakdown: %s", run.Residual.Share.Reason())
	case share >= limit || share <= -limit:
		return fmt.Errorf("metrics: breakdown: nobody accounts for %.1f %% of the time (%s of %s ms), limit %.1f %%", 100*share, run.Residual.Mean, run.Total, 100*limit)
	}
	return nil
}
