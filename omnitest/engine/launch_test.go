package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/internal/ports"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const generous = 60 * time.Second

func TestReferenceLifeCycle(t *testing.T) {
	dir := t.TempDir()
	in, err := Launch(t.Context(), Reference{Config: fake{}}, Options{Stage: Prefill, Name: "prefill-0", Dir: dir})
	require.NoError(t, err)
	stopWith(t, in)
	assert.Equal(t, Prefill, in.Stage)
	assert.Equal(t, "reference", in.Kind)
	assert.Equal(t, "fake-model", in.Model, "asked from /v1/models")
	assert.Equal(t, in.BaseURL+"/metrics", in.MetricsURL)
	assert.True(t, in.Simulated)
	assert.Positive(t, in.StartTook)
	assert.Positive(t, in.PID())
	assert.Equal(t, filepath.Join(dir, "prefill-0.log"), in.LogPath())
	assert.Equal(t, []string{"role prefill side true"}, in.Tail(5), "the role is the stage, and prefill gets a side channel")
	assert.NoError(t, in.Err())

	res, err := http.Get(in.BaseURL + "/health")
	require.NoError(t, err)
	res.Body.Close()

	require.NoError(t, in.Stop(t.Context()))
	require.NoError(t, in.Stop(t.Context()), "a second Stop is harmless")
	<-in.Done()
	assert.NoError(t, in.Err(), "we stopped it")
	assert.Regexp(t, `^omnitest: stopped in \d+(\.\d)? m?s, was ended by signal 15 \(terminated\) after `, in.Tail(1)[0])
	assert.ErrorIs(t, in.Signal(syscall.SIGTERM), os.ErrProcessDone)
	port, _ := net.LookupPort("tcp", in.BaseURL[strings.LastIndexByte(in.BaseURL, ':')+1:])
	s, err := ports.Reserve(map[string]int{"http": port}, "http")
	require.NoError(t, err, "its port is free again")
	s.Release()
}

func TestDiesAtStart(t *testing.T) {
	_, err := reference(t, "dies", generous)
	var le *LaunchError
	require.ErrorAs(t, err, &le)
	assert.Regexp(t, `^decode-0 \(decode\) failed to start: exited with code 3 after \d+(\.\d)? m?s
  likely cause: the GPU's memory is used up: RuntimeError: CUDA out of memory
  try: lower .*
  log /\S+/decode-0\.log ends with:
    role decode side true
    loading weights
    RuntimeError: CUDA out of memory$`, err.Error())
	assert.Equal(t, Decode, le.Stage)
	assert.Equal(t, "decode-0", le.Name)
	assert.Len(t, le.Tail, 3)
}

func TestNeverReady(t *testing.T) {
	const limit = 3 * time.Second
	for _, c := range []struct{ behave, want string }{
		{"never listens", `not ready after 3 s: nothing listens at http://127\.0\.0\.1:\d+/health \(connection refused\)`},
		{"busy", `not ready after 3 s: last health answer 503 Service Unavailable from http://127\.0\.0\.1:\d+/health: "still loading"`},
		{"hangs", `not ready after 3 s: http://127\.0\.0\.1:\d+/health has not answered for \d(\.\d)? s`},
		{"error in 200", `not ready after 3 s: last health answer 200 with an error inside from http://127\.0\.0\.1:\d+/health: "\{.*engine is dead.*\}"`},
	} {
		t.Run(c.behave, func(t *testing.T) {
			t.Parallel()
			_, err := reference(t, c.behave, limit)
			require.Error(t, err)
			assert.Regexp(t, `(?s)^decode-0 \(decode\) failed to start: `+c.want+"\n  log ", err.Error())
			var le *LaunchError
			require.ErrorAs(t, err, &le)
			log, _ := os.ReadFile(le.LogPath)
			assert.Contains(t, string(log), "role decode")
		})
	}
}

func TestForgottenMain(t *testing.T) {
	_, err := reference(t, "forgot", generous)
	require.Error(t, err)
	assert.Regexp(t, `^decode-0 \(decode\) failed to start: exited with code 0 before it was ready, after \d+(\.\d)? m?s: does TestMain call omnitest\.Main\?
  log `, err.Error())
}

