package handoff

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/omnitest/suite/omnitest/internal/fakepd"
)

// wired is the evidence of one request whose ticket fits: 100 tokens in blocks of 16, both engines on one machine.
func wired(ticket json.RawMessage) *Evidence {
	e := healthy("r")
	e.Observations[0].PromptTokens = 100
	e.Prefill.MetricsURL, e.Decode.MetricsURL = "http://127.0.0.1:8100/metrics", "http://127.0.0.1:8200/metrics"
	e.Flow.Records[0].Hops[0].TicketOut, e.Flow.Records[0].Hops[1].TicketIn = ticket, ticket
	return e
}

// fit is a ticket with changed members; nil drops one.
func fit(changes map[string]any) json.RawMessage {
	var t map[string]any
	_ = json.Unmarshal(ticketOf("r", 100), &t)
	t["remote_block_ids"] = [][]int{sequence(7)}
	for k, v := range changes {
		if t[k] = v; v == nil {
			delete(t, k)
		}
	}
	raw, _ := json.Marshal(t)
	return raw
}

func TestTicketsWellFormed(t *testing.T) {
	// What llm-d's simulator answers, word for word (v0.10.2), with the one key that it lacks added in the second.
	const dummy = `{"remote_engine_id":"DUMMY_ID","remote_block_ids":["DUMMY_ID"],"remote_host":"DUMMY","remote_port":1234,"tp_size":1,"do_remote_prefill":true}`
	with := strings.Replace(dummy, "{", `{"remote_request_id":"DUMMY_ID",`, 1)
	for _, c := range []struct {
		name   string
		ticket json.RawMessage
		plant  func(e *Evidence)
		want   string
	}{
		{"healthy", fit(nil), nil, "proven: 1 ticket of nixl, 7 blocks, every key as it must be"},
		{"flat ids", flatTicket(100), nil, "proven: 1 ticket of nixl, 7 blocks, every key as it must be"},
		{"the simulator's", json.RawMessage(dummy), nil, "refuted: prefill's ticket lacks remote_request_id"},
		{"the simulator's, completed", json.RawMessage(with), nil, `refuted: prefill's remote_block_ids are not numbers: ["DUMMY_ID"]`},
		{"several faults", fit(map[string]any{"remote_host": "0.0.0.0", "remote_port": "5600", "tp_size": 0, "do_remote_decode": true, "remote_engine_id": 7}), nil,
			`refuted: prefill's remote_engine_id is 7, want a text, remote_host is "0.0.0.0", want an address that can be dialled, remote_port is "5600", want a port from 1 to 65535, ` +
				`ticket says do_remote_decode=true, tp_size is 0, want a number from 1`},
		{"empty host", fit(map[string]any{"remote_host": ""}), nil, `refuted: prefill's remote_host is "", want a host`},
		{"unspecified IPv6 host", fit(map[string]any{"remote_host": "::"}), nil, `refuted: prefill's remote_host is "::", want an address that can be dialled`},
		{"port out of range", fit(map[string]any{"remote_port": 70000}), nil, `refuted: prefill's remote_port is 70000, want a port from 1 to 65535`},
		{"a block twice", fit(map[string]any{"remote_block_ids": [][]int{{1, 2, 3, 4, 5, 6, 1}}}), nil, "refuted: prefill's remote_block_ids names block 1 twice"},
		{"the null block twice", fit(map[string]any{"remote_block_ids": [][]int{{0, 0, 3, 4, 5, 6, 1}, {9}}}), nil, "proven: 1 ticket of nixl, 7 blocks, every key as it must be"},
		{"a negative block", fit(map[string]any{"remote_block_ids": [][]int{{-1, 2, 3, 4, 5, 6, 1}}}), nil, "refuted: prefill's remote_block_ids holds -1"},
		{"no blocks", fit(map[string]any{"remote_block_ids": [][]int{{}}}), nil, "refuted: prefill's ticket names no blocks (remote_block_ids [[]])"},
		{"one block too few", fit(map[string]any{"remote_block_ids": [][]int{sequence(6)}}), nil, "refuted: ticket names 6 blocks for 100 tokens, 7 of 16 tokens are needed"},
		{"one block too many", fit(map[string]any{"remote_block_ids": [][]int{sequence(8)}}), nil, "refuted: ticket names 8 blocks for 100 tokens, 7 of 16 tokens are needed"},
		{"smaller blocks at prefill", fit(map[string]any{"remote_block_ids": [][]int{sequence(13)}}), func(e *Evidence) { e.PrefillBlockSize = 8 },
			"proven: 1 ticket of nixl, 13 blocks, every key as it must be"},
		{"block size assumed", fit(map[string]any{"remote_block_ids": [][]int{sequence(4)}}), func(e *Evidence) { e.BlockSizeFrom = "assumed" },
			"inconclusive: ticket names 4 blocks for 100 tokens, 7 of 16 tokens are needed, but the block size is assumed"},
		{"truncated on purpose", fit(map[string]any{"remote_block_ids": [][]int{sequence(4)}, "_p_side_truncated": true}), nil, "proven: 1 ticket of nixl, 4 blocks, every key as it must be"},
		{"another length", fit(map[string]any{"remote_num_tokens": 99}), nil, "refuted: remote_num_tokens is 99, the client was told of 100 prompt tokens"},
		{"push mode", fit(map[string]any{"transfer_mode": "push"}), nil, `refuted: prefill's transfer_mode is "push": pull mode reads blocks, see NIXLPush`},
		{"not an object", json.RawMessage(`[1]`), nil, "refuted: prefill's ticket is not a JSON object: [1]"},

		{"altered", fit(nil), func(e *Evidence) {
			e.Flow.Records[0].Hops[1].TicketIn = fit(map[string]any{"remote_port": 5601, "tp_size": nil})
		},
			"refuted: ticket was altered between prefill and decode: remote_port 5600 became 5601, tp_size was dropped"},
		{"altered into a broken one", fit(nil), func(e *Evidence) {
			e.Flow.Records[0].Hops[1].TicketIn = fit(map[string]any{"remote_block_ids": [][]int{sequence(3)}})
		}, "refuted: ticket was altered between prefill and decode: remote_block_ids [[1,2,3,4,5,6,7]] became [[1,2,3]]; what decode was sent: ticket names 3 blocks for 100 tokens, 7 of 16 tokens are needed"},
		{"key lost on the way", fit(nil), func(e *Evidence) { e.Flow.Records[0].Hops[1].TicketIn = fit(map[string]any{"remote_request_id": nil}) },
			"refuted: ticket was altered between prefill and decode: remote_request_id was dropped; what decode was sent: ticket lacks remote_request_id"},
		{"dropped", fit(nil), func(e *Evidence) { e.Flow.Records[0].Hops[1].TicketIn = nil }, "refuted: ticket was sent by prefill at +12 ms, never forwarded by proxy"},
		{"F14 no ticket for this prompt", nil, nil, "refuted: prefill answered at +12 ms without a ticket"},

		{"F17 loopback to another machine", fit(nil), func(e *Evidence) {
			e.Prefill.MetricsURL, e.Decode.MetricsURL = "http://10.0.0.11:8100/metrics", "http://10.0.0.12:8200/metrics"
			e.set(&e.Decode, NIXL.Bytes, 0)
		}, "refuted: remote_host is 127.0.0.1, which leads decode at 10.0.0.12 to itself; prefill is at 10.0.0.11"},
		{"loopback, but bytes moved", fit(nil), func(e *Evidence) {
			e.Prefill.MetricsURL, e.Decode.MetricsURL = "http://10.0.0.11:8100/metrics", "http://localhost:8200/metrics"
		}, "proven: 1 ticket of nixl, 7 blocks, every key as it must be"},
		{"loopback on one remote machine", fit(map[string]any{"remote_host": "localhost"}), func(e *Evidence) {
			e.Prefill.MetricsURL, e.Decode.MetricsURL = "http://10.0.0.11:8100/metrics", "http://10.0.0.11:8200/metrics"
			e.set(&e.Decode, NIXL.Bytes, 0)
		}, "proven: 1 ticket of nixl, 7 blocks, every key as it must be"},

		{"no ledger", fit(nil), func(e *Evidence) { e.Flow = Flow{Note: "HTTP 404"} }, "inconclusive: no flow ledger (HTTP 404): no ticket was seen"},
		{"ledger lost", fit(nil), func(e *Evidence) { e.Flow = Flow{Kept: true, Note: "could not be read"} }, "inconclusive: flow ledger could not be read"},
		{"no tickets in this dialect", nil, func(e *Evidence) { e.Dialect = "example" }, "inconclusive: example has no tickets: nothing to look at"},
		{"no request", fit(nil), func(e *Evidence) { e.Observations, e.Flow.Records = nil, nil }, "inconclusive: no request was made in the window"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := wired(c.ticket)
			if c.plant != nil {
				c.plant(e)
			}
			assert.Equal(t, c.want, TicketsWellFormed(e).String())
		})
	}
}

