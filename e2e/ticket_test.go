package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/stack"
)

// ticketCase is one way to use a ticket, with what must be concluded from it.
type ticketCase struct {
	name string
	// run talks to prefill and decode directly, tampers, and gives what decode was asked for and answered.
	run   func(b *bench) handoff.Observation
	state handoff.State
	says  string // part of the verdict: the cause
	green bool   // the counters alone must see nothing: only the content tells
	// rightText: decode's answer must be the right one although nothing was handed over.
	rightText bool
}

// ticketCases are the recorded misuses of a ticket (vLLM 0.32.0 over NIXL). Those that end an engine come apart, later.
var ticketCases = []ticketCase{
	{name: "its own ticket", state: handoff.StateProven, run: func(b *bench) handoff.Observation {
		p := b.prompt()
		return b.decode(p, b.prefill(p))
	}},
	{name: "ticket withheld", state: handoff.StateRefuted, says: "prompt tokens itself", rightText: true, run: func(b *bench) handoff.Observation {
		p := b.prompt()
		b.prefill(p)
		return b.decode(p, nil)
	}},
	{name: "tickets crossed", state: handoff.StateRefuted, green: true, run: func(b *bench) handoff.Observation {
		mine, other := b.prompt(), b.prompt()
		myTicket, otherTicket := b.prefill(mine), b.prefill(other)
		b.window.Observe(b.decode(other, myTicket))
		return b.decode(mine, otherTicket)
	}},
	{name: "ticket replayed for another prompt", state: handoff.StateRefuted, says: "which processed", run: func(b *bench) handoff.Observation {
		first, second := b.prompt(), b.prompt()
		ticket := b.prefill(first)
		b.window.Observe(b.decode(first, ticket))
		return b.decode(second, ticket)
	}},
	// The last block is only partly filled. Full blocks may change places unseen: a model with rotary positions carries them in
	// its keys, and attention does not care for order (seen on real vLLM: right text, rightly proven).
	{name: "first and last block swapped", state: handoff.StateRefuted, green: true, run: func(b *bench) handoff.Observation {
		p := b.prompt()
		return b.decode(p, edit1(b.t, b.prefill(p), func(ids []any) []any {
			last := len(ids) - 1
			ids[0], ids[last] = ids[last], ids[0]
			return ids
		}))
	}},
	{name: "wrong engine id", state: handoff.StateRefuted, says: "failed transfer", run: func(b *bench) handoff.Observation {
		p := b.prompt()
		return b.decode(p, set(b.t, b.prefill(p), "remote_engine_id", "nobody"))
	}},
	{name: "blocks out of range", state: handoff.StateRefuted, says: "failed transfer", run: func(b *bench) handoff.Observation {
		p := b.prompt()
		return b.decode(p, edit1(b.t, b.prefill(p), func(ids []any) []any {
			for i := range ids {
				ids[i] = 1_000_000 + i
			}
			return ids
		}))
	}},
}

// TestTickets uses tickets rightly and wrongly against the engines themselves and judges each use from outside, as a person
// who only has the counters and the answers. At the end prefill is killed, and then decode by a ticket that is too short.
func TestTickets(t *testing.T) {
	spec := private(t)
	if spec.Stages == nil {
		spec.Stages = map[engine.Stage]stack.Stage{engine.Proxy: {}, engine.Prefill: {Lease: 2 * time.Second}, engine.Decode: {}, engine.DiT: {}}
	}
	s := omnitest.Start(t, spec)
	needStages(t, s, engine.Prefill, engine.Decode)
	b := &bench{t: t, s: s, ids: vocabulary(t, s), tokens: 5*blockSize(s) + 4}
	table := &strings.Builder{}
	fmt.Fprintf(table, "Target: %s. %d prompt tokens in blocks of %d.\n\n| use of the ticket | verdict | counters alone |\n|---|---|---|\n",
		b.target(), b.tokens, blockSize(s))
	for _, c := range ticketCases {
		t.Run(c.name, func(t *testing.T) {
			verdict, moved, o := b.judge(t, c.run)
			fmt.Fprintf(table, "| %s | %s | %s |\n", c.name, cell(verdict), moved.State)
			if verdict.State != c.state || !strings.Contains(verdict.String(), c.says) {
				t.Errorf("verdict %s\nwant %s because of %q", verdict, c.state, c.says)
			}
			if c.green && !verdict.Has("wrong-content") && !verdict.Has("foreign-content") {
				t.Errorf("verdict %s\nwant the content to tell", verdict)
			}
			if c.green && moved.State != handoff.StateProven {
				t.Errorf("the counters alone say %s, want proven: this misuse is known to leave them green", moved)
			}
			if c.rightText && o.Got != o.Want {
				t.Errorf("decode answered %q, want the right text %q: it recomputes", o.Got, o.Want)
			}
		})
	}
	t.Run("lease", func(t *testing.T) { b.lease(t, table) })
	t.Run("prefill killed", func(t *testing.T) { b.prefillKilled(t, table) })
	t.Run("ticket too short", func(t *testing.T) { b.decodeDies(t, table) })
	keepTable(t, b.target(), table.String())
}

