package nvml

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Built with go test -c this file is a program for a machine with a GPU; python3 there makes the allocations, no CUDA toolkit is
// needed. It takes about 70 s:
//
//	nvml.test -test.run Live -test.v -live -live.out DIR
var (
	live    = flag.Bool("live", false, "measure on this machine's NVIDIA GPU, with 4 GiB of its memory")
	liveOut = flag.String("live.out", "", "folder for the recording (nvml-live.json); empty: a temporary one")
)

const allocated = 4 << 30

// recording is what a live run leaves behind.
type recording struct {
	Created  time.Time
	Driver   string
	GPUs     []hw.GPU           // one reading, idle
	SMI      map[string]string  // what nvidia-smi said, word for word
	Costs    map[string]hw.Cost // "10 Hz idle", ...
	Beside   map[string]besides // by figure: the sampler beside nvidia-smi
	Process  map[string]any     // the known allocation, by process
	Device   map[string]any     // and by device
	Release  map[string]any     // after the process ended
	Baseline *hw.Baseline
	Window   hw.Window           // of the known allocation
	Notes    []string            // what could not be measured, and why
	Failures map[string][]string // by test
}

type besides struct {
	Compared, Agree int
	Worst           float64 // distance to the samples around, in the figure's unit
	Unit            string
}

// worker is a Python process with a CUDA context of its own.
const worker = `
import ctypes, sys, time
cuda = ctypes.CDLL("libcuda.so.1")
def ok(r, what):
    if r: print("error %s gave %d" % (what, r), flush=True); sys.exit(1)
ok(cuda.cuInit(0), "cuInit")
dev, ctx, ptr = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_uint64()
ok(cuda.cuDeviceGet(ctypes.byref(dev), 0), "cuDeviceGet")
ok(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctx), dev), "cuDevicePrimaryCtxRetain")
ok(cuda.cuCtxSetCurrent(ctx), "cuCtxSetCurrent")
print("ready", flush=True)
size = 0
for line in sys.stdin:
    word, _, n = line.strip().partition(" ")
    if word == "alloc":
        size = int(n)
        ok(cuda.cuMemAlloc_v2(ctypes.byref(ptr), ctypes.c_size_t(size)), "cuMemAlloc")
    elif word == "busy":
        end = time.time() + float(n)
        while time.time() < end:
            for _ in range(20): ok(cuda.cuMemsetD8_v2(ptr, 1, ctypes.c_size_t(size)), "cuMemsetD8")
            ok(cuda.cuCtxSynchronize(), "cuCtxSynchronize")
    elif word == "free":
        ok(cuda.cuMemFree_v2(ptr), "cuMemFree")
    print("done", flush=True)
`

type gpuWorker struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startWorker(t *testing.T) *gpuWorker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	w := &gpuWorker{cmd: exec.CommandContext(ctx, "python3", "-c", worker)}
	w.cmd.Stderr = os.Stderr
	var err error
	w.in, err = w.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := w.cmd.StdoutPipe()
	require.NoError(t, err)
	w.out = bufio.NewReader(out)
	require.NoError(t, w.cmd.Start())
	t.Cleanup(w.end)
	w.expect(t, "ready")
	return w
}

func (w *gpuWorker) expect(t *testing.T, want string) {
	t.Helper()
	line, err := w.out.ReadString('\n')
	require.Equal(t, want, strings.TrimSpace(line), "worker: %v", err)
}

func (w *gpuWorker) do(t *testing.T, format string, args ...any) {
	t.Helper()
	fmt.Fprintf(w.in, format+"\n", args...)
	w.expect(t, "done")
}

func (w *gpuWorker) end() { _ = w.in.Close(); _ = w.cmd.Wait() }

