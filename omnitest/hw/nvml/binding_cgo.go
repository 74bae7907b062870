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

// has looks a function up, which may go by several names. Without that a call of a function that this driver's library lacks
// ends the process: symbols are bound when they are first called.
func (b *binding) has(names ...string) error {
	for _, name := range names {
		there, asked := b.known[name]
		if !asked {
			there = b.lib.Extensions().LookupSymbol(name) == nil
			b.known[name] = there
		}
		if there {
			return nil
		}
	}
	return &Error{Call: names[0], Code: codeNoFunction, Text: "this driver's library has no such function"}
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
	var set nv.EventSet
	for _, needed := range [][]string{{"nvmlEventSetWait_v2", "nvmlEventSetWait"}, {"nvmlDeviceRegisterEvents"}, {"nvmlEventSetFree"}} {
		if err := b.has(needed...); err != nil {
			return err
		}
	}
	if err := b.call("nvmlEventSetCreate", func() (ret nv.Return) { set, ret = b.lib.EventSetCreate(); return }); err != nil {
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

// call runs a function of the library if there is one of that name.
func (b *binding) call(name string, run func() nv.Return) error {
	if err := b.has(name); err != nil {
		return err
	}
	return check(name, run())
}

// boundDevice is a device over go-nvml.
type boundDevice struct {
	*binding
	d nv.Device
}

func (b boundDevice) UUID() (v string, err error) {
	err = b.call("nvmlDeviceGetUUID", func() (ret nv.Return) { v, ret = b.d.GetUUID(); return })
	return v, err
}

func (b boundDevice) Name() (v string, err error) {
	err = b.call("nvmlDeviceGetName", func() (ret nv.Return) { v, ret = b.d.GetName(); return })
	return v, err
}

// Memory prefers the second version, which tells what the driver keeps apart from what is used; the first adds both up.
func (b boundDevice) Memory() (m memory, err error) {
	if b.has("nvmlDeviceGetMemoryInfo_v2") != nil { // drivers before 510
		err = b.call("nvmlDeviceGetMemoryInfo", func() nv.Return {
			v, ret := b.d.GetMemoryInfo()
			m = memory{total: v.Total, used: v.Used}
			return ret
		})
		return m, err
	}
	err = b.call("nvmlDeviceGetMemoryInfo_v2", func() nv.Return {
		v, ret := b.d.GetMemoryInfo_v2()
		m = memory{v.Total, v.Reserved, v.Used}
		return ret
	})
	return m, err
}

func (b boundDevice) Utilization() (sm, mem uint32, err error) {
	err = b.call("nvmlDeviceGetUtilizationRates", func() nv.Return {
		u, ret := b.d.GetUtilizationRates()
		sm, mem = u.Gpu, u.Memory
		return ret
	})
	return sm, mem, err
}

func (b boundDevice) Power() (v uint32, err error) {
	err = b.call("nvmlDeviceGetPowerUsage", func() (ret nv.Return) { v, ret = b.d.GetPowerUsage(); return })
	return v, err
}

func (b boundDevice) Energy() (v uint64, err error) {
	err = b.call("nvmlDeviceGetTotalEnergyConsumption", func() (ret nv.Return) { v, ret = b.d.GetTotalEnergyConsumption(); return })
	return v, err
}

func (b boundDevice) Clocks() (sm, mem uint32, err error) {
	err = b.call("nvmlDeviceGetClockInfo", func() (ret nv.Return) {
		if sm, ret = b.d.GetClockInfo(nv.CLOCK_SM); ret == nv.SUCCESS {
			mem, ret = b.d.GetClockInfo(nv.CLOCK_MEM)
		}
		return ret
	})
	return sm, mem, err
}

func (b boundDevice) Throttle() (v uint64, err error) {
	err = b.call("nvmlDeviceGetCurrentClocksThrottleReasons", func() (ret nv.Return) { v, ret = b.d.GetCurrentClocksThrottleReasons(); return })
	return v, err
}

func (b boundDevice) Temperature() (v uint32, err error) {
	err = b.call("nvmlDeviceGetTemperature", func() (ret nv.Return) { v, ret = b.d.GetTemperature(nv.TEMPERATURE_GPU); return })
	return v, err
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

func (b boundDevice) fields(sent, received, scope uint32) (out [2]uint64, bits int, err error) {
	values := []nv.FieldValue{{FieldId: sent, ScopeId: scope}, {FieldId: received, ScopeId: scope}}
	if err := b.call("nvmlDeviceGetFieldValues", func() nv.Return { return b.d.GetFieldValues(values) }); err != nil {
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
	err = b.call("nvmlDeviceGetTotalEccErrors", func() (ret nv.Return) {
		if corrected, ret = b.d.GetTotalEccErrors(nv.MEMORY_ERROR_TYPE_CORRECTED, nv.VOLATILE_ECC); ret == nv.SUCCESS {
			uncorrected, ret = b.d.GetTotalEccErrors(nv.MEMORY_ERROR_TYPE_UNCORRECTED, nv.VOLATILE_ECC)
		}
		return ret
	})
	return corrected, uncorrected, err
}

// Processes are those with a compute or a graphics context; who has both is told twice, with the same memory.
func (b boundDevice) Processes() ([]process, error) {
	const compute, graphics = "nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses"
	if err := b.has(compute+"_v3", compute+"_v2", compute); err != nil {
		return nil, err
	}
	list, ret := b.d.GetComputeRunningProcesses()
	if err := check(compute, ret); err != nil {
		return nil, err
	}
	if b.has(graphics+"_v3", graphics+"_v2", graphics) == nil {
		// MIG instances and some data-centre GPUs have no graphics, and say so.
		if more, ret := b.d.GetGraphicsRunningProcesses(); ret == nv.SUCCESS {
			list = append(list, more...)
		}
	}
	seen := map[uint32]bool{}
	var all []process
	for _, p := range list {
		if !seen[p.Pid] {
			seen[p.Pid] = true
			all = append(all, process{p.Pid, p.UsedGpuMemory})
		}
	}
	return all, nil
}

func (b boundDevice) ProcessUtilization(since uint64) (out []processUtil, err error) {
	err = b.call("nvmlDeviceGetProcessUtilization", func() nv.Return {
		samples, ret := b.d.GetProcessUtilization(since)
		if ret == nv.ERROR_INSUFFICIENT_SIZE && len(samples) == 0 { // how go-nvml passes on a ring without samples
			return nv.SUCCESS
		}
		for _, s := range samples {
			if s.SmUtil <= 100 { // the driver leaves rubbish in entries that it did not fill
				out = append(out, processUtil{s.Pid, s.TimeStamp, s.SmUtil})
			}
		}
		return ret
	})
	return out, err
}

func (b boundDevice) MIG() (on bool, err error) {
	err = b.call("nvmlDeviceGetMigMode", func() nv.Return {
		current, _, ret := b.d.GetMigMode()
		on = current == nv.DEVICE_MIG_ENABLE
		return ret
	})
	return on, err
}

func (b boundDevice) Instances() ([]device, error) {
	n := 0
	err := b.call("nvmlDeviceGetMaxMigDeviceCount", func() (ret nv.Return) { n, ret = b.d.GetMaxMigDeviceCount(); return })
	if err != nil {
		return nil, err
	}
	all := []device{}
	for i := range n {
		d, ret := b.d.GetMigDeviceHandleByIndex(i)
		switch ret {
		case nv.SUCCESS:
			all = append(all, boundDevice{b.binding, d})
		case nv.ERROR_NOT_FOUND, nv.ERROR_INVALID_ARGUMENT: // no instance in this place
		default:
			return nil, check("nvmlDeviceGetMigDeviceHandleByIndex", ret)
		}
	}
	return all, nil
}

func (b boundDevice) Instance() (gpu, compute int, err error) {
	err = b.call("nvmlDeviceGetGpuInstanceId", func() (ret nv.Return) {
		if gpu, ret = b.d.GetGpuInstanceId(); ret == nv.SUCCESS {
			compute, ret = b.d.GetComputeInstanceId()
		}
		return ret
	})
	return gpu, compute, err
}
