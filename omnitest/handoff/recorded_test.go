package handoff

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/internal/replay"
)

// recordings hold what real engines said: vLLM 0.32.0 on a CPU with NixlConnector and with ExampleConnector (block size 32,
// 4096 bytes per token; the control answers come from a third server of the same model), and vLLM 0.26.0 on a GPU.
var recordings = os.DirFS("../../testdata/recordings")

// part is one request of a recorded case: the files of its legs and of the control, "" where there was none.
type part struct{ id, p, d, control string }

// parts lists the requests of a case. Most have one; tampered ones are followed by a healthy pair.
func parts(folder string, there func(file string) bool) []part {
	switch name := path.Base(folder); {
	case name == "05-crossed":
		return []part{{"a", "p-a", "d-a-with-ticket-b", "control-a"}, {"b", "p-b", "d-b-with-ticket-a", "control-b"}}
	case name == "11-replayed-ticket":
		return []part{{"first", "p", "d", "control"}, {"replay", "", "d-replay-other-prompt", "control-other"}}
	case name == "14-decode-aborted-after-first-chunk":
		return []part{{"r", "p", "d-aborted", ""}}
	case name == "17-prefill-stream-true-and-max4":
		return []part{{"stream", "p-stream", "", ""}, {"max4", "p-max4", "", ""}}
	case name == "31-prefill-killed":
		return []part{{"broken", "p", "d", "control"}, {"next", "", "d-next-no-ticket", "control-next"}}
	case there("d-next"):
		return []part{{"broken", "p", "d", "control"}, {"next", "p-next", "d-next", "control-next"}}
	}
	one := part{"r", "p", "d", "control"}
	for _, leg := range []*string{&one.p, &one.d, &one.control} {
		if !there(*leg) {
			*leg = ""
		}
	}
	return []part{one}
}

// sent is the part of a recorded request that the rules look at.
type sent struct {
	Prompt json.RawMessage `json:"prompt"`
	Ticket json.RawMessage `json:"kv_transfer_params"`
}

// ask lets the api client read a recorded answer from a server that plays it back, as the client of a window would.
func ask(t *testing.T, file string) (text *api.Text, request sent, err error) {
	t.Helper()
	x, err := replay.Load(recordings, file+".json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(x.RequestBody, &request))
	if len(x.Chunks) == 0 {
		return nil, request, errors.New("connection refused") // the recorder's word; the replay would say EOF
	}
	s, err := replay.Serve(replay.Options{Any: true, Hang: true}, x)
	require.NoError(t, err)
	defer s.Close()
	c := &api.Client{BaseURL: s.URL, Timeout: time.Minute}
	if x.Unfinished() {
		c.Timeout = 500 * time.Millisecond // the recorder gave up here, so the engine would have gone on
	}
	chat, messages := strings.Contains(x.Path, "chat"), []api.Message{{Role: "user", Text: "x"}}
	switch {
	case chat && bytes.Contains(x.RequestBody, []byte(`"stream": true`)):
		text, err = c.StreamChat(t.Context(), api.ChatRequest{Messages: messages}, nil)
	case chat:
		text, err = c.Chat(t.Context(), api.ChatRequest{Messages: messages})
	case bytes.Contains(x.RequestBody, []byte(`"stream": true`)):
		text, err = c.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "x"}, nil)
	default:
		text, err = c.Complete(t.Context(), api.CompletionRequest{Prompt: "x"})
	}
	if e := (*api.Error)(nil); errors.As(err, &e) && e.Message != "" {
		err = &savedError{e.Message, e} // without the port of the replay
	}
	return text, request, err
}

// metricsPages are the recorded scrapes, by "nixl/01-proper/d-after.prom".
var metricsPages = sync.OnceValues(func() (map[string][]byte, error) {
	return replay.Pages(recordings, "vllm-0.32.0/metrics.tar.bz2")
})