func TestPortTakenIsTriedOnceMore(t *testing.T) {
	var seen []int
	launch := func(once string) (*Instance, error) {
		seen = nil
		return Launch(t.Context(), Reference{Configure: func(p Place) (any, error) {
			seen = append(seen, p.Ports["http"])
			return fake{Behave: "port taken", Once: once}, nil
		}}, Options{Stage: DiT, Dir: t.TempDir()})
	}
	in, err := launch(filepath.Join(t.TempDir(), "marker"))
	require.NoError(t, err, "the second try is good")
	stopWith(t, in)
	require.Len(t, seen, 2)
	assert.True(t, strings.HasSuffix(in.BaseURL, fmt.Sprint(seen[1])))

	_, err = launch("")
	require.Error(t, err)
	assert.Len(t, seen, 2, "once and not more")
	assert.Regexp(t, `^dit failed to start: exited with code 1 after \d+(\.\d)? m?s \(second try with new ports: the first ended with "address already in use"\)
  likely cause: a port is in use: OSError: \[Errno 98\] Address already in use
  try: something else took it between reservation and start; start again
  log .* ends with:
    role dit side false
    OSError: \[Errno 98\] Address already in use$`, err.Error())
}

func TestReadyThenDies(t *testing.T) {
	in, err := reference(t, "", generous)
	require.NoError(t, err)
	if res, err := http.Get(in.BaseURL + "/die"); err == nil {
		res.Body.Close()
	}
	<-in.Done()
	err = in.Err()
	var died *DiedError
	require.ErrorAs(t, err, &died)
	assert.Regexp(t, `^decode-0 \(decode\) died: exited with code 5 after \d+(\.\d)? m?s
  log /\S+/decode-0\.log ends with:
    role decode side true
    fatal: assertion failed$`, err.Error())
	require.NoError(t, in.Stop(t.Context()))
	assert.Error(t, in.Err(), "stopping a dead engine does not make its death ours")
}

func TestKillIsACrash(t *testing.T) {
	in, err := reference(t, "", generous)
	require.NoError(t, err)
	require.NoError(t, in.Kill())
	<-in.Done()
	assert.Regexp(t, `^decode-0 \(decode\) died: was ended by signal 9 \(killed\) after `, in.Err().Error())
}

func TestStopOfADeafOrHungEngine(t *testing.T) {
	start := func(t *testing.T, behave string) *Instance {
		in, err := Launch(t.Context(), custom{[]string{"http"}, func(p Place) (Plan, error) {
			plan, err := Reference{Config: fake{Behave: behave}}.Plan(p)
			plan.StopGrace = 200 * time.Millisecond
			return plan, err
		}}, Options{Stage: Decode, Dir: t.TempDir()})
		require.NoError(t, err)
		stopWith(t, in)
		return in
	}
	t.Run("deaf", func(t *testing.T) {
		in := start(t, "deaf")
		require.NoError(t, in.Stop(context.Background()))
		assert.Contains(t, in.Tail(1)[0], "SIGKILL was needed")
	})
	t.Run("hung", func(t *testing.T) {
		in := start(t, "")
		require.NoError(t, in.Signal(syscall.SIGSTOP))
		client := http.Client{Timeout: 300 * time.Millisecond}
		_, err := client.Get(in.BaseURL + "/health")
		require.Error(t, err, "it hangs")
		require.NoError(t, in.Signal(syscall.SIGCONT))
		client.Timeout = generous
		res, err := client.Get(in.BaseURL + "/health")
		require.NoError(t, err, "and goes on")
		res.Body.Close()
		require.NoError(t, in.Signal(syscall.SIGSTOP))
		require.NoError(t, in.Stop(context.Background()))
		<-in.Done()
	})
}

func TestGivenUp(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	time.AfterFunc(300*time.Millisecond, func() { cancel(errors.New("another stage failed")) })
	_, err := Launch(ctx, Reference{Config: fake{Behave: "never listens"}}, Options{Stage: Decode, Dir: t.TempDir()})
	require.Error(t, err)
	assert.Regexp(t, `^decode failed to start: given up after \d+(\.\d)? m?s: another stage failed; nothing listens at `, err.Error())
}

