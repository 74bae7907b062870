package offline

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fakeEnv makes this binary the engine's process: a machine that runs these tests need not have Python. The value says how
// it misbehaves.
const fakeEnv = "OFFLINE_FAKE"

func TestMain(m *testing.M) {
	if how := os.Getenv(fakeEnv); how != "" {
		fake(how)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// fake speaks the protocol as runner.py does: arguments "runner.py --socket PATH". The text of a job is its prompt, a token
// is a byte.
func fake(how string) {
	mode, arg, _ := strings.Cut(how, "=")
	fmt.Println("fake runner, mode", how)
	if len(os.Args) != 4 || filepath.Base(os.Args[1]) != "runner.py" || os.Args[2] != "--socket" {
		fmt.Println("unexpected arguments", os.Args)
		os.Exit(2)
	}
	switch mode {
	case "die-at-once":
		fmt.Println("Fatal Python error: init_fs_encoding")
		os.Exit(1)
	case "never-call":
		time.Sleep(time.Hour)
	}
	conn, err := net.Dial("unix", os.Args[3])
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	say := func(format string, a ...any) { fmt.Fprintf(conn, format+"\n", a...) }
	switch mode {
	case "protocol":
		say(`{"id":0,"protocol":2,"pid":1,"python":"3.99"}`)
	case "greet-garbage":
		say("Loading checkpoint shards: 100%%")
	case "hang-up-at-once":
		conn.Close()
		time.Sleep(time.Hour)
	default:
		say(`{"id":0,"protocol":1,"pid":%d,"python":"3.11.2"}`, os.Getpid())
	}
	batches := 0
	for lines := bufio.NewReader(conn); ; {
		text, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var ask struct {
			ID    int
			Op    string
			Model string
			Args  map[string]any
			Jobs  []wireJob
		}
		if err := json.Unmarshal(text, &ask); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		switch ask.Op {
		case "load":
			switch mode {
			case "load-exception":
				say(`{"id":%d,"error":{"type":"OSError","message":"no such model: %s","traceback":["  File \"x.py\", line 3","OSError: no such model"]}}`, ask.ID, ask.Model)
				continue
			case "load-hang":
				time.Sleep(time.Hour)
			case "load-exit":
				fmt.Println("RuntimeError: not enough memory")
				os.Exit(3)
			}
			say(`{"id":%d,"engine":"vllm","version":"0.0-%s-%v","took":0.25}`, ask.ID, ask.Model, ask.Args["dtype"])
			if mode == "deaf" {
				time.Sleep(time.Hour)
			}
		case "close":
			if mode == "close-hang" {
				time.Sleep(time.Hour)
			}
			say(`{"id":%d}`, ask.ID)
			return
		case "generate":
			batches++
			switch mode {
			case "exception-once":
				if batches == 1 {
					say(`{"id":%d,"error":{"type":"ValueError","message":"prompt too long","traceback":["ValueError: prompt too long"]}}`, ask.ID)
					continue
				}
			case "die":
				fmt.Println("Segmentation fault in flash_attn")
				os.Exit(139)
			case "die-with-a-child": // which keeps the connection open
				f, _ := conn.(*net.UnixConn).File()
				child, err := os.StartProcess("/bin/sleep", []string{"sleep", "300"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil, f}})
				fmt.Println("child", child, err)
				os.Exit(1)
			case "hang":
				time.Sleep(time.Hour)
			case "slow-once":
				if batches == 1 {
					time.Sleep(700 * time.Millisecond)
				}
			case "garbage":
				say("INFO 11-24 engine core is fine")
				continue
			case "raw":
				say(strings.ReplaceAll(strings.ReplaceAll(arg, "%", "%%"), "ID", fmt.Sprint(ask.ID)))
				continue
			case "hang-up":
				conn.Close()
				time.Sleep(time.Hour)
			}
			say("%s", echo(ask.ID, ask.Jobs))
		}
	}
}

// echo answers each job with its own prompt.
func echo(id int, jobs []wireJob) []byte {
	type result = map[string]any
	var list []result
	for i, j := range jobs {
		ids := j.PromptIDs
		for _, b := range []byte(j.Prompt) {
			ids = append(ids, int(b))
		}
		out, finish := ids, "stop"
		if len(out) > j.MaxTokens {
			out, finish = out[:j.MaxTokens], "length"
		}
		text := make([]byte, len(out))
		var margins []float64
		for k, id := range out {
			text[k] = byte(id)
			if j.Margins {
				margins = append(margins, 0.5)
			}
		}
		list = append(list, result{
			"text": string(text), "token_ids": out, "prompt_tokens": len(ids), "cached_tokens": nil, "finish_reason": finish,
			"first_token": 0.125, "last_token": 0.5 + float64(i), "clock": "engine", "margins": margins,
		})
	}
	b, err := json.Marshal(result{"id": id, "took": 1.5, "results": list})
	if err != nil {
		panic(err)
	}
	return b
}

// start gives an engine whose process is this binary in the given mode.
func start(t *testing.T, how string) *VLLM {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	v := &VLLM{
		Python: exe, Model: "m", Args: map[string]any{"dtype": "float32"}, Env: []string{fakeEnv + "=" + how},
		Log:         filepath.Join(t.TempDir(), "logs", "runner.log"),
		LoadTimeout: time.Minute, BatchTimeout: time.Minute, StopGrace: 10 * time.Second,
	}
	t.Cleanup(func() { v.Close() })
	return v
}

// within bounds a test that would hang if the code under test did.
func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
