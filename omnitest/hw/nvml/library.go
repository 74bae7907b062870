// Package nvml reads the GPUs of this host through NVIDIA's management library, and where that cannot be had through the
// program nvidia-smi.
//
//	source, err := nvml.Open(ctx, nvml.Options{})
//	if err != nil {
//		source = hw.Unavailable(err.Error()) // the reason then stands where the figures would
//	}
//	meter.GPU = source
//
// The library is opened at run time: a binary that is built with cgo on Linux also runs where there is no driver. Built without
// cgo, or for another system, Open goes to nvidia-smi at once.
package nvml

import (
	"errors"
	"fmt"
)

// library is what is asked of NVML; the binding (binding_cgo.go) and the fake of the tests implement it. Errors are *Error
// wherever NVML itself said no.
type library interface {
	Driver() (string, error)
	Count() (int, error)
	Device(index int) (device, error)
	Xids() ([]xid, error) // since the last call
	Close() error
}

// device is one GPU, or one MIG instance.
type device interface {
	UUID() (string, error)
	Name() (string, error)
	Memory() (memory, error)
	Utilization() (sm, mem uint32, err error) // per cent
	Power() (uint32, error)                   // mW
	Energy() (uint64, error)                  // mJ since the driver was loaded
	Clocks() (sm, mem uint32, err error)      // MHz
	Throttle() (uint64, error)                // bits, see hw.ThrottleReasons
	Temperature() (uint32, error)             // degrees Celsius
	PCIe() (counters, error)                  // bytes
	NVLink() (counters, error)                // bytes
	ECC() (corrected, uncorrected uint64, err error)
	Processes() ([]process, error)
	ProcessUtilization(since uint64) ([]processUtil, error) // since: stamp of the newest sample that is known, microseconds
	MIG() (enabled bool, err error)
	Instances() ([]device, error)
	Instance() (gpu, compute int, err error) // ids of a MIG instance
}

type memory struct{ total, reserved, used uint64 } // bytes

// counters of one GPU's link. They only rise, and wrap at 2^bits.
type counters struct {
	sent, received uint64
	bits           int
}

type process struct {
	pid    uint32
	memory uint64 // bytes; unknownMemory: the driver does not tell
}

// unknownMemory is NVML_VALUE_NOT_AVAILABLE.
const unknownMemory = ^uint64(0)

type processUtil struct {
	pid   uint32
	stamp uint64 // microseconds
	sm    uint32 // per cent
}

type xid struct {
	uuid string
	code int
}

// Error is a refusal of NVML.
type Error struct {
	Call string // "nvmlDeviceGetMemoryInfo_v2"
	Code int    // nvmlReturn_t
	Text string // NVML's own, "GPU is lost"
}

func (e *Error) Error() string { return fmt.Sprintf("%s: %s", e.Call, e.Text) }

// Codes of nvmlReturn_t (nvml.h of driver 580).
const (
	codeUninitialized   = 1
	codeNotSupported    = 3
	codeNoPermission    = 4
	codeNotFound        = 6
	codeDriverNotLoaded = 9
	codeLibraryNotFound = 12
	codeNoFunction      = 13
	codeLost            = 15
	codeResetRequired   = 16
	codeNoData          = 19
)

// gone tells that the GPU will not answer again in this process. A GPU that fell off the bus gives GPU_IS_LOST, one that needs a
// reset says so, and one that was taken away from the container is no longer found.
func gone(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Code == codeLost || e.Code == codeResetRequired || e.Code == codeDriverNotLoaded || e.Code == codeUninitialized)
}

func code(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}
