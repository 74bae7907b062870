package nvml

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
)

// Published output of `nvidia-smi --query-gpu=power.limit,...,pstate --format=csv,noheader,nounits` of a GeForce RTX 2080 under
// driver 440.64 (github.com/Ricks-Lab/gpu-utils, issue 83): a figure that the board does not have is "N/A", without brackets.
const rtx2080 = `200.00, 105.00, 292.00, 7979, 90.04.23.00.5F, 440.64, GeForce RTX 2080, GPU-22b2c6ac-2d49-4863-197c-9c469071178a, 176.98, 45, N/A, 1965, 1965, 7199, 86, 55, 100, 8, P2
`

func TestPublishedCSV(t *testing.T) {
	fields := strings.Split("power.limit,power.min_limit,power.max_limit,memory.total,vbios_version,driver_version,name,uuid,power.draw,"+
		"temperature.gpu,temperature.memory,clocks.current.graphics,clocks.sm,clocks.mem,utilization.gpu,utilization.memory,fan.speed,index,pstate", ",")
	gpus, driver, err := parseGPUs([]byte(rtx2080), fields, map[string]string{"memory.used": "not asked for"})
	require.NoError(t, err)
	assert.Equal(t, "440.64", driver)
	require.Len(t, gpus, 1)
	g := gpus[0]
	assert.Equal(t, "GeForce RTX 2080", g.Name)
	assert.Equal(t, "GPU-22b2c6ac-2d49-4863-197c-9c469071178a", g.UUID)
	assert.Equal(t, of(7979<<20), g.MemoryTotal)
	assert.Equal(t, of(176.98), g.Power)
	assert.Equal(t, of(45), g.Temperature)
	assert.Equal(t, of(1965), g.SMClock)
	assert.Equal(t, of(7199), g.MemoryClock)
	assert.Equal(t, of(0.86), g.SMUtil)
	assert.Equal(t, of(0.55), g.MemoryUtil)
	assert.Equal(t, absent("not asked for"), g.MemoryUsed)
	assert.Equal(t, absent("nvidia-smi does not tell it"), g.Energy)
}

// fakeSMI plays the program. The lines of an H200 are those of nvidia-smi's layout; name and total of memory are as published
// ("NVIDIA H200, 143771 MiB", driver 580).
type fakeSMI struct {
	gpus, apps string
	unknown    string // a field that it refuses
	err        error
	queries    []string
}

func (f *fakeSMI) run(_ context.Context, args ...string) ([]byte, time.Duration, error) {
	f.queries = append(f.queries, args[0])
	switch {
	case f.err != nil:
		return []byte(f.gpus), 0, f.err
	case strings.HasPrefix(args[0], "--query-compute-apps"):
		return []byte(f.apps), 10 * time.Millisecond, nil
	case f.unknown != "" && strings.Contains(args[0], f.unknown):
		return []byte("Field \"" + f.unknown + "\" is not a valid field to query.\n"), time.Millisecond, errors.New("exit status 2")
	}
	return []byte(f.gpus), 20 * time.Millisecond, nil
}

const twoH200 = `0, GPU-0f4f1a2b-aaaa-bbbb-cccc-000000000000, NVIDIA H200, 580.159.04, 143771, 4682, 615, 97, 41, 523.41, 1980, 3201, 45, 0, 0, 0x0000000000000004, Disabled
1, GPU-1f4f1a2b-aaaa-bbbb-cccc-000000000001, NVIDIA H200, 580.159.04, 143771, [N/A], 615, [N/A], [N/A], 76.02, 345, 3201, 27, [N/A], [N/A], [Not Supported], Enabled
`

