package metrics

// Figures is what Summarize takes a profile to say of one request: Measure, the way the tool has it where the profile is
// literal, with the sample's token counts.
func (p Profile) Figures(s *Sample) (Figures, error) { return p.measure(s) }
