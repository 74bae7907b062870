package nvml

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Memory, utilisation, power and the memory of processes are read each time: 0.35 ms of CPU on an H200 with driver 580. What changes
// slowly is read each slowEvery: clocks, temperature, throttling, errors. What costs much is read each costlyEvery, so that 10
// readings a second stay under 1 % of a core: the energy counter (6 ms), the use of the SMs by process (3 ms) and the links (PCIe: 1 ms,
// and 21 ms of waiting, a direction).
const (
	slowEvery   = time.Second
	costlyEvery = 5 * time.Second
)

// look is what a reading asks for, beside what each one does.
type look struct{ slow, costly bool }

// source is a hw.GPUSource over the library.
type source struct {
	lib    library
	driver string
	gpus   []*gpu
	now    func() time.Time // of tests
	slow   time.Time        // the last slow look
	costly time.Time        // the last costly one
	noXids string
}

// gpu is what is remembered of one GPU, or MIG instance, between two readings.
type gpu struct {
	dev      device
	index    int
	uuid     string
	name     string
	instance string
	lost     string
	cut      bool // MIG is on
	parts    []*gpu

	pcie, nvlink rate
	seen         uint64                   // stamp of the newest use-by-process sample
	use          map[uint32]metrics.Value // of the last costly look
	noUse        string
	never        map[string]metrics.Value // figures that this GPU does not have: not asked again
}

// newSource takes the library, which is open, and finds its GPUs.
func newSource(lib library, now func() time.Time) (*source, error) {
	driver, err := lib.Driver()
	if err != nil {
		return nil, err
	}
	n, err := lib.Count()
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.New("the driver shows no GPU")
	}
	s := &source{lib: lib, driver: driver, now: now}
	for i := range n {
		d, err := lib.Device(i)
		if err != nil {
			// Also a GPU that is lost before the run began is one of the machine's.
			s.gpus = append(s.gpus, &gpu{index: i, lost: err.Error()})
			continue
		}
		s.gpus = append(s.gpus, newGPU(i, d))
	}
	return s, nil
}

func newGPU(index int, d device) *gpu {
	g := &gpu{dev: d, index: index, never: map[string]metrics.Value{}}
	g.uuid, _ = d.UUID()
	g.name, _ = d.Name()
	if on, err := d.MIG(); err == nil && on {
		g.cut = true
	}
	return g
}

func (s *source) Close() error { return s.lib.Close() }

// ReadGPUs never fails as a whole: what the library refuses is said where it belongs.
func (s *source) ReadGPUs(ctx context.Context) (hw.GPUReading, error) {
	at := s.now()
	r := hw.GPUReading{At: at, Source: "NVML " + s.driver, Driver: s.driver}
	l := look{slow: at.Sub(s.slow) >= slowEvery, costly: at.Sub(s.costly) >= costlyEvery}
	if l.slow {
		s.slow = at
	}
	if l.costly {
		s.costly = at
	}
	xids := map[string][]int{}
	if l.slow && s.noXids == "" {
		fresh, err := s.lib.Xids()
		if err != nil {
			s.noXids = err.Error()
		}
		for _, x := range fresh {
			xids[x.uuid] = append(xids[x.uuid], x.code)
		}
	}
	for _, g := range s.gpus {
		if err := ctx.Err(); err != nil {
			return hw.GPUReading{}, err
		}
		one := g.read(at, l)
		one.NoXids = s.noXids
		one.Xids = xids[g.uuid]
		r.GPUs = append(r.GPUs, one)
	}
	return r, nil
}

func (g *gpu) read(at time.Time, l look) hw.GPU {
	if g.lost != "" {
		return hw.LostGPU(g.index, g.uuid, g.name, g.lost)
	}
	out := hw.UnknownGPU(g.index, g.uuid, g.name, hw.NotThisTime)
	out.Instance = g.instance
	g.fast(&out)
	if l.slow {
		g.slowly(&out)
	}
	if l.costly {
		g.costly(at, &out)
	}
	g.processes(&out)
	if g.cut {
		g.instances(at, l, &out)
	}
	if g.lost != "" { // found out on the way: half a reading is none
		return hw.LostGPU(g.index, g.uuid, g.name, g.lost)
	}
	return out
}

