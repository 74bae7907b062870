package hw

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"

	"github.com/omnitest/suite/omnitest/metrics"
)

// pssEvery is how often the proportional set size is read: the kernel walks the page tables of a process for it.
const pssEvery = 10 * time.Second

// counter kinds of a process that only rise.
const (
	voluntary = iota
	involuntary
	diskRead
	diskWritten
	counterKinds
)

// counted4 are the counters of one member: what it had before the window, and now.
type counted4 struct{ base, last [counterKinds]float64 }

// details are what is looked at once a second and at the end of the window: too dear for every sample.
type details struct {
	threads, fds, pss gauge
	gone              [counterKinds]float64 // of members that ended
	why               [counterKinds]string  // a sum that lacks a part is not measured
	pssAt             time.Duration
	pssLooked         bool
	netns             *namespace
}

// namespace is the network of a stage that has one for itself.
type namespace struct {
	why            string
	path           string
	sent, received counted
}

// look reads the details of every member. first: what is there now was there before the window.
func (t *tree) look(ctx context.Context, at time.Duration, first, last bool) {
	d := &t.details
	var threads, fds, pss metrics.Value = metrics.Of(0), metrics.Of(0), metrics.Of(0)
	withPSS := last || !d.pssLooked || at-d.pssAt >= pssEvery
	if withPSS {
		d.pssAt, d.pssLooked = at, true
	}
	for _, m := range t.members {
		n, err := m.p.NumThreadsWithContext(ctx)
		threads = tally(threads, float64(n), err)
		f, err := m.p.NumFDsWithContext(ctx)
		fds = tally(fds, float64(f), err)
		if withPSS {
			bytes, err := proportional(ctx, m.p)
			pss = tally(pss, bytes, err)
		}
		t.count(ctx, m, first)
	}
	d.threads.add(at, threads)
	d.fds.add(at, fds)
	if withPSS {
		d.pss.add(at, pss)
	}
	if d.netns == nil {
		d.netns = ownNetwork(int(t.root))
	}
	d.netns.read(ctx)
}

// tally adds a process's figure to a sum. One that has just ended adds nothing; a refusal makes the sum absent.
func tally(sum metrics.Value, v float64, err error) metrics.Value {
	switch {
	case err == nil:
		return plus(sum, metrics.Of(v))
	case ended(err):
		return sum
	}
	return plus(sum, metrics.Absent(reason(err)))
}

func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) || errors.Is(err, process.ErrorProcessNotRunning)
}

// reason leaves the pid out of a path: the reason is the same for all processes.
func reason(err error) string {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

func (t *tree) count(ctx context.Context, m *member, first bool) {
	var now [counterKinds]float64
	var known [counterKinds]bool
	if s, err := m.p.NumCtxSwitchesWithContext(ctx); err == nil {
		now[voluntary], now[involuntary] = float64(s.Voluntary), float64(s.Involuntary)
		known[voluntary], known[involuntary] = true, true
	} else if !ended(err) {
		t.unknown(err, voluntary, involuntary)
	}
	if io, err := m.p.IOCountersWithContext(ctx); err == nil {
		now[diskRead], now[diskWritten] = float64(io.DiskReadBytes), float64(io.DiskWriteBytes)
		known[diskRead], known[diskWritten] = true, true
	} else if !ended(err) {
		t.unknown(err, diskRead, diskWritten)
	}
	for k, ok := range known {
		if !ok {
			continue
		}
		if first {
			m.counts.base[k] = now[k]
		}
		m.counts.last[k] = now[k]
	}
}

func (t *tree) unknown(err error, kinds ...int) {
	for _, k := range kinds {
		if t.details.why[k] == "" {
			t.details.why[k] = reason(err)
		}
	}
}

// counter is how much the tree's counter rose inside the window, as far as the last look at each process.
func (t *tree) counter(kind int) metrics.Value {
	if why := t.details.why[kind]; why != "" {
		return metrics.Absent(why)
	}
	sum := t.details.gone[kind]
	for _, m := range t.members {
		sum += m.counts.last[kind] - m.counts.base[kind]
	}
	return metrics.Of(sum)
}

// ownNetwork finds out whether a process has a network namespace for itself: the kernel counts traffic by namespace, not by
// process.
func ownNetwork(pid int) *namespace {
	theirs, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/net")
	ours, err2 := os.Readlink("/proc/self/ns/net")
	switch {
	case err != nil:
		return &namespace{why: "its network namespace: " + reason(err)}
	case err2 != nil:
		return &namespace{why: "our network namespace: " + reason(err2)}
	case theirs == ours:
		return &namespace{why: "it shares the host's network namespace, and traffic is counted by namespace (Window.Host)"}
	}
	return &namespace{path: "/proc/" + strconv.Itoa(pid) + "/net/dev"}
}

func (n *namespace) read(ctx context.Context) {
	if n.path == "" {
		return
	}
	all, err := net.IOCountersByFileWithContext(ctx, true, n.path)
	if err != nil {
		v := metrics.Absent(reason(err))
		n.sent.add(v)
		n.received.add(v)
		return
	}
	sent, received, _ := traffic(all)
	n.sent.add(metrics.Of(sent))
	n.received.add(metrics.Of(received))
}

func (n *namespace) result() (sent, received metrics.Value) {
	if n.why != "" {
		v := metrics.Absent(n.why)
		return v, v
	}
	return n.sent.result(), n.received.result()
}

// traffic sums over the interfaces, the loopback apart.
func traffic(all []net.IOCountersStat) (sent, received, loopback float64) {
	for _, i := range all {
		if i.Name == "lo" || i.Name == "lo0" {
			loopback += float64(i.BytesSent)
			continue
		}
		sent += float64(i.BytesSent)
		received += float64(i.BytesRecv)
	}
	return sent, received, loopback
}
