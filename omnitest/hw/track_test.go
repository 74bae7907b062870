package hw

import (
	"math"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

func pid() string { return strconv.Itoa(os.Getpid()) }

// However long a window lasts a track stays within its bound, and mean and peak of all values are those of its points.
func TestTrackIsBoundedAndLosesNoValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := track{step: time.Duration(rapid.Int64Range(1e6, 1e9).Draw(t, "step"))}
		values := rapid.SliceOfN(rapid.Float64Range(-1e6, 1e6), 1, 3000).Draw(t, "values")
		gap := time.Duration(rapid.Int64Range(1e5, 1e12).Draw(t, "gap"))
		sum, peak := 0.0, math.Inf(-1)
		for i, v := range values {
			tr.add(time.Duration(i)*gap, v)
			sum += v
			peak = max(peak, v)
		}
		r := tr.result("CPU", "cores")
		if len(r.Mean) > trackPoints || r.N != len(values) {
			t.Fatalf("%d points of %d values", len(r.Mean), r.N)
		}
		gotSum, gotPeak := 0.0, math.Inf(-1)
		for i, p := range tr.points {
			gotSum += p.sum
			if p.n > 0 {
				gotPeak = max(gotPeak, r.Peak[i])
			} else if r.Mean[i].OK() {
				t.Fatalf("point %d has no value and a mean", i)
			}
		}
		if math.Abs(gotSum-sum) > 1e-6*(1+math.Abs(sum)+1e6) || gotPeak != peak {
			t.Fatalf("sum %g of %g, peak %g of %g", gotSum, sum, gotPeak, peak)
		}
	})
}

func TestTrackHasGapsAndNoZeros(t *testing.T) {
	tr := track{step: time.Second}
	tr.add(0, 4)
	tr.add(3500*time.Millisecond, -2)
	tr.add(3600*time.Millisecond, -4)
	tr.add(0, math.NaN())
	tr.add(-time.Second, 9)
	r := tr.result("CPU", "cores")
	assert.Equal(t, []float64{0, 1, 2, 3}, r.At)
	assert.Equal(t, of(4), r.Mean[0])
	assert.Equal(t, absent("no sample"), r.Mean[1])
	assert.Equal(t, of(-3), r.Mean[3])
	assert.Equal(t, -2.0, r.Peak[3])
	assert.Equal(t, 3, r.N)
}