// recordedEvidence replays a case of NixlConnector as if a window had been open around it.
func recordedEvidence(t *testing.T, name string, ledger bool) *Evidence {
	t.Helper()
	e := evidenceOf(t, &NIXL, "nixl/"+name, ledger)
	e.BytesPerToken = 4096
	return e
}

// evidenceOf replays a case. A stage without its second page is dead.
func evidenceOf(t *testing.T, d *Dialect, folder string, ledger bool) *Evidence {
	t.Helper()
	pages, err := metricsPages()
	require.NoError(t, err)
	e := &Evidence{Schema: Schema, Dialect: d.Name, dialect: d, Flow: Flow{Kept: ledger, Note: "recorded without a proxy"}}
	stage := func(name, letter string) (*watcher, Stage) {
		w := newWatcher(name, Endpoint{MetricsURL: "recorded"}, Source{Dialect: d})
		var problem error
		for _, when := range []string{"before", "after"} {
			page, there := pages[folder+"/"+letter+"-"+when+".prom"]
			if !there && when == "after" {
				problem = errors.New(name + ": scrape: connection refused")
				break
			}
			s, err := prom.Parse(page)
			require.NoError(t, err)
			if w.last == nil {
				w.last = s
				w.begin()
				continue
			}
			w.falls, w.last = prom.Resets(w.last, s), s
		}
		return w, w.ledger(problem)
	}
	_, e.Prefill = stage("prefill", "p")
	decode, ds := stage("decode", "d")
	e.Decode = ds
	e.BlockSize, e.BlockSizeFrom = Source{}.blockSize(decode)
	require.Equal(t, 32, e.BlockSize, "cache_config_info tells the block size")

	if ledger {
		e.Flow.Note = ""
	}
	base := "vllm-0.32.0/" + folder + "/"
	for _, r := range parts(folder, func(file string) bool { _, err := fs.Stat(recordings, base+file+".json"); return err == nil }) {
		o := Observation{RequestID: r.id}
		rec := flow.Record{RequestID: r.id, Outcome: "ok"}
		if r.p != "" {
			text, _, err := ask(t, base+r.p)
			require.NoError(t, err)
			if text.Usage != nil {
				o.PromptTokens = text.Usage.PromptTokens
			}
			rec.Hops = append(rec.Hops, flow.Hop{Stage: "prefill", EndMS: 12, Status: 200, TicketOut: text.Ticket})
		}
		if r.control != "" {
			text, _, err := ask(t, base+r.control)
			require.NoError(t, err)
			o.Want, o.WantFrom = text.String(), "control: a third server"
		}
		if r.d != "" {
			text, request, err := ask(t, base+r.d)
			hop := flow.Hop{Stage: "decode", Status: 200}
			if string(request.Ticket) != "null" {
				hop.TicketIn = request.Ticket
			}
			rec.Hops = append(rec.Hops, hop)
			if text != nil {
				o.Got = text.String()
				if text.Usage != nil {
					o.PromptTokens, o.OutputTokens = text.Usage.PromptTokens, text.Usage.CompletionTokens
				}
			}
			if err != nil {
				o.Err, o.Got = err, ""
				rec.Outcome, rec.Error = "failed", "decode: "+err.Error()
			}
		}
		e.Observations = append(e.Observations, o)
		if ledger {
			e.Flow.Records = append(e.Flow.Records, rec)
		}
	}
	return e
}