// bench sends the two legs of a handoff by hand.
type bench struct {
	t      *testing.T
	s      *omnitest.Stack
	ids    []int
	tokens int
	window *handoff.Window
	wants  map[string]expected
}

func (b *bench) target() string {
	if b.s.Spec().Name != "" {
		return b.s.Spec().Name
	}
	return "reference stack (simulated)"
}

func (b *bench) ask(prompt []int) api.CompletionRequest {
	return api.CompletionRequest{PromptIDs: prompt, Sampling: api.Sampling{MaxTokens: 24}}
}

// judge runs one case in a window over both engines. There is no flow ledger: the proxy is not asked.
func (b *bench) judge(t *testing.T, run func(*bench) handoff.Observation) (proven, moved handoff.Verdict, o handoff.Observation) {
	t.Helper()
	src := b.s.Handoff()
	src.Entry = nil
	// Controls are traffic on prefill as well, so the prompts of a case are drawn and answered before its window.
	c := *b
	c.t, c.wants = t, map[string]expected{}
	for range 2 {
		p := draw(b.ids, b.tokens)
		c.wants[fmt.Sprint(p)] = right(t, b.s, b.ask(p))
	}
	c.window = open(t, b.s, src)
	o = run(&c)
	c.window.Observe(o)
	e := closed(t, b.s, c.window)
	return handoff.Proven(e), handoff.Moved(e), o
}

// prompt gives one of the prompts that were drawn for this case, each once.
func (b *bench) prompt() []int {
	b.t.Helper()
	for key, want := range b.wants {
		if want.used {
			continue
		}
		want.used = true
		b.wants[key] = want
		var ids []int
		if err := json.Unmarshal([]byte(strings.ReplaceAll(key, " ", ",")), &ids); err != nil {
			b.t.Fatal(err)
		}
		return ids
	}
	b.t.Fatal("a case uses more prompts than were drawn")
	return nil
}

func (b *bench) prefill(prompt []int) api.Ticket {
	b.t.Helper()
	r := b.ask(prompt)
	r.MaxTokens, r.Ticket = 1, askForTicket
	answer, err := b.s.Stage(engine.Prefill).Complete(requestContext(b.t, b.s), r)
	if err != nil {
		b.t.Fatalf("prefill leg: %v", err)
	}
	if answer.Ticket == nil {
		b.t.Fatal("prefill gave no ticket")
	}
	return answer.Ticket
}

func (b *bench) decode(prompt []int, ticket api.Ticket) handoff.Observation {
	b.t.Helper()
	r := b.ask(prompt)
	r.Ticket = ticket
	answer, err := b.s.Stage(engine.Decode).StreamComplete(requestContext(b.t, b.s), r, nil)
	o := handoff.Observed(answer, err)
	want := b.wants[fmt.Sprint(prompt)]
	o.Want, o.WantFrom, o.Margins = want.text, want.from, want.margins
	return o
}

// lease measures how long prefill keeps the blocks of a ticket that nobody pulls.
func (b *bench) lease(t *testing.T, table *strings.Builder) {
	configured := b.s.Spec().Stages[engine.Prefill].Lease
	omnitest.Require(t, "short-lease", configured > 0 && configured <= 10*time.Second, "set stages.prefill.lease to a few seconds")
	// The cases before left tickets too; their ends would look like this one's.
	empty := usage(t, b.s)
	empty.Prefill.Usage, empty.Decode.Usage = 0, 0
	released(t, b.s, empty, configured+5*time.Second)
	before := usage(t, b.s)
	c := *b
	c.t = t
	c.prefill(draw(b.ids, b.tokens))
	began := time.Now()
	released(t, b.s, before, configured+5*time.Second)
	took := time.Since(began)
	fmt.Fprintf(table, "| never pulled, lease %v | released after %.1f s | |\n", configured, took.Seconds())
	if took < configured-time.Second || took > configured+time.Second {
		t.Errorf("blocks were released %v after prefill's answer, lease %v", took, configured)
	}
}

