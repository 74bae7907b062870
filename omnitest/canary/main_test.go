package canary

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/load"
	"github.com/omnitest/suite/omnitest/metrics"
)

// trials is how often each planted stall, and a quiet run, is measured with the default options of the canary.
var trials = flag.Int("canary", 0, "measure `N` stalled and N quiet runs, one after the other, on a machine that does nothing else")

// measureArg is the first argument of a process that is to be a measuring client: it may be stopped by a signal.
const measureArg = "canary-measure"

func TestMain(m *testing.M) {
	stamped.Main()
	if len(os.Args) == 3 && os.Args[1] == measureArg {
		if err := measureRole(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// measurement is a run of a client of its own.
type measurement struct {
	URL     string
	Streams int
	Length  time.Duration
	Cadence time.Duration
	Burn    bool // all cores of the client busy for 50 ms in each half second

	Level *Level // instead of all this: run it
	CPU   int    // on this core alone
}

// measureRole measures, beside a canary, and prints the client's error.
func measureRole(arg string) error {
	var m measurement
	if err := json.Unmarshal([]byte(arg), &m); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.Length+30*time.Second)
	defer cancel()
	if m.Level != nil {
		if err := stamped.Pin(m.CPU); err != nil {
			return err
		}
		runtime.GOMAXPROCS(1)
		fmt.Println("running")
		l, err := m.Level.measure(ctx, &stamped.Child{URL: m.URL})
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(l)
	}
	c, err := Start(ctx, Options{Cadence: m.Cadence})
	if err != nil {
		return err
	}
	if m.Burn {
		go burn(ctx)
	}
	fmt.Println("running")
	client := &api.Client{BaseURL: m.URL}
	samples, run, err := load.Collect(ctx, load.Plan{Concurrency: m.Streams, Duration: m.Length}, func(ctx context.Context, _ int) (metrics.Sample, error) {
		text, err := client.StreamComplete(ctx, api.CompletionRequest{Prompt: "x", Sampling: api.Sampling{MaxTokens: 16, IgnoreEOS: true}}, nil)
		return metrics.FromText(text, err), err
	})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(c.Stop(run, samples...))
}

func burn(ctx context.Context) {
	for ctx.Err() == nil {
		var all sync.WaitGroup
		for range runtime.GOMAXPROCS(0) {
			all.Go(func() {
				for began := time.Now(); time.Since(began) < 50*time.Millisecond; {
				}
			})
		}
		all.Wait()
		time.Sleep(450 * time.Millisecond)
	}
}

// start starts the client; whilst runs beside it from the moment at which it measures.
func (m measurement) start(t testing.TB, whilst func(p *os.Process, done <-chan struct{})) (e metrics.ClientError) {
	t.Helper()
	m.run(t, whilst, &e)
	return e
}

// run starts the client and reads what it says at the end.
func (m measurement) run(t testing.TB, whilst func(p *os.Process, done <-chan struct{}), into any) {
	t.Helper()
	arg, err := json.Marshal(m)
	require.NoError(t, err)
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), m.Length+time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe, measureArg, string(arg))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	require.True(t, lines.Scan() && lines.Text() == "running", "the client said %q", lines.Text())
	done := make(chan struct{})
	var beside sync.WaitGroup
	if whilst != nil {
		beside.Go(func() { whilst(cmd.Process, done) })
	}
	told := lines.Scan()
	line := lines.Bytes()
	close(done)
	beside.Wait()
	require.True(t, told, "the client ended without a word")
	require.NoError(t, json.Unmarshal(line, into))
	require.NoError(t, cmd.Wait())
}
