package refstack

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/proxy"
)

const patience = time.Minute

// lines is a log that can be read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

var readyLine = regexp.MustCompile(`(?m)^ready http=(\S+)(?: side=(\S+))?$`)

// startRole runs a role in this process and returns its base URL.
func startRole(t *testing.T, role string, config any) string {
	raw, err := json.Marshal(config)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	log, ended := &lines{}, make(chan error, 1)
	go func() { ended <- runRole(ctx, role, raw, log) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			assert.NoError(t, err)
			assert.Contains(t, log.String(), "ended role="+role+": context canceled\n")
		case <-time.After(patience):
			t.Errorf("%s did not end", role)
		}
	})
	require.Eventually(t, func() bool { return readyLine.MatchString(log.String()) }, patience, time.Millisecond, "%s: %s", role, log)
	at := readyLine.FindStringSubmatch(log.String())
	assert.Equal(t, role == "prefill" || role == "decode", at[2] != "", "side channel: %s", log)
	return "http://" + at[1]
}

// The whole flow with the real stages: prompt, prefill, ticket, decode, plan, picture.
func TestRolesMakeAStack(t *testing.T) {
	config := proxy.Config{
		Prefill: startRole(t, "prefill", map[string]any{"EngineID": "p"}),
		Decode:  startRole(t, "decode", map[string]any{"EngineID": "d"}),
		DiT:     startRole(t, "dit", struct{}{}),
	}
	front := startRole(t, "proxy", config)
	post := func(path, body string) string {
		resp, err := http.Post(front+path, "application/json", strings.NewReader(body))
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.Equal(t, 200, resp.StatusCode, "%s", b)
		return string(b)
	}

	const prompt = "A lantern over the door, painted with the word \\\"OPEN\\\""
	var text struct{ Choices []struct{ Text string } }
	require.NoError(t, json.Unmarshal([]byte(post("/v1/completions", `{"model":"reference","prompt":"`+prompt+`","max_tokens":200,"temperature":0}`)), &text))
	assert.Equal(t, `A lantern over the door, painted with the word "OPEN"`, text.Choices[0].Text)

	stream := post("/v1/chat/completions", `{"model":"reference","messages":[{"role":"user","content":"echo me"}],"max_tokens":40,"temperature":0,"stream":true}`)
	assert.Contains(t, stream, "data: [DONE]")

	var picture struct {
		Data []struct {
			B64JSON string `json:"b64_json"`
		}
		Size string
	}
	require.NoError(t, json.Unmarshal([]byte(post("/v1/images/generations", `{"prompt":"`+prompt+`","size":"128x64","num_inference_steps":2,"seed":7,"n":1}`)), &picture))
	assert.NotEmpty(t, picture.Data[0].B64JSON)

	resp, err := http.Get(front + flow.Path)
	require.NoError(t, err)
	defer resp.Body.Close()
	var page flow.Page
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&page))
	require.Len(t, page.Records, 3)
	for _, rec := range page.Records {
		assert.Equal(t, "ok", rec.Outcome, rec.Error)
		var out, in struct {
			EngineID  string `json:"remote_engine_id"`
			RequestID string `json:"remote_request_id"`
		}
		require.NoError(t, json.Unmarshal(rec.Hop("prefill").TicketOut, &out))
		require.NoError(t, json.Unmarshal(rec.Hop("decode").TicketIn, &in))
		assert.Equal(t, "p", in.EngineID)
		assert.Equal(t, out, in)
		assert.Contains(t, in.RequestID, rec.RequestID)
	}
	assert.Equal(t, `A lantern over the door, painted with the word "OPEN"`, page.Records[2].Hop("dit").Plan)

	resp, err = http.Get(front + "/health")
	require.NoError(t, err)
	resp.Body.Close()
	assert.Equal(t, 200, resp.StatusCode)
}

func TestRunRoleRefuses(t *testing.T) {
	for _, c := range []struct{ role, config, want string }{
		{"vae", "{}", `unknown role "vae"; roles: proxy, prefill, decode, dit`},
		{"decode", `{"Faults":{"SilentRecompue":true}}`, `decode: config: json: unknown field "SilentRecompue"`},
		{"dit", `{} {}`, "dit: config: text after the JSON object"},
		{"proxy", `{`, "proxy: config: unexpected EOF"},
		{"proxy", "", "proxy: no stage at all: set Prefill and Decode, or DiT, or all three"},
	} {
		log := &lines{}
		assert.EqualError(t, runRole(t.Context(), c.role, []byte(c.config), log), c.want)
		assert.Equal(t, "ended role="+c.role+": "+c.want+"\n", log.String())
	}
}

// A role as its own process: SIGTERM ends it gracefully and the log says why.
func TestRunRoleEndsOnSignal(t *testing.T) {
	if os.Getenv("REFSTACK_TEST_ROLE") != "" {
		if err := RunRole(context.Background(), os.Getenv("REFSTACK_TEST_ROLE"), nil); err != nil {
			os.Exit(3)
		}
		os.Exit(0)
	}
	for _, role := range []string{"dit", "prefill"} {
		child := exec.Command(os.Args[0], "-test.run=^TestRunRoleEndsOnSignal$")
		child.Env = append(os.Environ(), "REFSTACK_TEST_ROLE="+role)
		log := &lines{}
		child.Stderr = log
		require.NoError(t, child.Start())
		kill := time.AfterFunc(patience, func() { _ = child.Process.Kill() })
		require.Eventually(t, func() bool { return readyLine.MatchString(log.String()) }, patience, time.Millisecond)
		require.NoError(t, child.Process.Signal(syscall.SIGTERM))
		require.NoError(t, child.Wait(), "exit code 0; log: %s", log)
		kill.Stop()
		assert.Contains(t, log.String(), "ended role="+role+": terminated signal received\n")
	}
}