func TestTicketDiff(t *testing.T) {
	e := wired(fit(nil))
	e.Flow.Records[0].Hops[1].TicketIn = fit(map[string]any{"remote_port": 5601, "tp_size": nil, "extra": []int{1}})
	v := TicketsWellFormed(e)
	require.NotEmpty(t, v.Notes)
	assert.Equal(t, "ticket of request r, as prefill sent it (-) and as decode got it (+):\n+ extra: [1]\n- remote_port: 5600\n+ remote_port: 5601\n- tp_size: 1", v.Notes[len(v.Notes)-1])
	assert.Empty(t, TicketDiff(json.RawMessage(`{"a":1,"b":2}`), json.RawMessage(`{ "b":2, "a":1 }`)))
	assert.Equal(t, "- [1]\n+ {\"a\":1}", TicketDiff(json.RawMessage(`[1]`), json.RawMessage(`{"a":1}`)))
	assert.Empty(t, TicketDiff(json.RawMessage(`[1]`), json.RawMessage(`[ 1 ]`)))
}

// TestRecordedTicketsAreWellFormed: what real prefill gave and real decode got passes, in every recorded case with a healthy
// pair, and each ticket that the recorder tampered with is named where the ticket itself shows it.
func TestRecordedTicketsAreWellFormed(t *testing.T) {
	cases, err := fs.ReadDir(recordings, "vllm-0.32.0/nixl")
	require.NoError(t, err)
	proven := 0
	for _, c := range cases {
		name := c.Name()
		if !c.IsDir() || strings.Contains(name, "aborted") || strings.Contains(name, "missing") {
			continue // the recorder's patience ended: half a second each to replay
		}
		v := TicketsWellFormed(recordedEvidence(t, name, true))
		switch {
		case name == "01-proper", name == "02-proper-again-full-local-hit", strings.HasPrefix(name, "10-"), name == "12-expired-ticket", name == "16-chat":
			assert.Equal(t, StateProven, v.State, "%s: %s", name, v)
			proven++
		case name == "04-decode-only-no-prefill", name == "06-after-crossed-b-plain-poisoned-prefix":
			assert.Equal(t, StateInconclusive, v.State, "%s: %s", name, v)
		case name == "13-never-pulled-lease", name == "31-prefill-killed", name == "11-replayed-ticket":
			assert.NotEqual(t, StateRefuted, v.State, "%s: %s", name, v)
		default:
			assert.Equal(t, StateRefuted, v.State, "%s: %s", name, v)
		}
		if name == "23-one-block-too-few" { // 3 of 4 blocks killed decode
			assert.Contains(t, v.String(), "what decode was sent: ticket names 3 blocks for 100 tokens, 4 of 32 tokens are needed")
		}
	}
	assert.Equal(t, 14, proven)
}

