//go:build !linux

package hw

import (
	"context"
	"errors"

	"github.com/shirou/gopsutil/v4/process"
)

// proportional cannot be told on this system.
func proportional(context.Context, *process.Process) (float64, error) {
	return 0, errors.New("PSS is not told on this system")
}
