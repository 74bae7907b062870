package e2e

import (
	"context"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/wiretap"
)

// foreign is a program of others that serves one stage. It has /health and a port, and knows nothing of us.
type foreign struct {
	path string
	args []string // "PORT" is replaced
}

var _ engine.Engine = foreign{}

func (f foreign) Kind() string  { return filepath.Base(f.path) }
func (foreign) Ports() []string { return []string{"http"} }

func (f foreign) Plan(p engine.Place) (engine.Plan, error) {
	port := strconv.Itoa(p.Ports["http"])
	plan := engine.Plan{Path: f.path, BaseURL: "http://127.0.0.1:" + port, StopGrace: 5 * time.Second}
	plan.MetricsURL = plan.BaseURL + "/metrics"
	for _, a := range f.args {
		plan.Args = append(plan.Args, strings.ReplaceAll(a, "PORT", port))
	}
	return plan, nil
}

// The programs that make thirdparty builds, and the modules that testdata/thirdparty/go.mod pins.
const (
	simulator     = "llm-d-inference-sim"
	sidecar       = "pd-sidecar"
	simulated     = "fake-model"
	prefillHeader = "X-Prefiller-Host-Port" // what llm-d's endpoint picker tells its sidecar; without it decode is asked alone
)

var thirdPartyModules = map[string]string{
	simulator: "github.com/llm-d/llm-d-inference-sim",
	sidecar:   "github.com/llm-d/llm-d-inference-scheduler",
}

// thirdParty gives the paths of the programs, where they are built and are of the pinned versions.
func thirdParty(t *testing.T) map[string]string {
	t.Helper()
	paths, missing := map[string]string{}, ""
	cache, err := os.UserCacheDir()
	if err != nil {
		missing = err.Error()
	}
	pins, err := os.ReadFile(filepath.Join("..", "testdata", "thirdparty", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for name, module := range thirdPartyModules {
		paths[name] = filepath.Join(cache, "omnitest", "thirdparty", name)
		info, err := buildinfo.ReadFile(paths[name])
		switch {
		case err != nil:
			missing = err.Error()
		case !regexp.MustCompile(`(?m)^\s*` + regexp.QuoteMeta(module+" "+info.Main.Version) + `\s`).Match(pins):
			missing = fmt.Sprintf("%s is of version %s, which is not the pinned one", paths[name], info.Main.Version)
		}
	}
	omnitest.Require(t, "llm-d", missing == "", "make thirdparty builds llm-d's simulator and sidecar ("+missing+")")
	return paths
}

// launchForeign starts a program that lives as long as the test, or dies with the test binary.
func launchForeign(t *testing.T, name string, e engine.Engine) *engine.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	in, err := engine.Launch(ctx, e, engine.Options{Name: name, Dir: omnitest.TestDir(t), Label: t.Name(), Report: func(line string) { t.Log(line) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := in.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	return in
}

// simulatorPair starts two of llm-d's simulators. As engines they differ in nothing: what a request is, its kv_transfer_params say.
// They echo, so that an answer is right whoever gives it.
func simulatorPair(t *testing.T, paths map[string]string) (p, d *engine.Instance) {
	t.Helper()
	e := foreign{paths[simulator], []string{"--port", "PORT", "--model", simulated, "--force-dummy-tokenizer", "--mode", "echo"}}
	return launchForeign(t, "prefill", e), launchForeign(t, "decode", e)
}

// referencePair starts two engines of the reference stack, which do hand KV over.
func referencePair(t *testing.T) (p, d *engine.Instance) {
	t.Helper()
	return launchForeign(t, "prefill", engine.Reference{Role: "prefill"}), launchForeign(t, "decode", engine.Reference{Role: "decode"})
}

// addHeader is what stands in front of llm-d's sidecar: it names the prefiller.
type addHeader struct {
	name, value string
	next        *http.Transport
}

func (a addHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set(a.name, a.value)
	return a.next.RoundTrip(r)
}

// chain is llm-d's sidecar in front of two engines, with taps between all of them.
type chain struct {
	handoff.Source
	taps *wiretap.Taps
	// tapped is prefill as the sidecar reaches it. What Taps.Break breaks must be what an experiment finds broken.
	tapped *api.Client
}

// sidecarChain starts the sidecar in front of two engines. prefill is where the prefill tap leads: p's URL, or that of nobody.
func sidecarChain(t *testing.T, paths map[string]string, p, d *engine.Instance, prefill string) chain {
	t.Helper()
	taps, err := wiretap.New(wiretap.Config{Prefill: prefill, Decode: d.BaseURL})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	listening, served := make(chan wiretap.URLs, 1), make(chan error, 1)
	go func() { served <- taps.Serve(ctx, func(u wiretap.URLs) { listening <- u }) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	var urls wiretap.URLs
	select {
	case urls = <-listening:
	case err := <-served:
		t.Fatal(err)
	}
	_, decodePort, _ := strings.Cut(strings.TrimPrefix(urls.Decode, "http://"), ":")
	s := launchForeign(t, "sidecar", foreign{paths[sidecar], []string{"--port", "PORT", "--vllm-port", decodePort, "--kv-connector", "nixlv2", "--secure-proxy=false"}})
	if err := taps.Front(s.BaseURL); err != nil {
		t.Fatal(err)
	}
	next := &http.Transport{DisableCompression: true, IdleConnTimeout: 3 * time.Second}
	t.Cleanup(next.CloseIdleConnections)
	client := func(base string) *api.Client {
		return &api.Client{BaseURL: base, Model: d.Model, Timeout: time.Minute}
	}
	entry := client(urls.Entry)
	entry.HTTP = &http.Client{Transport: addHeader{prefillHeader, strings.TrimPrefix(urls.Prefill, "http://"), next}}
	return chain{taps: taps, tapped: client(urls.Prefill), Source: handoff.Source{
		Entry: entry, Ledger: taps,
		Prefill: handoff.Endpoint{API: client(p.BaseURL)}, Decode: handoff.Endpoint{API: client(d.BaseURL)},
	}}
}

// recordedTicket is one that vLLM 0.32 gave.
func recordedTicket(t *testing.T) api.Ticket {
	t.Helper()
	path := filepath.Join("..", "testdata", "recordings", "vllm-0.32.0", "nixl", "01-proper", "d.json") // the leg that it was sent on
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var recorded struct {
		Request struct {
			Body struct{ UTF8 string }
		}
	}
	if err := json.Unmarshal(data, &recorded); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var leg struct {
		Ticket api.Ticket `json:"kv_transfer_params"`
	}
	if err := json.Unmarshal([]byte(recorded.Request.Body.UTF8), &leg); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if err := handoff.CheckTicket(&handoff.NIXL, leg.Ticket); err != nil {
		t.Fatal(err)
	}
	return leg.Ticket
}
