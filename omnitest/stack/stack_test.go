package stack

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/refstack"
)

// TestMain lets this test binary be a stage of the reference stack.
func TestMain(m *testing.M) {
	if role := os.Getenv(engine.RoleEnv); role != "" {
		if err := refstack.RunRole(context.Background(), role, []byte(os.Getenv(engine.RoleConfigEnv))); err != nil {
			println(err.Error())
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func launch(t *testing.T, spec Spec) (*Stack, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := Launch(ctx, spec, Options{Dir: t.TempDir(), Label: t.Name()})
	if err == nil {
		t.Cleanup(func() { require.NoError(t, s.Stop(context.Background())) })
	}
	return s, err
}

func TestReferenceStack(t *testing.T) {
	s, err := launch(t, Spec{})
	require.NoError(t, err)
	require.Equal(t, []engine.Stage{engine.Proxy, engine.Prefill, engine.Decode, engine.DiT}, s.Stages())
	require.Equal(t, engine.Proxy, s.Entry().Stage)
	require.Equal(t, "reference stack (simulated)", s.Target())
	require.True(t, s.Simulated())
	for _, stage := range s.Stages() {
		require.NotZero(t, s.Instance(stage).PID(), stage)
	}
	stage, err := s.Dead()
	require.NoError(t, err)
	require.Empty(t, stage)

	require.NoError(t, s.Instance(engine.Decode).Kill())
	<-s.Instance(engine.Decode).Done()
	stage, err = s.Dead()
	require.Equal(t, engine.Decode, stage)
	require.Error(t, err)
}

// A remote DiT behind our proxy and reference engines: the mix that real vLLM with the reference DiT needs, the other way
// round.
func TestMixedStack(t *testing.T) {
	dit := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer dit.Close()
	spec := Spec{Name: "mix", Stages: map[engine.Stage]Stage{
		engine.Proxy: {}, engine.Prefill: {}, engine.Decode: {}, engine.DiT: {Engine: EngineRemote, URL: dit.URL, Model: "qwen-image"},
	}}
	s, err := launch(t, spec)
	require.NoError(t, err)
	require.Equal(t, "mix: proxy reference, prefill reference, decode reference, dit "+dit.URL+" model qwen-image (partly simulated)", s.Target())
	require.Zero(t, s.Instance(engine.DiT).PID())
	require.NoError(t, s.Stop(t.Context()))
	require.NoError(t, s.Stop(t.Context()), "a second Stop changes nothing")
}

func TestURLThatAnswersHTML(t *testing.T) {
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("<html><title>Welcome to nginx!</title></html>"))
	}))
	defer web.Close()
	began := time.Now()
	_, err := launch(t, Spec{Stages: map[engine.Stage]Stage{
		engine.DiT: {Engine: EngineRemote, URL: web.URL, ReadyTimeout: 300 * time.Millisecond},
	}})
	require.ErrorContains(t, err, "dit")
	require.ErrorContains(t, err, "HTML")
	require.Less(t, time.Since(began), 10*time.Second)
}

// One stage cannot start: the error must be that stage's, not the cancellation of the others, and nothing may stay behind.
func TestFirstFailureIsTheOneTold(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := "http://" + free.Addr().String()
	free.Close()
	_, err = launch(t, Spec{Stages: map[engine.Stage]Stage{
		engine.Proxy: {}, engine.Prefill: {}, engine.Decode: {},
		engine.DiT: {Engine: EngineRemote, URL: nobody, ReadyTimeout: 500 * time.Millisecond},
	}})
	require.ErrorContains(t, err, "dit")
	require.ErrorContains(t, err, "refused")
	require.NotContains(t, err.Error(), "canceled")
}

func TestLedgerIsWritten(t *testing.T) {
	s, err := launch(t, Spec{})
	require.NoError(t, err)
	// A bad request is enough for a record; what stands in it is the proxy's own test.
	resp, err := http.Post(s.Entry().BaseURL+"/v1/completions", "application/json", nil)
	require.NoError(t, err)
	resp.Body.Close()
	require.Eventually(t, func() bool {
		data, err := os.ReadFile(filepath.Join(s.Dir, "proxy-0", "ledger.jsonl"))
		return err == nil && len(data) > 0
	}, 5*time.Second, 20*time.Millisecond)
}
