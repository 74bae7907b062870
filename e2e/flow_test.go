package e2e

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
)

// record fetches the ledger's record of one request.
func record(t *testing.T, s *omnitest.Stack, requestID string) *flow.Record {
	t.Helper()
	records, err := s.Ledger(requestContext(t, s), 0)
	if err != nil && s.PIDs()[engine.Proxy] != 0 {
		t.Fatalf("the ledger of our own proxy: %v", err)
	}
	omnitest.Require(t, "ledger", err == nil, "the entry answers no "+flow.Path+"; put omnitest's proxy in front of the engines")
	for i := range records {
		if records[i].RequestID == requestID {
			return &records[i]
		}
	}
	t.Fatalf("the proxy's ledger of %d records does not hold request %s", len(records), requestID)
	return nil
}

// inOrder checks that the stages were asked in order, each after the one before had answered, and that they succeeded.
func inOrder(t *testing.T, r *flow.Record, stages ...string) {
	t.Helper()
	var asked []string
	for _, h := range r.Hops {
		asked = append(asked, h.Stage)
	}
	if diff := cmp.Diff(stages, asked); diff != "" {
		t.Fatalf("stages asked, in order (-want +got):\n%s  %s", diff, r)
	}
	for i, h := range r.Hops {
		if h.Status != 200 || h.Error != "" {
			t.Errorf("hop %d, %s", i, &h)
		}
		if i > 0 && h.StartMS < r.Hops[i-1].EndMS {
			t.Errorf("%s was asked at +%.1f ms, before %s had answered at +%.1f ms", h.Stage, h.StartMS, r.Hops[i-1].Stage, r.Hops[i-1].EndMS)
		}
	}
}

func sameTicket(t *testing.T, r *flow.Record) {
	t.Helper()
	p, d := r.Hop("prefill"), r.Hop("decode")
	switch {
	case len(p.TicketOut) == 0:
		t.Errorf("prefill gave no ticket: %s", r)
	case len(d.TicketIn) == 0:
		t.Errorf("prefill's ticket was never forwarded by proxy: %s", r)
	case string(p.TicketOut) != string(d.TicketIn):
		t.Errorf("decode was given another ticket than prefill's for this request:\n  prefill gave  %s\n  decode got    %s", p.TicketOut, d.TicketIn)
	}
	if p.RequestID != r.RequestID || d.RequestID != r.RequestID {
		t.Errorf("request ids: client %s, prefill leg %s, decode leg %s", r.RequestID, p.RequestID, d.RequestID)
	}
}

func TestFlowOfText(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	for _, stream := range []bool{false, true} {
		id, prompt := "flow-"+nonce(), "Which way did it go? "+nonce()
		ask := api.CompletionRequest{Prompt: prompt, Sampling: api.Sampling{MaxTokens: 8, RequestID: id}}
		var err error
		if stream {
			_, err = s.StreamComplete(requestContext(t, s), ask, nil)
		} else {
			_, err = s.Complete(requestContext(t, s), ask)
		}
		if err != nil {
			fail(t, s, id, err)
		}
		r := record(t, s, id)
		inOrder(t, r, "prefill", "decode")
		sameTicket(t, r)
		if r.Stream != stream || r.Outcome != "ok" || r.Fallback {
			t.Errorf("record of a request with stream=%v: %s (stream=%v)", stream, r, r.Stream)
		}
	}
}

func TestFlowOfChat(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode)
	id := "flow-" + nonce()
	_, err := s.Chat(requestContext(t, s), api.ChatRequest{
		Messages: []api.Message{{Role: "user", Text: "Which way did it go? " + nonce()}}, Sampling: api.Sampling{MaxTokens: 8, RequestID: id},
	})
	if err != nil {
		fail(t, s, id, err)
	}
	r := record(t, s, id)
	inOrder(t, r, "prefill", "decode")
	sameTicket(t, r)
}

func TestFlowOfPicture(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.Prefill, engine.Decode, engine.DiT)
	id, prompt := "flow-"+nonce(), "A yellow star on a brown wall, "+nonce()
	_, err := s.Generate(requestContext(t, s), api.ImageRequest{
		Prompt: prompt, RequestID: id, ImageParams: api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 2, Seed: 1},
	})
	if err != nil {
		fail(t, s, id, err)
	}
	r := record(t, s, id)
	inOrder(t, r, "prefill", "decode", "dit")
	sameTicket(t, r)
	// The DiT must have been given what decode wrote, not the client's prompt: that hop is a handoff too.
	if got, want := r.Hop("dit").Plan, r.Hop("decode").Plan; got != want || want == "" {
		t.Errorf("the DiT was sent %q, decode had generated %q", got, want)
	}
	if echoes(s) && r.Hop("decode").Plan != prompt {
		t.Errorf("decode's plan is %q, want the prompt repeated: %q", r.Hop("decode").Plan, prompt)
	}
}

// TestPictureIsPaintedFromThePlan: on the reference stack plan and prompt are the same words, so a proxy that sends the DiT the
// client's prompt would go unseen. Here prefill serves every request with the blocks of the one before: what reaches the
// DiT must then be the other poster's plan.
func TestPictureIsPaintedFromThePlan(t *testing.T) {
	needFreeHand(t)
	spec := private(t)
	omnitest.Require(t, "reference-stack", spec.Stages == nil, "plants a fault in the reference prefill; unset OMNITEST_STACK")
	planted, err := spec.Planted()
	if err != nil {
		t.Fatal(err)
	}
	planted.Prefill.ForeignBlocks = true
	spec.Faults, spec.FaultNames = planted, ""
	s := omnitest.Start(t, spec)
	params := api.ImageParams{Size: api.Size{W: 256, H: 256}, Steps: 4, Seed: 1}
	paint := func(prompt string) []byte {
		id := "plan-" + nonce()
		answer, err := s.Generate(requestContext(t, s), api.ImageRequest{Prompt: prompt, RequestID: id, ImageParams: params})
		if err != nil {
			fail(t, s, id, err)
		}
		return answer.Items[0].Raw
	}
	first := paint(`A red circle and the words "ONE"`)
	if second := paint(`A blue star, and the words "TWO"`); !bytes.Equal(first, second) {
		t.Error("prefill handed decode the first poster's KV, so the second picture must be the first poster again; it is not: the DiT was given something else than decode's plan")
	}
}
