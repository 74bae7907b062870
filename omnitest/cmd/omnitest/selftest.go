package main

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/omnitest/suite/omnitest/canary"
	"github.com/omnitest/suite/omnitest/internal/stamped"
)

type selftestCommand struct {
	Streams    []int         `help:"Levels of streams at once; unset: 64 to 2048." placeholder:"N,..."`
	Rates      []float64     `help:"Levels of requests/s; unset: 100 to 4000." placeholder:"RATE,..."`
	Level      time.Duration `help:"Length of one level." default:"4s"`
	Limit      time.Duration `help:"Longest that all of it may take." default:"55s"`
	ClientCPUs []int         `name:"client-cpus" help:"Bind the client to these cores (Linux); unset: all." placeholder:"N,..."`
	ServerCPUs []int         `name:"server-cpus" help:"Bind the mock to these cores (Linux); unset: it shares all of them." placeholder:"N,..."`
	JSON       string        `name:"json" help:"Write it there; unset: into the user's cache folder, where perf looks. '-': nowhere." placeholder:"FILE"`
}

// Run measures the client of this machine and leaves its knee for later runs.
func (s *selftestCommand) Run(ctx context.Context, out io.Writer) error {
	path := s.JSON
	if path == "" {
		var err error
		if path, err = canary.KneePath(""); err != nil {
			return err
		}
	}
	if len(s.ClientCPUs) > 0 {
		if err := stamped.Pin(s.ClientCPUs...); err != nil {
			return err
		}
		runtime.GOMAXPROCS(len(s.ClientCPUs))
	}
	c, err := canary.Selftest(ctx, canary.SelftestOptions{Streams: s.Streams, Rates: s.Rates, Level: s.Level, Limit: s.Limit, ServerCPUs: s.ServerCPUs, Progress: out})
	if err != nil {
		return err
	}
	fmt.Fprintln(out)
	if err := c.Print(out); err != nil || path == "-" {
		return err
	}
	if err := c.Write(path); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "written to %s\n", path)
	return err
}
