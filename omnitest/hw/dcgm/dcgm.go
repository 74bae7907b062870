// Package dcgm reads the GPUs of another host from the /metrics page of NVIDIA's dcgm-exporter.
//
// The exporter collects every 30 s unless it is started with -c (milliseconds): between two collections the page repeats itself, and
// a peak between them is not seen. It does not tell processes: a stage gets what the GPUs have that it alone is given
// (hw.Meter.Devices).
package dcgm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/internal/prom"
	"github.com/omnitest/suite/omnitest/metrics"
)

// Source is a hw.GPUSource over one exporter.
type Source struct {
	URL     string        // "http://10.0.0.12:9400/metrics"
	Host    string        // only GPUs with this Hostname; "": all of the page
	Client  *http.Client  // nil: http.DefaultClient
	Every   time.Duration // shortest time between two scrapes; 0: 1 s
	Timeout time.Duration // of a scrape; 0: 5 s

	xid map[string]int // the last one, by GPU
}

// Close does nothing: each scrape is a request of its own.
func (s *Source) Close() error { return nil }

// ReadGPUs scrapes the page once.
func (s *Source) ReadGPUs(ctx context.Context) (hw.GPUReading, error) {
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(s.Timeout, 5*time.Second))
	defer cancel()
	page, err := prom.Scrape(ctx, s.Client, s.URL)
	if err != nil {
		return hw.GPUReading{}, err
	}
	gpus, driver := parse(page, s.Host)
	if len(gpus) == 0 {
		return hw.GPUReading{}, errors.New("no DCGM_FI series with a UUID on the page: " + s.URL)
	}
	s.xids(page, gpus)
	return hw.GPUReading{At: page.At, Source: "dcgm-exporter", Driver: driver, Every: cmp.Or(s.Every, time.Second), GPUs: gpus}, nil
}

// xids tells those that are new. The page has the last one of each GPU for ever, so what it has at first is old.
func (s *Source) xids(page *prom.Snapshot, gpus []hw.GPU) {
	first := s.xid == nil
	if first {
		s.xid = map[string]int{}
	}
	for i := range gpus {
		g := &gpus[i]
		g.NoXids = "the page has no " + xidSeries
		for _, x := range page.Each(xidSeries) {
			if x.Labels["UUID"] != g.UUID || x.Labels["GPU_I_ID"] != "" || blank(x.Value) != "" {
				continue
			}
			g.NoXids = ""
			if code := int(x.Value); code != s.xid[g.UUID] {
				s.xid[g.UUID] = code
				if !first && code != 0 {
					g.Xids = []int{code}
				}
			}
			break
		}
	}
}

// field is a series and where it goes.
type field struct {
	name  string
	scale float64 // to our unit
	value func(*hw.GPU) *metrics.Value
}

