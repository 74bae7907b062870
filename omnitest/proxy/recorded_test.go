package proxy

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/internal/replay"
)

// pair is a prefill leg and the decode leg that followed it, as real engines were recorded.
type pair struct {
	name string
	p, d replay.Exchange
}

// pairs finds every prefill leg with its decode leg.
func pairs(t *testing.T) (all []pair) {
	t.Helper()
	for _, dir := range []string{"vllm-0.32.0/nixl", "vllm-0.32.0/example", "vllm-gpu-pd-0.26.0/http"} {
		list, paths, err := replay.LoadAll(os.DirFS("../../testdata/recordings"), dir)
		require.NoError(t, err)
		at := map[string]replay.Exchange{}
		for i, p := range paths {
			name := strings.TrimSuffix(path.Base(p), ".json")
			if strings.HasSuffix(dir, "http") {
				name = name[4:] // the number
			}
			at[path.Dir(p)+"/"+name] = list[i]
		}
		for name, p := range at {
			folder, leg := path.Split(name)
			var d replay.Exchange
			var there bool
			switch {
			case leg == "p":
				d, there = at[folder+"d"]
				if !there {
					d, there = at[folder+"d-aborted"]
				}
			case leg == "p-a":
				d, there = at[folder+"d-a-with-ticket-b"]
			case leg == "p-b":
				d, there = at[folder+"d-b-with-ticket-a"]
			case leg == "p-next":
				d, there = at[folder+"d-next"]
			case strings.HasSuffix(leg, "-P"):
				d, there = at[folder+strings.TrimSuffix(leg, "P")+"D"]
			}
			if there {
				all = append(all, pair{strings.TrimPrefix(name, "vllm-"), p, d})
			}
		}
	}
	return all
}

// fieldsOf gives the top level of a body, raw.
func fieldsOf(t testing.TB, body []byte) map[string]json.RawMessage {
	t.Helper()
	var m map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(body, &m))
	return m
}

// TestRecordedPairs sends what the recorder's client wanted through the proxy, with real vLLM's answers behind it. The
// engines answer only the requests that were recorded, so the proxy's prefill leg is, value for value, the one that made
// real prefill give a ticket; decode answers only if it is handed that very ticket. Decode's answer must come out byte for
// byte: whole, streamed, with an error inside, or broken off.
func TestRecordedPairs(t *testing.T) {
	counts := map[string]int{}
	for _, x := range pairs(t) {
		t.Run(x.name, func(t *testing.T) {
			ask := fieldsOf(t, x.d.RequestBody)
			delete(ask, "kv_transfer_params")
			body, err := json.Marshal(ask)
			require.NoError(t, err)

			given := fieldsOf(t, x.p.Body)["kv_transfer_params"]
			hasTicket := given != nil && string(given) != "null"
			wanted := fieldsOf(t, body)
			if hasTicket {
				wanted["kv_transfer_params"] = given // some decode legs were recorded with a ticket that the recorder had altered
			}
			x.d.RequestBody, err = json.Marshal(wanted)
			require.NoError(t, err)

			// The one allowance: the second recorder left stream out, and the proxy always says false.
			leg := fieldsOf(t, x.p.RequestBody)
			leg["stream"] = json.RawMessage("false")
			x.p.RequestBody, err = json.Marshal(leg)
			require.NoError(t, err)

			p, err := replay.Serve(replay.Options{}, x.p)
			require.NoError(t, err)
			defer p.Close()
			d, err := replay.Serve(replay.Options{}, x.d)
			require.NoError(t, err)
			defer d.Close()
			proxy, err := New(Config{Prefill: p.URL, Decode: d.URL, AllowFallback: !hasTicket})
			require.NoError(t, err)
			defer proxy.Close()
			front := httptest.NewServer(proxy)
			defer front.Close()

			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, front.URL+x.d.Path, strings.NewReader(string(body)))
			require.NoError(t, err)
			req.Header.Set("Content-Type", "application/json")
			if id := x.p.RequestHeader.Get("X-Request-Id"); id != "" {
				req.Header.Set("X-Request-Id", id)
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer resp.Body.Close()
			got, readErr := io.ReadAll(resp.Body)
			assert.Empty(t, p.Unanswered(), "prefill was not asked as the recorder asked it")
			assert.Empty(t, d.Unanswered(), "decode was not asked as the recorder asked it, with prefill's ticket")
			require.Len(t, p.Requests(), 1)
			require.Len(t, d.Requests(), 1)

			page := proxy.ledger.since(0)
			require.Len(t, page.Records, 1)
			rec := page.Records[0]
			require.NotNil(t, rec.Hop("prefill"))
			if hasTicket {
				assert.Equal(t, string(given), string(rec.Hop("prefill").TicketOut), "byte for byte")
				assert.Equal(t, string(given), string(rec.Hop("decode").TicketIn))
				sent := fieldsOf(t, d.Requests()[0].Body)["kv_transfer_params"]
				assert.Equal(t, string(given), string(sent), "decode gets the bytes of prefill's ticket")
			} else { // ExampleConnector gives no ticket; behind this proxy it needs the declared fallback
				assert.Contains(t, resp.Header.Get(FallbackHeader), "200 without a ticket: kv_transfer_params is null")
				assert.True(t, rec.Fallback)
				counts["no ticket"]++
			}
			judgePair(t, x, rec, resp, got, readErr, counts)
		})
	}
	assert.Equal(t, map[string]int{"whole": 48, "error inside": 6, "broken off": 2, "refused": 4, "dead": 4, "no ticket": 8}, counts)
	t.Log(counts)
}

