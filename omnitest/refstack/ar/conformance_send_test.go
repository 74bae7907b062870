package ar

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/internal/replay"
)

// notSent are recorded exchanges that cannot be sent again here, with the reason.
var notSent = map[string]string{
	"nixl/14-decode-aborted-after-first-chunk/d-aborted": "the recorder hung up; TestAbortFreesBlocks does the same",
	"single/disconnect-midstream":                        "the recorder hung up; TestAbortFreesBlocks does the same",
}

func (x *conformance) skips(e replay.Exchange) bool {
	why, skip := notSent[e.Name]
	if !skip && path.Base(path.Dir(e.Name)) == "overload" {
		why, skip = "two of 96 that ran at once; TestConcurrentHandoffs and TestChurn do that", true
	}
	if skip {
		x.skipped[e.Name] = why
	}
	return skip
}

type sentAnswer struct {
	status int
	header http.Header
	body   string
	hung   bool // nothing came within the patience of the test
	dead   bool // the connection was refused
}

// send sends a recorded request to the reference. Token ids are brought into the vocabulary of bytes; a ticket takes the
// place of the recorded one.
func (x *conformance) send(i *instance, e replay.Exchange, ticket map[string]any) (a sentAnswer) {
	x.t.Helper()
	x.sent++
	b := inVocabulary(e)
	if ticket != nil {
		var m map[string]any
		require.NoError(x.t, json.Unmarshal(b, &m))
		m["kv_transfer_params"] = ticket
		b, _ = json.Marshal(m)
	}
	limit := patience
	if e.Unfinished() {
		limit = 300 * time.Millisecond
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, e.Method, i.url+e.Path, bytes.NewReader(b))
	require.NoError(x.t, err)
	for _, h := range []string{"Content-Type", "X-Request-Id"} {
		if v := e.RequestHeader.Get(h); v != "" {
			req.Header.Set(h, v)
		}
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return sentAnswer{hung: ctx.Err() != nil, dead: ctx.Err() == nil}
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return sentAnswer{resp.StatusCode, resp.Header, string(got), err != nil && ctx.Err() != nil, false}
}

// inVocabulary is the recorded body with its token ids brought into the vocabulary of bytes, but for the one that is about
// an id outside of it.
func inVocabulary(e replay.Exchange) []byte {
	var m map[string]any
	if json.Unmarshal(e.RequestBody, &m) != nil || strings.Contains(e.Name, "out-of-vocab") {
		return e.RequestBody
	}
	changed := false
	for _, field := range []string{"prompt", "tokens"} {
		ids, _ := m[field].([]any)
		for n, id := range ids {
			if f, ok := id.(float64); ok {
				ids[n], changed = int(f)%256, true
			}
		}
	}
	if !changed {
		return e.RequestBody // odd spellings are what some recordings are about
	}
	b, _ := json.Marshal(m)
	return b
}

// cases runs each case of nixl/ on a fresh pair: prefill leg, decode leg with the ticket tampered with as recorded, control.
func (x *conformance) cases(t *testing.T) {
	folders, err := os.ReadDir("../../../testdata/recordings/vllm-0.32.0/nixl")
	require.NoError(t, err)
	var last pair
	var control *instance
	for _, f := range folders {
		if !f.IsDir() {
			continue
		}
		list, _, err := replay.LoadAll(recordings, "vllm-0.32.0/nixl/"+f.Name())
		require.NoError(t, err)
		slices.SortStableFunc(list, func(a, b replay.Exchange) int { return a.Start.Compare(b.Start) })
		// 02 and 06 are about what the case before them left in the prefix cache.
		if name := f.Name()[:2]; name != "02" && name != "06" {
			last = newPair(t)
			control = serve(t, Config{Model: "tiny", BlockSize: 32})
		}
		if f.Name()[:2] == "28" {
			last.next() // decode knows this prefill
		}
		recordedTickets, ourTickets := map[string]map[string]any{}, map[string]map[string]any{}
		for _, e := range list {
			if x.skips(e) {
				continue
			}
			leg := path.Base(e.Name)
			switch {
			case strings.HasPrefix(leg, "p"):
				got := x.send(last.p, e, nil)
				x.compare(e, got)
				if r := ticketOf(e.Body); r != nil {
					id := r["remote_request_id"].(string)
					recordedTickets[id], ourTickets[id] = r, ticketOf([]byte(got.body))
				}
			case strings.HasPrefix(leg, "d"):
				if f.Name() == "31-prefill-killed" && leg == "d" {
					last.p.stop()
					<-last.p.done
					last.p.done <- nil // for the clean-up
				}
				x.compare(e, x.send(last.d, e, tamper(e, recordedTickets, ourTickets)))
				if strings.HasPrefix(f.Name(), "21") || strings.HasPrefix(f.Name(), "23") {
					select {
					case <-last.d.done:
						last.d.done <- nil
					case <-time.After(patience):
						t.Fatal("decode did not die of its ticket")
					}
				}
			default:
				x.compare(e, x.send(control, e, nil))
			}
		}
		x.logs[f.Name()[:2]] = last.d.log.String()
	}
}

func ticketOf(body []byte) map[string]any {
	var a struct {
		Ticket map[string]any `json:"kv_transfer_params"`
	}
	_ = json.Unmarshal(body, &a) // a stream has none
	return a.Ticket
}

// tamper makes out of our ticket what the recorder made out of real prefill's: fields that it changed are changed in the
// same way, block ids by their places in the list. nil: decode was sent no ticket.
func tamper(e replay.Exchange, given, ours map[string]map[string]any) map[string]any {
	sent := ticketOf(e.RequestBody)
	if sent == nil {
		return nil
	}
	id, _ := sent["remote_request_id"].(string)
	from, mine := given[id], ours[id]
	if from == nil { // the request id itself was changed: there is one ticket, or the latest
		for id := range given {
			if sameBlocks(given[id], sent) || from == nil {
				from, mine = given[id], ours[id]
			}
		}
	}
	out := maps.Clone(mine)
	for key, value := range from {
		now, there := sent[key]
		switch {
		case !there:
			delete(out, key)
		case cmp.Equal(value, now):
		case key == "remote_block_ids":
			old, changed := value.([]any)[0].([]any), now.([]any)[0].([]any)
			own := mine[key].([]any)[0].([]any)
			ids := []any{}
			for _, id := range changed {
				if at := slices.Index(old, id); at >= 0 {
					id = own[at]
				}
				ids = append(ids, id)
			}
			out[key] = []any{ids}
		default:
			out[key] = now
		}
	}
	return out
}

func sameBlocks(a, b map[string]any) bool {
	return cmp.Equal(a["remote_block_ids"], b["remote_block_ids"])
}
