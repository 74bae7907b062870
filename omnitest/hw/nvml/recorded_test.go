package nvml

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
)

// TestRecordedH200: what nvidia-smi said on a real H200 (driver 580.159.04) is read by the fallback as NVML itself told it in the same
// run, and the run kept the limits that it was made to show: testdata/gpu/README.md.
func TestRecordedH200(t *testing.T) {
	raw, err := os.ReadFile("../../../testdata/gpu/h200/nvml-live.json")
	require.NoError(t, err)
	var rec struct {
		Driver string
		GPUs   []hw.GPU
		SMI    map[string]string
		Costs  map[string]struct{ Cores float64 }
		Beside map[string]struct{ Compared, Agree int }
		Device struct{ Ratio float64 }
		// Of a process that holds 4 GiB.
		Process struct {
			How   string
			Ratio float64
		}
		Failures map[string][]string
	}
	require.NoError(t, json.Unmarshal(raw, &rec))
	require.Len(t, rec.GPUs, 1)
	native := rec.GPUs[0]

	parsed := false
	for query, answer := range rec.SMI {
		fields, found := strings.CutPrefix(query, "--query-gpu=")
		fields, format, _ := strings.Cut(fields, " ")
		if !found || format != "--format=csv,noheader,nounits" {
			continue
		}
		parsed = true
		gpus, driver, err := parseGPUs([]byte(answer), strings.Split(fields, ","), nil)
		require.NoError(t, err)
		require.Len(t, gpus, 1)
		assert.Equal(t, rec.Driver, driver)
		g := gpus[0]
		assert.Equal(t, "NVIDIA H200", g.Name)
		assert.Equal(t, native.UUID, g.UUID)
		assert.Equal(t, of(143771<<20), g.MemoryTotal)
		assert.Equal(t, native.MemoryTotal, g.MemoryTotal)
		assert.Equal(t, native.SMClock, g.SMClock)
		assert.Equal(t, native.MemoryClock, g.MemoryClock)
		assert.Equal(t, native.SMUtil, g.SMUtil)
		assert.Equal(t, of(0), g.ECCUncorrected, "an idle GPU without errors: measured, and 0")
	}
	assert.True(t, parsed)

	assert.Less(t, rec.Costs["10 Hz"].Cores, 0.01)
	assert.InDelta(t, 1, rec.Device.Ratio, 0.02)
	assert.Equal(t, "process", rec.Process.How)
	assert.InDelta(t, 1, rec.Process.Ratio, 0.02)
	for name, b := range rec.Beside {
		assert.Equal(t, b.Compared, b.Agree, name)
		assert.GreaterOrEqual(t, b.Compared, 10, name)
	}
	assert.Empty(t, rec.Failures)
}
