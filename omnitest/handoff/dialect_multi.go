package handoff

import (
	"encoding/json"
	"slices"
	"strings"
)

// Multi is MultiConnector over these children: all of them save, the first that has a hit loads, and tickets hold the keys of
// all. Bytes are named only if every child counts them: what the others load moves past the counter, and claims without bytes
// would accuse a healthy engine. The name is "multi(nixl+lmcache-mp)".
func Multi(children ...*Dialect) *Dialect {
	d := vllm
	var names, lacks []string
	counted := len(children) > 0
	for _, c := range children {
		names = append(names, c.Name)
		if c.Lacks != "" {
			lacks = append(lacks, c.Lacks)
		}
		d.TailBlock, d.TailUnknown = d.TailBlock || c.TailBlock, d.TailUnknown || c.TailUnknown
		counted = counted && c.Bytes.Name != ""
		if d.TicketBy == "" {
			d.TicketBy, d.Ask = c.TicketBy, c.Ask
		}
		for _, k := range c.Ticket {
			if !slices.ContainsFunc(d.Ticket, func(x Key) bool { return x.Name == k.Name }) {
				k.Optional = k.Optional || c.TicketBy != d.TicketBy // one child's ticket is made by prefill, another's by the proxy: not in all of them
				d.Ticket = append(d.Ticket, k)
			}
		}
		own, theirs := d.series(), c.series()
		for i := range own {
			if own[i].Name == "" {
				*own[i] = *theirs[i]
			}
		}
	}
	d.Name = "multi(" + strings.Join(names, "+") + ")"
	d.Check = func(t map[string]json.RawMessage) (faults []string) {
		for _, c := range children {
			if c.Check != nil {
				faults = append(faults, c.Check(t)...)
			}
		}
		return faults
	}
	if !counted {
		d.Bytes, d.Transfers = Series{}, Series{}
		lacks = append(lacks, d.Name+": which of them loaded is not told, so bytes are not looked at")
	}
	d.Lacks = strings.Join(lacks, "; ")
	return &d
}
