package dcgm

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

// NVIDIA's own sample of an A100 in MIG mode: docs.nvidia.com, GPU telemetry, dcgm-exporter.
const a100 = `DCGM_FI_DEV_SM_CLOCK{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 1215
DCGM_FI_DEV_MEM_CLOCK{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 1215
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 61
DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 409.692000
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 319159391
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 0
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 35690
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 4845
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 0.995630
DCGM_FI_PROF_PCIE_TX_BYTES{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 33011804
DCGM_FI_PROF_PCIE_RX_BYTES{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",Hostname="ub20-a100-k8s"} 97863601
DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",GPU_I_PROFILE="1g.5gb",GPU_I_ID="13",Hostname="ub20-a100-k8s"} 0
DCGM_FI_PROF_GR_ENGINE_ACTIVE{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",GPU_I_PROFILE="1g.5gb",GPU_I_ID="13",Hostname="ub20-a100-k8s"} 0.995687
DCGM_FI_PROF_PIPE_TENSOR_ACTIVE{gpu="0",UUID="GPU-34319582-d595-d1c7-d1d2-179bcfa61660",device="nvidia0",GPU_I_PROFILE="1g.5gb",GPU_I_ID="13",Hostname="ub20-a100-k8s"} 0.930433
`

// A page of a current exporter, driver 580.105.08, as a Kubernetes conformance run on an L4 published it; shortened.
const l4 = `# HELP DCGM_FI_DEV_GPU_TEMP GPU temperature (in C).
# TYPE DCGM_FI_DEV_GPU_TEMP gauge
DCGM_FI_DEV_GPU_TEMP{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 31
# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter
DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 4742776
# TYPE DCGM_FI_DEV_GPU_UTIL gauge
DCGM_FI_DEV_GPU_UTIL{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 0
# TYPE DCGM_FI_DEV_FB_FREE gauge
DCGM_FI_DEV_FB_FREE{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 22563
# TYPE DCGM_FI_DEV_FB_USED gauge
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 0
# TYPE DCGM_FI_DEV_FB_RESERVED gauge
DCGM_FI_DEV_FB_RESERVED{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 470
# TYPE DCGM_FI_PROF_PCIE_TX_BYTES gauge
DCGM_FI_PROF_PCIE_TX_BYTES{gpu="0",UUID="GPU-c2f76b33-7953-256e-8f33-1343419b1a1c",pci_bus_id="00000000:31:00.0",device="nvidia0",modelName="NVIDIA L4",Hostname="i-030791dc5a37cd257",DCGM_FI_DRIVER_VERSION="580.105.08"} 112603
`

// From the README of github.com/NVIDIA/dcgm-exporter: a temperature that this GPU does not have.
const readme = `DCGM_FI_DEV_SM_CLOCK{gpu="0", UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",container="",namespace="",pod=""} 139
DCGM_FI_DEV_MEM_CLOCK{gpu="0", UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",container="",namespace="",pod=""} 405
DCGM_FI_DEV_GPU_TEMP{gpu="0", UUID="GPU-604ac76c-d9cf-fef3-62e9-d92044ab6e52",container="",namespace="",pod=""} 9223372036854775794
`

// exporter serves a page that the test may change.
func exporter(t *testing.T, page *string) *Source {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if *page == "" {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_, _ = io.WriteString(w, *page)
	}))
	t.Cleanup(server.Close)
	return &Source{URL: server.URL}
}

func read(t *testing.T, s *Source) []hw.GPU {
	t.Helper()
	r, err := s.ReadGPUs(t.Context())
	require.NoError(t, err)
	return r.GPUs
}

func of(v float64) metrics.Value      { return metrics.Of(v) }
func absent(why string) metrics.Value { return metrics.Absent(why) }

