package refstack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/omnitest/suite/omnitest/proxy"
	"github.com/omnitest/suite/omnitest/refstack/ar"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// RunRole is the whole life of one process of the reference stack: it serves the role ("proxy", "prefill", "decode" or
// "dit") until ctx ends or SIGTERM or SIGINT comes, then ends gracefully and returns nil. config is the JSON of
// proxy.Config, ar.Config or dit.Config, read strictly; empty means the zero value.
//
// Standard error gets one line when the role answers ("ready http=127.0.0.1:4711 side=127.0.0.1:4712") and one with the
// reason when it ends. A second signal kills: the first one hands signals back to the runtime.
func RunRole(ctx context.Context, role string, config []byte) error {
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer stop()
	context.AfterFunc(ctx, stop)
	return runRole(ctx, role, config, os.Stderr)
}

func runRole(ctx context.Context, role string, config []byte, log io.Writer) error {
	serve, err := newRole(role, config)
	if err != nil {
		fmt.Fprintf(log, "ended role=%s: %v\n", role, err)
		return err
	}
	err = serve(ctx, func(http, side string) {
		if side != "" {
			side = " side=" + side
		}
		fmt.Fprintf(log, "ready http=%s%s\n", http, side)
	})
	switch {
	case err != nil:
		err = named(role, err)
		fmt.Fprintf(log, "ended role=%s: %v\n", role, err)
	case ctx.Err() != nil:
		fmt.Fprintf(log, "ended role=%s: %v\n", role, context.Cause(ctx))
	default:
		// Serve's contract is to last as long as ctx. Returning early without an error would look like a clean exit.
		err = fmt.Errorf("%s: stopped serving although nobody asked it to", role)
		fmt.Fprintf(log, "ended role=%s: %v\n", role, err)
	}
	return err
}

// newRole builds the server of a role without listening.
func newRole(role string, config []byte) (serve func(ctx context.Context, ready func(http, side string)) error, err error) {
	switch role {
	case "prefill", "decode":
		var c ar.Config
		if err := strictJSON(role, config, &c); err != nil {
			return nil, err
		}
		s, err := ar.New(c)
		if err != nil {
			return nil, named(role, err)
		}
		return s.Serve, nil
	case "dit":
		var c dit.Config
		if err := strictJSON(role, config, &c); err != nil {
			return nil, err
		}
		s, err := dit.New(c)
		if err != nil {
			return nil, named(role, err)
		}
		return func(ctx context.Context, ready func(http, side string)) error {
			return s.Serve(ctx, func(addr string) { ready(addr, "") })
		}, nil
	case "proxy":
		var c proxy.Config
		if err := strictJSON(role, config, &c); err != nil {
			return nil, err
		}
		s, err := proxy.New(c)
		if err != nil {
			return nil, named(role, err)
		}
		return func(ctx context.Context, ready func(http, side string)) error {
			return s.Serve(ctx, func(addr string) { ready(addr, "") })
		}, nil
	}
	return nil, fmt.Errorf("unknown role %q; roles: proxy, prefill, decode, dit", role)
}

// named puts the role before an error that doesn't begin with it: the rooms name themselves, and "ar" is two roles.
func named(role string, err error) error {
	if strings.HasPrefix(err.Error(), role+": ") {
		return err
	}
	return fmt.Errorf("%s: %w", role, err)
}

// strictJSON refuses unknown fields and trailing text: a misspelt setting of a fault or a latency would otherwise run a
// healthy stack under the name of a faulty one.
func strictJSON(role string, config []byte, into any) error {
	if len(bytes.TrimSpace(config)) == 0 {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader(config))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("%s: config: %w", role, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: config: text after the JSON object", role)
	}
	return nil
}
