package nvml

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/hw"
	"github.com/omnitest/suite/omnitest/metrics"
)

func fails(call string, code int, text string) error {
	return &Error{Call: call, Code: code, Text: text}
}

// fakeLibrary plays NVML.
type fakeLibrary struct {
	devices []*fakeDevice
	lostAt  map[int]error // by index: the handle cannot be had
	xids    []xid
	noXids  error
	asked   int
	closed  bool
}

func (f *fakeLibrary) Driver() (string, error) { return "580.159.04", nil }
func (f *fakeLibrary) Count() (int, error)     { return len(f.devices), nil }
func (f *fakeLibrary) Device(i int) (device, error) {
	if err := f.lostAt[i]; err != nil {
		return nil, err
	}
	return f.devices[i], nil
}
func (f *fakeLibrary) Xids() ([]xid, error) {
	f.asked++
	all := f.xids
	f.xids = nil
	return all, f.noXids
}
func (f *fakeLibrary) Close() error { f.closed = true; return nil }

// fakeDevice plays one GPU. Err is what every call gives once the GPU is lost; no says which figures it does not have.
type fakeDevice struct {
	uuid, name string
	mem        memory
	sm         uint32
	mw         uint32
	mj         uint64
	bits       uint64
	pcie, link counters
	corrected  uint64
	list       []process
	use        []processUtil
	mig        []device
	gi, ci     int
	no         map[string]error
	asked      map[string]int
}

func (f *fakeDevice) err(what string) error {
	if f.asked == nil {
		f.asked = map[string]int{}
	}
	f.asked[what]++
	if e := f.no["all"]; e != nil {
		return e
	}
	return f.no[what]
}

func (f *fakeDevice) UUID() (string, error)   { return f.uuid, nil }
func (f *fakeDevice) Name() (string, error)   { return f.name, nil }
func (f *fakeDevice) Memory() (memory, error) { return f.mem, f.err("memory") }
func (f *fakeDevice) Utilization() (sm, mem uint32, err error) {
	return f.sm, f.sm / 2, f.err("utilization")
}
func (f *fakeDevice) Power() (uint32, error)              { return f.mw, f.err("power") }
func (f *fakeDevice) Energy() (uint64, error)             { return f.mj, f.err("energy") }
func (f *fakeDevice) Clocks() (sm, mem uint32, err error) { return 1980, 3201, f.err("clocks") }
func (f *fakeDevice) Throttle() (uint64, error)           { return f.bits, f.err("throttle") }
func (f *fakeDevice) Temperature() (uint32, error)        { return 31, f.err("temperature") }
func (f *fakeDevice) PCIe() (counters, error)             { return f.pcie, f.err("pcie") }
func (f *fakeDevice) NVLink() (counters, error)           { return f.link, f.err("nvlink") }
func (f *fakeDevice) ECC() (corrected, uncorrected uint64, err error) {
	return f.corrected, 0, f.err("ecc")
}
func (f *fakeDevice) Processes() ([]process, error) { return f.list, f.err("processes") }
func (f *fakeDevice) ProcessUtilization(uint64) ([]processUtil, error) {
	return f.use, f.err("use")
}
func (f *fakeDevice) MIG() (bool, error)           { return f.mig != nil, f.err("mig") }
func (f *fakeDevice) Instances() ([]device, error) { return f.mig, f.err("instances") }
func (f *fakeDevice) Instance() (gpu, compute int, err error) {
	return f.gi, f.ci, f.err("instance")
}

func h200(uuid string) *fakeDevice {
	return &fakeDevice{uuid: uuid, name: "NVIDIA H200", mem: memory{total: 143771 << 20, reserved: 615 << 20, used: 4 << 30}, sm: 93, mw: 523_400, mj: 1_000_000, pcie: counters{bits: 64}, link: counters{bits: 64}}
}

// clock is a hand-moved one: readings of the same instant are possible, and so are those a second apart.
type clock struct{ at time.Time }

func (c *clock) now() time.Time       { return c.at }
func (c *clock) pass(d time.Duration) { c.at = c.at.Add(d) }
func of(v float64) metrics.Value      { return metrics.Of(v) }
func absent(why string) metrics.Value { return metrics.Absent(why) }
func one(r hw.GPUReading) hw.GPU      { return r.GPUs[0] }
func notNow(t *testing.T, v ...metrics.Value) {
	t.Helper()
	for _, x := range v {
		assert.Equal(t, absent(hw.NotThisTime), x)
	}
}

func open(t *testing.T, lib *fakeLibrary) (*source, *clock) {
	t.Helper()
	c := &clock{at: time.Unix(1_700_000_000, 0)}
	s, err := newSource(lib, c.now)
	require.NoError(t, err)
	return s, c
}

