package prom

// Series is one series of a page, as it stands there.
type Series struct {
	Labels map[string]string
	Value  float64 // NaN and infinities too
}

// Each lists the series of a name in the order of the page, for pages whose series must not be summed.
func (s *Snapshot) Each(name string) []Series {
	var all []Series
	for _, x := range s.lookup(name) {
		one := Series{Labels: make(map[string]string, len(x.labels)), Value: x.value}
		for _, l := range x.labels {
			one.Labels[l.GetName()] = l.GetValue()
		}
		all = append(all, one)
	}
	return all
}