func TestSMI(t *testing.T) {
	f := &fakeSMI{gpus: twoH200, apps: `GPU-0f4f1a2b-aaaa-bbbb-cccc-000000000000, 4711, 4676, python3, with, commas
GPU-1f4f1a2b-aaaa-bbbb-cccc-000000000001, 4712, [N/A], [Not Found]
`}
	s := newSMI("")
	s.run = f.run
	r, err := s.ReadGPUs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "nvidia-smi", r.Source)
	assert.Equal(t, "580.159.04", r.Driver)
	assert.Equal(t, time.Second, r.Every)
	assert.Equal(t, 30*time.Millisecond, r.Cost, "the programs' CPU time is the sampler's")
	a, b := r.GPUs[0], r.GPUs[1]
	assert.Equal(t, of(4682<<20), a.MemoryUsed)
	assert.Equal(t, of(0.97), a.SMUtil)
	assert.Equal(t, of(523.41), a.Power)
	assert.Equal(t, []string{"sw_power_cap"}, a.Throttle)
	assert.Equal(t, []hw.GPUProcess{{PID: 4711, Name: "python3, with, commas", Memory: of(4676 << 20), SMUtil: absent("nvidia-smi does not tell it")}}, a.Processes)
	assert.Equal(t, absent("nvidia-smi memory.used: N/A"), b.MemoryUsed, "MIG: the whole GPU has no figure, and that is not 0")
	assert.Equal(t, absent("nvidia-smi utilization.gpu: N/A"), b.SMUtil)
	assert.Equal(t, "nvidia-smi clocks_throttle_reasons.active: Not Supported", b.NoThrottle)
	assert.Equal(t, absent("nvidia-smi used_memory: N/A"), b.Processes[0].Memory)
	assert.Empty(t, a.Lost+b.Lost)
}

func TestSMIRefusesAField(t *testing.T) {
	f := &fakeSMI{gpus: strings.ReplaceAll(strings.Split(twoH200, "\n")[0], "4682, 615,", "4682,") + "\n", unknown: "memory.reserved"}
	s := newSMI("")
	s.run = f.run
	for range 2 {
		r, err := s.ReadGPUs(t.Context())
		require.NoError(t, err)
		assert.Equal(t, absent(`this nvidia-smi does not know "memory.reserved"`), one(r).MemoryReserved)
		assert.Equal(t, of(4682<<20), one(r).MemoryUsed)
		assert.Empty(t, one(r).NoProcesses)
		assert.Empty(t, one(r).Processes)
	}
	assert.Len(t, f.queries, 5, "it is refused once")
	f.unknown = "uuid"
	_, err := s.ReadGPUs(t.Context())
	assert.EqualError(t, err, `Field "uuid" is not a valid field to query. (exit status 2)`)
}

func TestSMILost(t *testing.T) {
	lost := "0, [GPU is lost], [GPU is lost], 580.159.04" + strings.Repeat(", [GPU is lost]", 13) + "\n"
	s := newSMI("")
	s.run = (&fakeSMI{gpus: lost}).run
	r, err := s.ReadGPUs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "nvidia-smi: GPU is lost", one(r).Lost)
	assert.Equal(t, absent("nvidia-smi: GPU is lost"), one(r).MemoryUsed)
	s.run = (&fakeSMI{gpus: "Unable to determine the device handle for GPU0: 0000:5E:00.0: Unknown Error\n", err: errors.New("exit status 255")}).run
	_, err = s.ReadGPUs(t.Context())
	assert.EqualError(t, err, "Unable to determine the device handle for GPU0: 0000:5E:00.0: Unknown Error (exit status 255)")
}

func TestSMIWritesNonsense(t *testing.T) {
	fields := queryFields()
	for out, want := range map[string]string{
		"":                        `nvidia-smi shows no GPU: ""`,
		"0, GPU-1\n":              `nvidia-smi wrote "0, GPU-1", want 17 columns: ` + strings.Join(fields, ","),
		"No devices were found\n": `nvidia-smi wrote "No devices were found", want 17 columns: ` + strings.Join(fields, ","),
		"x" + strings.TrimPrefix(strings.Split(twoH200, "\n")[0], "0"): `nvidia-smi wrote index "x"`,
	} {
		_, _, err := parseGPUs([]byte(out), fields, nil)
		assert.EqualError(t, err, want)
	}
}

func FuzzSMI(f *testing.F) {
	f.Add(twoH200)
	f.Add(rtx2080)
	f.Fuzz(func(t *testing.T, out string) {
		gpus, _, err := parseGPUs([]byte(out), queryFields(), nil)
		if err == nil && len(gpus) == 0 {
			t.Fatal("neither GPUs nor an error")
		}
		parseApps([]byte(out), gpus)
	})
}