func read(t *testing.T, s *source) hw.GPUReading {
	t.Helper()
	r, err := s.ReadGPUs(t.Context())
	require.NoError(t, err)
	return r
}

func TestFiguresOfOneGPU(t *testing.T) {
	d := h200("GPU-a")
	d.bits = 0x4 | 0x40 | 0x1 // idle is no throttling
	d.list = []process{{pid: 4711, memory: 3 << 30}, {pid: 99, memory: unknownMemory}}
	d.use = []processUtil{{pid: 4711, stamp: 10, sm: 80}, {pid: 4711, stamp: 20, sm: 100}}
	lib := &fakeLibrary{devices: []*fakeDevice{d}, xids: []xid{{"GPU-a", 79}, {"GPU-b", 13}}}
	s, c := open(t, lib)
	first := read(t, s)
	assert.Equal(t, "NVML 580.159.04", first.Source)
	g := one(first)
	assert.Equal(t, of(143771<<20), g.MemoryTotal)
	assert.Equal(t, of(615<<20), g.MemoryReserved)
	assert.Equal(t, of(4<<30), g.MemoryUsed)
	assert.Equal(t, of(0.93), g.SMUtil)
	assert.Equal(t, of(523.4), g.Power)
	assert.Equal(t, of(1000), g.Energy)
	assert.Equal(t, of(1980), g.SMClock)
	assert.Equal(t, of(31), g.Temperature)
	assert.Equal(t, []string{"sw_power_cap", "hw_thermal_slowdown"}, g.Throttle)
	assert.Equal(t, []int{79}, g.Xids, "the other GPU's are not ours")
	notNow(t, g.PCIeSent, g.NVLinkReceived) // a rate needs two readings
	assert.Equal(t, []hw.GPUProcess{
		{PID: 99, Memory: absent("the driver does not tell the memory of a process here"), SMUtil: absent("no sample of this process in the last 5 s")},
		{PID: 4711, Memory: of(3 << 30), SMUtil: of(0.9)},
	}, g.Processes)

	c.pass(100 * time.Millisecond)
	d.mem.used = 5 << 30
	g = one(read(t, s))
	assert.Equal(t, of(5<<30), g.MemoryUsed)
	notNow(t, g.SMClock, g.Temperature, g.ECCCorrected, g.PCIeSent, g.Energy) // these are read more rarely
	assert.Equal(t, hw.NotThisTime, g.NoThrottle)
	assert.Empty(t, g.Xids)

	c.pass(costlyEvery - 100*time.Millisecond)
	d.pcie = counters{sent: 15 << 30, received: 5 << 20, bits: 64}
	d.link = counters{sent: 5 << 9, bits: 64}
	g = one(read(t, s))
	assert.Equal(t, of(3<<30), g.PCIeSent)
	assert.Equal(t, of(1<<20), g.PCIeReceived)
	assert.Equal(t, of(512), g.NVLinkSent)
	assert.Equal(t, of(0), g.NVLinkReceived, "a link that carried nothing was measured")
	assert.NoError(t, s.Close())
	assert.True(t, lib.closed)
}

// A counter of 32 bits that wraps between two readings gives no negative rate.
func TestCounterThatWraps(t *testing.T) {
	var r rate
	at := time.Unix(1, 0)
	r.next(at, counters{sent: 1<<32 - 100, received: 5, bits: 32})
	sent, received := r.next(at.Add(time.Second), counters{sent: 100, received: 5, bits: 32})
	assert.Equal(t, of(200), sent)
	assert.Equal(t, of(0), received)
}

