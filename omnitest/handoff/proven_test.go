package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/textcheck"
)

// Blocks of another request show at the place where they stand, in the middle of a text that is otherwise right.
func TestForeignBlockInTheMiddle(t *testing.T) {
	e := healthy("a", "b")
	a, b := &e.Observations[0], &e.Observations[1]
	a.Want, b.Want = "0123456789abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	a.Got, b.Got = a.Want[:16]+b.Want[16:32]+a.Want[32:], b.Want
	assert.Equal(t, `refuted: request a: bytes 16 to 32 of the answer are the text of request b: "QRSTUVWXYZ012345", though it had its own ticket: blocks freed too early, or the wrong ones read`, Proven(e).String())

	a.Got = a.Want[16:32] + a.Want[:16] + a.Want[32:]
	assert.Equal(t, `refuted: request a: text diverges at byte 0: got "ghijklmnopqrstuv0123456789abcdefwxyz", want "0123456789abcdefghijklmnopqrstuvwxyz", `+
		`the same bytes in another order: permuted blocks? (known answer)`, Proven(e).String())
}

// A common opening of two prompts is nobody's secret.
func TestCommonPrefixIsNotForeign(t *testing.T) {
	from, to := textcheck.ForeignRun("You are a helpful assistant. A!", "You are a helpful assistant. B!", "You are a helpful assistant. C!")
	assert.Zero(t, to-from)
}

// ExampleConnector has no tickets, counts no bytes and leaves the last block to decode. Numbers recorded from vLLM 0.32.0,
// block size 32.
func TestExampleConnector(t *testing.T) {
	d := &Example
	for _, c := range []struct {
		name                    string
		tokens, external, local float64
		proven                  string
	}{
		{"01-proper", 100, 96, 4, "proven: decode took 96 of 100 prompt tokens from prefill, computed 4 itself; 1 answer as wanted (known answer)"},
		{"10-len-0256", 256, 224, 32, "proven: decode took 224 of 256 prompt tokens from prefill, computed 32 itself; 1 answer as wanted (known answer)"},
		{"10-len-0016", 16, 0, 16, "inconclusive: nothing needed to move: 16 prompt tokens are within the 33 that decode may compute itself"},
		{"04-decode-only-no-prefill", 100, 0, 100, "refuted: decode computed 100 of 100 prompt tokens itself (iteration_tokens +116, bytes not counted)"},
	} {
		e := &Evidence{Schema: Schema, Dialect: d.Name, BlockSize: 32, Flow: Flow{Note: "none"}}
		e.Decode.Counters = counters(d, d.decodeSeries(), map[string]float64{
			d.PromptTokens.String(): c.tokens, d.External.String(): c.external, d.LocalCompute.String(): c.local,
			d.Generated.String(): 16, d.Iteration.String(): c.local + 16, d.Finished.String(): 1,
		})
		e.Prefill.Counters = counters(d, d.prefillSeries(), map[string]float64{
			d.PromptTokens.String(): c.tokens, d.Generated.String(): 1, d.Iteration.String(): c.tokens + 1, d.Finished.String(): 1})
		e.Observations = []Observation{{PromptTokens: int(c.tokens), Got: "x", Want: "x", WantFrom: "known answer"}}
		assert.Equal(t, c.proven, Proven(e).String(), c.name)
	}
}

// The requester of a picture never sees the plan; the ledger's copy stands for it, and a garbled one refutes.
func TestPlanOfAPicture(t *testing.T) {
	e := healthy("r")
	e.Observations[0].Got = ""
	e.Flow.Records[0].Hops[1].Plan = e.Observations[0].Want
	e.takePlans()
	require.NoError(t, Proven(e).Err())

	e.Observations[0].Got = ""
	e.Flow.Records[0].Hops[1].Plan = "the answer to whom?"
	e.takePlans()
	assert.Equal(t, `refuted: text diverges at byte 14: got "whom?", want "r, which has a certain length" (known answer)`, Proven(e).String())
}

// A picture that goes straight to the DiT is no handoff and does not count.
func TestDiTOnlyRecord(t *testing.T) {
	e := healthy("r")
	e.Flow.Records = append(e.Flow.Records, flow.Record{RequestID: "pic", Route: "/v1/images/generations", Outcome: "ok", Hops: []flow.Hop{{Stage: "dit", Status: 200}}})
	assert.NoError(t, Proven(e).Err())
}

// BenchmarkProven judges 1,000 requests, all crossed: the slowest case, each wrong answer is compared with every other.
func BenchmarkProven(b *testing.B) {
	var ids []string
	for i := range 1000 {
		ids = append(ids, fmt.Sprintf("r%d", i))
	}
	e := healthy(ids...)
	for i := range e.Flow.Records {
		e.Flow.Records[i].Hops[1].TicketIn = e.Flow.Records[(i+1)%1000].Hops[0].TicketOut
		e.Observations[i].Got = e.Observations[(i+500)%1000].Want
	}
	b.ReportAllocs()
	for b.Loop() {
		if v := Proven(e); v.State != StateRefuted {
			b.Fatal(v)
		}
	}
}

