package engine

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// fake is the configuration of the engine that this test binary plays when it is executed again.
type fake struct {
	Listen, Side string `json:",omitempty"`
	Behave       string // see play
	Once         string // file: behave so only until it exists
}

func TestMain(m *testing.M) {
	if config := os.Getenv(RoleConfigEnv); config != "" {
		var f fake
		if err := json.Unmarshal([]byte(config), &f); err != nil {
			fmt.Println(err)
			os.Exit(9)
		}
		if f.Behave != "forgot" { // else it goes on as a test binary that does not know about roles
			play(f)
			return
		}
	}
	os.Exit(m.Run())
}

// play is a whole engine: good, or bad in the way that its configuration names.
func play(f fake) {
	fmt.Println("role", os.Getenv(RoleEnv), "side", f.Side != "")
	if i := slices.Index(os.Args, "--port"); i > 0 && f.Listen == "" { // played in the place of vllm serve
		f.Listen = "127.0.0.1:" + os.Args[i+1]
	}
	if f.Once != "" {
		if _, err := os.Stat(f.Once); err == nil {
			f.Behave = ""
		}
		os.WriteFile(f.Once, nil, 0o644)
	}
	switch f.Behave {
	case "dies":
		fmt.Println("loading weights\nRuntimeError: CUDA out of memory")
		os.Exit(3)
	case "port taken":
		fmt.Println("OSError: [Errno 98] Address already in use")
		os.Exit(1)
	case "side port taken":
		fmt.Println("Exception in thread nixl_handshake_listener:\nTraceback (most recent call last):")
		fmt.Println("zmq.error.ZMQError: Address already in use (addr='tcp://127.0.0.1:5600')")
		time.Sleep(time.Minute)
	case "never listens":
		time.Sleep(time.Minute)
	case "deaf":
		signal.Ignore(syscall.SIGTERM)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) {
		switch f.Behave {
		case "busy":
			http.Error(w, "still\nloading", http.StatusServiceUnavailable)
		case "hangs":
			<-r.Context().Done()
		case "error in 200":
			io.WriteString(w, `{"error":{"message":"engine is dead"}}`)
		}
	})
	mux.HandleFunc("GET /v1/models", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"object":"list","data":[{"id":"fake-model"}]}`)
	})
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"version":"0.32.0"}`)
	})
	mux.HandleFunc("GET /die", func(http.ResponseWriter, *http.Request) {
		fmt.Println("fatal: assertion failed")
		os.Exit(5)
	})
	fmt.Println(http.ListenAndServe(f.Listen, mux))
	os.Exit(1)
}

// custom is an engine whose plan the test writes.
type custom struct {
	ports []string
	plan  func(Place) (Plan, error)
}

func (custom) Kind() string                 { return "custom" }
func (c custom) Ports() []string            { return c.ports }
func (c custom) Plan(p Place) (Plan, error) { return c.plan(p) }

// reference launches a fake that behaves in a way, in a folder of the test. It is stopped with the test.
func reference(t *testing.T, behave string, limit time.Duration) (*Instance, error) {
	t.Helper()
	in, err := Launch(t.Context(), Reference{Config: fake{Behave: behave}, ReadyTimeout: limit}, Options{Stage: Decode, Name: "decode-0", Dir: t.TempDir()})
	if err == nil {
		stopWith(t, in)
	}
	return in, err
}

func stopWith(t *testing.T, in *Instance) {
	t.Cleanup(func() { require.NoError(t, in.Stop(t.Context())) }) // an ended context: no grace
}
