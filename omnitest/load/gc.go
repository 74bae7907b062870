package load

import (
	"runtime"
	"runtime/debug"
	"sync"
)

// holds are the holds on the collector of this process, and what was set before the first.
var holds struct {
	mu      sync.Mutex
	n       int
	percent int
	limit   int64
}

// heldBytes is the default of HoldGC: 24,000 events/s of 220 bytes with their payloads kept fill it in two minutes.
const heldBytes = 1 << 30

// HoldGC collects garbage now and then not again until the heap has grown by extra bytes (0: 1 GiB), or until release is called,
// which restores what was set. It is for the time of one run: with one core the marking of a heap that holds a run's events
// stops its streams for milliseconds. Measured with 480 streams and 24,000 events/s on one core: event lateness p99 1.6 to 2.5 ms
// without collections, 3.8 to 13 ms with them (benchmark Receive in api, GOGC=off and 100). vLLM's client freezes its collector
// for the same reason.
//
// The setting is the process's, not the run's: two runs at once hold it together, and only the last release restores it. Once the
// heap has grown by extra, collections come as they must; memory stays bounded.
func HoldGC(extra int64) (release func()) {
	if extra <= 0 {
		extra = heldBytes
	}
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	limit := int64(m.Sys-m.HeapReleased) + extra

	holds.mu.Lock()
	defer holds.mu.Unlock()
	if holds.n == 0 {
		holds.limit = debug.SetMemoryLimit(-1)
		holds.percent = debug.SetGCPercent(-1)
	}
	holds.n++
	debug.SetMemoryLimit(min(limit, holds.limit))
	released := false
	return func() {
		holds.mu.Lock()
		defer holds.mu.Unlock()
		if released {
			return
		}
		released = true
		if holds.n--; holds.n == 0 {
			debug.SetGCPercent(holds.percent)
			debug.SetMemoryLimit(holds.limit)
		}
	}
}
