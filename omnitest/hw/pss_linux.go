package hw

import (
	"context"

	"github.com/shirou/gopsutil/v4/process"
)

// proportional is the PSS in bytes: pages shared by n processes count a nth for each.
func proportional(ctx context.Context, p *process.Process) (float64, error) {
	maps, err := p.MemoryMapsWithContext(ctx, true)
	if err != nil {
		return 0, err
	}
	var kib uint64
	for _, m := range *maps {
		kib += m.Pss
	}
	return float64(kib) * 1024, nil
}
