package hw

import (
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/metrics"
)

// fewMoves is below how many steps of the energy counter power over time is the better figure: a source that collects rarely (an
// exporter, every 30 s) shows the same counter again and again, and a step may hold time from before the window.
const fewMoves = 3

// energy is what one GPU took: by its own counter, or where there is none, or it hardly moved, as power over time.
type energy struct {
	first, last  metrics.Value // counter
	joules       float64       // power over time, by trapezoids
	head         float64       // the same before the counter was read first
	since        float64       // and since the counter was read last: reading it costs much, so that it is read less often
	at           time.Duration
	power        float64
	powers       int
	moves        int
	why          string
	counterFalls bool
}

func (e *energy) add(at time.Duration, g GPU) {
	counted, begun := false, e.first.OK()
	if now, ok := g.Energy.Get(); ok {
		if !e.first.OK() {
			e.first = g.Energy
		}
		if last, ok := e.last.Get(); ok && now < last {
			e.counterFalls = true // the driver was loaded anew
		} else if ok && now > last {
			e.moves++
		}
		e.last, counted = g.Energy, true
	} else if e.why == "" && g.Energy.Reason() != NotThisTime {
		e.why = g.Energy.Reason()
	}
	if p, ok := g.Power.Get(); ok {
		if e.powers > 0 {
			j := (p + e.power) / 2 * (at - e.at).Seconds()
			e.joules += j
			e.since += j
		}
		e.at, e.power = at, p
		e.powers++
	}
	if counted && !begun {
		e.head = e.since
	}
	if counted {
		e.since = 0
	}
}

func (e *energy) result() (metrics.Value, string) {
	first, ok1 := e.first.Get()
	last, ok2 := e.last.Get()
	switch {
	case ok1 && ok2 && e.counterFalls:
		return metrics.Absent("the energy counter fell: the driver was loaded anew"), ""
	case ok1 && ok2 && e.moves >= fewMoves:
		return metrics.Of(last - first + e.head + e.since), "counter"
	case e.powers >= 2:
		return metrics.Of(e.joules), "power over time"
	case e.moves > 0:
		return metrics.Of(last - first + e.head + e.since), "counter"
	case ok1:
		return metrics.Absent("the energy counter did not move in the window"), ""
	case e.why != "":
		return metrics.Absent(e.why), ""
	}
	return metrics.Absent("no sample in the window"), ""
}

// counted is how much a counter rose.
type counted struct {
	first, last metrics.Value
	why         string
}

func (c *counted) add(v metrics.Value) {
	if !v.OK() {
		if c.why == "" && v.Reason() != NotThisTime {
			c.why = v.Reason()
		}
		return
	}
	if !c.first.OK() {
		c.first = v
	}
	c.last = v
}

func (c *counted) result() metrics.Value {
	first, ok := c.first.Get()
	last, _ := c.last.Get()
	switch {
	case ok && last >= first:
		return metrics.Of(last - first)
	case ok:
		return metrics.Absent(fmt.Sprintf("the counter fell from %g to %g", first, last))
	case c.why != "":
		return metrics.Absent(c.why)
	}
	return metrics.Absent("no sample in the window")
}

// gpuSum sums up one GPU.
type gpuSum struct {
	id        GPU // the last reading that knew its name
	samples   int
	from, to  time.Duration // first and last reading
	ended     string
	memory    gauge
	util      gauge
	memUtil   gauge
	power     gauge
	smClock   gauge
	memClock  gauge
	temp      gauge
	pcieOut   gauge
	pcieIn    gauge
	nvlinkOut gauge
	nvlinkIn  gauge
	total     metrics.Value
	energy    energy
	corrected counted
	uncorr    counted
	throttle  throttling
	xids      []int
	noXids    string
	noProcs   string
	parts     []*gpuSum
}

func newGPUSum(step time.Duration) *gpuSum {
	g := newGauge(step)
	return &gpuSum{memory: g, util: g, memUtil: g, power: g, smClock: g, memClock: g, temp: g, pcieOut: g, pcieIn: g, nvlinkOut: g, nvlinkIn: g}
}

// is tells that a reading is of this GPU. One that was lost may have no name any more.
func (s *gpuSum) is(g GPU) bool {
	return s.id.Index == g.Index && (s.id.UUID == g.UUID || g.UUID == "" || s.id.UUID == "")
}

// maxXids bounds what is kept of a GPU that reports without end.
const maxXids = 256

