// Package refpd runs a reference stack inside a test's own process: two AR engines with a real side channel between them, the
// real proxy, and the DiT if asked for. It is for tests of evidence and probes, where a process per stage would only cost time.
package refpd

import (
	"cmp"
	"context"
	"testing"
	"time"

	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// Stack is what to start. The zero value is a healthy prefill, decode and proxy.
type Stack struct {
	Prefill, Decode ar.Config // EngineID is filled in
	DiT             *dit.Config
	Proxy           proxy.Config // Prefill, Decode and DiT are filled in where empty
}

// Limit is how long anything here may take; generous, as the machine may be busy.
const Limit = 20 * time.Second

// Start starts the stack, and ends it with the test.
func (s Stack) Start(t testing.TB) *Running {
	t.Helper()
	r := &Running{stages: map[string]*stage{}}
	r.Prefill, r.Decode = r.start(t, "prefill", engine("prefill", s.Prefill)), r.start(t, "decode", engine("decode", s.Decode))
	c := s.Proxy
	c.Prefill, c.Decode = cmp.Or(c.Prefill, r.Prefill), cmp.Or(c.Decode, r.Decode)
	if s.DiT != nil {
		r.DiT = r.start(t, "dit", func(ctx context.Context, listen string, ready func(string)) error {
			c := *s.DiT
			c.Listen = cmp.Or(listen, c.Listen)
			d, err := dit.New(c)
			if err != nil {
				return err
			}
			return d.Serve(ctx, ready)
		})
		c.DiT = cmp.Or(c.DiT, r.DiT)
	}
	r.Entry = r.start(t, "proxy", func(ctx context.Context, listen string, ready func(string)) error {
		c := c
		c.Listen = cmp.Or(listen, c.Listen)
		p, err := proxy.New(c)
		if err != nil {
			return err
		}
		return p.Serve(ctx, ready)
	})
	return r
}

// Engine starts one AR engine and gives its base URL.
func Engine(t testing.TB, name string, c ar.Config) string {
	t.Helper()
	return (&Running{stages: map[string]*stage{}}).start(t, name, engine(name, c))
}

// engine serves c again and again: each life is a new engine with the same configuration. Its id stays, as one on a command line
// does; its side channel is on another port each time unless c.Side says where.
func engine(name string, c ar.Config) run {
	c.EngineID = cmp.Or(c.EngineID, "engine-"+name)
	return func(ctx context.Context, listen string, ready func(string)) error {
		c := c
		c.Listen = cmp.Or(listen, c.Listen)
		s, err := ar.New(c)
		if err != nil {
			return err
		}
		return s.Serve(ctx, func(http, _ string) { ready(http) })
	}
}
