package audiocheck

// Bounds are the limits of the checks. A zero field means the default beside it; a negative field means exactly 0, save for
// MinRMS, which is negative by nature. Changing a default needs a measurement in the commit message.
//
// Sources: [O] the accuracy tests of vLLM-Omni; [S] the study of this room (study_test.go): synthetic speech in two languages
// with planted wrong, missing and swapped characters, and with noise, gain, shift, rounding as benign changes; [C] chosen, to
// be calibrated on real voices.
type Bounds struct {
	DurationShare   float64 `json:",omitempty"` // 0.05 of the wanted duration, or DurationSeconds if that is more [C]
	DurationSeconds float64 `json:",omitempty"` // 0.05 s [C]
	MinRMS          float64 `json:",omitempty"` // -50 dBFS [C]
	ActiveFrames    float64 `json:",omitempty"` // 0.20: share of 20 ms frames above -50 dBFS [C]
	LongestSilence  float64 `json:",omitempty"` // 2 s, at the ends too [C]
	Clipped         float64 `json:",omitempty"` // 0.001: share of samples in runs of three and more at full scale [C]
	DCOffset        float64 `json:",omitempty"` // 0.01 of full scale [C]
	HNR             float64 `json:",omitempty"` // 1.0 dB [O]
	Flatness        float64 `json:",omitempty"` // 0.35: white noise has 0.56 in theory (e to the minus Euler's constant), voices far below 0.1 [S]
	SNR             float64 `json:",omitempty"` // 20 dB between loud frames and pauses [C]
	MelWorst        float64 `json:",omitempty"` // 1.5 dB: worst 60 ms of the log-mel distance; of 600 benign sounds the worst has 0.92, of 400 wrong ones the least 2.81 (-study 100) [S]
	MelMean         float64 `json:",omitempty"` // 0.8 dB: mean log-mel distance; the worst benign sound has 0.40; a wrong letter may have 0.06 [S]
	MelShift        float64 `json:",omitempty"` // 0.05 s: how far one sound may lie behind the other [C]
	Transcript      float64 `json:",omitempty"` // 0.9: likeness of transcript and text [O]
}

// withDefaults resolves zero and negative fields.
func (b Bounds) withDefaults() Bounds {
	for _, f := range []struct {
		v   *float64
		def float64
	}{
		{&b.DurationShare, 0.05}, {&b.DurationSeconds, 0.05}, {&b.ActiveFrames, 0.20}, {&b.LongestSilence, 2},
		{&b.Clipped, 0.001}, {&b.DCOffset, 0.01}, {&b.HNR, 1}, {&b.Flatness, 0.35}, {&b.SNR, 20},
		{&b.MelWorst, 1.5}, {&b.MelMean, 0.8}, {&b.MelShift, 0.05}, {&b.Transcript, 0.9},
	} {
		switch {
		case *f.v == 0:
			*f.v = f.def
		case *f.v < 0:
			*f.v = 0
		}
	}
	if b.MinRMS == 0 {
		b.MinRMS = -50
	}
	return b
}
