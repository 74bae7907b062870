package canary

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/omnitest/suite/omnitest/metrics"
)

// CapacitySchema is the version of Capacity's JSON.
const CapacitySchema = "omnitest.client/v1"

// Capacity is what a Selftest found: how far the client's figures can be trusted on one machine.
type Capacity struct {
	Schema  string  `json:"schema"`
	Date    string  `json:"date"`
	Machine Machine `json:"machine"`

	// The knees: the last level whose verdict was valid. Above them is not "impossible" but "not shown to be right".
	Streams     metrics.Value `json:"streams"`      // at once, one token each 20 ms
	EventRate   metrics.Value `json:"event_rate"`   // events/s of that level
	RequestRate metrics.Value `json:"request_rate"` // requests/s

	Levels []Level `json:"levels"`
}

// Machine tells machines apart for which a Capacity holds, without naming one.
type Machine struct {
	OS     string `json:"os"`
	Arch   string `json:"arch"`
	Kernel string `json:"kernel,omitempty"`
	CPU    string `json:"cpu,omitempty"` // model
	Cores  int    `json:"cores"`
	Procs  int    `json:"gomaxprocs"`
	Go     string `json:"go"` // version
}

// ThisMachine is the one that this process runs on.
func ThisMachine() Machine {
	return Machine{OS: runtime.GOOS, Arch: runtime.GOARCH, Kernel: kernel(), CPU: cpuModel(), Cores: runtime.NumCPU(), Procs: runtime.GOMAXPROCS(0), Go: runtime.Version()}
}

func (m Machine) String() string {
	return fmt.Sprintf("%s, %d cores, GOMAXPROCS %d, %s/%s %s, %s", m.CPU, m.Cores, m.Procs, m.OS, m.Arch, m.Kernel, m.Go)
}

// KneePath is where `omnitest selftest` leaves what it found, and where a plan looks: client.json in cache/omnitest, and for
// "" in the user's cache folder.
func KneePath(cache string) (string, error) {
	if cache == "" {
		var err error
		if cache, err = os.UserCacheDir(); err != nil {
			return "", fmt.Errorf("canary: no cache folder: %w", err)
		}
	}
	return filepath.Join(cache, "omnitest", "client.json"), nil
}

// ErrNoKnee means that this machine's client was never measured, or was another one then.
var ErrNoKnee = errors.New("the client's own limits on this machine are not known: run omnitest selftest")

// Knee reads what a selftest on this machine found. It is an ErrNoKnee where there was none, or where CPU, kernel, Go or
// GOMAXPROCS have changed since.
func Knee(path string) (Capacity, error) {
	var c Capacity
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, fmt.Errorf("canary: %w", ErrNoKnee)
	}
	if err != nil {
		return c, fmt.Errorf("canary: %w", err)
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("canary: %s: %w", path, err)
	}
	if c.Schema != CapacitySchema {
		return c, fmt.Errorf("canary: %s: schema %q, want %q: run omnitest selftest anew", path, c.Schema, CapacitySchema)
	}
	if now := ThisMachine(); c.Machine != now {
		return c, fmt.Errorf("canary: %w (the last one was made on %v; this is %v)", ErrNoKnee, c.Machine, now)
	}
	return c, nil
}

// Write stores c, whole or not at all.
func (c Capacity) Write(path string) error {
	raw, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".client-*")
	if err != nil {
		return err
	}
	_, err = temp.Write(append(raw, '\n'))
	if err := errors.Join(err, temp.Close()); err != nil {
		os.Remove(temp.Name())
		return err
	}
	return os.Rename(temp.Name(), path)
}

// Exceeds says where a plan is beyond what was shown to be right; nil: nowhere. A figure of 0 is not planned.
func (c Capacity) Exceeds(streams int, eventRate, requestRate float64) []string {
	var over []string
	for _, f := range []struct {
		name string
		plan float64
		knee metrics.Value
	}{{"streams at once", float64(streams), c.Streams}, {"events/s", eventRate, c.EventRate}, {"requests/s", requestRate, c.RequestRate}} {
		knee, ok := f.knee.Get()
		switch {
		case f.plan <= 0:
		case !ok:
			over = append(over, fmt.Sprintf("%.4g %s planned; the client's own limit is %v: %s", f.plan, f.name, f.knee, f.knee.Reason()))
		case f.plan > knee:
			over = append(over, fmt.Sprintf("%.4g %s planned; the client was shown to be right up to %.4g", f.plan, f.name, knee))
		}
	}
	return over
}
