package hw_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/hw"
)

const mib = 1 << 20

// The test binary is also the process under the meter: it holds memory, and burns CPU when it reads a line.
func TestMain(m *testing.M) {
	omnitest.ServeRole()
	if os.Getenv("HW_TEST_ROLE") == "worker" {
		worker()
		return
	}
	os.Exit(omnitest.Run(m))
}

// worker touches HW_TEST_MIB of memory, starts HW_TEST_CHILDREN workers like itself without children, says "ready", and for
// each line of input N burns N ms of CPU and answers "done". It ends with its input.
func worker() {
	n, _ := strconv.Atoi(os.Getenv("HW_TEST_MIB"))
	// Mapped, not made: the race detector doubles what the heap touches.
	held, err := syscall.Mmap(-1, 0, n*mib, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		fmt.Println("error", err)
		return
	}
	for i := 0; i < len(held); i += 4096 {
		held[i] = 1
	}
	children, _ := strconv.Atoi(os.Getenv("HW_TEST_CHILDREN"))
	var pipes []*proc
	for range children {
		c, err := start(n, 0)
		if err != nil {
			fmt.Println("error", err)
			return
		}
		pipes = append(pipes, c)
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		ms, _ := strconv.Atoi(in.Text())
		for _, c := range pipes {
			c.burn(ms)
		}
		burn(time.Duration(ms) * time.Millisecond)
		fmt.Println("done")
	}
	for _, c := range pipes {
		c.stop()
	}
	held[0]++
}

// burn spins until this process has used so much more CPU time, however busy the machine is.
func burn(d time.Duration) {
	for began := cpu(); cpu()-began < d; {
	}
}

func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

type proc struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func start(mibs, children int) (*proc, error) {
	p := &proc{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), "HW_TEST_ROLE=worker", fmt.Sprint("HW_TEST_MIB=", mibs), fmt.Sprint("HW_TEST_CHILDREN=", children))
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if line, err := p.out.ReadString('\n'); line != "ready\n" {
		return nil, fmt.Errorf("worker said %q: %w", line, err)
	}
	return p, nil
}

func (p *proc) burn(ms int) {
	fmt.Fprintln(p.in, ms)
	_, _ = p.out.ReadString('\n')
}

func (p *proc) stop() {
	_ = p.in.Close()
	_ = p.cmd.Wait()
}

func launch(t *testing.T, mibs, children int) *proc {
	t.Helper()
	p, err := start(mibs, children)
	require.NoError(t, err)
	t.Cleanup(p.stop)
	return p
}

// What was planted, 120 MiB and 300 ms in a process and as much in its child, is what the meter reports.
func TestMeterReportsWhatWasPlanted(t *testing.T) {
	engine, other := launch(t, 120, 1), launch(t, 10, 0)
	engine.burn(200) // before the window: must not be counted
	m := hw.NewMeter(map[string]int{"decode": engine.cmd.Process.Pid, "prefill": other.cmd.Process.Pid})
	require.NoError(t, m.Start(t.Context(), 20*time.Millisecond))
	assert.EqualError(t, m.Start(t.Context(), 0), "hw: the meter is already running")
	engine.burn(300)
	w := m.Stop()

	d := w.Stages["decode"]
	assert.Empty(t, d.Absent+d.Ended+d.Err)
	assert.InDelta(t, 0.6, d.CPUSeconds, 0.1, "300 ms in each of two processes; clock ticks of 10 ms and the runtime's own work around it")
	assert.Equal(t, 2, d.Processes)
	assert.Greater(t, d.PeakRSS, int64(240*mib))
	assert.Less(t, d.PeakRSS, int64(320*mib))
	assert.Greater(t, d.MeanRSS, int64(240*mib))
	assert.LessOrEqual(t, d.MeanRSS, d.PeakRSS)
	assert.GreaterOrEqual(t, d.Samples, 2)

	p := w.Stages["prefill"]
	assert.Equal(t, 1, p.Processes)
	assert.Less(t, p.CPUSeconds, 0.1)
	assert.Less(t, p.PeakRSS, int64(80*mib))

	assert.InDelta(t, d.CPUSeconds+p.CPUSeconds, w.Total.CPUSeconds, 1e-9)
	assert.Equal(t, 3, w.Total.Processes)
	assert.LessOrEqual(t, w.Total.PeakRSS, d.PeakRSS+p.PeakRSS)
	assert.Greater(t, w.Total.PeakRSS, d.MeanRSS)

	require.NoError(t, m.Start(t.Context(), 0)) // the next window starts from nothing
	next := m.Stop()
	assert.Less(t, next.Stages["decode"].CPUSeconds, 0.1)
	assert.Equal(t, 2, next.Stages["decode"].Samples)
}

// Every launched engine is a child of the launcher. It must not be counted twice.
func TestStageInsideAnotherStagesTree(t *testing.T) {
	engine := launch(t, 100, 0)
	m := hw.NewMeter(map[string]int{"client": os.Getpid(), "dit": engine.cmd.Process.Pid, "decode": engine.cmd.Process.Pid})
	require.NoError(t, m.Start(t.Context(), 0))
	engine.burn(200)
	w := m.Stop()
	assert.Equal(t, 1, w.Stages["client"].Processes)
	assert.Less(t, w.Stages["client"].CPUSeconds, 0.15)
	assert.Equal(t, w.Stages["dit"], w.Stages["decode"], "two stages in one process both report it")
	assert.InDelta(t, w.Stages["client"].CPUSeconds+w.Stages["dit"].CPUSeconds, w.Total.CPUSeconds, 1e-9, "the total counts it once")
	assert.Equal(t, 2, w.Total.Processes)
}

