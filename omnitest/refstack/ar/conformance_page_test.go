package ar

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/replay"
)

// text lists the differences, for tests of the comparison itself.
func (x *conformance) text() string {
	var lines []string
	for r := range x.rows {
		lines = append(lines, fmt.Sprintf("%s: %s -> %s", r.field, r.recorded, r.ours))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// metrics compares the names and types of the families on decode's page after one pair. The labels are compared by
// TestMetricFamilies, the changes of every counter in every recorded case by TestMetricsAsRecorded.
func (x *conformance) metrics(t *testing.T) {
	pages, err := replay.Pages(recordings, "vllm-0.32.0/metrics.tar.bz2")
	require.NoError(t, err)
	p := newPair(t)
	p.next()
	_, ours := p.d.get("/metrics")
	families := func(page string) fields {
		f := fields{}
		for line := range strings.Lines(page) {
			if rest, ok := strings.CutPrefix(line, "# TYPE "); ok {
				name, kind, _ := strings.Cut(strings.TrimSpace(rest), " ")
				f[name] = kind
			}
		}
		return f
	}
	want, got := families(string(pages["nixl/01-proper/d-after.prom"])), families(ours)
	all := maps.Clone(want)
	maps.Copy(all, got)
	for name := range all {
		r := row{name, want[name], got[name]}
		if r.recorded == r.ours {
			continue
		}
		for _, v := range []*string{&r.recorded, &r.ours} {
			if *v == "" {
				*v = "absent"
			}
		}
		if strings.HasPrefix(name, "process_") {
			continue // what the client library tells of the process depends on the platform
		}
		for _, many := range []string{"http_", "python_"} {
			if strings.HasPrefix(name, many) {
				r.field = many + "*"
			}
		}
		if strings.HasSuffix(name, "_created") {
			r.field = "*_created"
		}
		x.rows[r] = append(x.rows[r], "/metrics")
	}
}

// logged looks for the words of vLLM's log in that of the reference after the same case. A person who greps for them in the
// one must find them in the other.
func (x *conformance) logged(t *testing.T) {
	for _, l := range []struct{ file, number, words string }{
		{"log-d-crash21.txt", "20", "Got invalid KVTransferParams: "},
		{"log-d-crash21.txt", "21", "AssertionError"},
		{"log-d-crash21.txt", "21", "EngineCore encountered a fatal error."},
		{"log-d-crash23.txt", "23", "EngineCore encountered a fatal error."},
		{"log-d-crash23.txt", "23", "_apply_prefix_caching"},
		{"log-d.txt", "26", "NIXL transfer failure: handshake_failed"},
		{"log-d.txt", "26", "NIXL agent engine ID mismatch"},
		{"log-d.txt", "30", "NIXL transfer failure: transfer_setup_failed"},
		{"log-d.txt", "30", "NIXL_ERR_INVALID_PARAM"},
		{"log-p.txt", "lease", "Releasing expired KV blocks for request cmpl-"},
		{"log-p.txt", "lease", "which were retrieved by 0 remote worker(s) before lease expired."},
	} {
		if l.number == "lease" && x.logs["lease"] == "" {
			p := serve(t, Config{Lease: 50 * time.Millisecond})
			p.prefillLeg("a prompt that nobody fetches")
			p.eventually("expired", func() bool { return p.scrape()["nixl_num_kv_expired_reqs_total"] == 1 })
			x.logs["lease"] = p.log.String()
		}
		page, err := os.ReadFile("../../../testdata/recordings/vllm-0.32.0/" + l.file)
		require.NoError(t, err)
		require.Contains(t, string(page), l.words, "%s", l.file)
		assert.Contains(t, x.logs[l.number], l.words, "the log of the reference in case %s", l.number)
	}
}

// get reads a page of an instance.
func (i *instance) get(path string) (int, string) {
	i.t.Helper()
	resp, err := http.Get(i.url + path)
	require.NoError(i.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(i.t, err)
	return resp.StatusCode, string(b)
}

// page is testdata/conformance.md.
func (x *conformance) page(t *testing.T) string {
	type cells struct{ field, why string }
	type values struct{ pairs, in []string } // a pair is recorded and ours with a tab between
	lines := map[cells]*values{}
	used := make([]bool, len(reasons))
	for r, exchanges := range x.rows {
		for _, e := range exchanges {
			why := ""
			for i, reason := range reasons {
				if regexp.MustCompile("^(?:"+reason.exchange+")$").MatchString(e) && regexp.MustCompile("^(?:"+reason.field+")$").MatchString(r.field) {
					why, used[i] = reason.why, true
					break
				}
			}
			if why == "" {
				t.Errorf("no reason for: %s: %s: recorded %s, reference %s", e, r.field, r.recorded, r.ours)
			}
			c := cells{r.field, why}
			if lines[c] == nil {
				lines[c] = &values{}
			}
			lines[c].pairs = append(lines[c].pairs, r.recorded+"\t"+r.ours)
			lines[c].in = append(lines[c].in, e)
		}
	}
	for i, reason := range reasons {
		if !used[i] {
			t.Errorf("a reason without a difference, take it out: %+v", reason)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Where the reference AR engine answers differently from real vLLM 0.32.0\n\n")
	fmt.Fprintf(&b, "Written by `TestConformance` (omnitest/refstack/ar) from the recordings in `recordings/vllm-0.32.0`; `OMNITEST_UPDATE=1` writes it anew.\n")
	fmt.Fprintf(&b, "%d recorded requests were sent to the reference and compared field by field: status, headers, framing of streams, keys\nand their order, types, nulls, numbers. Taken out first: ids, times, ports, texts. ", x.sent)
	fmt.Fprintf(&b, "Everything that is not in this table is equal.\n\n")
	fmt.Fprintf(&b, "| field | recorded | reference | in | reason |\n|---|---|---|---|---|\n")
	cell := strings.NewReplacer("|", `\|`, "\n", " ")
	some := func(list []string, most int) []string {
		slices.Sort(list)
		if list = slices.Compact(list); len(list) > most {
			list = append(list[:most-1:most-1], fmt.Sprintf("... (%d)", len(list)))
		}
		return list
	}
	for _, c := range slices.SortedFunc(maps.Keys(lines), func(a, b cells) int { return strings.Compare(a.why+a.field, b.why+b.field) }) {
		var recorded, ours []string
		for _, pair := range some(lines[c].pairs, 5) {
			r, o, found := strings.Cut(pair, "\t")
			if !found {
				o = r // "... (17)"
			}
			recorded, ours = append(recorded, r), append(ours, o)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", cell.Replace(c.field), cell.Replace(strings.Join(slices.Compact(recorded), ", ")),
			cell.Replace(strings.Join(slices.Compact(ours), ", ")), strings.Join(some(lines[c].in, 3), ", "), c.why)
	}
	fmt.Fprintf(&b, "\nNot sent again:\n\n")
	for _, name := range slices.Sorted(maps.Keys(x.skipped)) {
		fmt.Fprintf(&b, "- `%s`: %s\n", name, x.skipped[name])
	}
	return b.String()
}