func TestManyRequestsOneFinding(t *testing.T) {
	var ids []string
	for i := range 64 {
		ids = append(ids, fmt.Sprintf("r%d", i))
	}
	e := healthy(ids...)
	e.recompute()
	for i := range e.Flow.Records {
		e.Flow.Records[i].Hops[1].TicketIn = nil
	}
	v := Proven(e)
	assert.Equal(t, "refuted: decode computed 32768 of 32768 prompt tokens itself (iteration_tokens +33792, bytes 0); "+
		"request r0: ticket was sent by prefill at +12 ms, never forwarded by proxy (and 63 more like it)", v.String())
	assert.Len(t, v.Reasons, 65, "every one is kept")
}

func TestBytesBoundsWithoutLengths(t *testing.T) {
	e := healthy("a", "b") // 1024 tokens in 64 blocks; without lengths 64 to 66 blocks are possible
	for i := range e.Observations {
		e.Observations[i].PromptTokens = 0
	}
	e.Flow = Flow{Note: "none"}
	d := e.d()
	for bytes, want := range map[float64]State{63 * 16384: StateRefuted, 64 * 16384: StateProven, 66 * 16384: StateProven, 67 * 16384: StateInconclusive, 64*16384 + 1: StateRefuted} {
		e.set(&e.Decode, d.Bytes, bytes)
		assert.Equal(t, want, Moved(e).State, "%.0f bytes: %s", bytes, Moved(e))
	}
}

func TestVerdictJSON(t *testing.T) {
	e := healthy("r")
	e.File = "out/handoff.json"
	e.recompute()
	v := Proven(e)
	data, err := json.Marshal(v)
	require.NoError(t, err)
	assert.Contains(t, string(data), `"state":"refuted"`)
	var back Verdict
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Empty(t, cmp.Diff(v, back))
	assert.Error(t, json.Unmarshal([]byte(`{"state":"green"}`), &back))

	var u *Unproven
	require.ErrorAs(t, v.Err(), &u)
	assert.Equal(t, "decode used the KV cache that prefill computed: refuted: decode computed 512 of 512 prompt tokens itself (iteration_tokens +528, bytes 0) (evidence out/handoff.json)", u.Error())

	var zero Verdict
	assert.Error(t, zero.Err(), "a verdict that nobody made proves nothing")
	assert.Equal(t, "inconclusive: nothing was judged", zero.String())
}

func TestEvidenceFile(t *testing.T) {
	e := healthy("a", "b")
	e.Observations[1].Err = errors.New("boom")
	path := t.TempDir() + "/deep/handoff.json"
	require.NoError(t, e.WriteFile(path))
	back, err := ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, Proven(e), Proven(back), "saved evidence is judged alike")
	assert.Equal(t, path, Proven(back).Evidence)

	e.Observations[1].Err = fmt.Errorf("POST /v1/completions: %w", context.DeadlineExceeded)
	require.NoError(t, e.WriteFile(path))
	back, err = ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "inconclusive: request b: ended by our own deadline or cancellation, not by the stack: POST /v1/completions: context deadline exceeded",
		Proven(back).String(), "whose fault an error was is saved as well")

	back.Schema = "omnitest.handoff/v99"
	require.NoError(t, back.WriteFile(path))
	_, err = ReadFile(path)
	assert.ErrorContains(t, err, `schema "omnitest.handoff/v99", this build reads "omnitest.handoff/v1"`)
}

func TestCheckTicket(t *testing.T) {
	for ticket, want := range map[string]string{
		string(ticketOf("r", 100)): "",
		`{"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":[1,2]}`: "", // flat ids of older vLLM
		``:         "no ticket",
		`null`:     "no ticket",
		`"ticket"`: `ticket is not a JSON object: "ticket"`,
		`{"remote_engine_id":"e","remote_request_id":null,"remote_host":"h","remote_block_ids":[[1]]}`:                                        "ticket lacks remote_request_id, remote_port",
		`{"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":[[]]}`:                          "ticket names no blocks (remote_block_ids [[]])",
		`{"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":["DUMMY_ID"]}`:                  `remote_block_ids are not numbers: ["DUMMY_ID"]`,
		`{"remote_engine_id":"e","remote_request_id":"r","remote_host":"h","remote_port":1,"remote_block_ids":[1],"do_remote_prefill":false}`: "ticket says do_remote_prefill=false",
	} {
		err := CheckTicket(&NIXL, json.RawMessage(ticket))
		if want == "" {
			assert.NoError(t, err, ticket)
			continue
		}
		assert.EqualError(t, err, want, ticket)
	}
}

func TestKVBytesPerToken(t *testing.T) {
	assert.Equal(t, 12288.0, KVBytesPerToken(12, 2, 128, 2), "recorded from vLLM 0.26.0 on a GPU")
	assert.Equal(t, 4096.0, KVBytesPerToken(4, 2, 64, 4), "recorded from vLLM 0.32.0 on a CPU")

	got, err := BytesPerToken(healthy("a", "b"))
	require.NoError(t, err)
	assert.Equal(t, 1024.0, got)

	e := healthy("r")
	e.recompute()
	_, err = BytesPerToken(e)
	assert.ErrorIs(t, err, ErrNotCalibrated)
}