// TestRecordedVerdicts: what really happened on real vLLM gets the right name. Without a ledger, counters and answers alone.
func TestRecordedVerdicts(t *testing.T) {
	const (
		asWanted = "; 1 answer as wanted (control: a third server)"
		altered  = "ticket was altered between prefill and decode: "
		failed   = "request failed: Internal server error"
		died     = "EngineCore encountered an issue. See stack trace (above) for the root cause."
		replayed = "refuted: decode claims 200 tokens from prefill, which processed 100 prompt tokens in this window"
		other    = `request replay: text diverges at byte 429: got "mbe�' deavermbevermbevermbembe�avera", want " pup and and and and andigh andigh� pup looker..." (control: a third server)`
		permuted = `text diverges at byte 0: got " Where�ws Where Where Where Where the� wo sa...", want ", Where that\x11 Where{�nd pictures��\x1d� Whe..." (control: a third server)`
	)
	for _, c := range []struct {
		name            string
		proven, flowing string // flowing: with the tickets of both legs as ledger; "": the same
		moved           State
	}{
		{"01-proper", "proven: decode took 100 of 100 prompt tokens from prefill (524288 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"02-proper-again-full-local-hit", "proven: decode took 4 of 100 prompt tokens from prefill (131072 bytes), had 96, computed 0 itself" + asWanted, "", StateProven},
		{"03-withheld-ticket", "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0)",
			"refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0); ticket was sent by prefill at +12 ms, never forwarded by proxy", StateRefuted},
		{"04-decode-only-no-prefill", "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0)",
			"refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0); sent to decode without having been at prefill", StateRefuted},
		// All counters are green here: only the content tells, or the ledger.
		{"05-crossed", `refuted: request a: text diverges at byte 0: got "\x1e\x1e\x1e France brown� FranceouhorouW\x1e� looked�...", want "ver� comp comp compainrefi deigh compQresigh w..." (control: a third server); ` +
			`request b: bytes 0 to 11 of the answer are the text of request a: "ver� comp"`,
			`refuted: request a: decode was given the ticket of request b (and 1 more like it); ` +
				`request a: text diverges at byte 0: got "\x1e\x1e\x1e France brown� FranceouhorouW\x1e� looked�...", want "ver� comp comp compainrefi deigh compQresigh w..." (control: a third server); ` +
				`request b: bytes 0 to 11 of the answer are the text of request a: "ver� comp"`, StateProven},
		{"10-len-0016", "proven: decode took 16 of 16 prompt tokens from prefill (131072 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"10-len-0031", "proven: decode took 31 of 31 prompt tokens from prefill (131072 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"10-len-0033", "proven: decode took 33 of 33 prompt tokens from prefill (262144 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"10-len-0065", "proven: decode took 65 of 65 prompt tokens from prefill (393216 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"10-len-0512", "proven: decode took 512 of 512 prompt tokens from prefill (2097152 bytes), computed 0 itself" + asWanted, "", StateProven},
		{"12-expired-ticket", "inconclusive: decode pulled 1 ticket that prefill had already given up: the blocks may have been reused; prefill freed the blocks of 1 ticket that nobody pulled in time", "", StateInconclusive},
		// The second use of a ticket shows in the counters: decode took more than prefill ever processed.
		{"11-replayed-ticket", replayed + "; " + other, replayed + "; request replay: sent to decode without having been at prefill; " + other, StateRefuted},
		{"23-one-block-too-few", "refuted: request broken: request failed: " + died + " (and 1 more like it); decode: scrape: connection refused",
			"refuted: request broken: " + altered + "remote_block_ids [[162,163,164,165]] became [[162,163,164]]; request broken: request failed: " + died + " (and 1 more like it); decode: scrape: connection refused", StateRefuted},
		// Permuted blocks, like crossed tickets, leave every counter green.
		{"24-permuted-blocks", "refuted: request broken: " + permuted, "refuted: request broken: " + altered + "remote_block_ids [[168,165,159,169]] became [[169,159,165,168]]; request broken: " + permuted, StateProven},
		{"26-wrong-engine-id", "refuted: decode counted 1 failed transfer; request broken: " + failed,
			"refuted: decode counted 1 failed transfer; request broken: " + altered + `remote_engine_id "engine-p" became "engine-x"; request broken: ` + failed, StateRefuted},
		{"27-wrong-port-new-engine", "refuted: decode counted 1 failed transfer; request broken: " + failed + "",
			"refuted: decode counted 1 failed transfer; request broken: " + altered + `remote_engine_id "engine-p" became "engine-y", remote_port 5600 became 5999; request broken: ` + failed +
				"", StateRefuted},
		{"30-out-of-range-blocks", "refuted: decode counted 2 failed transfers; request broken: " + failed,
			"refuted: decode counted 2 failed transfers; request broken: " + altered + "remote_block_ids [[186,187,188,189]] became [[1000000,1000001,1000002,1000003]]; request broken: " + failed, StateRefuted},
		{"31-prefill-killed", "refuted: decode counted 1 failed transfer; decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0); request broken: " + failed + "; prefill: scrape: connection refused",
			"refuted: decode counted 1 failed transfer; decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes 0); request next: sent to decode without having been at prefill; request broken: " +
				failed + "; prefill: scrape: connection refused", StateRefuted},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, recordedVerdicts, c.name)
			e := recordedEvidence(t, c.name, false)
			assert.Equal(t, c.proven, Proven(e).String())
			assert.Equal(t, c.moved, Moved(e).State, Moved(e).String())
			if c.flowing == "" {
				c.flowing = c.proven
			}
			assert.Equal(t, c.flowing, Proven(recordedEvidence(t, c.name, true)).String(), "with a ledger")
		})
	}
}

