//go:build linux && cgo

package nvml

import (
	"encoding/binary"
	"errors"

	nv "github.com/NVIDIA/go-nvml/pkg/nvml"
)

// openLibrary loads libnvidia-ml.so.1 and initialises it.
func openLibrary(path string) (library, error) {
	var options []nv.LibraryOption
	if path != "" {
		options = append(options, nv.WithLibraryPath(path))
	}
	b := &binding{lib: nv.New(options...), known: map[string]bool{}}
	if ret := b.lib.Init(); ret == nv.ERROR_LIBRARY_NOT_FOUND {
		// Its text cannot be asked for: that is a function of the library.
		return nil, &Error{Call: "nvmlInit", Code: int(ret), Text: "libnvidia-ml.so.1 not found: no NVIDIA driver on this host"}
	} else if err := check("nvmlInit", ret); err != nil {
		return nil, err
	}
	return b, nil
}

func check(call string, ret nv.Return) error {
	if ret == nv.SUCCESS {
		return nil
	}
	return &Error{Call: call, Code: int(ret), Text: ret.Error()}
}

// binding is the library over go-nvml.
type binding struct {
	lib     nv.Interface
	events  nv.EventSet
	watched bool
	known   map[string]bool // functions that were looked up
}

// has looks a function up. Without that a call of a function that this driver's library lacks ends the process: symbols are
// bound when they are first called.
func (b *binding) has(call string) error {
	there, asked := b.known[call]
	if !asked {
		there = b.lib.Extensions().LookupSymbol(call) == nil
		b.known[call] = there
	}
	if !there {
		return &Error{Call: call, Code: codeNoFunction, Text: "this driver's library has no such function"}
	}
	return nil
}

func (b *binding) Driver() (string, error) {
	v, ret := b.lib.SystemGetDriverVersion()
	return v, check("nvmlSystemGetDriverVersion", ret)
}

func (b *binding) Count() (int, error) {
	n, ret := b.lib.DeviceGetCount()
	return n, check("nvmlDeviceGetCount_v2", ret)
}

func (b *binding) Device(i int) (device, error) {
	d, ret := b.lib.DeviceGetHandleByIndex(i)
	if err := check("nvmlDeviceGetHandleByIndex_v2", ret); err != nil {
		return nil, err
	}
	return boundDevice{b, d}, nil
}

func (b *binding) Close() error {
	var first error
	if b.watched {
		first = check("nvmlEventSetFree", b.events.Free())
	}
	return errors.Join(first, check("nvmlShutdown", b.lib.Shutdown()))
}

// watch registers for the critical events of every GPU. Those that do not support them are passed over, unless all do.
func (b *binding) watch() error {
	set, ret := b.lib.EventSetCreate()
	if err := check("nvmlEventSetCreate", ret); err != nil {
		return err
	}
	n, err := b.Count()
	var refusal error
	some := false
	for i := 0; err == nil && i < n; i++ {
		d, ret := b.lib.DeviceGetHandleByIndex(i)
		if ret != nv.SUCCESS {
			continue
		}
		if ret := d.RegisterEvents(nv.EventTypeXidCriticalError, set); ret != nv.SUCCESS {
			refusal = check("nvmlDeviceRegisterEvents", ret)
			continue
		}
		some = true
	}
	if err == nil && !some {
		err = refusal
	}
	if err != nil {
		set.Free()
		return err
	}
	b.events, b.watched = set, true
	return nil
}

// Xids asks without waiting for what has come in since.
func (b *binding) Xids() ([]xid, error) {
	if !b.watched {
		if err := b.watch(); err != nil {
			return nil, err
		}
	}
	var all []xid
	for range 64 { // a GPU that dies may report the same without end
		e, ret := b.events.Wait(0)
		if ret == nv.ERROR_TIMEOUT {
			break
		}
		if err := check("nvmlEventSetWait_v2", ret); err != nil {
			return all, err
		}
		x := xid{code: int(e.EventData)}
		if e.Device != nil {
			x.uuid, _ = e.Device.GetUUID()
		}
		all = append(all, x)
	}
	return all, nil
}

