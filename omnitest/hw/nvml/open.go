package nvml

import (
	"context"
	"fmt"
	"time"

	"github.com/omnitest/suite/omnitest/hw"
)

// Options says where to look. The zero value is right on a host with a driver.
type Options struct {
	Library string // path of libnvidia-ml.so.1; "": the loader finds it
	SMI     string // path of nvidia-smi; "": from PATH
	OnlySMI bool   // do not load the library into this process
}

// Open gives a source of this host's GPUs: NVML, and where it cannot be loaded nvidia-smi. The error says why neither could, and
// wraps [hw.ErrUnavailable].
func Open(ctx context.Context, o Options) (hw.GPUSource, error) {
	why := error(nil)
	if !o.OnlySMI {
		s, err := openNVML(o)
		if err == nil {
			return s, nil
		}
		why = err
	}
	smi, err := openSMI(ctx, o.SMI)
	switch {
	case err == nil:
		return smi, nil
	case why == nil:
		return nil, fmt.Errorf("%w: nvidia-smi: %w", hw.ErrUnavailable, err)
	}
	return nil, fmt.Errorf("%w: NVML: %w; nvidia-smi: %w", hw.ErrUnavailable, why, err)
}

func openNVML(o Options) (hw.GPUSource, error) {
	lib, err := openLibrary(o.Library)
	if err != nil {
		return nil, err
	}
	s, err := newSource(lib, time.Now)
	if err != nil {
		_ = lib.Close()
		return nil, err
	}
	return s, nil
}