func (s *gpuSum) add(at time.Duration, step time.Duration, g GPU) {
	if s.id.UUID == "" {
		s.id = g
	}
	if len(s.xids) < maxXids {
		s.xids = append(s.xids, g.Xids...)
	}
	if g.NoXids != "" && s.noXids == "" {
		s.noXids = g.NoXids
	}
	if g.Lost != "" {
		if s.ended == "" {
			s.ended = fmt.Sprintf("GPU %d lost at %.2f s of the window: %s", g.Index, at.Seconds(), g.Lost)
		}
		if s.samples > 0 {
			return // the series stops; what was measured stays
		}
	} else {
		if s.samples == 0 {
			s.from = at
		}
		s.to = at
		s.samples++
	}
	s.memory.add(at, g.MemoryUsed)
	s.util.add(at, g.SMUtil)
	s.memUtil.add(at, g.MemoryUtil)
	s.power.add(at, g.Power)
	s.smClock.add(at, g.SMClock)
	s.memClock.add(at, g.MemoryClock)
	s.temp.add(at, g.Temperature)
	s.pcieOut.add(at, g.PCIeSent)
	s.pcieIn.add(at, g.PCIeReceived)
	s.nvlinkOut.add(at, g.NVLinkSent)
	s.nvlinkIn.add(at, g.NVLinkReceived)
	if g.MemoryTotal.OK() || !s.total.OK() && g.MemoryTotal.Reason() != NotThisTime {
		s.total = g.MemoryTotal
	}
	s.energy.add(at, g)
	s.corrected.add(g.ECCCorrected)
	s.uncorr.add(g.ECCUncorrected)
	s.throttle.add(g)
	if g.NoProcesses != "" && g.NoProcesses != NotThisTime {
		s.noProcs = g.NoProcesses
	}
	for _, m := range g.MIG {
		s.part(m, step).add(at, step, m)
	}
}

// part finds the sum of a MIG instance; they come and go.
func (s *gpuSum) part(m GPU, step time.Duration) *gpuSum {
	for _, p := range s.parts {
		if p.id.UUID == m.UUID && p.id.Instance == m.Instance {
			return p
		}
	}
	p := newGPUSum(step)
	p.id = m
	s.parts = append(s.parts, p)
	return p
}

func (s *gpuSum) series() GPUSeries {
	out := GPUSeries{
		Index: s.id.Index, UUID: s.id.UUID, Name: s.id.Name, Instance: s.id.Instance, Samples: s.samples, Ended: s.ended,
		MemoryTotal: s.total, PeakMemory: s.memory.max(), MeanMemory: s.memory.mean(),
		MeanUtil: s.util.mean(), PeakUtil: s.util.max(), MemoryUtil: s.memUtil.mean(),
		MeanPower: s.power.mean(), PeakPower: s.power.max(),
		MeanSMClock: s.smClock.mean(), MinSMClock: s.smClock.min(), MemoryClock: s.memClock.mean(), Temperature: s.temp.max(),
		PCIeSent: s.pcieOut.mean(), PCIeReceived: s.pcieIn.mean(), NVLinkSent: s.nvlinkOut.mean(), NVLinkRecv: s.nvlinkIn.mean(),
		ECCCorrected: s.corrected.result(), ECCUncorrected: s.uncorr.result(),
		Xids: s.xids, NoXids: s.noXids, NoProcesses: s.noProcs,
		seconds: (s.to - s.from).Seconds(),
	}
	out.Energy, out.EnergyHow = s.energy.result()
	out.Throttled, out.NoThrottle = s.throttle.result()
	for _, t := range []struct {
		g          *gauge
		name, unit string
	}{
		{&s.memory, "GPU memory", "bytes"}, {&s.util, "GPU utilisation", "share"}, {&s.power, "GPU power", "W"},
		{&s.smClock, "SM clock", "MHz"}, {&s.temp, "GPU temperature", "C"}, {&s.pcieIn, "PCIe received", "bytes/s"},
		{&s.pcieOut, "PCIe sent", "bytes/s"}, {&s.nvlinkIn, "NVLink received", "bytes/s"}, {&s.nvlinkOut, "NVLink sent", "bytes/s"},
	} {
		if t.g.n > 0 {
			out.Tracks = append(out.Tracks, t.g.track.result(t.name, t.unit))
		}
	}
	for _, p := range s.parts {
		out.MIG = append(out.MIG, p.series())
	}
	return out
}