// recordedVerdicts names the cases of that table.
var recordedVerdicts = map[string]bool{
	"01-proper":                      true,
	"02-proper-again-full-local-hit": true,
	"03-withheld-ticket":             true,
	"04-decode-only-no-prefill":      true,
	"05-crossed":                     true,
	"10-len-0016":                    true,
	"10-len-0031":                    true,
	"10-len-0033":                    true,
	"10-len-0065":                    true,
	"10-len-0512":                    true,
	"12-expired-ticket":              true,
	"11-replayed-ticket":             true,
	"23-one-block-too-few":           true,
	"24-permuted-blocks":             true,
	"26-wrong-engine-id":             true,
	"27-wrong-port-new-engine":       true,
	"30-out-of-range-blocks":         true,
	"31-prefill-killed":              true,
}

// TestRecordedBytes: the slope of the recorded transfers is the model's geometry, exactly, for every prompt length.
func TestRecordedBytes(t *testing.T) {
	for _, name := range []string{"01-proper", "02-proper-again-full-local-hit", "10-len-0016", "10-len-0031", "10-len-0033", "10-len-0065", "10-len-0512"} {
		got, err := BytesPerToken(recordedEvidence(t, name, false))
		require.NoError(t, err, name)
		assert.Equal(t, KVBytesPerToken(4, 2, 64, 4), got, name)
	}
	// Half the bytes per token, as of a KV cache of another dtype, is not enough.
	e := recordedEvidence(t, "10-len-0512", false)
	e.BytesPerToken = 8192
	assert.Equal(t, "refuted: moved 2097152 bytes, 4194304 needed: 16 blocks of 32 tokens x 8192 bytes", Moved(e).String())
}

// TestRecordedTrap: two series that rise although nothing arrived. No rule may read them.
func TestRecordedTrap(t *testing.T) {
	for _, x := range append(NIXL.decodeSeries(), NIXL.prefillSeries()...) {
		assert.NotContains(t, x.Name, "external_prefix_cache", "rises on a failed transfer")
		assert.NotContains(t, x.Name, "cached_by_source", "rises on a failed transfer")
		assert.NotContains(t, x.Name, "prefill_kv_computed", "rises by the whole prompt on a perfect NIXL handoff")
	}
}