func TestCannotRun(t *testing.T) {
	_, err := Launch(t.Context(), custom{[]string{"http"}, func(p Place) (Plan, error) {
		return Plan{Path: "no-such-engine"}, nil
	}}, Options{Stage: "talker", Dir: t.TempDir()})
	assert.EqualError(t, err, `talker failed to start: cannot be run: exec: "no-such-engine": executable file not found in $PATH`)

	_, err = Launch(t.Context(), custom{nil, func(p Place) (Plan, error) { return Plan{}, errors.New("no such model") }}, Options{})
	assert.EqualError(t, err, `custom failed to start: no such model`)
	_, err = Launch(t.Context(), Reference{Config: []int{1}}, Options{Stage: Decode, Dir: t.TempDir()})
	assert.EqualError(t, err, `decode failed to start: configuration of role decode: want an object, have [1]`)
	_, err = Launch(t.Context(), Reference{}, Options{Dir: t.TempDir()})
	assert.EqualError(t, err, `reference failed to start: a reference engine needs a role or a stage`)
}

// A plan as a real engine's: two ports, arguments, environment, its own health path, a device.
func TestPlanOfAForeignProgram(t *testing.T) {
	gpu := fmt.Sprintf("test-%x", rand.Uint64())
	var said []string
	e := custom{[]string{"http", "side"}, func(p Place) (Plan, error) {
		assert.Equal(t, map[Stage]string{Prefill: "http://p"}, p.Peers)
		plan, err := Reference{Role: "prefill", Config: fake{}}.Plan(p)
		plan.Env = append(plan.Env, "SIDE=plan")
		plan.HealthPath, plan.Devices, plan.Model, plan.Simulated = "/v1/models", []string{gpu}, "named", false
		return plan, err
	}}
	o := Options{Stage: Prefill, Name: "p0", Peers: map[Stage]string{Prefill: "http://p"}, Dir: t.TempDir(), Label: t.Name(),
		Report: func(s string) { said = append(said, s) }}
	in, err := Launch(t.Context(), e, o)
	require.NoError(t, err)
	stopWith(t, in)
	assert.Equal(t, "named", in.Model)
	assert.Empty(t, said)

	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err = Launch(ctx, e, o)
	want := fmt.Sprintf("%s held by pid %d (TestPlanOfAForeignProgram)", gpu, os.Getpid())
	assert.Equal(t, []string{"waiting for " + want}, said)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	assert.Regexp(t, `^p0 \(prefill\) failed to start: gave up waiting for `+gpu+` after \d+ms, it is held by pid `, err.Error())

	require.NoError(t, in.Stop(t.Context()))
	in, err = Launch(t.Context(), e, o)
	require.NoError(t, err, "Stop gave the device back")
	stopWith(t, in)
}

func TestRemote(t *testing.T) {
	var asked atomic.Int32
	engine := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/health" && asked.Add(1) < 3:
			w.WriteHeader(http.StatusBadGateway) // a gateway whose engine is still loading
		case r.URL.Path == "/health": // as vLLM: 200, empty, no content type
			w.Header()["Content-Type"] = nil
		default:
			http.NotFound(w, r)
		}
	}))
	defer engine.Close()
	in, err := Launch(t.Context(), Remote{URL: engine.URL + "/"}, Options{Stage: DiT})
	require.NoError(t, err)
	assert.Equal(t, engine.URL, in.BaseURL)
	assert.Equal(t, engine.URL+"/metrics", in.MetricsURL)
	assert.Empty(t, in.Model, "a server without /v1/models is fine")
	assert.Equal(t, "remote", in.Kind)
	assert.Zero(t, in.PID())
	assert.False(t, in.Simulated)
	assert.Empty(t, in.LogPath())
	assert.Nil(t, in.Tail(3))
	assert.EqualError(t, in.Kill(), "dit is attached by URL ("+engine.URL+"): its process is not ours to signal")
	require.NoError(t, in.Stop(t.Context()))
	assert.NoError(t, in.Err())
	select {
	case <-in.Done():
		t.Error("an attached engine has no end that we could see")
	default:
	}
	_, err = Launch(t.Context(), Remote{URL: engine.URL, MetricsURL: "http://m", Model: "named", HealthPath: "/health"}, Options{})
	require.NoError(t, err)
}