func judgePair(t *testing.T, x pair, rec flow.Record, resp *http.Response, got []byte, readErr error, counts map[string]int) {
	t.Helper()
	if len(x.d.Chunks) == 0 { // nobody listened there any more
		assert.Equal(t, http.StatusBadGateway, resp.StatusCode)
		assert.Equal(t, "decode", resp.Header.Get(StageHeader))
		counts["dead"]++
		return
	}
	assert.Equal(t, x.d.Status, resp.StatusCode)
	assert.Equal(t, string(x.d.Body), string(got))
	assert.Equal(t, x.d.Header.Get("Content-Type"), resp.Header.Get("Content-Type"))
	switch {
	case x.d.Unfinished():
		assert.ErrorIs(t, readErr, io.ErrUnexpectedEOF, "what broke off behind the proxy must break off in front of it")
		assert.Equal(t, "failed", rec.Outcome)
		counts["broken off"]++
	case x.d.Status != 200:
		assert.Equal(t, "failed", rec.Outcome)
		counts["refused"]++
	case strings.Contains(string(x.d.Body), `data: {"error":`):
		require.NoError(t, readErr)
		assert.Equal(t, "failed", rec.Outcome, "an error inside a 200 is a failure in the ledger")
		assert.NotEmpty(t, rec.Error)
		counts["error inside"]++
	default:
		require.NoError(t, readErr)
		assert.Equal(t, "ok", rec.Outcome, rec.Error)
		counts["whole"]++
	}
}

// TestRecordedPairsCanFail: a proxy that forgets the ticket asks decode something that was not recorded.
func TestRecordedPairsCanFail(t *testing.T) {
	recordings := os.DirFS("../../testdata/recordings/vllm-0.32.0/nixl/01-proper")
	p, err := replay.Load(recordings, "p.json")
	require.NoError(t, err)
	d, err := replay.Load(recordings, "d.json")
	require.NoError(t, err)
	prefill, err := replay.Serve(replay.Options{}, p)
	require.NoError(t, err)
	defer prefill.Close()
	decode, err := replay.Serve(replay.Options{}, d)
	require.NoError(t, err)
	defer decode.Close()
	proxy, err := New(Config{Prefill: prefill.URL, Decode: decode.URL, Faults: Faults{DropTicket: true}})
	require.NoError(t, err)
	defer proxy.Close()
	front := httptest.NewServer(proxy)
	defer front.Close()
	resp, err := http.Post(front.URL+d.Path, "application/json", strings.NewReader(string(d.RequestBody)))
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, http.StatusNotImplemented, resp.StatusCode)
	assert.Empty(t, prefill.Unanswered())
	assert.Contains(t, decode.Unanswered(), "POST /v1/completions")
}
