package theory

import "math"

// Link is a way between two instances.
type Link struct {
	Name    string
	Rate    float64 // bytes a second
	Latency float64 // seconds before the first byte: handshake, posting of descriptors
}

// NVLinkOf and PCIeOf are the links of a GPU at their peak in one direction.
func NVLinkOf(g GPU) (Link, error) {
	if g.NVLink == 0 {
		return Link{}, cannot("a transfer over NVLink", "%s has none", g.Name)
	}
	return Link{Name: "NVLink", Rate: g.NVLink}, nil
}

// PCIeOf is the PCIe link of a GPU.
func PCIeOf(g GPU) (Link, error) {
	if g.PCIe == 0 {
		return Link{}, cannot("a transfer over PCIe", "the rate of %s is not known", g.Name)
	}
	return Link{Name: "PCIe", Rate: g.PCIe}, nil
}

// Seconds that so many bytes take.
func (l Link) Seconds(bytes float64) float64 { return l.Latency + bytes/l.Rate }

// Sample is one measured transfer.
type Sample struct{ Bytes, Seconds float64 }

// FitLink lays the line Seconds = Latency + Bytes/Rate through measured transfers, by least squares. It takes two different sizes at least.
func FitLink(name string, samples []Sample) (Link, error) {
	var n, sx, sy, sxx, sxy float64
	for _, s := range samples {
		if !(s.Bytes > 0 && s.Seconds > 0) {
			return Link{}, cannot("the link", "a sample has %v bytes in %v s", s.Bytes, s.Seconds)
		}
		n, sx, sy = n+1, sx+s.Bytes, sy+s.Seconds
	}
	for _, s := range samples {
		dx := s.Bytes - sx/n
		sxx, sxy = sxx+dx*dx, sxy+dx*(s.Seconds-sy/n)
	}
	if n < 2 || sxx == 0 {
		return Link{}, cannot("the link", "%d samples of one size do not part latency from rate", len(samples))
	}
	slope := sxy / sxx
	if slope <= 0 {
		return Link{}, cannot("the link", "larger transfers took no longer in these samples")
	}
	return Link{Name: name, Rate: 1 / slope, Latency: math.Max(0, sy/n-slope*sx/n)}, nil
}

// KVBytes is what prefill hands to decode for a prompt: whole blocks (block 0: single tokens), as vLLM's connectors move them.
func KVBytes(kv KV, tokens, block int) float64 {
	if block > 1 {
		tokens = ceilDiv(tokens, block) * block
	}
	return kv.PerToken * float64(tokens)
}

// TextStateBytes is what a language model hands to a DiT: one hidden state a token.
func TextStateBytes(tokens, width int, element float64) float64 {
	return float64(tokens) * float64(width) * element
}

func (p *Prediction) addTransfer(l *Link, bytes float64) {
	t := l.Seconds(bytes)
	p.Stages = append(p.Stages, Stage{Name: Transfer, Calls: 1, Work: Work{Bytes: bytes}, Bound: t, Limit: "link", Efficiency: 1, Each: t, Seconds: t})
}