// TestLive measures NVML on a real GPU: beside nvidia-smi, its own cost, the attribution of a known allocation, the release.
func TestLive(t *testing.T) {
	if !*live {
		t.Skip("not asked for: run with -live on a machine with an NVIDIA GPU")
	}
	src, err := openNVML(Options{})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, src.Close()) })
	rec := &recording{Created: time.Now().UTC(), SMI: map[string]string{}, Costs: map[string]hw.Cost{}, Beside: map[string]besides{},
		Process: map[string]any{}, Device: map[string]any{}, Release: map[string]any{}, Failures: map[string][]string{}}
	dir := *liveOut
	if dir == "" {
		dir = t.ArtifactDir()
	}
	t.Cleanup(func() {
		raw, err := json.MarshalIndent(rec, "", " ")
		require.NoError(t, err)
		path := filepath.Join(dir, "nvml-live.json")
		require.NoError(t, os.WriteFile(path, raw, 0o644))
		t.Log("recording:", path)
	})
	first, err := src.ReadGPUs(t.Context())
	require.NoError(t, err)
	time.Sleep(costlyEvery + 100*time.Millisecond)
	second, err := src.ReadGPUs(t.Context()) // rates need two
	require.NoError(t, err)
	rec.Driver, rec.GPUs = first.Driver, second.GPUs
	for _, args := range []string{"-L", "--query-gpu=" + strings.Join(queryFields(), ",") + " --format=csv,noheader,nounits",
		"--query-gpu=index,name,memory.used,power.draw,utilization.gpu --format=csv", "-q -x"} {
		out, err := exec.CommandContext(t.Context(), "nvidia-smi", strings.Fields(args)...).CombinedOutput()
		rec.SMI[args] = string(out) + errText(err)
	}
	rec.Baseline, err = hw.TakeBaseline(t.Context(), src, 2*time.Second)
	require.NoError(t, err)

	for _, part := range []struct {
		name string
		run  func(*testing.T, hw.GPUSource, *recording)
	}{{"cost", liveCost}, {"beside", liveBeside}, {"attribution", liveAttribution}} {
		if !t.Run(part.name, func(t *testing.T) { part.run(t, src, rec) }) {
			rec.Failures[part.name] = append(rec.Failures[part.name], "failed; see the log")
		}
	}
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return "\n" + err.Error()
}

// liveCost: under 1 % of a core at 10 Hz.
func liveCost(t *testing.T, src hw.GPUSource, rec *recording) {
	for _, hz := range []int{10, 100} {
		m := hw.NewMeter(map[string]int{"client": os.Getpid()})
		m.GPU, m.GPUInterval = src, time.Second/time.Duration(hz)
		require.NoError(t, m.Start(t.Context(), time.Second))
		time.Sleep(8 * time.Second)
		w := m.Stop()
		rec.Costs[fmt.Sprintf("%d Hz", hz)] = w.GPU.Cost
		t.Logf("%d Hz: %d readings of %.2f ms (highest %.2f ms), %s cores", hz, w.GPU.Samples, w.GPU.Cost.MeanReadMS, w.GPU.Cost.MaxReadMS, w.GPU.Cost.Cores)
		assert.Empty(t, w.GPU.Absent+w.GPU.Err+w.GPU.Ended)
		assert.Greater(t, w.GPU.Samples, 8*hz/2)
		cores, ok := w.GPU.Cost.Cores.Get()
		require.True(t, ok, w.GPU.Cost.Cores.Reason())
		if hz == 10 {
			assert.Less(t, cores, 0.01, "cores at 10 Hz")
		}
	}
}

// liveBeside: what nvidia-smi says lies within what the sampler saw from one sample before its call to one after it.
func liveBeside(t *testing.T, src hw.GPUSource, rec *recording) {
	other, err := openSMI(t.Context(), "")
	require.NoError(t, err)
	w := startWorker(t)
	const every = 100 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	var samples []hw.GPUReading
	var sampling sync.WaitGroup
	sampling.Go(func() {
		for tick := time.NewTicker(every); ctx.Err() == nil; <-tick.C {
			if r, err := src.ReadGPUs(context.WithoutCancel(ctx)); err == nil {
				samples = append(samples, r)
			}
		}
	})
	type call struct {
		from, to time.Time
		gpus     []hw.GPU
	}
	var calls []call
	ask := func(n int) {
		for range n {
			from := time.Now()
			r, err := other.ReadGPUs(t.Context())
			require.NoError(t, err)
			calls = append(calls, call{from, time.Now(), r.GPUs})
			time.Sleep(every)
		}
	}
	ask(3)
	w.do(t, "alloc %d", allocated)
	ask(3)
	fmt.Fprintln(w.in, "busy 8")
	time.Sleep(2 * time.Second)
	ask(6)
	w.expect(t, "done")
	w.do(t, "free")
	ask(3)
	time.Sleep(3 * every)
	stop()
	sampling.Wait()
	for _, f := range []struct {
		name, unit string
		of         func(hw.GPU) metrics.Value
		rounding   float64
		required   float64 // share that must agree
	}{
		{"memory", "bytes", func(g hw.GPU) metrics.Value { return g.MemoryUsed }, 1 << 20, 1},
		{"utilisation", "share", func(g hw.GPU) metrics.Value { return g.SMUtil }, 0.011, 0},
		{"power", "W", func(g hw.GPU) metrics.Value { return g.Power }, 1, 0},
	} {
		b := besides{Unit: f.unit}
		for _, c := range calls {
			low, high := math.Inf(1), math.Inf(-1)
			for _, s := range samples {
				if s.At.Before(c.from.Add(-2*every)) || s.At.After(c.to.Add(2*every)) { // one sample, and the jitter of one
					continue
				}
				if x, ok := f.of(s.GPUs[0]).Get(); ok {
					low, high = min(low, x), max(high, x)
				}
			}
			x, ok := f.of(c.gpus[0]).Get()
			if !ok || math.IsInf(low, 1) {
				continue
			}
			off := max(low-x, x-high, 0)
			b.Worst = max(b.Worst, off)
			b.Compared++
			if off <= f.rounding {
				b.Agree++
			}
		}
		rec.Beside[f.name] = b
		t.Logf("%s: nvidia-smi within one sample in %d of %d calls, at worst %g %s off", f.name, b.Agree, b.Compared, b.Worst, b.Unit)
		assert.Positive(t, b.Compared, f.name)
		assert.GreaterOrEqual(t, float64(b.Agree), f.required*float64(b.Compared), f.name)
	}
}