func TestPublishedPages(t *testing.T) {
	page := a100
	g := read(t, exporter(t, &page))
	require.Len(t, g, 1)
	assert.Equal(t, of(4845<<20), g[0].MemoryUsed, "of the GPU alone: instances are not added to it")
	assert.Equal(t, of((4845+35690)<<20), g[0].MemoryTotal)
	assert.Equal(t, of(409.692), g[0].Power)
	assert.Equal(t, of(319159.391), g[0].Energy)
	assert.Equal(t, of(1215), g[0].SMClock)
	assert.Equal(t, of(61), g[0].Temperature)
	assert.Equal(t, of(0.99563), g[0].SMUtil, "MIG mode has no DCGM_FI_DEV_GPU_UTIL")
	assert.Equal(t, of(33011804), g[0].PCIeSent)
	assert.Equal(t, absent("the exporter does not tell it"), g[0].NVLinkSent)
	assert.Equal(t, "the exporter does not tell it", g[0].NoProcesses)
	assert.Equal(t, "the exporter does not tell it", g[0].NoThrottle)
	assert.Empty(t, g[0].NoXids)
	require.Len(t, g[0].MIG, 1)
	assert.Equal(t, "gi 13", g[0].MIG[0].Instance)
	assert.Equal(t, of(0.995687), g[0].MIG[0].SMUtil)
	assert.False(t, g[0].MIG[0].MemoryUsed.OK())

	page = l4
	s := exporter(t, &page)
	r, err := s.ReadGPUs(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "580.105.08", r.Driver)
	assert.Equal(t, time.Second, r.Every)
	assert.Equal(t, "NVIDIA L4", r.GPUs[0].Name)
	assert.Equal(t, of(0), r.GPUs[0].MemoryUsed, "a 0 of the page is measured")
	assert.Equal(t, of((22563+470)<<20), r.GPUs[0].MemoryTotal, "23,033 of the 23,034 MiB that nvidia-smi tells of an L4")
	assert.Equal(t, "the page has no DCGM_FI_DEV_XID_ERRORS", r.GPUs[0].NoXids)
	s.Host = "another"
	_, err = s.ReadGPUs(t.Context())
	assert.EqualError(t, err, "no DCGM_FI series with a UUID on the page: "+s.URL)

	page = readme
	g = read(t, exporter(t, &page))
	assert.Equal(t, of(139), g[0].SMClock)
	assert.Equal(t, absent("DCGM_FI_DEV_GPU_TEMP: DCGM has no value (blank, not found, not supported or not permitted)"), g[0].Temperature)
}

func TestBlankValues(t *testing.T) {
	for x, want := range map[float64]string{
		2147483632: "DCGM has no value (blank)", 2147483634: "DCGM has no value (not supported)", 140737488355329: "DCGM has no value (not found)",
		9223372036854775792: "DCGM has no value (blank, not found, not supported or not permitted)", 2147483631: "", 2147483632.5: "", 0: "", 2147483640: "",
	} {
		assert.Equal(t, want, blank(x), "%f", x)
	}
	assert.Equal(t, absent("x: the page says NaN"), value("x", nan(), 1))
}

func nan() float64 { zero := 0.0; return zero / zero }

// With time slicing the exporter repeats a GPU for each pod; it is still one GPU with this memory.
func TestGPUThatIsRepeatedForItsPods(t *testing.T) {
	page := `DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",pod="decode-0"} 1000
DCGM_FI_DEV_FB_USED{gpu="0",UUID="GPU-a",pod="decode-1"} 1000
DCGM_FI_DEV_FB_USED{gpu="1",UUID="GPU-b"} 500
`
	g := read(t, exporter(t, &page))
	require.Len(t, g, 2)
	assert.Equal(t, of(1000<<20), g[0].MemoryUsed)
	assert.Equal(t, of(500<<20), g[1].MemoryUsed)
}

func TestXidsAndThrottling(t *testing.T) {
	page := `DCGM_FI_DEV_XID_ERRORS{gpu="0",UUID="GPU-a"} 31
DCGM_FI_DEV_CLOCKS_EVENT_REASONS{gpu="0",UUID="GPU-a"} 4
DCGM_FI_DEV_XID_ERRORS{gpu="1",UUID="GPU-b"} 0
`
	s := exporter(t, &page)
	g := read(t, s)
	assert.Empty(t, g[0].Xids, "it was there before we came")
	assert.Equal(t, []string{"sw_power_cap"}, g[0].Throttle)
	page = strings.NewReplacer(`"GPU-b"} 0`, `"GPU-b"} 79`, `"GPU-a"} 4`, `"GPU-a"} 0`).Replace(page)
	g = read(t, s)
	assert.Equal(t, []int{79}, g[1].Xids)
	assert.Equal(t, []string{}, g[0].Throttle)
	assert.Empty(t, read(t, s)[1].Xids, "told once")
	page = ""
	_, err := s.ReadGPUs(t.Context())
	assert.EqualError(t, err, "scrape "+s.URL+`: HTTP 503: empty body`)
}

// An exporter that hangs costs its timeout.
func TestExporterThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Source{URL: "http://gpu.example/metrics", Client: &http.Client{Transport: hang{}}}
		began := time.Now()
		_, err := s.ReadGPUs(t.Context())
		assert.EqualError(t, err, "scrape http://gpu.example/metrics: context deadline exceeded")
		assert.Equal(t, 5*time.Second, time.Since(began))
	})
}

type hang struct{}

func (hang) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}
