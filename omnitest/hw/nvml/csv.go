package nvml

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

// essential fields come first and cannot be left out.
const essential = 4

// field is a column of nvidia-smi --query-gpu and where it goes. Units are those of --format=nounits: MiB, %, W, MHz, C.
type field struct {
	name  string
	scale float64 // to our unit
	value func(*hw.GPU) *metrics.Value
}

var figures = []field{
	{"memory.total", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryTotal }},
	{"memory.used", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryUsed }},
	{"memory.reserved", 1 << 20, func(g *hw.GPU) *metrics.Value { return &g.MemoryReserved }},
	{"utilization.gpu", 0.01, func(g *hw.GPU) *metrics.Value { return &g.SMUtil }},
	{"utilization.memory", 0.01, func(g *hw.GPU) *metrics.Value { return &g.MemoryUtil }},
	{"power.draw", 1, func(g *hw.GPU) *metrics.Value { return &g.Power }},
	{"clocks.sm", 1, func(g *hw.GPU) *metrics.Value { return &g.SMClock }},
	{"clocks.mem", 1, func(g *hw.GPU) *metrics.Value { return &g.MemoryClock }},
	{"temperature.gpu", 1, func(g *hw.GPU) *metrics.Value { return &g.Temperature }},
	{"ecc.errors.corrected.volatile.total", 1, func(g *hw.GPU) *metrics.Value { return &g.ECCCorrected }},
	{"ecc.errors.uncorrected.volatile.total", 1, func(g *hw.GPU) *metrics.Value { return &g.ECCUncorrected }},
}

// Drivers of the 535 branch and later name the reasons clocks_event_reasons and still answer to the old name.
const throttleField = "clocks_throttle_reasons.active"

func queryFields() []string {
	all := []string{"index", "uuid", "name", "driver_version"}
	for _, f := range figures {
		all = append(all, f.name)
	}
	return append(all, throttleField, "mig.mode.current")
}

// parseGPUs reads the lines of nvidia-smi --query-gpu=<fields> --format=csv,noheader,nounits.
func parseGPUs(out []byte, fields []string, absent map[string]string) (gpus []hw.GPU, driver string, err error) {
	r := csv.NewReader(strings.NewReader(string(out)))
	r.TrimLeadingSpace = true
	r.FieldsPerRecord = -1
	for {
		row, err := r.Read()
		if err == io.EOF {
			break
		}
		if err != nil || len(row) != len(fields) {
			return nil, "", fmt.Errorf("nvidia-smi wrote %q, want %d columns: %s", strings.Join(row, ", "), len(fields), strings.Join(fields, ","))
		}
		column := map[string]string{}
		for i, f := range fields {
			column[f] = strings.TrimSpace(row[i])
		}
		g, err := parseGPU(column, absent)
		if err != nil {
			return nil, "", err
		}
		driver = column["driver_version"]
		gpus = append(gpus, g)
	}
	if len(gpus) == 0 {
		return nil, "", fmt.Errorf("nvidia-smi shows no GPU: %q", strings.TrimSpace(string(out)))
	}
	return gpus, driver, nil
}

func parseGPU(column, absent map[string]string) (hw.GPU, error) {
	index, err := strconv.Atoi(column["index"])
	if err != nil {
		return hw.GPU{}, fmt.Errorf("nvidia-smi wrote index %q", column["index"])
	}
	g := hw.UnknownGPU(index, column["uuid"], column["name"], "nvidia-smi does not tell it")
	for _, f := range figures {
		text, asked := column[f.name]
		if !asked {
			*f.value(&g) = metrics.Absent(absent[f.name])
			continue
		}
		v := number(text, f.name)
		if lost(text) {
			return hw.LostGPU(index, column["uuid"], column["name"], "nvidia-smi: "+strings.Trim(text, "[]")), nil
		}
		if x, ok := v.Get(); ok {
			v = metrics.Of(x * f.scale)
			if f.scale < 1 {
				v = metrics.Of(x / 100) // 0.07, not 0.07000000000000001
			}
		}
		*f.value(&g) = v
	}
	throttled(&g, column[throttleField], absent[throttleField])
	return g, nil
}

// throttled reads the bits, "0x0000000000000004".
func throttled(g *hw.GPU, text, absent string) {
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0x"), 16, 64)
	switch {
	case text == "" && absent != "":
		g.NoThrottle = absent
	case err != nil:
		g.NoThrottle = number(text, throttleField).Reason()
	default:
		g.Throttle, g.NoThrottle = hw.ThrottleReasons(bits), ""
	}
}

// number reads a column. What is in brackets is nvidia-smi's way to say that there is no figure: [N/A], [Not Supported],
// [Unknown Error], [Insufficient Permissions].
func number(text, name string) metrics.Value {
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return metrics.Absent(fmt.Sprintf("nvidia-smi %s: %s", name, strings.Trim(text, "[]")))
	}
	return metrics.Of(x)
}

func lost(text string) bool {
	return text == "[GPU is lost]" || text == "[GPU requires reset]" || text == "[Reset Required]"
}

// parseApps reads the lines of nvidia-smi --query-compute-apps=gpu_uuid,pid,used_memory,process_name. A name may hold commas: it
// comes last.
func parseApps(out []byte, gpus []hw.GPU) {
	for i := range gpus {
		if gpus[i].Lost == "" {
			gpus[i].Processes, gpus[i].NoProcesses = []hw.GPUProcess{}, ""
		}
	}
	for line := range strings.Lines(string(out)) {
		col := strings.SplitN(line, ",", 4)
		if len(col) < 3 {
			continue // "No running processes found"
		}
		for i := range col {
			col[i] = strings.TrimSpace(col[i])
		}
		pid, err := strconv.Atoi(col[1])
		if err != nil {
			continue
		}
		p := hw.GPUProcess{PID: pid, SMUtil: metrics.Absent("nvidia-smi does not tell it")}
		if p.Memory = number(col[2], "used_memory"); p.Memory.OK() {
			mib, _ := p.Memory.Get()
			p.Memory = metrics.Of(mib * (1 << 20))
		}
		if len(col) == 4 {
			p.Name = col[3]
		}
		for i := range gpus {
			if gpus[i].UUID == col[0] {
				gpus[i].Processes = append(gpus[i].Processes, p)
			}
		}
	}
}
