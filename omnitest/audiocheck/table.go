package audiocheck

// Row holds bounds that were measured for a set-up.
type Row struct {
	Key    Key    // the fields that are not zero must agree; a zero Key fits every sound
	Bounds Bounds // a zero field means the default
	Source string // the run they came from: "calibrate 2026-11-25, 20 seeds, lab-7"
}

// Table chooses bounds by the key of a sound. The nil Table gives the defaults.
type Table []Row

// For gives the bounds of the row that fits the key with the most fields, the later of two that fit equally well, and where they
// come from; the defaults if none fits.
func (t Table) For(k Key) (b Bounds, source string) {
	best := -1
	for _, r := range t {
		if n, fits := r.Key.fits(k); fits && n >= best {
			best, b, source = n, r.Bounds, r.Source
		}
	}
	return b, source
}

// fits counts the fields that k names; ok is false if one of them is another in the key of the sound.
func (k Key) fits(sound Key) (n int, ok bool) {
	for _, f := range [][2]string{
		{k.Engine, sound.Engine}, {k.Model, sound.Model}, {k.GPU, sound.GPU}, {k.DType, sound.DType}, {k.Voice, sound.Voice}, {k.Text, sound.Text},
	} {
		if f[0] == "" {
			continue
		}
		if f[0] != f[1] {
			return 0, false
		}
		n++
	}
	if k.Seed != 0 {
		if k.Seed != sound.Seed {
			return 0, false
		}
		n++
	}
	return n, true
}

// bounds are the case's own, else those of its table.
func (c Case) bounds() (b Bounds, source string) {
	if c.Bounds != (Bounds{}) {
		return c.Bounds.withDefaults(), "the case's own"
	}
	b, source = c.Table.For(c.Key.from(c))
	return b.withDefaults(), source
}
