package hw

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"

	"github.com/omnitest/suite/omnitest/metrics"
)

// owners says to which tree a process belongs, also after it has ended: the driver lists a process a little longer than it lives.
type owners struct {
	mu     sync.Mutex
	root   map[int]int // pid -> root pid; 0: of no tree
	parent func(pid int) (int, error)
}

func newOwners() *owners {
	return &owners{root: map[int]int{}, parent: func(pid int) (int, error) {
		up, err := (&process.Process{Pid: int32(pid)}).Ppid()
		return int(up), err
	}}
}

func (o *owners) put(pid, root int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.root[pid] = root
}

// of finds the tree. A process that was born since the last look at the process table is followed up to one that is known.
func (o *owners) of(pid int) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	var way []int
	root := 0
	for at := pid; at > 1 && len(way) < 64; {
		if r, known := o.root[at]; known {
			root = r
			break
		}
		way = append(way, at)
		up, err := o.parent(at)
		if err != nil {
			break
		}
		at = up
	}
	for _, p := range way {
		o.root[p] = root
	}
	return root
}

// stageSum is one stage's share of the GPUs.
type stageSum struct {
	name    string
	root    int      // 0: attached by URL
	devices []string // the GPUs that it has, as a stack file names them, lower case
	shared  string   // another stage that lists one of them

	found        bool
	others       int // most processes of other trees that were seen at once
	lists        bool
	noLists      string
	memory       gauge // of its processes
	util         gauge
	whole        gauge // of its devices
	wholeUtil    gauge
	used         map[int]bool
	with         map[int]string // by GPU: who else was on it
	energies     map[int]*energy
	deviceEnergy map[int]*energy
}

func newStageSum(name string, root int, devices []string, step time.Duration) *stageSum {
	g := newGauge(step)
	s := &stageSum{name: name, root: root, memory: g, util: g, whole: g, wholeUtil: g,
		used: map[int]bool{}, with: map[int]string{}, energies: map[int]*energy{}, deviceEnergy: map[int]*energy{}}
	for _, d := range devices {
		s.devices = append(s.devices, strings.ToLower(strings.TrimSpace(d)))
	}
	return s
}

// take looks for the stage in one reading.
func (s *stageSum) take(at time.Duration, gpus []GPU, owner *owners) {
	memory, util := metrics.Of(0), metrics.Of(0)
	known, mine := false, false
	others := 0
	for _, g := range gpus {
		if g.Lost != "" {
			continue
		}
		s.energy(at, g, s.energies)
		if g.NoProcesses != "" && len(g.MIG) == 0 {
			if s.noLists == "" {
				s.noLists = g.NoProcesses
			}
			memory = metrics.Absent(g.NoProcesses)
			continue
		}
		known, s.lists = true, true
		for _, p := range allProcesses(g) {
			if s.root != 0 && owner.of(p.PID) == s.root {
				mine, s.found = true, true
				s.used[g.Index] = true
				memory, util = plus(memory, p.Memory), plus(util, p.SMUtil)
				continue
			}
			others++
			if s.with[g.Index] == "" {
				s.with[g.Index] = fmt.Sprintf("process %d", p.PID)
			}
		}
	}
	s.others = max(s.others, others)
	if known {
		s.memory.add(at, memory)
		if mine {
			s.util.add(at, util)
		}
	}
	s.takeDevices(at, gpus)
}

func (s *stageSum) energy(at time.Duration, g GPU, into map[int]*energy) {
	if into[g.Index] == nil {
		into[g.Index] = &energy{}
	}
	into[g.Index].add(at, g)
}

func (s *stageSum) takeDevices(at time.Duration, gpus []GPU) {
	if len(s.devices) == 0 {
		return
	}
	mine := map[string]bool{}
	for _, d := range s.devices {
		mine[d] = true
	}
	memory, util := metrics.Of(0), metrics.Of(0)
	n := 0
	for _, g := range gpus {
		if g.Lost == "" && listed(mine, g) {
			memory, util = plus(memory, g.MemoryUsed), plus(util, g.SMUtil)
			s.energy(at, g, s.deviceEnergy)
			n++
		}
	}
	if n > 0 {
		s.whole.add(at, memory)
		s.wholeUtil.add(at, util)
	}
}

// allProcesses lists a GPU's processes once each: with MIG the instances tell them, and the GPU itself may do so again.
func allProcesses(g GPU) []GPUProcess {
	var all []GPUProcess
	seen := map[int]bool{}
	for _, m := range g.MIG {
		for _, p := range m.Processes {
			seen[p.PID] = true
			all = append(all, p)
		}
	}
	for _, p := range g.Processes {
		if !seen[p.PID] {
			all = append(all, p)
		}
	}
	return all
}

// result decides by what the stage was recognised: its processes, or else GPUs that it alone has.
func (s *stageSum) result() *StageGPU {
	switch {
	case s.found:
		return s.byProcess()
	case s.whole.n > 0 && s.shared == "":
		return s.byDevice()
	}
	return &StageGPU{Absent: s.why()}
}

func (s *stageSum) why() string {
	switch {
	case s.shared != "":
		return fmt.Sprintf("its GPUs are also those of %s, and no process of it is seen on them", s.shared)
	case s.root == 0:
		return AttachedByURL + ", and the GPUs that it has for itself are not named"
	case !s.lists && s.noLists != "":
		return s.noLists
	case s.others > 0:
		return fmt.Sprintf("no process of its tree among the %d that the driver shows: it has none on a GPU, or runs in another PID namespace", s.others)
	}
	return "the driver shows no process on any GPU: it has none, or runs in another PID namespace"
}

func (s *stageSum) byProcess() *StageGPU {
	out := &StageGPU{How: "process", GPUs: slices.Sorted(maps.Keys(s.used)), PeakMemory: s.memory.max(), MeanMemory: s.memory.mean(), MeanUtil: s.util.mean()}
	for i, gpu := range out.GPUs {
		if who := s.with[gpu]; who != "" {
			out.Energy = metrics.Absent(fmt.Sprintf("GPU %d is shared with %s", gpu, who))
			break
		}
		e, _ := s.energies[gpu].result()
		if out.Energy = plus(out.Energy, e); i == 0 {
			out.Energy = e
		}
	}
	out.Tracks = append(out.Tracks, s.memory.track.result("GPU memory", "bytes"))
	if s.util.n > 0 {
		out.Tracks = append(out.Tracks, s.util.track.result("GPU utilisation", "GPUs"))
	}
	return out
}

func (s *stageSum) byDevice() *StageGPU {
	out := &StageGPU{How: "device", GPUs: slices.Sorted(maps.Keys(s.deviceEnergy)), PeakMemory: s.whole.max(), MeanMemory: s.whole.mean(), MeanUtil: s.wholeUtil.mean()}
	for i, gpu := range out.GPUs {
		e, _ := s.deviceEnergy[gpu].result()
		if out.Energy = plus(out.Energy, e); i == 0 {
			out.Energy = e
		}
	}
	out.Tracks = append(out.Tracks, s.whole.track.result("GPU memory", "bytes"), s.wholeUtil.track.result("GPU utilisation", "GPUs"))
	return out
}
