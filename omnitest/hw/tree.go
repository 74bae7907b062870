package hw

import (
	"context"
	"fmt"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// tableAge is how old the view of who is whose child may become. Reading it costs a file per process of the machine.
const tableAge = time.Second

// tree is one root process with its descendants.
type tree struct {
	root    int32
	members map[int32]*member // seen and not yet known to be gone
	gone    float64           // CPU seconds inside the window of members that ended
	looked  bool              // the first look at the table is over: who appears now was born inside the window
	rss     rss
	most    int
	ended   string
	err     string

	details details
	step    time.Duration // of the tracks
	rssPath track
	cpuPath track
	cpuAt   time.Duration
	cpuWas  float64
}

// member is one process. Its CPU time counts from base: what it had used before the window is not the run's.
type member struct {
	p          *process.Process
	born       int64 // ms since the epoch
	base, last float64
	counts     counted4
}

// grow takes in the processes that the table shows under the root.
func (t *tree) grow(pids []int32, err error) {
	if err != nil {
		t.note(err)
	}
	if t.members == nil {
		t.members = map[int32]*member{}
	}
	for _, pid := range pids {
		p := &process.Process{Pid: pid}
		born, err := p.CreateTime()
		if err != nil {
			continue // gone since the table was read
		}
		// On some hosts the creation time is derived from the uptime and wanders by milliseconds, hence the 2 s.
		if old := t.members[pid]; old != nil && born-old.born < 2000 && old.born-born < 2000 {
			continue
		} else if old != nil {
			t.drop(pid) // the pid was given to a new process
		}
		n := &member{p: p, born: born}
		if times, err := p.Times(); err == nil && !t.looked {
			n.base = times.User + times.System
			n.last = n.base
		}
		t.members[pid] = n
	}
	t.looked = true
}

// sample reads every member; false when the root is gone, and then for good.
func (t *tree) sample(ctx context.Context, at time.Duration) (sum int64, alive bool) {
	if t.ended != "" {
		return 0, false
	}
	live := 0
	rootAlive := false
	for pid, m := range t.members {
		times, err := m.p.TimesWithContext(ctx)
		if err != nil {
			t.drop(pid)
			continue
		}
		mem, err := m.p.MemoryInfoWithContext(ctx)
		if err != nil {
			t.drop(pid)
			continue
		}
		// A zombie still has its CPU times on Linux. Elsewhere a dead process reads as zeros, not as an error.
		m.last = max(m.last, times.User+times.System)
		if mem.RSS == 0 {
			t.drop(pid)
			continue
		}
		sum += int64(mem.RSS)
		live++
		rootAlive = rootAlive || pid == t.root
	}
	if ctx.Err() != nil && !rootAlive {
		return 0, false // the reads were cut short, nothing is known
	}
	if !rootAlive {
		t.ended = fmt.Sprintf("process %d ended before %.2f s of the window", t.root, at.Seconds())
		for pid := range t.members {
			t.drop(pid)
		}
		return 0, false
	}
	t.most = max(t.most, live)
	t.rss.add(sum)
	t.rssPath.add(at, float64(sum))
	// CPU time comes in ticks of 10 ms: over a moment it would be any number of cores.
	if now := t.cpu(); t.rss.n == 1 {
		t.cpuAt, t.cpuWas = at, now
	} else if span := at - t.cpuAt; span >= t.step/2 {
		t.cpuPath.add(t.cpuAt, (now-t.cpuWas)/span.Seconds())
		t.cpuAt, t.cpuWas = at, now
	}
	return sum, true
}

func (t *tree) drop(pid int32) {
	if m := t.members[pid]; m != nil {
		t.gone += m.last - m.base
		for k := range counterKinds {
			t.details.gone[k] += m.counts.last[k] - m.counts.base[k]
		}
		delete(t.members, pid)
	}
}

func (t *tree) cpu() float64 {
	sum := t.gone
	for _, m := range t.members {
		sum += m.last - m.base
	}
	return sum
}

func (t *tree) note(err error) {
	if t.err == "" {
		t.err = err.Error()
	}
}

func (t *tree) series() Series {
	s := Series{PID: int(t.root), Samples: t.rss.n, PeakRSS: t.rss.peak, MeanRSS: t.rss.mean(), CPUSeconds: t.cpu(),
		Processes: t.most, Ended: t.ended, Err: t.err}
	if s.Samples == 0 {
		return Series{PID: s.PID, Err: s.Err, Absent: fmt.Sprintf("process %d was not running when the window began", t.root)}
	}
	s.PeakPSS, s.PeakThreads, s.PeakFDs = t.details.pss.max(), t.details.threads.max(), t.details.fds.max()
	s.VoluntarySwitches, s.InvoluntarySwitches = t.counter(voluntary), t.counter(involuntary)
	s.DiskRead, s.DiskWritten = t.counter(diskRead), t.counter(diskWritten)
	if t.details.netns != nil {
		s.NetSent, s.NetReceived = t.details.netns.result()
	}
	s.Tracks = []Track{t.rssPath.result("memory RSS", "bytes"), t.cpuPath.result("CPU", "cores"),
		t.details.threads.track.result("threads", "threads"), t.details.fds.track.result("open files", "files")}
	return s
}

func newTree(root int, step time.Duration) *tree {
	slow := max(step, tableAge)
	t := &tree{root: int32(root), step: step, rssPath: track{step: step}, cpuPath: track{step: step}}
	t.details.threads, t.details.fds, t.details.pss = newGauge(slow), newGauge(slow), newGauge(slow)
	return t
}

// rss keeps peak and mean of a memory series in constant space: a soak samples for days.
type rss struct {
	n         int
	peak, sum int64
}

func (r *rss) add(bytes int64) {
	r.n++
	r.peak = max(r.peak, bytes)
	r.sum += bytes
}

func (r *rss) mean() int64 {
	if r.n == 0 {
		return 0
	}
	return r.sum / int64(r.n)
}

// table is the last look at the machine's processes: who is whose child.
type table struct {
	read     time.Time
	parent   map[int32]int32
	children map[int32][]int32
	err      error
}

// reload lists the processes and asks only the new ones for their parent: that is a file each, and a GPU host runs
// thousands. So a process keeps the parent under which it was first seen, also when that one dies and it is orphaned.
func (t *table) reload(ctx context.Context) {
	t.read = time.Now()
	pids, err := process.PidsWithContext(ctx)
	t.err = err
	parent := make(map[int32]int32, len(pids))
	t.children = map[int32][]int32{}
	for _, pid := range pids {
		up, known := t.parent[pid]
		if !known {
			p := process.Process{Pid: pid}
			if up, err = p.PpidWithContext(ctx); err != nil {
				continue // ended meanwhile
			}
		}
		parent[pid] = up
		t.children[up] = append(t.children[up], pid)
	}
	t.parent = parent
}

// descendants gives the root and all below it, without what belongs to another root.
func (t *table) descendants(root int32, roots map[int]*tree) []int32 {
	all := []int32{root}
	for i := 0; i < len(all); i++ {
		for _, child := range t.children[all[i]] {
			if roots[int(child)] == nil {
				all = append(all, child)
			}
		}
	}
	return all
}