// liveAttribution: 4 GiB of one process are its stage's, within 2 %, and gone after it has ended.
func liveAttribution(t *testing.T, src hw.GPUSource, rec *recording) {
	idle, other := startWorker(t), startWorker(t)
	before, err := src.ReadGPUs(t.Context())
	require.NoError(t, err)
	m := hw.NewMeter(map[string]int{"decode": idle.cmd.Process.Pid, "prefill": other.cmd.Process.Pid})
	m.GPU, m.Baseline = src, rec.Baseline
	require.NoError(t, m.Start(t.Context(), 0))
	time.Sleep(1500 * time.Millisecond)
	contextOnly := pidMemory(src, t, idle.cmd.Process.Pid)
	idle.do(t, "alloc %d", int64(allocated))
	idle.do(t, "busy 2")
	withIt := pidMemory(src, t, idle.cmd.Process.Pid)
	after, err := src.ReadGPUs(t.Context())
	require.NoError(t, err)
	rec.Window = m.Stop()

	t.Run("device", func(t *testing.T) {
		a, ok1 := before.GPUs[0].MemoryUsed.Get()
		b, ok2 := after.GPUs[0].MemoryUsed.Get()
		require.True(t, ok1 && ok2)
		rec.Device = map[string]any{"before_bytes": a, "after_bytes": b, "difference_bytes": b - a, "ratio": (b - a) / allocated}
		t.Logf("device: %.4f of the 4 GiB", (b-a)/allocated)
		assert.InEpsilon(t, float64(allocated), b-a, 0.02)
	})
	t.Run("process", func(t *testing.T) {
		d := rec.Window.Stages["decode"].GPU
		require.NotNil(t, d)
		if d.Absent != "" {
			rec.Notes = append(rec.Notes, "per process: "+d.Absent)
			t.Skip("not measured here: " + d.Absent)
		}
		a, ok1 := contextOnly.Get()
		b, ok2 := withIt.Get()
		peak, ok3 := d.PeakMemory.Get()
		require.True(t, ok1 && ok2 && ok3, "%v %v %v", contextOnly.Reason(), withIt.Reason(), d.PeakMemory.Reason())
		rec.Process = map[string]any{"context_bytes": a, "with_allocation_bytes": b, "difference_bytes": b - a, "ratio": (b - a) / allocated,
			"stage_peak_bytes": peak, "stage_util": d.MeanUtil, "how": d.How, "other_stage": rec.Window.Stages["prefill"].GPU}
		t.Logf("process: %.4f of the 4 GiB; stage peak %.0f bytes", (b-a)/allocated, peak)
		assert.InEpsilon(t, float64(allocated), b-a, 0.02)
		assert.InEpsilon(t, float64(allocated), peak-a, 0.02, "the stage's own peak")
		o, _ := rec.Window.Stages["prefill"].GPU.PeakMemory.Get()
		assert.Less(t, o, float64(allocated), "the other stage has its context alone")
	})
	t.Run("release", func(t *testing.T) {
		held, err := hw.Released(t.Context(), hw.Release{GPU: src, Baseline: rec.Baseline, Within: time.Second})
		rec.Release["while_held"] = errText(err)
		assert.ErrorContains(t, err, "more than when idle", "the worker still has its 4 GiB: %+v", held)
		idle.end()
		other.end()
		held, err = hw.Released(t.Context(), hw.Release{PIDs: map[string]int{"decode": idle.cmd.Process.Pid}, GPU: src, Baseline: rec.Baseline})
		rec.Release["after_end"] = held
		rec.Release["after_end_error"] = errText(err)
		assert.NoError(t, err)
	})
}

func pidMemory(src hw.GPUSource, t *testing.T, pid int) metrics.Value {
	t.Helper()
	r, err := src.ReadGPUs(t.Context())
	require.NoError(t, err)
	for _, g := range r.GPUs {
		for _, p := range g.Processes {
			if p.PID == pid {
				return p.Memory
			}
		}
	}
	return metrics.Absent("the driver does not list the process")
}