// TestRecordedGPU: the same rules over another version (0.26.0), a GPU, bf16, block size 16, prefix caching off.
func TestRecordedGPU(t *testing.T) {
	data, err := fs.ReadFile(recordings, "vllm-gpu-pd-0.26.0/session.json")
	require.NoError(t, err)
	var session struct {
		Cases []struct {
			Case         string             `json:"case"`
			PromptTokens int                `json:"prompt_tokens"`
			Status       int                `json:"D_status"`
			Same         bool               `json:"same_tokens_as_control"`
			Prefill      map[string]float64 `json:"P_delta"`
			Decode       map[string]float64 `json:"D_delta"`
		}
	}
	require.NoError(t, json.Unmarshal(data, &session))
	cases := session.Cases
	want := map[string][2]string{ // beginnings of Proven and Moved
		"warm":                {"proven: decode took 64 of 64 prompt tokens from prefill (786432 bytes), computed 0 itself", ""},
		"proper-64":           {"proven: decode took 64 of 64 prompt tokens from prefill (786432 bytes), computed 0 itself", ""},
		"proper-128":          {"proven: decode took 128 of 128 prompt tokens from prefill (1572864 bytes), computed 0 itself", ""},
		"proper-256":          {"proven: decode took 256 of 256 prompt tokens from prefill (3145728 bytes), computed 0 itself", ""},
		"proper-512":          {"proven: decode took 512 of 512 prompt tokens from prefill (6291456 bytes), computed 0 itself", ""},
		"proper-1024":         {"proven: decode took 1024 of 1024 prompt tokens from prefill (12582912 bytes), computed 0 itself", ""},
		"proper-2048":         {"refuted: text diverges at byte 0", "proven"}, // the control's margins were not recorded
		"short-8":             {"proven: decode took 8 of 8 prompt tokens from prefill (196608 bytes), computed 0 itself", ""},
		"withheld":            {"refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0)", ""},
		"donor":               {"refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0)", ""},
		"crossed":             {"refuted: text diverges at byte 0", "proven"},
		"replayed":            {"refuted: decode claims 512 tokens from prefill, which processed 0 prompt tokens in this window", ""},
		"blocks-plus-1":       {"refuted: text diverges at byte 0", "proven"},
		"blocks-out-of-range": {"refuted: decode counted 1 failed transfer; request failed: HTTP 500", ""},
		// This one kills decode, and everything after it met a dead decode: the verdict says so and nothing about the case.
		"fewer-blocks":       {"refuted: request failed: HTTP 500; decode: scrape: connection refused", ""},
		"unknown-request-id": {"refuted: request failed: connection refused; decode: scrape: connection refused", ""},
		"missing-host":       {"refuted: request failed: connection refused; decode: scrape: connection refused", ""},
		"unknown-engine-id":  {"refuted: request failed: connection refused; decode: scrape: connection refused", ""},
		"after-tampering":    {"refuted: request failed: connection refused; decode: scrape: connection refused", ""},
	}
	require.Equal(t, len(want), len(cases))
	for _, c := range cases {
		d := &NIXL
		e := &Evidence{Schema: Schema, Dialect: d.Name, BlockSize: 16, BytesPerToken: KVBytesPerToken(12, 2, 128, 2), Flow: Flow{Note: "recorded without a proxy"}}
		for _, stage := range []map[string]float64{c.Prefill, c.Decode} {
			for series, v := range stage { // the rules read the sum over reasons
				if strings.HasPrefix(series, "vllm:request_success_total{") {
					stage["vllm:request_success_total"] += v
				}
			}
		}
		e.Prefill.Counters, e.Decode.Counters = counters(d, d.prefillSeries(), c.Prefill), counters(d, d.decodeSeries(), c.Decode)
		o := Observation{PromptTokens: c.PromptTokens, Got: "other tokens", Want: "the control's tokens", WantFrom: "control: a third server"}
		if c.Same {
			o.Got = o.Want
		}
		switch c.Status {
		case 200:
		case 0:
			o.Err = errors.New("connection refused")
		default:
			o.Err = fmt.Errorf("HTTP %d", c.Status)
		}
		if len(c.Decode) == 0 { // the recorder could not scrape it
			e.Decode = Stage{Problem: "decode: scrape: connection refused"}
		}
		e.Observations = []Observation{o}
		w := want[c.Case]
		if w[1] == "" {
			w[1] = w[0]
		}
		assert.True(t, strings.HasPrefix(Proven(e).String(), w[0]), "%s: Proven gave %q", c.Case, Proven(e))
		assert.True(t, strings.HasPrefix(Moved(e).String(), w[1]), "%s: Moved gave %q", c.Case, Moved(e))
	}
}
