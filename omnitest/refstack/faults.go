package refstack

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// stages in the order in which lists name them: the way of a request.
var stages = []string{"proxy", "prefill", "decode", "dit"}

// FaultInfo describes one switch of Faults.
type FaultInfo struct {
	Name   string   // "decode.silent-recompute"
	Doc    string   // what it imitates
	Values []string // what may follow "=", the first being the default; nil: a plain switch
}

// AllFaults lists every switch, by stage in the order proxy, prefill, decode, dit and then by name. It reads the struct
// tags, so a new field in a room's Faults is known here at once.
func AllFaults() []FaultInfo {
	var all []FaultInfo
	for _, s := range new(Faults).switches() {
		all = append(all, s.FaultInfo)
	}
	return all
}

// ParseFaults reads the list form: names separated by commas, a value after "=" where the fault has values, as in
// "decode.silent-recompute,dit.wrong-size,decode.transfer-fails=recompute". The empty list is healthy.
func ParseFaults(list string) (Faults, error) {
	var f Faults
	known := f.switches()
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		if entry == "" {
			continue
		}
		name, value, valued := strings.Cut(entry, "=")
		i := slices.IndexFunc(known, func(s faultSwitch) bool { return s.Name == name })
		if i < 0 {
			return Faults{}, fmt.Errorf("unknown fault %q; known faults: %s", name, knownNames(known))
		}
		switch s := known[i]; {
		case s.Values == nil && valued:
			return Faults{}, fmt.Errorf("fault %s takes no value, got %q", name, value)
		case s.Values == nil:
			s.field.SetBool(true)
		case !valued:
			s.field.SetString(s.Values[0])
		case !slices.Contains(s.Values, value):
			return Faults{}, fmt.Errorf("fault %s=%s: want one of %s", name, value, strings.Join(s.Values, ", "))
		default:
			s.field.SetString(value)
		}
	}
	return f, nil
}

// String is the list form that ParseFaults reads back; "" when healthy.
func (f Faults) String() string {
	var list []string
	for _, s := range f.switches() {
		switch {
		case s.field.IsZero():
		case s.Values == nil:
			list = append(list, s.Name)
		default:
			list = append(list, s.Name+"="+s.field.String())
		}
	}
	return strings.Join(list, ",")
}

// Stages names the stages that have a switch on, in the order of a request.
func (f Faults) Stages() []string {
	var list []string
	for _, s := range f.switches() {
		stage, _, _ := strings.Cut(s.Name, ".")
		if !s.field.IsZero() && !slices.Contains(list, stage) {
			list = append(list, stage)
		}
	}
	return list
}

// Any is true when at least one switch is on.
func (f Faults) Any() bool { return f != (Faults{}) }

// faultSwitch is one switch of one Faults value.
type faultSwitch struct {
	FaultInfo
	field reflect.Value
}

// switches walks the tags. Prefill and Decode are the same type with the switches of both legs; the tag `stage` says which
// of them belong to which, so "prefill.silent-recompute" does not exist although the field does.
func (f *Faults) switches() []faultSwitch {
	var all []faultSwitch
	for _, stage := range stages {
		first := len(all)
		v := reflect.ValueOf(f).Elem().FieldByNameFunc(func(n string) bool { return strings.EqualFold(n, stage) })
		for i := range v.NumField() {
			tag := v.Type().Field(i).Tag
			if tag.Get("stage") != stage {
				continue
			}
			s := faultSwitch{FaultInfo{Name: stage + "." + tag.Get("fault"), Doc: tag.Get("doc")}, v.Field(i)}
			if values := tag.Get("values"); values != "" {
				s.Values = strings.Split(values, ",")
			}
			all = append(all, s)
		}
		slices.SortFunc(all[first:], func(a, b faultSwitch) int { return strings.Compare(a.Name, b.Name) })
	}
	return all
}

func knownNames(known []faultSwitch) string {
	names := make([]string, len(known))
	for i, s := range known {
		names[i] = s.Name
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}
