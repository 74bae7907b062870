package metrics_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// The cases of testdata/parity: generate.py makes streams, calculator.py what the two benchmark clients make of them. The
// stored file is both for a seed of 7, so that the expectation is there where no Python is, and never Go's own.
const (
	paritySeed  = "7"
	parityCases = "../../testdata/parity/cases.json.gz"
)

type parity struct {
	Seed int         `json:"seed"`
	Runs []parityRun `json:"runs"`
}

type parityRun struct {
	Name     string          `json:"name"`
	Goodput  string          `json:"goodput"`
	WallNS   int64           `json:"wall_ns"`
	Requests []parityRequest `json:"requests"`
	Want     []parityWant    `json:"want"`
}

type parityRequest struct {
	StartNS, QueueNS, DueNS int64
	Status                  int
	Chat                    bool
	End                     string
	PromptTokens            int
	Tokenizer               *int
	Traps                   []string
	Reads                   []parityRead
}

type parityRead struct {
	At   time.Duration
	Data []byte
}

func (r *parityRead) UnmarshalJSON(raw []byte) error {
	pair := []any{&r.At, &r.Data}
	return json.Unmarshal(raw, &pair)
}

func (r *parityRequest) UnmarshalJSON(raw []byte) error {
	var wire struct {
		StartNS      int64        `json:"start_ns"`
		QueueNS      int64        `json:"queue_ns"`
		DueNS        int64        `json:"due_ns"`
		Status       int          `json:"status"`
		Chat         bool         `json:"chat"`
		End          string       `json:"end"`
		PromptTokens int          `json:"prompt_tokens"`
		Tokenizer    *int         `json:"tokenizer"`
		Traps        []string     `json:"traps"`
		Reads        []parityRead `json:"reads"`
	}
	err := json.Unmarshal(raw, &wire)
	*r = parityRequest(wire)
	return err
}

// parityWant are figures in seconds, as the calculator writes them.
type parityWant struct {
	Profile  string             `json:"profile"`
	Requests []parityFigures    `json:"requests"`
	Result   map[string]float64 `json:"result"`
	N        map[string]int     `json:"n"`
}

type parityFigures struct {
	OK        bool      `json:"ok"`
	TTFT      float64   `json:"ttft"`
	ITL       []float64 `json:"itl"`
	Latency   float64   `json:"latency"`
	Tokens    float64   `json:"tokens"`
	TPOT      *float64  `json:"tpot"`
	Prompt    float64   `json:"prompt"`
	Text      string    `json:"text"`
	AudioTTFP float64   `json:"audio_ttfp"`
	AudioRTF  float64   `json:"audio_rtf"`
}

func storedParity(t *testing.T) (parity, []byte) {
	t.Helper()
	packed, err := os.ReadFile(parityCases)
	require.NoError(t, err)
	z, err := gzip.NewReader(bytes.NewReader(packed))
	require.NoError(t, err)
	raw, err := io.ReadAll(z)
	require.NoError(t, err)
	return readParity(t, raw), raw
}

func readParity(t *testing.T, raw []byte) parity {
	t.Helper()
	var p parity
	require.NoError(t, json.Unmarshal(raw, &p))
	return p
}

// python runs a script of testdata/parity, or one that was made from it. Without Python the test is skipped, and counted so.
func python(t *testing.T, script string, stdin []byte, args ...string) ([]byte, error) {
	t.Helper()
	path, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("no python3 to run the calculator again; the stored cases are still held against. Remedy: apt-get install python3")
	}
	cmd := exec.CommandContext(t.Context(), path, append([]string{script}, args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var problems bytes.Buffer
	cmd.Stderr = &problems
	out, err := cmd.Output()
	if err != nil {
		err = errors.Join(err, errors.New(problems.String()))
	}
	return out, err
}

func parityScript(name string) string { return filepath.Join("..", "..", "testdata", "parity", name) }

// play sends every request of a run through the client, with the planned reads at their planned times, and gives what the
// client made of them. Time is that of a synctest bubble, so each event has exactly the time that was planned.
func (run *parityRun) play(t *testing.T, lean bool) []metrics.Sample {
	samples := make([]metrics.Sample, len(run.Requests))
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var all sync.WaitGroup
		for i := range run.Requests {
			q := &run.Requests[i]
			all.Go(func() {
				time.Sleep(time.Duration(q.StartNS))
				client := &api.Client{BaseURL: "http://replay", Model: "m", Lean: lean, HTTP: &http.Client{Transport: q}}
				var text *api.Text
				var err error
				if q.Chat {
					text, err = client.StreamChat(t.Context(), api.ChatRequest{Messages: []api.Message{{Role: "user", Text: "a"}}}, nil)
				} else {
					text, err = client.StreamComplete(t.Context(), api.CompletionRequest{Prompt: "a"}, nil)
				}
				s := metrics.FromText(text, err)
				s.Due, s.Queue, s.PromptTokens = began.Add(time.Duration(q.DueNS)), time.Duration(q.QueueNS), q.PromptTokens
				if q.Tokenizer != nil {
					s.Retokenized = metrics.Of(float64(*q.Tokenizer))
				}
				samples[i] = s
			})
		}
		all.Wait()
	})
	return samples
}

// RoundTrip answers with the planned reads.
func (r *parityRequest) RoundTrip(req *http.Request) (*http.Response, error) {
	header := http.Header{"Content-Type": {"text/event-stream"}}
	if r.Status != 200 {
		header.Set("Content-Type", "application/json")
	}
	return &http.Response{
		StatusCode: r.Status, Status: http.StatusText(r.Status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: header,
		Body: &plannedBody{r: r, began: time.Now()}, ContentLength: -1, Request: req,
	}, nil
}

type plannedBody struct {
	r     *parityRequest
	began time.Time
	next  int
	rest  []byte
}

func (b *plannedBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		if b.next == len(b.r.Reads) {
			if b.r.End == "reset" {
				return 0, errors.New("read: connection reset by peer")
			}
			return 0, io.EOF
		}
		read := b.r.Reads[b.next]
		b.next++
		time.Sleep(time.Until(b.began.Add(read.At)))
		b.rest = read.Data
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	return n, nil
}

func (b *plannedBody) Close() error { return nil }