// A fake pair and its healthy tickets pass through a real window.
func TestTicketsOfAWindow(t *testing.T) {
	t.Parallel()
	f := fakepd.New(t)
	e := window(t, sourceOf(f), 3)
	assert.Equal(t, "proven: 3 tickets of nixl, 21 blocks, every key as it must be", TicketsWellFormed(e).String())
	assert.Equal(t, 16, e.PrefillBlockSize)
	f.DropTicket = true
	assert.Equal(t, "refuted: ticket was sent by prefill at +12 ms, never forwarded by proxy", TicketsWellFormed(window(t, sourceOf(f), 1)).String())
}

// Whatever a ticket holds, a check ends in a verdict, and only a whole one passes.
func TestTicketProperties(t *testing.T) {
	values := []string{`null`, `""`, `"x"`, `0`, `-1`, `1`, `65536`, `true`, `false`, `[]`, `[[]]`, `[[1]]`, `[1]`, `{}`, `"0.0.0.0"`, `1e9`, `[[1,1]]`}
	rapid.Check(t, func(t *rapid.T) {
		var sound, dead map[string]any
		_ = json.Unmarshal(fit(nil), &sound)
		_ = json.Unmarshal(fit(nil), &dead)
		k := NIXL.Ticket[rapid.IntRange(0, len(NIXL.Ticket)-1).Draw(t, "key")]
		v := rapid.SampledFrom(values).Draw(t, "value")
		dead[k.Name] = json.RawMessage(v)
		raw, err := json.Marshal(dead)
		if err != nil {
			t.Fatal(err)
		}
		good := CheckTicket(&NIXL, raw) == nil
		switch k.Is {
		case Port, Count:
			if want := v == "1" || k.Is == Count && v == "65536" || k.Optional && v == "null"; good != want {
				t.Fatalf("%s=%s: good %v, %v", k.Name, v, good, CheckTicket(&NIXL, raw))
			}
		case Host:
			if good != (v == `"x"`) {
				t.Fatalf("%s=%s: good %v", k.Name, v, good)
			}
		case Blocks:
			if want := v == "[[1]]" || v == "[1]"; good != want {
				t.Fatalf("%s=%s: good %v", k.Name, v, good)
			}
		}
		for _, d := range known {
			_ = CheckTicket(d, raw)
		}
		_ = fmt.Sprint(TicketsWellFormed(wired(raw)))
	})
}
