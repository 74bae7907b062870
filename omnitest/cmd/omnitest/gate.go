package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/handoff/gate"
	"github.com/omnitest/suite/omnitest/handoff/probe"
)

type gateCommand struct {
	Entry   string `required:"" help:"Base URL of the proxy, without /v1." placeholder:"URL"`
	Prefill string `required:"" help:"Base URL of the prefill engine." placeholder:"URL"`
	Decode  string `required:"" help:"Base URL of the decode engine." placeholder:"URL"`
	DiT     string `name:"dit" help:"Base URL of the DiT." placeholder:"URL"`

	Model  string        `help:"Model name of the AR engines; unset: requests name none." placeholder:"NAME"`
	Key    string        `env:"OPENAI_API_KEY" help:"Bearer token for all of them." placeholder:"KEY"`
	Lease  time.Duration `help:"How long prefill holds the blocks of a ticket; unset: 30s, vLLM's default." placeholder:"TIME"`
	Limit  time.Duration `help:"Longest that one request may take." default:"60s"`
	Tokens int           `help:"Length of the prompts." default:"192"`
	Rounds int           `help:"How often an experiment is repeated; unset: what each says itself."`
	Only   []string      `help:"Assertions to ask; unset: all. --only=help lists them." placeholder:"NAME,..."`
	JSON   string        `name:"json" help:"Write the whole report there." placeholder:"FILE"`
}

// Run asks. Only a proven gate ends with status 0.
func (g *gateCommand) Run(ctx context.Context, out io.Writer) error {
	if len(g.Only) == 1 && g.Only[0] == "help" {
		for _, a := range gate.Assertions() {
			fmt.Fprintf(out, "%3d  %-20s %s\n", a.ID, a.Name, a.Claim)
		}
		return nil
	}
	client := func(base string) *api.Client {
		return &api.Client{BaseURL: base, Model: g.Model, APIKey: g.Key, Timeout: g.Limit}
	}
	t := gate.Target{
		Source: handoff.Source{
			Entry: client(g.Entry), Prefill: handoff.Endpoint{API: client(g.Prefill)}, Decode: handoff.Endpoint{API: client(g.Decode)}, Lease: g.Lease,
		},
		Options: probe.Options{Limit: g.Limit, Tokens: g.Tokens, Rounds: g.Rounds},
		Only:    g.Only,
	}
	if g.DiT != "" {
		t.DiT = &api.Client{BaseURL: g.DiT, APIKey: g.Key}
	}
	r, err := gate.Run(ctx, t)
	if err != nil {
		return err
	}
	fmt.Fprint(out, r)
	if g.JSON != "" {
		if err := r.WriteFile(g.JSON); err != nil {
			return err
		}
	}
	if r.Err() != nil { // the report has said which and why
		return errors.New("the gate is not passed: " + r.State.String())
	}
	return nil
}