func (g *gpu) fast(out *hw.GPU) {
	if m, err := g.dev.Memory(); err != nil {
		v := g.refused(err)
		out.MemoryTotal, out.MemoryUsed, out.MemoryReserved = v, v, v
	} else {
		out.MemoryTotal, out.MemoryUsed, out.MemoryReserved = ofBytes(m.total), ofBytes(m.used), ofBytes(m.reserved)
	}
	g.ask("utilization", []*metrics.Value{&out.SMUtil, &out.MemoryUtil}, func() ([]float64, error) {
		sm, mem, err := g.dev.Utilization()
		return []float64{float64(sm) / 100, float64(mem) / 100}, err
	})
	g.ask("power", []*metrics.Value{&out.Power}, func() ([]float64, error) {
		mw, err := g.dev.Power()
		return []float64{float64(mw) / 1e3}, err
	})
}

func (g *gpu) slowly(out *hw.GPU) {
	g.ask("clocks", []*metrics.Value{&out.SMClock, &out.MemoryClock}, func() ([]float64, error) {
		sm, mem, err := g.dev.Clocks()
		return []float64{float64(sm), float64(mem)}, err
	})
	g.ask("temperature", []*metrics.Value{&out.Temperature}, func() ([]float64, error) {
		c, err := g.dev.Temperature()
		return []float64{float64(c)}, err
	})
	g.ask("ecc", []*metrics.Value{&out.ECCCorrected, &out.ECCUncorrected}, func() ([]float64, error) {
		c, u, err := g.dev.ECC()
		return []float64{float64(c), float64(u)}, err
	})
	var throttle metrics.Value
	g.ask("throttle", []*metrics.Value{&throttle}, func() ([]float64, error) {
		bits, err := g.dev.Throttle()
		return []float64{float64(bits)}, err
	})
	if bits, ok := throttle.Get(); ok {
		out.Throttle, out.NoThrottle = hw.ThrottleReasons(uint64(bits)), ""
	} else {
		out.NoThrottle = throttle.Reason()
	}
}

func (g *gpu) costly(at time.Time, out *hw.GPU) {
	g.ask("energy", []*metrics.Value{&out.Energy}, func() ([]float64, error) {
		mj, err := g.dev.Energy()
		return []float64{float64(mj) / 1e3}, err
	})
	g.link("pcie", &g.pcie, at, g.dev.PCIe, &out.PCIeSent, &out.PCIeReceived)
	g.link("nvlink", &g.nvlink, at, g.dev.NVLink, &out.NVLinkSent, &out.NVLinkReceived)
	g.learnUse()
}

// ask fills in figures. One that the GPU or this driver does not have is asked for once and absent from then on.
func (g *gpu) ask(what string, into []*metrics.Value, read func() ([]float64, error)) {
	v, known := g.never[what]
	if !known {
		figures, err := read()
		if err == nil {
			for i, f := range figures {
				*into[i] = metrics.Of(f)
			}
			return
		}
		v = g.refused(err)
		if c := code(err); c == codeNotSupported || c == codeNoFunction || c == codeNoPermission {
			g.never[what] = v
		}
	}
	for _, p := range into {
		*p = v
	}
}

// refused is the absent value of an error, which may also be the end of the GPU.
func (g *gpu) refused(err error) metrics.Value {
	if gone(err) && g.lost == "" {
		g.lost = err.Error()
	}
	return metrics.Absent(err.Error())
}

