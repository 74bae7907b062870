package wiretap

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// step is one thing that happens at the taps: "P a x" a prefill leg of id a with prompt x begins and ends well, "P! a x" it fails,
// "D a x" a decode leg, "T a x" one to the DiT, "D( a x" a decode leg that stays open, "C a x" a client's request begins, "c a" it ends. "-" is no id.
func play(b *book, steps string) string {
	clients := map[string]*mark{}
	for _, step := range strings.Split(steps, "; ") {
		f := strings.Fields(step)
		if f[0] == "c" {
			clients[f[1]].r.Status = 200
			clients[f[1]].end("", false)
			continue
		}
		r, _ := http.NewRequest(http.MethodPost, "/v1/completions", nil)
		if f[1] != "-" {
			r.Header.Set("X-Request-Id", f[1])
		}
		stage := map[byte]string{'P': "prefill", 'D': "decode", 'C': "entry", 'T': "dit"}[f[0][0]]
		m := b.begin(stage, "http://x", r, fmt.Appendf(nil, `{"prompt":%q}`, f[2]), time.Now())
		switch {
		case stage == "entry":
			clients[f[1]] = m
		case strings.HasSuffix(f[0], "!"):
			m.header(500, "")
			m.end("500", false)
		case !strings.HasSuffix(f[0], "("):
			m.header(200, "")
			m.end("", false)
		}
	}
	var story []string
	for _, r := range b.page(0, time.Now().Add(time.Hour)).Records {
		legs := ""
		for _, h := range r.Hops {
			legs += map[string]string{"prefill": "P", "decode": "D", "dit": "T"}[h.Stage]
		}
		story = append(story, strings.Join(strings.Fields(strings.TrimPrefix(r.RequestID, "tap-")+" "+legs+" "+r.Outcome), " "))
	}
	return strings.Join(story, "; ")
}

func TestJoins(t *testing.T) {
	for _, c := range []struct{ name, steps, want string }{
		{"one id", "P a x; D a x", "a PD ok"},
		{"interleaved ids", "P a x; P b x; D b x; D a x", "a PD ok; b PD ok"},
		{"no ids", "P - x; P - y; D - y; D - x", "1 PD ok; 2 PD ok"},
		{"ids that differ", "P a x; D b x", "a PD ok"},
		{"one prompt again and again", "P - x; D - x; P - x; D - x", "1 PD ok; 2 PD ok"},
		{"one id again and again", "P a x; D a x; P a x; D a x", "a PD ok; a PD ok"},
		{"second prefill", "P a x; P a x; D a x", "a PPD ok"},
		{"retried decode", "P a x; D! a x; D a x", "a PDD ok"},
		{"silent fallback", "P! a x; D a x", "a PD ok"},
		{"silent fallback without ids", "P! - x; D - x", "1 PD ok"},
		{"decode alone", "D a x", "a D ok"},
		{"prefill failed", "P! a x", "a P failed"},
		{"decode failed", "P a x; D! a x", "a PD failed"},
		{"decode open", "P a x; D( a x", "a PD in-flight"},

		{"two of one prompt", "P - x; P - x; D - x; D - x", "1 P unjoined; 2 P unjoined; 3 D unjoined; 4 D unjoined"},
		{"an id for all, prompts differ", "P a x; P a y; D a y; D a x", "a PD ok; a PD ok"},
		{"prompt rewritten, no ids", "P - x; D - z", "1 P unjoined; 2 D unjoined"},
		{"prompt rewritten, one id", "P a x; D a z", "a PD ok"},
		{"decode leg that was not seen", "P a x", "a P unjoined"},
		{"decode alone beside a prefill of the same prompt", "D( - x; P - x", "1 D in-flight; 2 P unjoined"},

		{"client and own ids", "C a x; C b y; P u x; P v y; D v y; D u x; c a; c b", "a PD ok; b PD ok"},
		{"client, ids kept", "C a x; C b x; P b x; P a x; D a x; D b x; c a; c b", "a PD ok; b PD ok"},
		{"client without id", "C - x; P u x; D u x; c -", "1 PD ok"},
		{"two clients, one prompt, own ids", "C a x; C b x; P u x; P v x; D u x; D v x; c a; c b", "a unjoined; b unjoined; u PD unjoined; v PD unjoined"},
		{"leg of no client", "C a x; P u z; P v x; D v x; c a", "a PD ok; u P unjoined"},
		{"client that used its id twice", "C a x; P a x; D a x; c a; C a x; P a x; D a x; c a", "a PD ok; a PD ok"},
		{"legs after the client", "C a x; P a x; c a; D a x", "a P ok; a D unjoined"},
		{"prompt rewritten, own ids", "C a x; P u z; D u z; c a", "a ok; u PD unjoined"},
		{"picture", "P a x; D a x; T a p", "a PDT ok"},
		{"picture without ids, its client alone waits", "C a x; P u x; D u x; T - p; c a", "a PDT ok"},
		{"pictures without ids, two wait", "C a x; C b y; P u x; D u x; P v y; D v y; T - p; c a; c b", "a PD unjoined; b PD unjoined; 3 T unjoined"},
		{"straight to the DiT", "T a p; T b q", "a T ok; b T ok"},
		{"second prefill under ids of its own", "C a x; P u x; P v x; D v x; c a", "a PPD ok"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBook(false)
			b.clients = strings.HasPrefix(c.steps, "C")
			assert.Equal(t, c.want, play(b, c.steps))
		})
	}
}

// However legs come in: none is lost, none is twice there, and a record that counts never holds legs of two prompts.
func TestJoinsNeverMix(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		n := rapid.IntRange(1, 12).Draw(r, "n")
		var steps []string
		for range n {
			kind := rapid.SampledFrom([]string{"P", "P!", "D", "D!", "D("}).Draw(r, "kind")
			id := rapid.SampledFrom([]string{"-", "-", "a", "b"}).Draw(r, "id")
			prompt := map[string]string{"a": "x", "b": "y"}[id] // an id is one prompt's
			if prompt == "" {
				prompt = rapid.SampledFrom([]string{"x", "y", "z"}).Draw(r, "prompt")
			}
			steps = append(steps, kind+" "+id+" "+prompt)
		}
		b := newBook(false)
		play(b, strings.Join(steps, "; "))
		legs := 0
		for _, rec := range b.page(0, time.Now()).Records {
			legs += len(rec.Hops)
			for _, h := range rec.Hops {
				if string(h.Sent) != string(rec.Hops[0].Sent) {
					r.Fatalf("%v\n%s holds legs of two prompts", steps, rec.String())
				}
			}
		}
		if legs != n {
			r.Fatalf("%d legs, %d in the ledger", n, legs)
		}
	})
}

// The ledger keeps the latest records and goes on counting.
func TestLedgerIsBounded(t *testing.T) {
	b := newBook(false)
	for i := range kept + 10 {
		play1(b, i)
	}
	page := b.page(0, time.Now())
	assert.LessOrEqual(t, len(page.Records), kept)
	assert.EqualValues(t, kept+10, page.Last)
	assert.EqualValues(t, kept+10, page.Records[len(page.Records)-1].Seq)
	assert.Empty(t, b.page(1<<62, time.Now()).Records)
}

func play1(b *book, i int) {
	r, _ := http.NewRequest(http.MethodPost, "/v1/completions", nil)
	r.Header.Set("X-Request-Id", fmt.Sprint(i))
	m := b.begin("decode", "http://x", r, fmt.Appendf(nil, `{"prompt":"%d"}`, i), time.Now())
	m.header(200, "")
	m.end("", false)
}
