package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/omnitest/suite/omnitest/internal/prom"
)

// Detect scrapes both stages and says which dialect they speak, and by which signs. A stack that shows no connector at all gives
// NIXL, whose absent series then make every verdict inconclusive, and the second value says that it was assumed. What is
// recognised as something that no dialect here speaks gives an *Unknown.
//
// ExampleConnector and P2pNcclConnector leave no sign on a metrics page: they must be named in Source.Dialect.
func Detect(ctx context.Context, s Source) (d *Dialect, from string, err error) {
	p, q := newWatcher("prefill", s.Prefill, s), newWatcher("decode", s.Decode, s)
	perr, derr := both(p, q, func(w *watcher) error { _, err := w.scrape(ctx); return err })
	if err := errors.Join(perr, derr); err != nil {
		return nil, "", fmt.Errorf("detect dialect: %w", err)
	}
	if d, from, _, err = detect(p.last, q.last, nil); err != nil {
		return nil, "", fmt.Errorf("detect dialect: %w", err)
	}
	return d, from, nil
}

// Unknown is a stack whose connector has no dialect here.
type Unknown struct {
	Why   string
	Found []string // what was seen, as far as it may help: names of series, keys of a ticket
}

func (u *Unknown) Error() string {
	var names []string
	for _, d := range known {
		names = append(names, d.Name)
	}
	found := u.Found[:min(6, len(u.Found))]
	text := strings.Join(found, ", ")
	if n := len(u.Found) - len(found); n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return fmt.Sprintf("%s: found %s; known dialects are %s", u.Why, text, strings.Join(names, ", "))
}

// strangers are keys of tickets of connectors that are known by name and have no dialect.
var strangers = map[string]string{"remote_notify_port": "MoRI-IO", "bootstrap_room": "SGLang"}

// finds gathers which dialects the signs speak for, and the first sign of each.
type finds struct {
	dialects []*Dialect
	signs    []string
}

func (f *finds) add(d *Dialect, sign string) {
	if !slices.Contains(f.dialects, d) {
		f.dialects, f.signs = append(f.dialects, d), append(f.signs, sign)
	}
}

// detect decides by what is present: a label kv_connector on any series, names of series, labels of stages, keys of tickets.
// assumed: there was no sign, and NIXL stands in.
func detect(prefill, decode *prom.Snapshot, tickets []json.RawMessage) (d *Dialect, from string, assumed bool, err error) {
	var pages finds
	for _, page := range []struct {
		stage string
		*prom.Snapshot
	}{{"decode", decode}, {"prefill", prefill}} {
		names := page.Names()
		if !slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, "vllm:") }) {
			return nil, "", false, &Unknown{page.stage + "'s metrics page has no series of vLLM", names}
		}
		for _, class := range page.Labelled("kv_connector") {
			i := slices.IndexFunc(known, func(d *Dialect) bool { return slices.Contains(d.Connectors, class) })
			switch {
			case i >= 0:
				pages.add(known[i], fmt.Sprintf("kv_connector=%q on %s's page", class, page.stage))
			case class != "MultiConnector" && class != "": // which has no series: its children tell
				return nil, "", false, &Unknown{"no dialect for this connector", []string{fmt.Sprintf("kv_connector=%q on %s's page", class, page.stage)}}
			}
		}
		for _, k := range known {
			for _, sign := range k.Signs {
				if i := slices.IndexFunc(names, func(n string) bool { return strings.HasPrefix(n, sign) }); i >= 0 {
					pages.add(k, fmt.Sprintf("%s on %s's page", names[i], page.stage))
				}
			}
		}
	}
	told, err := byTickets(tickets)
	if err != nil {
		return nil, "", false, err
	}
	if stages, _ := decode.Values(vllm.PromptTokens.Name, "stage"); len(stages) > 0 {
		if len(stages) != 2 {
			return nil, "", false, &Unknown{"an orchestrator's page must tell which stage is prefill and which decode, and has not two of them", []string{"stages " + strings.Join(stages, ", ")}}
		}
		return Omni(stages[0], stages[1]), fmt.Sprintf("stages %s and %s on decode's page", stages[0], stages[1]), false, nil
	}
	switch n := len(pages.dialects); {
	case n == 0 && len(told.dialects) == 1:
		return told.dialects[0], told.signs[0], false, nil
	case n == 0 && len(told.dialects) == 0:
		return &NIXL, "assumed: neither a connector's series nor a ticket was seen", true, nil
	case n == 0:
		return nil, "", false, &Unknown{"tickets of several connectors", told.signs}
	}
	for i, t := range told.dialects {
		if t == &NIXLPush && slices.Contains(pages.dialects, &NIXL) {
			continue // one series prefix for both modes: the ticket decides, below
		}
		if !slices.Contains(pages.dialects, t) {
			return nil, "", false, &Unknown{"pages and tickets speak of different connectors", append(slices.Clone(pages.signs), told.signs[i])}
		}
	}
	if slices.Contains(told.dialects, &NIXLPush) && len(pages.dialects) == 1 {
		return &NIXLPush, told.signs[0], false, nil
	}
	if len(pages.dialects) == 1 {
		return pages.dialects[0], pages.signs[0], false, nil
	}
	// Children in the order of the table, whatever the order of the pages.
	var children []*Dialect
	for _, k := range known {
		if slices.Contains(pages.dialects, k) {
			children = append(children, k)
		}
	}
	return Multi(children...), strings.Join(pages.signs, ", "), false, nil
}

// byTickets reads the signs of tickets; nulls and asks say nothing.
func byTickets(tickets []json.RawMessage) (told finds, err error) {
	for _, ticket := range tickets {
		var keys map[string]json.RawMessage
		if json.Unmarshal(ticket, &keys) != nil || len(keys) == 0 || string(find(keys, "do_remote_decode")) == "true" {
			continue
		}
		for key, name := range strangers {
			if keys[key] != nil {
				return told, &Unknown{"no dialect for a ticket of " + name, []string{"its key " + key}}
			}
		}
		found := false
		for _, d := range known {
			for _, mark := range d.Marks {
				if find(keys, mark) == nil {
					continue
				}
				found = true
				if d == &NIXL && text(keys["transfer_mode"]) == "push" {
					d = &NIXLPush
				}
				told.add(d, "the key "+mark+" of a ticket")
				break
			}
		}
		if !found {
			return told, &Unknown{"no dialect for this ticket", slices.Sorted(maps.Keys(keys))}
		}
	}
	return told, nil
}
