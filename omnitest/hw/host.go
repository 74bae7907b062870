package hw

import (
	"context"
	"runtime"
	"time"

	"github.com/shirou/gopsutil/v4/cpu"
	"github.com/shirou/gopsutil/v4/mem"
	"github.com/shirou/gopsutil/v4/net"

	"github.com/omnitest/suite/omnitest/metrics"
)

// Host is what the machine did as a whole inside the window: what the stages do not explain, somebody else did.
type Host struct {
	CPUs         int           `json:"cpus"`
	BusyCores    metrics.Value `json:"busy_cores"`  // mean
	Steal        metrics.Value `json:"steal_cores"` // mean; time that the hypervisor gave to others
	IOWait       metrics.Value `json:"iowait_cores"`
	MinAvailable metrics.Value `json:"min_available_memory_bytes"`
	NetSent      metrics.Value `json:"net_sent_bytes"` // all interfaces but the loopback
	NetReceived  metrics.Value `json:"net_received_bytes"`
	Loopback     metrics.Value `json:"loopback_bytes"`
	Tracks       []Track       `json:"-"`
}

// hostSum follows the host. Its looks are those at the process table.
type hostSum struct {
	began, last      cpu.TimesStat
	beganAt, lastAt  time.Duration
	looks            int
	why              string
	busy, steal      track
	available        gauge
	sent, recv, loop counted
}

func newHostSum(step time.Duration) *hostSum {
	return &hostSum{busy: track{step: step}, steal: track{step: step}, available: newGauge(step)}
}

func (h *hostSum) look(ctx context.Context, at time.Duration) {
	if all, err := cpu.TimesWithContext(ctx, false); err != nil || len(all) == 0 {
		if err != nil && h.why == "" {
			h.why = reason(err)
		}
	} else {
		now := all[0]
		if h.looks == 0 {
			h.began, h.beganAt = now, at
		} else if span := (at - h.lastAt).Seconds(); span > 0.2 { // the kernel counts in ticks of 10 ms
			h.busy.add(h.lastAt, (busy(now)-busy(h.last))/span)
			h.steal.add(h.lastAt, (now.Steal-h.last.Steal)/span)
		}
		h.last, h.lastAt = now, at
		h.looks++
	}
	if m, err := mem.VirtualMemoryWithContext(ctx); err == nil {
		h.available.add(at, metrics.Of(float64(m.Available)))
	} else {
		h.available.add(at, metrics.Absent(reason(err)))
	}
	sent, recv, loop := metrics.Value{}, metrics.Value{}, metrics.Value{}
	if all, err := net.IOCountersWithContext(ctx, true); err != nil {
		v := metrics.Absent(reason(err))
		sent, recv, loop = v, v, v
	} else {
		s, r, l := traffic(all)
		sent, recv, loop = metrics.Of(s), metrics.Of(r), metrics.Of(l)
	}
	h.sent.add(sent)
	h.recv.add(recv)
	h.loop.add(loop)
}

// busy is the CPU time in which something ran, of us or of others. Guest time is in user time already.
func busy(t cpu.TimesStat) float64 {
	return t.User + t.System + t.Nice + t.Irq + t.Softirq
}

func (h *hostSum) result() Host {
	out := Host{CPUs: runtime.NumCPU(), MinAvailable: h.available.min(), NetSent: h.sent.result(), NetReceived: h.recv.result(), Loopback: h.loop.result()}
	span := (h.lastAt - h.beganAt).Seconds()
	mean := func(rise float64) metrics.Value {
		switch {
		case h.why != "":
			return metrics.Absent(h.why)
		case h.looks < 2 || span <= 0:
			return metrics.Absent("the window is too short")
		}
		return metrics.Of(rise / span)
	}
	out.BusyCores = mean(busy(h.last) - busy(h.began))
	out.IOWait = mean(h.last.Iowait - h.began.Iowait)
	out.Steal = mean(h.last.Steal - h.began.Steal)
	if runtime.GOOS != "linux" {
		out.Steal = metrics.Absent("not told on this system")
	}
	if h.looks > 1 {
		out.Tracks = []Track{h.busy.result("host CPU", "cores"), h.steal.result("steal", "cores"), h.available.track.result("available memory", "bytes")}
	}
	return out
}
