//go:build linux && cgo

package nvml

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
)

// The binding against a library that lacks what old drivers lack: a call of such a function must not end the process.
func TestBinding(t *testing.T) {
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc for testdata/gpu/fakenvml.c")
	}
	dir, state := t.TempDir(), t.TempDir()
	lib := filepath.Join(dir, "libnvidia-ml.so.1")
	out, err := exec.CommandContext(t.Context(), cc, "-shared", "-fPIC", "-o", lib, "../../../testdata/gpu/fakenvml.c").CombinedOutput()
	require.NoError(t, err, "%s", out)
	t.Setenv("FAKE_GPU", state)
	src, err := Open(t.Context(), Options{Library: lib})
	require.NoError(t, err)
	for pid, bytes := range map[int]int{77: 3 << 30, 78: 1 << 20, 79: 5} { // more than go-nvml's first guess of their number
		require.NoError(t, os.WriteFile(filepath.Join(state, fmt.Sprint(pid)), fmt.Append(nil, bytes), 0o600))
	}
	r, err := src.ReadGPUs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "NVML 470.0.fake", r.Source)
	g := one(r)
	assert.Equal(t, "Fake GPU", g.Name)
	assert.Equal(t, of(80<<30), g.MemoryTotal)
	assert.Equal(t, of(3<<30+1<<20+5), g.MemoryUsed)
	assert.Equal(t, of(0.4), g.SMUtil)
	assert.Equal(t, of(70.5), g.Power)
	assert.Equal(t, of(1001), g.SMClock)
	assert.Equal(t, of(1002), g.MemoryClock)
	const no = ": this driver's library has no such function"
	assert.Equal(t, absent("nvmlDeviceGetTotalEnergyConsumption"+no), g.Energy)
	assert.Equal(t, absent("nvmlDeviceGetFieldValues"+no), g.PCIeSent)
	assert.Equal(t, absent("nvmlDeviceGetTemperature: Not Supported"), g.Temperature)
	assert.Equal(t, "nvmlEventSetWait_v2"+no, g.NoXids)
	assert.Empty(t, g.NoProcesses)
	require.Len(t, g.Processes, 3)
	assert.Equal(t, hw.GPUProcess{PID: 77, Memory: of(3 << 30), SMUtil: absent("nvmlDeviceGetProcessUtilization" + no)}, g.Processes[0])

	require.NoError(t, os.WriteFile(filepath.Join(state, "lost"), nil, 0o600))
	r, err = src.ReadGPUs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "nvmlDeviceGetMemoryInfo_v2: GPU is lost", one(r).Lost)
	require.NoError(t, src.Close())
}

func TestNoDriver(t *testing.T) {
	_, err := Open(t.Context(), Options{Library: "libnvidia-ml-that-is-not-there.so.1", SMI: "/nowhere/nvidia-smi"})
	assert.EqualError(t, err, "GPUs are not measured: NVML: nvmlInit: libnvidia-ml.so.1 not found: no NVIDIA driver on this host; "+
		"nvidia-smi: fork/exec /nowhere/nvidia-smi: no such file or directory")
	assert.ErrorIs(t, err, hw.ErrUnavailable)
}
