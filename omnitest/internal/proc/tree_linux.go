package proc

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// stat is what /proc/PID/stat tells (proc_pid_stat(5)).
type stat struct {
	comm         string
	state        byte
	parent, pgrp int
	start        uint64 // clock ticks since boot; with the pid it names a process for ever
}

func (s stat) alive() bool { return s.state != 'Z' && s.state != 'X' }

// processes reads the process table. It is empty where /proc is missing.
func processes() map[int]stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	table := make(map[int]stat, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := readStat(name); ok {
			table[pid] = s
		}
	}
	return table
}

// readStat reads the line of a process, "12", or of a thread, "12/task/13".
func readStat(name string) (stat, bool) {
	b, err := os.ReadFile("/proc/" + name + "/stat")
	if err != nil {
		return stat{}, false
	}
	// "123 (any name, even with ) in it) S 1 123 ..."
	open, shut := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || shut < open {
		return stat{}, false
	}
	w := strings.Fields(string(b[shut+1:]))
	if len(w) < 20 {
		return stat{}, false
	}
	s := stat{comm: string(b[open+1 : shut]), state: w[0][0]}
	s.parent, _ = strconv.Atoi(w[1])
	s.pgrp, _ = strconv.Atoi(w[2])
	s.start, _ = strconv.ParseUint(w[19], 10, 64)
	return s, true
}

// groupAlive says whether a process group has a member that is not a zombie (an init that never reaps, as in many
// containers, keeps zombies in the group for ever). reaped: its leader was waited for, so that a living process with
// the leader's number is a stranger who got the number anew.
func groupAlive(group int, reaped bool) bool {
	if !signalReaches(group) {
		return false
	}
	table := processes()
	if len(table) == 0 {
		return true
	}
	if _, stranger := table[group]; reaped && stranger {
		return false
	}
	for _, s := range table {
		if s.pgrp == group && s.alive() {
			return true
		}
	}
	return false
}

// groupHalted says whether every thread of every living process of a group is stopped (state T). A process in vfork sleeps in the
// kernel (state D) until its child has started another program; where that child was stopped first, it sleeps on and is as good
// as stopped.
func groupHalted(group int) bool {
	table := processes()
	vforked := map[int]bool{}
	for _, s := range table {
		if s.state == 'T' {
			vforked[s.parent] = true
		}
	}
	for pid, s := range table {
		if s.pgrp != group || !s.alive() {
			continue
		}
		threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		for _, t := range threads {
			if s, ok := readStat(fmt.Sprintf("%d/task/%s", pid, t.Name())); ok && s.state != 'T' && !(s.state == 'D' && vforked[pid]) {
				return false
			}
		}
	}
	return true
}

// members names the living processes of a group, with their state: D is a process stuck in the kernel.
func members(group int) []string {
	var out []string
	for pid, s := range processes() {
		if s.pgrp == group && s.alive() {
			out = append(out, fmt.Sprintf("%d %s (state %c)", pid, s.comm, s.state))
		}
	}
	return out
}

// family gives the group's members, the carriers of the tag and all their descendants, with their start times.
func family(group int, tag string) map[int]uint64 {
	table := processes()
	kin := map[int]uint64{}
	for pid, s := range table {
		if s.pgrp == group || tagged(pid, tag) {
			kin[pid] = s.start
		}
	}
	for grown := true; grown; {
		grown = false
		for pid, s := range table {
			_, known := kin[pid]
			if _, child := kin[s.parent]; child && !known {
				kin[pid] = s.start
				grown = true
			}
		}
	}
	return kin
}

// escaped names the living processes of an engine outside its group: of the recorded kin, or with the tag.
func escaped(kin map[int]uint64, group int, tag string) map[int]string {
	out := map[int]string{}
	for pid, s := range processes() {
		if !s.alive() || s.pgrp == group {
			continue
		}
		if start, known := kin[pid]; known && start == s.start || tagged(pid, tag) {
			out[pid] = s.comm
		}
	}
	return out
}

// tagged says whether a process was started with OMNITEST_RUN=tag in its environment.
func tagged(pid int, tag string) bool {
	if pid == os.Getpid() {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false // gone, or another user's
	}
	want := []byte(RunTag + "=" + tag)
	for {
		i := bytes.Index(b, want)
		if i < 0 {
			return false
		}
		end := i + len(want)
		if (i == 0 || b[i-1] == 0) && (end == len(b) || b[end] == 0) {
			return true
		}
		b = b[end:]
	}
}
