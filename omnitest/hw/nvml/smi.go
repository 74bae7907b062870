package nvml

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/hw"
)

// smiEvery is how often nvidia-smi is worth asking: a call takes 20 ms to a second and opens every GPU anew, which wakes those
// that nobody holds open (persistence mode off).
const smiEvery = time.Second

// smiDeadline bounds one call. With a GPU that fell off the bus nvidia-smi hangs.
const smiDeadline = 20 * time.Second

// smi is a hw.GPUSource over the program nvidia-smi.
type smi struct {
	path   string
	fields []string
	absent map[string]string // fields that this nvidia-smi does not know
	run    func(ctx context.Context, args ...string) (out []byte, cpu time.Duration, err error)
}

func openSMI(ctx context.Context, path string) (hw.GPUSource, error) {
	if path == "" {
		var err error
		if path, err = exec.LookPath("nvidia-smi"); err != nil {
			return nil, errors.New("not found in PATH")
		}
	}
	s := newSMI(path)
	_, err := s.ReadGPUs(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func newSMI(path string) *smi {
	s := &smi{path: path, fields: queryFields(), absent: map[string]string{}}
	s.run = func(ctx context.Context, args ...string) ([]byte, time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, smiDeadline)
		defer cancel()
		cmd := exec.CommandContext(ctx, path, args...)
		cmd.WaitDelay = time.Second
		out, err := cmd.CombinedOutput()
		var cpu time.Duration
		if cmd.ProcessState != nil {
			cpu = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		}
		if err != nil && ctx.Err() != nil {
			return nil, cpu, fmt.Errorf("no answer within %v", smiDeadline)
		}
		return out, cpu, err
	}
	return s
}

func (s *smi) Close() error { return nil }

// ReadGPUs runs nvidia-smi twice: for the GPUs, and for the processes on them.
func (s *smi) ReadGPUs(ctx context.Context) (hw.GPUReading, error) {
	at := time.Now()
	out, cost, err := s.query(ctx)
	if err != nil {
		return hw.GPUReading{}, err
	}
	gpus, driver, err := parseGPUs(out, s.fields, s.absent)
	if err != nil {
		return hw.GPUReading{}, err
	}
	apps, more, err := s.run(ctx, "--query-compute-apps=gpu_uuid,pid,used_memory,process_name", "--format=csv,noheader,nounits")
	if err != nil {
		for i := range gpus {
			gpus[i].NoProcesses = failure(apps, err).Error()
		}
	} else {
		parseApps(apps, gpus)
	}
	return hw.GPUReading{At: at, Source: "nvidia-smi", Driver: driver, Every: smiEvery, Cost: cost + more, GPUs: gpus}, nil
}

// query asks for the fields, and leaves out those that an older or newer nvidia-smi refuses.
func (s *smi) query(ctx context.Context) (out []byte, cost time.Duration, err error) {
	for range len(s.fields) {
		out, cpu, err := s.run(ctx, "--query-gpu="+strings.Join(s.fields, ","), "--format=csv,noheader,nounits")
		cost += cpu
		if err == nil {
			return out, cost, nil
		}
		field, refused := refusedField(out)
		if !refused || !s.drop(field) {
			return nil, cost, failure(out, err)
		}
	}
	return nil, cost, errors.New("nvidia-smi refuses every field")
}

// refusedField reads `Field "clocks_event_reasons.active" is not a valid field to query.`
func refusedField(out []byte) (string, bool) {
	_, rest, found := strings.Cut(string(out), `Field "`)
	field, rest, ends := strings.Cut(rest, `"`)
	return field, found && ends && strings.HasPrefix(rest, " is not a valid field")
}

func (s *smi) drop(field string) bool {
	for i, f := range s.fields {
		if f == field && i >= essential {
			s.fields = append(s.fields[:i:i], s.fields[i+1:]...)
			s.absent[field] = fmt.Sprintf("this nvidia-smi does not know %q", field)
			return true
		}
	}
	return false
}

// failure is what nvidia-smi said, or that it said nothing.
func failure(out []byte, err error) error {
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	if len(line) == 0 {
		return err
	}
	return fmt.Errorf("%s (%w)", line, err)
}