// boundDevice is a device over go-nvml.
type boundDevice struct {
	lib *binding
	d   nv.Device
}

func (b boundDevice) UUID() (string, error) {
	v, ret := b.d.GetUUID()
	return v, check("nvmlDeviceGetUUID", ret)
}

func (b boundDevice) Name() (string, error) {
	v, ret := b.d.GetName()
	return v, check("nvmlDeviceGetName", ret)
}

// Memory prefers the second version, which tells what the driver keeps apart from what is used; the first adds both up.
func (b boundDevice) Memory() (memory, error) {
	if b.lib.has("nvmlDeviceGetMemoryInfo_v2") != nil { // drivers before 510
		m, ret := b.d.GetMemoryInfo()
		return memory{m.Total, 0, m.Used}, check("nvmlDeviceGetMemoryInfo", ret)
	}
	m, ret := b.d.GetMemoryInfo_v2()
	return memory{m.Total, m.Reserved, m.Used}, check("nvmlDeviceGetMemoryInfo_v2", ret)
}

func (b boundDevice) Utilization() (sm, mem uint32, err error) {
	u, ret := b.d.GetUtilizationRates()
	return u.Gpu, u.Memory, check("nvmlDeviceGetUtilizationRates", ret)
}

func (b boundDevice) Power() (uint32, error) {
	v, ret := b.d.GetPowerUsage()
	return v, check("nvmlDeviceGetPowerUsage", ret)
}

func (b boundDevice) Energy() (uint64, error) {
	if err := b.lib.has("nvmlDeviceGetTotalEnergyConsumption"); err != nil {
		return 0, err
	}
	v, ret := b.d.GetTotalEnergyConsumption()
	return v, check("nvmlDeviceGetTotalEnergyConsumption", ret)
}

func (b boundDevice) Clocks() (sm, mem uint32, err error) {
	sm, ret := b.d.GetClockInfo(nv.CLOCK_SM)
	if err = check("nvmlDeviceGetClockInfo", ret); err != nil {
		return 0, 0, err
	}
	mem, ret = b.d.GetClockInfo(nv.CLOCK_MEM)
	return sm, mem, check("nvmlDeviceGetClockInfo", ret)
}

func (b boundDevice) Throttle() (uint64, error) {
	if err := b.lib.has("nvmlDeviceGetCurrentClocksThrottleReasons"); err != nil {
		return 0, err
	}
	v, ret := b.d.GetCurrentClocksThrottleReasons()
	return v, check("nvmlDeviceGetCurrentClocksThrottleReasons", ret)
}

func (b boundDevice) Temperature() (uint32, error) {
	v, ret := b.d.GetTemperature(nv.TEMPERATURE_GPU)
	return v, check("nvmlDeviceGetTemperature", ret)
}

// PCIe reads counters. nvmlDeviceGetPcieThroughput would block for 20 ms in each direction.
func (b boundDevice) PCIe() (counters, error) {
	v, bits, err := b.fields(nv.FI_DEV_PCIE_COUNT_TX_BYTES, nv.FI_DEV_PCIE_COUNT_RX_BYTES, 0)
	return counters{v[0], v[1], bits}, err
}

// NVLink reads the payload of all links together, which NVML counts in KiB.
func (b boundDevice) NVLink() (counters, error) {
	const all = ^uint32(0) // nvml.h: scopeId UINT_MAX sums over all links
	v, bits, err := b.fields(nv.FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nv.FI_DEV_NVLINK_THROUGHPUT_DATA_RX, all)
	return counters{v[0] << 10, v[1] << 10, min(bits+10, 64)}, err
}

func (b boundDevice) fields(sent, received uint32, scope uint32) (out [2]uint64, bits int, err error) {
	if err := b.lib.has("nvmlDeviceGetFieldValues"); err != nil {
		return out, 0, err
	}
	values := []nv.FieldValue{{FieldId: sent, ScopeId: scope}, {FieldId: received, ScopeId: scope}}
	if err := check("nvmlDeviceGetFieldValues", b.d.GetFieldValues(values)); err != nil {
		return out, 0, err
	}
	for i, v := range values {
		if err := check("nvmlDeviceGetFieldValues", nv.Return(v.NvmlReturn)); err != nil {
			return out, 0, err
		}
		switch nv.ValueType(v.ValueType) {
		case nv.VALUE_TYPE_UNSIGNED_INT:
			out[i], bits = uint64(binary.NativeEndian.Uint32(v.Value[:])), 32
		default: // the counters are unsigned, of 64 bits unless told otherwise
			out[i], bits = binary.NativeEndian.Uint64(v.Value[:]), 64
		}
	}
	return out, bits, nil
}