func (g *gpu) link(what string, r *rate, at time.Time, read func() (counters, error), sent, received *metrics.Value) {
	var now counters
	var a, b metrics.Value
	g.ask(what, []*metrics.Value{&a, &b}, func() ([]float64, error) {
		var err error
		now, err = read()
		return []float64{0, 0}, err
	})
	if !a.OK() {
		*sent, *received = a, a
		return
	}
	*sent, *received = r.next(at, now)
}

// rate makes bytes per second of two readings of a pair of counters.
type rate struct {
	at   time.Time
	last counters
}

func (r *rate) next(at time.Time, now counters) (sent, received metrics.Value) {
	old, since := r.last, at.Sub(r.at).Seconds()
	first := r.at.IsZero()
	r.at, r.last = at, now
	if first || since <= 0 {
		v := metrics.Absent(hw.NotThisTime)
		return v, v
	}
	per := func(a, b uint64) metrics.Value {
		d := b - a // wraps with 64 bits by itself
		if now.bits < 64 {
			d &= 1<<now.bits - 1
		}
		return metrics.Of(float64(d) / since)
	}
	return per(old.sent, now.sent), per(old.received, now.received)
}

// learnUse reads the use of the SMs by process since the last look, the mean of the driver's samples.
func (g *gpu) learnUse() {
	samples, err := g.dev.ProcessUtilization(g.seen)
	g.use, g.noUse = map[uint32]metrics.Value{}, ""
	switch c := code(err); {
	case err == nil:
	case c == codeNotFound || c == codeNoData: // no process has run since
		return
	default:
		g.noUse = g.refused(err).Reason()
		return
	}
	sum, n := map[uint32]float64{}, map[uint32]float64{}
	for _, s := range samples {
		if s.stamp <= g.seen { // the ring holds what was read before
			continue
		}
		sum[s.pid] += float64(s.sm) / 100
		n[s.pid]++
	}
	for _, s := range samples {
		g.seen = max(g.seen, s.stamp)
	}
	for pid := range sum {
		g.use[pid] = metrics.Of(sum[pid] / n[pid])
	}
}

func (g *gpu) processes(out *hw.GPU) {
	list, err := g.dev.Processes()
	if err != nil {
		out.Processes, out.NoProcesses = nil, g.refused(err).Reason()
		return
	}
	out.Processes, out.NoProcesses = []hw.GPUProcess{}, ""
	slices.SortFunc(list, func(a, b process) int { return int(a.pid) - int(b.pid) })
	for _, p := range list {
		one := hw.GPUProcess{PID: int(p.pid), Memory: ofBytes(p.memory)}
		if p.memory == unknownMemory {
			one.Memory = metrics.Absent("the driver does not tell the memory of a process here")
		}
		switch v, ok := g.use[p.pid]; {
		case g.noUse != "":
			one.SMUtil = metrics.Absent(g.noUse)
		case ok:
			one.SMUtil = v
		default:
			one.SMUtil = metrics.Absent("no sample of this process in the last 5 s")
		}
		out.Processes = append(out.Processes, one)
	}
}

// instances reads the MIG instances. They may be made and destroyed while the driver runs, so they are listed at each slow look.
func (g *gpu) instances(at time.Time, l look, out *hw.GPU) {
	if l.slow {
		list, err := g.dev.Instances()
		if err != nil {
			g.refused(err)
			return
		}
		old := map[string]*gpu{}
		for _, p := range g.parts {
			old[p.uuid] = p
		}
		g.parts = nil
		for _, d := range list {
			p := newGPU(g.index, d)
			if known := old[p.uuid]; known != nil && p.uuid != "" {
				known.dev = d
				p = known
			} else if gi, ci, err := d.Instance(); err == nil {
				p.instance = fmt.Sprintf("gi %d ci %d", gi, ci)
			} else {
				p.instance = err.Error()
			}
			p.cut = false
			g.parts = append(g.parts, p)
		}
	}
	for _, p := range g.parts {
		out.MIG = append(out.MIG, p.read(at, l))
	}
}

func ofBytes(n uint64) metrics.Value { return metrics.Of(float64(n)) }