// What a GPU or a driver does not have is absent with NVML's own word, asked for once, and never 0.
func TestMissingFunctions(t *testing.T) {
	d := h200("GPU-a")
	d.no = map[string]error{
		"power":     fails("nvmlDeviceGetPowerUsage", codeNotSupported, "Not Supported"),
		"energy":    fails("nvmlDeviceGetTotalEnergyConsumption", codeNoFunction, "this driver's library has no such function"),
		"ecc":       fails("nvmlDeviceGetTotalEccErrors", codeNotSupported, "Not Supported"),
		"nvlink":    fails("nvmlDeviceGetFieldValues", codeNotSupported, "Not Supported"),
		"throttle":  fails("nvmlDeviceGetCurrentClocksThrottleReasons", codeNoPermission, "Insufficient Permissions"),
		"processes": fails("nvmlDeviceGetComputeRunningProcesses_v3", codeNotSupported, "Not Supported"),
		"clocks":    fails("nvmlDeviceGetClockInfo", 999, "Unknown Error"),
	}
	lib := &fakeLibrary{devices: []*fakeDevice{d}, noXids: fails("nvmlEventSetCreate", codeNotSupported, "Not Supported")}
	s, c := open(t, lib)
	for range 3 {
		g := one(read(t, s))
		assert.Empty(t, g.Lost)
		assert.Equal(t, absent("nvmlDeviceGetPowerUsage: Not Supported"), g.Power)
		assert.Equal(t, absent("nvmlDeviceGetTotalEnergyConsumption: this driver's library has no such function"), g.Energy)
		assert.Equal(t, absent("nvmlDeviceGetTotalEccErrors: Not Supported"), g.ECCUncorrected)
		assert.Equal(t, absent("nvmlDeviceGetFieldValues: Not Supported"), g.NVLinkSent)
		assert.Equal(t, absent("nvmlDeviceGetClockInfo: Unknown Error"), g.SMClock)
		assert.Equal(t, "nvmlDeviceGetCurrentClocksThrottleReasons: Insufficient Permissions", g.NoThrottle)
		assert.Equal(t, "nvmlDeviceGetComputeRunningProcesses_v3: Not Supported", g.NoProcesses)
		assert.Nil(t, g.Processes, "nil, not an empty list of processes")
		assert.Equal(t, "nvmlEventSetCreate: Not Supported", g.NoXids)
		assert.True(t, g.MemoryUsed.OK())
		c.pass(costlyEvery)
	}
	assert.Equal(t, 1, d.asked["power"])
	assert.Equal(t, 3, d.asked["clocks"], "an unknown error may pass")
	assert.Equal(t, 1, lib.asked)
}

// A GPU that falls off the bus takes its figures with it, and no other GPU's.
func TestGPULost(t *testing.T) {
	a, b := h200("GPU-a"), h200("GPU-b")
	lib := &fakeLibrary{devices: []*fakeDevice{a, b}}
	s, c := open(t, lib)
	read(t, s)
	c.pass(time.Second)
	lib.xids = []xid{{"GPU-a", 79}}
	a.no = map[string]error{"utilization": fails("nvmlDeviceGetUtilizationRates", codeLost, "GPU is lost")}
	r := read(t, s)
	why := "nvmlDeviceGetUtilizationRates: GPU is lost"
	want := hw.LostGPU(0, "GPU-a", "NVIDIA H200", why)
	want.Xids, want.NoXids = []int{79}, "" // fallen off the bus: the driver still says so
	assert.Equal(t, want, r.GPUs[0])
	assert.Equal(t, absent(why), r.GPUs[0].MemoryUsed, "half a reading is none")
	assert.Empty(t, r.GPUs[1].Lost)
	a.no = nil
	assert.Equal(t, why, one(read(t, s)).Lost, "it is not asked again")

	s, _ = open(t, &fakeLibrary{devices: []*fakeDevice{nil, b}, lostAt: map[int]error{0: fails("nvmlDeviceGetHandleByIndex_v2", codeLost, "GPU is lost")}})
	r = read(t, s)
	assert.Equal(t, "nvmlDeviceGetHandleByIndex_v2: GPU is lost", r.GPUs[0].Lost)
	assert.True(t, r.GPUs[1].MemoryUsed.OK())
}

func TestMIG(t *testing.T) {
	noUse := fails("nvmlDeviceGetUtilizationRates", codeNotSupported, "Not Supported")
	part := &fakeDevice{uuid: "MIG-1", name: "NVIDIA H200 MIG 1g.18gb", mem: memory{total: 16 << 30, used: 2 << 30}, gi: 7, ci: 0,
		list: []process{{pid: 5, memory: 2 << 30}}, no: map[string]error{"utilization": noUse, "use": noUse}}
	d := h200("GPU-a")
	d.mig = []device{part}
	d.no = map[string]error{"utilization": noUse}
	s, c := open(t, &fakeLibrary{devices: []*fakeDevice{d}})
	g := one(read(t, s))
	assert.Equal(t, absent("nvmlDeviceGetUtilizationRates: Not Supported"), g.SMUtil, "a GPU in MIG mode has no utilisation of its own")
	require.Len(t, g.MIG, 1)
	assert.Equal(t, "gi 7 ci 0", g.MIG[0].Instance)
	assert.Equal(t, of(2<<30), g.MIG[0].MemoryUsed)
	assert.Equal(t, 5, g.MIG[0].Processes[0].PID)
	assert.Equal(t, absent("nvmlDeviceGetUtilizationRates: Not Supported"), g.MIG[0].SMUtil)
	d.mig = []device{} // destroyed
	c.pass(time.Second)
	assert.Empty(t, one(read(t, s)).MIG)
}

func TestNoGPUInTheMachine(t *testing.T) {
	_, err := newSource(&fakeLibrary{}, time.Now)
	assert.EqualError(t, err, "the driver shows no GPU")
}