func TestStageThatIsAttachedHasNoFigures(t *testing.T) {
	type stage string // stands for engine.Stage
	m := hw.NewMeter(map[stage]int{"prefill": os.Getpid(), "dit": 0})
	require.NoError(t, m.Start(t.Context(), 0))
	w := m.Stop()
	assert.Equal(t, hw.Series{Absent: "attached by URL"}, w.Stages["dit"])
	assert.Positive(t, w.Stages["prefill"].PeakRSS)
	assert.Equal(t, hw.Series{Absent: "dit attached by URL"}, w.Total)

	raw, err := json.Marshal(w.Stages["dit"])
	require.NoError(t, err)
	assert.JSONEq(t, `{"absent":"attached by URL"}`, string(raw))
	raw, err = json.Marshal(hw.Series{PID: 7, Samples: 3, PeakRSS: 9, MeanRSS: 8, Processes: 1})
	require.NoError(t, err)
	assert.JSONEq(t, `{"pid":7,"samples":3,"peak_rss_bytes":9,"mean_rss_bytes":8,"cpu_s":0,"processes":1}`, string(raw), "an idle process used 0 s, measured")

	assert.Equal(t, hw.Window{}, hw.NewMeter(map[string]int{"a": 1}).Stop(), "never started")
	none := hw.NewMeter(map[string]int{})
	require.NoError(t, none.Start(t.Context(), 0))
	assert.Equal(t, "no stages", none.Stop().Total.Absent)
	assert.EqualError(t, none.Start(t.Context(), -1), "hw: negative interval -1ns")
}

func TestProcessThatDiesInsideTheWindow(t *testing.T) {
	engine := launch(t, 50, 1)
	pid := engine.cmd.Process.Pid
	m := hw.NewMeter(map[string]int{"decode": pid, "client": os.Getpid()})
	require.NoError(t, m.Start(t.Context(), 10*time.Millisecond))
	engine.burn(200)
	time.Sleep(200 * time.Millisecond) // let a sample see what was burnt
	engine.stop()
	w := m.Stop()
	d := w.Stages["decode"]
	assert.Regexp(t, fmt.Sprintf(`^process %d ended before \d+\.\d\d s of the window$`, pid), d.Ended)
	assert.Greater(t, d.CPUSeconds, 0.35, "what it used until then stays counted")
	assert.Greater(t, d.PeakRSS, int64(100*mib))
	assert.Equal(t, d.Ended, w.Total.Ended)
	assert.Greater(t, w.Stages["client"].Samples, d.Samples-1)

	require.NoError(t, m.Start(t.Context(), 0))
	d = m.Stop().Stages["decode"]
	assert.Equal(t, hw.Series{PID: pid, Absent: fmt.Sprintf("process %d was not running when the window began", pid)}, d)
}

// A worker that appears and ends inside the window keeps its CPU in the account.
func TestChildBornInsideTheWindow(t *testing.T) {
	m := hw.NewMeter(map[string]int{"client": os.Getpid()})
	require.NoError(t, m.Start(t.Context(), 20*time.Millisecond))
	began := cpu()
	child := launch(t, 100, 0)
	child.burn(200)
	time.Sleep(1500 * time.Millisecond) // the process table is read once a second
	child.stop()
	own := (cpu() - began).Seconds()
	s := m.Stop().Stages["client"]
	assert.Equal(t, 2, s.Processes)
	assert.Greater(t, s.CPUSeconds-own, 0.18)
	assert.Greater(t, s.PeakRSS, int64(100*mib))
	assert.Empty(t, s.Ended)
}

func TestEndOfContextEndsTheSeriesWithALastSample(t *testing.T) {
	engine := launch(t, 10, 0)
	ctx, cancel := context.WithCancel(t.Context())
	m := hw.NewMeter(map[string]int{"decode": engine.cmd.Process.Pid})
	require.NoError(t, m.Start(ctx, time.Hour))
	engine.burn(200)
	cancel()
	s := m.Stop().Stages["decode"]
	assert.Equal(t, 2, s.Samples)
	assert.Greater(t, s.CPUSeconds, 0.18)
	assert.Empty(t, s.Ended)
}

// A whole window: the process table, and two samples of a small tree.
func BenchmarkWindow(b *testing.B) {
	m := hw.NewMeter(map[string]int{"client": os.Getpid()})
	for b.Loop() {
		if err := m.Start(b.Context(), time.Hour); err != nil {
			b.Fatal(err)
		}
		m.Stop()
	}
}

// What sampling costs, and what of it is the wall time of one sample: cores at 20 Hz of a small tree.
func BenchmarkSampling(b *testing.B) {
	var last hw.Window
	for b.Loop() {
		m := hw.NewMeter(map[string]int{"client": os.Getpid()})
		if err := m.Start(b.Context(), 50*time.Millisecond); err != nil {
			b.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		last = m.Stop()
	}
	cores, _ := last.Cost.Cores.Get()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(cores, "cores")
	b.ReportMetric(last.Cost.MeanReadMS, "ms/sample")
}