// prefillKilled: the ticket's blocks are gone with their process. Decode must fail the request and live on.
func (b *bench) prefillKilled(t *testing.T, table *strings.Builder) {
	c := *b
	c.t = t
	prompt := draw(b.ids, b.tokens)
	ticket := c.prefill(prompt)
	if err := b.s.Instance(engine.Prefill).Kill(); err != nil {
		t.Fatal(err)
	}
	o := c.decode(prompt, ticket)
	fmt.Fprintf(table, "| prefill killed | decode: %s | |\n", oneLine(o.Err))
	if o.Err == nil {
		t.Errorf("with prefill dead decode answered %q: by which KV?", o.Got)
	}
	if err := b.s.Stage(engine.Decode).Health(requestContext(t, b.s)); err != nil {
		t.Errorf("decode did not outlive prefill: %v", err)
	}
}

// decodeDies: a ticket with fewer blocks than the prompt needs kills decode's engine (recorded on 0.26 and 0.32). That must be
// seen as a death of decode, soon, and not as a timeout.
func (b *bench) decodeDies(t *testing.T, table *strings.Builder) {
	c := *b
	c.t = t
	in, prompt := b.s.Instance(engine.Decode), draw(b.ids, b.tokens)
	short := json.RawMessage(`{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[1]],"remote_engine_id":"prefill-0",` +
		`"remote_request_id":"cmpl-x-0-00000000","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1}`)
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r := c.ask(prompt)
	r.Ticket = short
	_, err := b.s.Stage(engine.Decode).Complete(ctx, r)
	said := time.Since(began)
	if err == nil {
		t.Fatal("a ticket of one block for five was served")
	}
	select {
	case <-in.Done():
	case <-time.After(15 * time.Second):
		t.Fatalf("decode lives on after a ticket of one block for five; the request gave %v", err)
	}
	fmt.Fprintf(table, "| one block for five | request failed after %.1f s: %s; decode ended after %.1f s | |\n", said.Seconds(), oneLine(err), time.Since(began).Seconds())
	if said > 5*time.Second {
		t.Errorf("the request needed %v to fail", said)
	}
	if stage, cause := b.s.Dead(); stage == "" || cause == nil {
		t.Error("the stack does not notice that a stage has ended")
	}
}

// set replaces one field of a ticket.
func set(t *testing.T, ticket api.Ticket, key string, value any) api.Ticket {
	t.Helper()
	var fields map[string]any
	if err := json.Unmarshal(ticket, &fields); err != nil {
		t.Fatal(err)
	}
	fields[key] = value
	out, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// edit1 changes the block ids of the first (and here only) KV cache group.
func edit1(t *testing.T, ticket api.Ticket, change func(ids []any) []any) api.Ticket {
	t.Helper()
	var fields struct {
		Groups [][]any `json:"remote_block_ids"`
	}
	if err := json.Unmarshal(ticket, &fields); err != nil || len(fields.Groups) == 0 {
		t.Fatalf("ticket %s: %v", ticket, err)
	}
	fields.Groups[0] = change(fields.Groups[0])
	return set(t, ticket, "remote_block_ids", fields.Groups)
}

func cell(v handoff.Verdict) string {
	v.Evidence = ""
	return strings.ReplaceAll(v.String(), "|", "\\|")
}

func oneLine(err error) string {
	if err == nil {
		return "no error"
	}
	return strings.ReplaceAll(strings.ReplaceAll(err.Error(), "\n", " "), "|", "\\|")
}

// keepTable writes what was seen, for people; with OMNITEST_UPDATE=1 into the repository.
func keepTable(t *testing.T, target, table string) {
	t.Helper()
	name := "tickets-" + strings.ReplaceAll(strings.Fields(target)[0], "/", "-") + ".md"
	path := filepath.Join(omnitest.TestDir(t), name)
	if omnitest.Updating() {
		path = filepath.Join("..", "testdata", name)
	}
	if err := os.WriteFile(path, []byte(table), 0o644); err != nil {
		t.Error(err)
	}
	t.Log(table)
}
