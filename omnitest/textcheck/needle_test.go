package textcheck

import (
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/measure"
)

func TestHaystack(t *testing.T) {
	h := Haystack{Filler: []string{"The tide came in.", "The tide went out."}, Bytes: 1000, Question: "\nWhat is the number?"}
	for _, d := range []float64{1, 0, .5} {
		h.Needles = append(h.Needles, Needle{d, "The number is 4711.", "4711"})
	}
	prompt := h.Prompt()
	assert.InDelta(t, 1000+len(h.Question), len(prompt), 40)
	assert.True(t, strings.HasPrefix(prompt, "The number is 4711. The tide"))
	assert.True(t, strings.HasSuffix(prompt, "The number is 4711.\nWhat is the number?"))
	middle := strings.Index(prompt[20:], "The number") + 20
	assert.InDelta(t, 500, middle, 40)
	assert.Equal(t, 3, strings.Count(prompt, "4711"))
	assert.Equal(t, []Asked{{1, true}, {0, true}, {.5, true}}, h.Found("It is\n 4711."))
	assert.Equal(t, "a b", Haystack{Needles: []Needle{{1, "b", "b"}, {0, "a", "a"}}}.Prompt(), "no filler, all needles")
	assert.False(t, Haystack{Needles: []Needle{{0, "a", ""}}}.Found("a")[0].Found, "nothing wanted is nothing found")
}

func TestRecallByDepth(t *testing.T) {
	var all []Asked
	for i := range 10 {
		all = append(all, Asked{1, true}, Asked{.5, i >= 4}, Asked{0, true})
	}
	r := NewRecall(all)
	assert.Equal(t, `depth   found      share (95 %)
   0 %   10 of 10   0.722 to 1.000
  50 %    6 of 10   0.313 to 0.832
 100 %   10 of 10   0.722 to 1.000`, r.String())
	assert.EqualError(t, Needles(r, Bounds{Key: "lab/8k"}).Err(), "needle-missing 0.4, want <= 0.1 (lab/8k): at depth 50 % 6 of 10 needles were found (95 %: 0.31 to 0.83)")
	assert.NoError(t, Needles(r[:1], Bounds{}).Err())
	assert.EqualError(t, Needles(nil, Bounds{}).Err(), "needle-missing not measured: no needle was asked for")
}

func TestResultIsWritten(t *testing.T) {
	data, err := json.Marshal([]Result{{measure.Metric{Name: "a", Value: 1, Bound: 2, Direction: "<=", Key: "k"}}, Bounds{}.ask("b", ">=", .5).unmeasured("no %s", "tokens")})
	require.NoError(t, err)
	assert.JSONEq(t, `[{"name":"a","value":1,"bound":2,"direction":"<=","key":"k","ok":true},
		{"name":"b","value":"not measured","bound":0.5,"direction":">=","note":"no tokens","key":"default","ok":false}]`, string(data))
	assert.Error(t, Result{measure.Metric{Name: "c", Value: 1, Bound: 2}}.Err(), "no direction never passes")
	assert.Error(t, Result{measure.Metric{Name: "c", Value: math.NaN(), Bound: 2, Direction: ">="}}.Err())
}