// Units are those of dcgm-exporter's etc/default-counters.csv: MiB, %, W, mJ, MHz, C, bytes/s.
var fields = []field{
	{"DCGM_FI_DEV_FB_USED", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryUsed }},
	{"DCGM_FI_DEV_FB_TOTAL", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryTotal }},
	{"DCGM_FI_DEV_FB_RESERVED", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryReserved }},
	{"DCGM_FI_DEV_GPU_UTIL", 0.01, func(g *hw.GPU) *metrics.Value { return &g.SMUtil }},
	{"DCGM_FI_DEV_MEM_COPY_UTIL", 0.01, func(g *hw.GPU) *metrics.Value { return &g.MemoryUtil }},
	{"DCGM_FI_DEV_POWER_USAGE", 1, func(g *hw.GPU) *metrics.Value { return &g.Power }},
	{"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 0.001, func(g *hw.GPU) *metrics.Value { return &g.Energy }},
	{"DCGM_FI_DEV_SM_CLOCK", 1, func(g *hw.GPU) *metrics.Value { return &g.SMClock }},
	{"DCGM_FI_DEV_MEM_CLOCK", 1, func(g *hw.GPU) *metrics.Value { return &g.MemoryClock }},
	{"DCGM_FI_DEV_GPU_TEMP", 1, func(g *hw.GPU) *metrics.Value { return &g.Temperature }},
	{"DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 1, func(g *hw.GPU) *metrics.Value { return &g.ECCCorrected }},
	{"DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 1, func(g *hw.GPU) *metrics.Value { return &g.ECCUncorrected }},
	{"DCGM_FI_PROF_PCIE_TX_BYTES", 1, func(g *hw.GPU) *metrics.Value { return &g.PCIeSent }},
	{"DCGM_FI_PROF_PCIE_RX_BYTES", 1, func(g *hw.GPU) *metrics.Value { return &g.PCIeReceived }},
	{"DCGM_FI_PROF_NVLINK_TX_BYTES", 1, func(g *hw.GPU) *metrics.Value { return &g.NVLinkSent }},
	{"DCGM_FI_PROF_NVLINK_RX_BYTES", 1, func(g *hw.GPU) *metrics.Value { return &g.NVLinkReceived }},
}

// engineActive stands in for the utilisation of MIG instances, which have none. It is the share of time in which the graphics or
// compute engine was active.
const engineActive = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"

const xidSeries = "DCGM_FI_DEV_XID_ERRORS"

var throttleSeries = []string{"DCGM_FI_DEV_CLOCKS_EVENT_REASONS", "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS"}

// id is one GPU, or one instance of it, on the page.
type id struct{ uuid, instance string }

// parse finds the GPUs of a page. Each figure is that of the first series of its GPU: with time slicing the exporter repeats a
// GPU for every pod that is on it, so a sum would count it several times.
func parse(page *prom.Snapshot, host string) (gpus []hw.GPU, driver string) {
	all := map[id]*hw.GPU{}
	find := func(l map[string]string) *hw.GPU {
		key := id{l["UUID"], l["GPU_I_ID"]}
		if key.uuid == "" || host != "" && host != cmp.Or(l["Hostname"], l["hostname"]) {
			return nil
		}
		if all[key] == nil {
			index, _ := strconv.Atoi(l["gpu"])
			g := hw.UnknownGPU(index, key.uuid, l["modelName"], "the exporter does not tell it")
			if key.instance != "" {
				g.Instance = "gi " + key.instance
			}
			all[key] = &g
		}
		driver = cmp.Or(driver, l["DCGM_FI_DRIVER_VERSION"])
		return all[key]
	}
	for _, f := range fields {
		seen := map[*hw.GPU]bool{}
		for _, x := range page.Each(f.name) {
			if g := find(x.Labels); g != nil && !seen[g] {
				seen[g] = true
				*f.value(g) = value(f.name, x.Value, f.scale)
			}
		}
	}
	for _, x := range page.Each(engineActive) {
		if g := find(x.Labels); g != nil && !g.SMUtil.OK() {
			g.SMUtil = value(engineActive, x.Value, 1)
		}
	}
	for _, name := range throttleSeries {
		for _, x := range page.Each(name) {
			if g := find(x.Labels); g != nil && g.NoThrottle != "" && blank(x.Value) == "" {
				g.Throttle, g.NoThrottle = hw.ThrottleReasons(uint64(x.Value)), ""
			}
		}
	}
	for _, x := range page.Each(xidSeries) {
		find(x.Labels)
	}
	for _, x := range page.Each("DCGM_FI_DEV_FB_FREE") {
		if g := find(x.Labels); g != nil {
			total(g, value("DCGM_FI_DEV_FB_FREE", x.Value, 1<<20))
		}
	}
	return collect(all), driver
}

// collect puts the instances below their GPUs, in the order of the indices.
func collect(all map[id]*hw.GPU) []hw.GPU {
	var gpus []hw.GPU
	for key, g := range all {
		if key.instance != "" {
			if whole := all[id{uuid: key.uuid}]; whole == nil { // the page may have figures of instances alone
				gpus = appendNew(gpus, hw.UnknownGPU(g.Index, g.UUID, g.Name, "the exporter tells it of MIG instances only"))
			}
			continue
		}
		gpus = append(gpus, *g)
	}
	slices.SortFunc(gpus, func(a, b hw.GPU) int {
		return cmp.Or(cmp.Compare(a.Index, b.Index), cmp.Compare(a.UUID, b.UUID))
	})
	for i := range gpus {
		g := &gpus[i]
		for key, part := range all {
			if key.uuid == g.UUID && key.instance != "" {
				g.MIG = append(g.MIG, *part)
			}
		}
		slices.SortFunc(g.MIG, func(a, b hw.GPU) int { return cmp.Compare(a.Instance, b.Instance) })
	}
	return gpus
}

func appendNew(gpus []hw.GPU, g hw.GPU) []hw.GPU {
	if slices.ContainsFunc(gpus, func(o hw.GPU) bool { return o.UUID == g.UUID }) {
		return gpus
	}
	return append(gpus, g)
}

// total adds up what older exporters tell in parts. That leaves out what the driver keeps for itself, unless it is told too.
func total(g *hw.GPU, free metrics.Value) {
	if g.MemoryTotal.OK() {
		return
	}
	used, ok1 := g.MemoryUsed.Get()
	left, ok2 := free.Get()
	if ok1 && ok2 {
		kept, _ := g.MemoryReserved.Get()
		g.MemoryTotal = metrics.Of(used + left + kept)
	}
}

// value reads a figure in our unit.
func value(name string, x, scale float64) metrics.Value {
	if why := blank(x); why != "" {
		return metrics.Absent(name + ": " + why)
	}
	if scale < 1 {
		return metrics.Of(x / math.Round(1/scale)) // 0.07, not 0.07000000000000001
	}
	return metrics.Of(x * scale)
}

// blank is what a value means that is none. DCGM has such for each of its types (dcgm_structs.h: DCGM_INT32_BLANK,
// DCGM_INT64_BLANK, DCGM_FP64_BLANK; plus 1: not found, 2: not supported, 3: not permitted), and the exporter prints
// some of them. As 64-bit floats the four of 64-bit integers are one.
func blank(x float64) string {
	meaning := []string{"blank", "not found", "not supported", "not permitted"}
	for _, base := range []float64{0x7ffffff0, 1 << 47} {
		if n := x - base; n >= 0 && n < 4 && n == math.Trunc(n) {
			return "DCGM has no value (" + meaning[int(n)] + ")"
		}
	}
	switch {
	case math.IsNaN(x) || math.IsInf(x, 0):
		return fmt.Sprintf("the page says %v", x)
	case x >= 0x7ffffffffffffff0:
		return "DCGM has no value (blank, not found, not supported or not permitted)"
	}
	return ""
}