func (b boundDevice) ECC() (corrected, uncorrected uint64, err error) {
	corrected, ret := b.d.GetTotalEccErrors(nv.MEMORY_ERROR_TYPE_CORRECTED, nv.VOLATILE_ECC)
	if err = check("nvmlDeviceGetTotalEccErrors", ret); err != nil {
		return 0, 0, err
	}
	uncorrected, ret = b.d.GetTotalEccErrors(nv.MEMORY_ERROR_TYPE_UNCORRECTED, nv.VOLATILE_ECC)
	return corrected, uncorrected, check("nvmlDeviceGetTotalEccErrors", ret)
}

// Processes are those with a compute or a graphics context; who has both is told twice, with the same memory.
func (b boundDevice) Processes() ([]process, error) {
	compute, ret := b.d.GetComputeRunningProcesses()
	if err := check("nvmlDeviceGetComputeRunningProcesses_v3", ret); err != nil {
		return nil, err
	}
	seen := map[uint32]bool{}
	var all []process
	graphics, ret := b.d.GetGraphicsRunningProcesses()
	if ret != nv.SUCCESS {
		graphics = nil // data-centre GPUs and MIG instances have none
	}
	for _, p := range append(compute, graphics...) {
		if !seen[p.Pid] {
			seen[p.Pid] = true
			all = append(all, process{p.Pid, p.UsedGpuMemory})
		}
	}
	return all, nil
}

func (b boundDevice) ProcessUtilization(since uint64) ([]processUtil, error) {
	if err := b.lib.has("nvmlDeviceGetProcessUtilization"); err != nil {
		return nil, err
	}
	samples, ret := b.d.GetProcessUtilization(since)
	if ret == nv.ERROR_INSUFFICIENT_SIZE && len(samples) == 0 { // how go-nvml passes on a ring without samples
		return nil, nil
	}
	if err := check("nvmlDeviceGetProcessUtilization", ret); err != nil {
		return nil, err
	}
	out := make([]processUtil, 0, len(samples))
	for _, s := range samples {
		if s.SmUtil <= 100 { // the driver leaves rubbish in entries that it did not fill
			out = append(out, processUtil{s.Pid, s.TimeStamp, s.SmUtil})
		}
	}
	return out, nil
}

func (b boundDevice) MIG() (bool, error) {
	if err := b.lib.has("nvmlDeviceGetMigMode"); err != nil {
		return false, err
	}
	current, _, ret := b.d.GetMigMode()
	return current == nv.DEVICE_MIG_ENABLE, check("nvmlDeviceGetMigMode", ret)
}

func (b boundDevice) Instances() ([]device, error) {
	n, ret := b.d.GetMaxMigDeviceCount()
	if err := check("nvmlDeviceGetMaxMigDeviceCount", ret); err != nil {
		return nil, err
	}
	var all []device
	for i := range n {
		d, ret := b.d.GetMigDeviceHandleByIndex(i)
		switch ret {
		case nv.SUCCESS:
			all = append(all, boundDevice{b.lib, d})
		case nv.ERROR_NOT_FOUND, nv.ERROR_INVALID_ARGUMENT: // no instance in this place
		default:
			return nil, check("nvmlDeviceGetMigDeviceHandleByIndex", ret)
		}
	}
	return all, nil
}

func (b boundDevice) Instance() (gpu, compute int, err error) {
	gpu, ret := b.d.GetGpuInstanceId()
	if err = check("nvmlDeviceGetGpuInstanceId", ret); err != nil {
		return 0, 0, err
	}
	compute, ret = b.d.GetComputeInstanceId()
	return gpu, compute, check("nvmlDeviceGetComputeInstanceId", ret)
}
