package imagecheck

import (
	"fmt"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// Setup is what the numbers of a picture depend on, but for what its request says.
type Setup struct {
	Engine string // "vllm-omni"
	Model  string // "Qwen/Qwen-Image"
	GPU    string // "NVIDIA H100 80GB HBM3"; in a Row a part of it is enough
	DType  string // "bfloat16"
}

// Row is bounds for a set-up. A field that is empty fits anything.
type Row struct {
	Setup
	Steps  int
	Size   api.Size
	Bounds Bounds // what it changes; the rest are the defaults
	Run    string // the measurement that it comes from: a row without one is refused
}

// Table is looked up from its first row to its last: put the narrow ones first.
type Table []Row

// find gives the first row that fits; nil: none does.
func (t Table) find(s Setup, steps int, size api.Size) *Row {
	for i := range t {
		r := &t[i]
		if fits(r.Engine, s.Engine) && fits(r.Model, s.Model) && strings.Contains(s.GPU, r.GPU) && fits(r.DType, s.DType) &&
			(r.Steps == 0 || r.Steps == steps) && (r.Size == api.Size{} || r.Size == size) {
			return r
		}
	}
	return nil
}

func fits(want, have string) bool { return want == "" || want == have }

// Err refuses a table that cannot be trusted: a row without the run that it comes from, and one that no set-up can reach
// because an earlier one takes all of its.
func (t Table) Err() error {
	for i, r := range t {
		if strings.TrimSpace(r.Run) == "" {
			return fmt.Errorf("bounds row %d (%s): no run: which measurement does it come from?", i, r.Key())
		}
		for j, earlier := range t[:i] {
			if (Table{earlier}).find(r.Setup, r.Steps, r.Size) != nil {
				return fmt.Errorf("bounds row %d (%s) is never reached: row %d (%s) takes all of it", i, r.Key(), j, earlier.Key())
			}
		}
	}
	return nil
}

// Key names a row in results: "engine=vllm-omni gpu=H100 steps=20"; "any" for one that fits all.
func (r Row) Key() string {
	var parts []string
	for _, p := range []struct{ name, value string }{{"engine", r.Engine}, {"model", r.Model}, {"gpu", r.GPU}, {"dtype", r.DType}} {
		if p.value != "" {
			parts = append(parts, p.name+"="+p.value)
		}
	}
	if r.Steps > 0 {
		parts = append(parts, fmt.Sprintf("steps=%d", r.Steps))
	}
	if r.Size != (api.Size{}) {
		parts = append(parts, "size="+r.Size.String())
	}
	if len(parts) == 0 {
		return "any"
	}
	return strings.Join(parts, " ")
}

// bounds resolves what a case's checks are judged by, and the name of where it came from: fields that the case sets itself,
// then the row of its table, then the defaults.
func (c Case) bounds() (b Bounds, key string) {
	size := c.Size
	row := c.Table.find(c.Setup, c.Steps, size)
	if row == nil {
		key = "default"
		b = c.Bounds.withDefaults()
	} else {
		key = row.Key()
		b = c.Bounds.over(row.Bounds).withDefaults()
	}
	if c.Bounds != (Bounds{}) {
		key = "case over " + key
	}
	return b, key
}
