package prom

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOddities(t *testing.T) {
	s := parse(t, `# TYPE c counter
c{engine="0"} -3
c{engine="1"} 1.5e+09
# TYPE g gauge
g NaN
h +Inf
# TYPE below gauge
below -1
# TYPE q histogram
q_bucket{le="+Inf"} 1
q_sum -3942.4
q_count 1
`)
	var texts []string
	for _, o := range s.Oddities() {
		texts = append(texts, o.String())
	}
	assert.Equal(t, []string{`c{engine="0"} is -3`, "g is NaN", "h is +Inf"}, texts)
	assert.Equal(t, "c", s.Oddities()[0].Name())
	for _, name := range []string{"g", "h"} {
		_, present := s.Sum(name, nil)
		assert.False(t, present, "%s says nothing", name)
		assert.True(t, s.Has(name, nil), "%s is there", name)
	}
	assert.False(t, s.Has("nobody", nil))
	sum, present := s.Sum("c", nil)
	assert.True(t, present)
	assert.Equal(t, 1.5e9-3, sum)
	assert.Equal(t, []string{"below", "c", "g", "h", "q_count", "q_sum"}, s.Names())

	values, bare := s.Values("c", "engine")
	assert.Equal(t, []string{"0", "1"}, values)
	assert.Zero(t, bare)
	_, bare = s.Values("g", "engine")
	assert.Equal(t, 1, bare)
	assert.Equal(t, []string{"0", "1"}, s.Labelled("engine"))
}

// A sum in which one engine says NaN was not measured, on either side of a window.
func TestNaNIsNeverZero(t *testing.T) {
	sane := parse(t, "# TYPE c counter\nc{engine=\"0\"} 5\nc{engine=\"1\"} 5\n")
	hole := parse(t, "# TYPE c counter\nc{engine=\"0\"} 9\nc{engine=\"1\"} NaN\n")
	for _, pair := range [][2]*Snapshot{{sane, hole}, {hole, sane}, {hole, hole}} {
		v, state := Delta(pair[0], pair[1], "c", nil)
		assert.Equal(t, Absent, state)
		assert.Zero(t, v)
	}
	v, state := Delta(sane, hole, "c", Labels{"engine": "0"})
	assert.Equal(t, Present, state)
	assert.Equal(t, 4.0, v)
	assert.Empty(t, Resets(sane, hole), "NaN is no fall")
}

// Pages of two engines put together without a label between them: a series twice is a sum, and no fall against itself.
func TestRepeatedSeries(t *testing.T) {
	s := parse(t, "# TYPE c counter\nc{engine=\"0\"} 3\nc{engine=\"0\"} 5\nc{engine=\"1\"} 1\n")
	assert.Equal(t, []string{`c{engine="0"}`}, s.Repeated())
	sum, _ := s.Sum("c", nil)
	assert.Equal(t, 9.0, sum)
	assert.Empty(t, Resets(s, s))
	v, state := Delta(s, parse(t, "# TYPE c counter\nc{engine=\"0\"} 4\nc{engine=\"0\"} 5\nc{engine=\"1\"} 1\n"), "c", nil)
	assert.Equal(t, Present, state)
	assert.Equal(t, 1.0, v)
	falls := Resets(s, parse(t, "# TYPE c counter\nc{engine=\"0\"} 0\nc{engine=\"0\"} 5\nc{engine=\"1\"} 1\n"))
	require.Len(t, falls, 1)
	assert.Equal(t, `c{engine="0"} fell from 8 to 5`, falls[0].String())
	assert.Empty(t, parse(t, "c{engine=\"0\"} 3\nc{engine=\"1\"} 3\n").Repeated())
}

func TestRecordedPagesHaveNoOddities(t *testing.T) {
	for _, engine := range []string{"vllm-0.32.0", "vllm-gpu-pd-0.26.0"} {
		all := pages(t, engine)
		for i, name := range slices.Sorted(maps.Keys(all)) {
			if i%10 != 0 {
				continue
			}
			s, err := Parse(all[name])
			require.NoError(t, err)
			assert.Empty(t, s.Oddities(), name)
			assert.Empty(t, s.Repeated(), name)
		}
	}
}

// The start time of a process that goes on may follow the clock by a second; a later or an earlier process is another one.
func TestStartTime(t *testing.T) {
	page := func(start string) *Snapshot {
		return parse(t, "process_start_time_seconds "+start+"\n# TYPE c counter\nc 5\n")
	}
	assert.Empty(t, Resets(page("100.25"), page("101.25")), "a clock that was set")
	falls := Resets(page("160"), page("100"))
	require.Len(t, falls, 1)
	assert.Equal(t, "another process answers (process_start_time_seconds went from 160 to 100)", falls[0].String())
}

func TestAlternates(t *testing.T) {
	page := func(start, count float64) *Snapshot {
		return parse(t, fmt.Sprintf("process_start_time_seconds %g\n# TYPE c counter\nc{engine=\"0\"} %g\n", start, count))
	}
	assert.True(t, Alternates(page(100, 9), page(100, 2), page(100, 9)), "counters fall and come back")
	assert.True(t, Alternates(page(100, 9), page(160, 9), page(100, 9)), "the start time comes back")
	assert.False(t, Alternates(page(100, 9), page(160, 0), page(160, 1)), "a restart")
	assert.False(t, Alternates(page(100, 9), page(100, 9), page(100, 10)), "nothing fell")
	assert.False(t, Alternates(page(100, 9), page(160, 0), parse(t, "other 1\n")), "another page altogether")
}

// TestPageOf100MB: a page without end costs the bound and not its own length, said at once where the length is told, and
// what is within the bound is read whole.
func TestPageOf100MB(t *testing.T) {
	line := []byte("vllm:prompt_tokens_total{engine=\"0\",model_name=\"a model with a long name\",lora=\"unknown label\"} 1.234567e+09\n")
	chunk := []byte(strings.Repeat(string(line), 1<<20/len(line)))
	for _, c := range []struct {
		name   string
		size   int
		length bool
		want   string
		most   uint64 // bytes allocated, all together
	}{
		{"told", 100 << 20, true, ": 100 MiB: not a metrics page", 8 << 20},
		{"untold", 100 << 20, false, ": more than 16 MiB: not a metrics page", untoldMost},
		{"largest", 15 << 20, false, "", 20 * maxBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/plain")
				n := c.size / len(chunk)
				if c.length {
					w.Header().Set("Content-Length", fmt.Sprint(c.size))
				}
				for range n {
					if _, err := w.Write(chunk); err != nil {
						return
					}
				}
				_, _ = io.WriteString(w, "\n")
			}))
			defer srv.Close()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			s, err := Scrape(t.Context(), srv.Client(), srv.URL)
			runtime.ReadMemStats(&after)
			if c.want != "" {
				require.EqualError(t, err, "scrape "+srv.URL+c.want)
			} else {
				require.NoError(t, err)
				sum, present := s.Sum("vllm:prompt_tokens_total", Labels{"engine": "0"})
				assert.True(t, present)
				assert.Greater(t, sum, 1e14)
			}
			allocated := after.TotalAlloc - before.TotalAlloc
			assert.Less(t, allocated, c.most)
			t.Logf("%d MiB page: %d MiB allocated in all, heap grew by %d MiB", c.size>>20, allocated>>20, (int64(after.HeapSys)-int64(before.HeapSys))>>20)
		})
	}
}