func TestRemoteThatIsNoEngine(t *testing.T) {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/login/health":
			http.Redirect(w, r, "/login", http.StatusFound)
		case "/bare/health":
			w.Header().Set("Content-Type", "text/plain")
			fmt.Fprint(w, "\n<!DOCTYPE html><title>hi</title>")
		default:
			w.Header().Set("Content-Type", "text/html")
			fmt.Fprint(w, "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title>")
		}
	}))
	defer page.Close()
	attach := func(url string) error {
		_, err := Launch(t.Context(), Remote{URL: url, ReadyTimeout: 200 * time.Millisecond}, Options{Stage: Decode, Name: "decode-0"})
		var le *LaunchError
		require.ErrorAs(t, err, &le)
		return err
	}
	assert.EqualError(t, attach(page.URL), `decode-0 (decode) cannot be attached: health answered HTML, is this URL really an engine? GET `+
		page.URL+`/health gave 200: "<!DOCTYPE html> <html><head><title>Welcome to nginx!</title>"`)
	assert.ErrorContains(t, attach(page.URL+"/bare"), "health answered HTML, is this URL really an engine? ")
	assert.EqualError(t, attach(page.URL+"/login"), `decode-0 (decode) cannot be attached: not ready after 200 ms: last health answer 302 Found from `+
		page.URL+`/login/health to /login`)

	s, err := ports.Reserve(nil, "nobody")
	require.NoError(t, err)
	defer s.Release()
	url := fmt.Sprintf("http://127.0.0.1:%d", s.Port("nobody"))
	assert.EqualError(t, attach(url), `decode-0 (decode) cannot be attached: not ready after 200 ms: nothing listens at `+url+`/health (connection refused)`)
	assert.EqualError(t, attach("127.0.0.1:8000/v1"), `decode-0 (decode) cannot be attached: bad URL "127.0.0.1:8000/v1/health": parse "127.0.0.1:8000/v1/health": first path segment in URL cannot contain colon`)
	assert.EqualError(t, attach("localhost:8000"), `decode-0 (decode) cannot be attached: bad URL "localhost:8000/health": want http://host:port`)
	assert.EqualError(t, attach(""), `decode-0 (decode) failed to start: a remote engine needs its URL`)
}

func TestReferenceConfig(t *testing.T) {
	place := Place{Stage: Proxy, Ports: map[string]int{"http": 1, "side": 2}, Peers: map[Stage]string{Decode: "http://d"}}
	for name, c := range map[string]struct {
		e    Reference
		want string
	}{
		"nothing given":     {Reference{}, `{"Listen":"127.0.0.1:1"}`},
		"side channel":      {Reference{Role: "decode"}, `{"Listen":"127.0.0.1:1","Side":"127.0.0.1:2"}`},
		"own address":       {Reference{Config: map[string]any{"Listen": "127.0.0.1:9"}}, `{"Listen":"127.0.0.1:9"}`},
		"empty address":     {Reference{Config: map[string]any{"Listen": "", "N": 1}}, `{"Listen":"127.0.0.1:1","N":1}`},
		"made at the place": {Reference{Configure: func(p Place) (any, error) { return map[string]any{"D": p.Peers[Decode]}, nil }}, `{"D":"http://d","Listen":"127.0.0.1:1"}`},
	} {
		plan, err := c.e.Plan(place)
		require.NoError(t, err, name)
		assert.Equal(t, c.want, strings.TrimPrefix(plan.Env[1], "OMNITEST_ROLE_CONFIG="), name)
		assert.True(t, plan.Simulated)
	}
	assert.Equal(t, []string{"http"}, Reference{Role: "dit"}.Ports())
	assert.Equal(t, []string{"http", "side"}, Reference{}.Ports())
}
