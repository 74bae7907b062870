package imagecheck

import "math"

// named are the colours that a prompt can name, each at the place where most people put it: the xkcd colour survey of 2010
// (222,500 sessions, 5 million answers). CSS names are of no use here: its green is dark and its brown is a red.
var named = []struct {
	name string
	rgb  [3]uint8
}{
	{"red", [3]uint8{0xe5, 0x00, 0x00}},
	{"green", [3]uint8{0x15, 0xb0, 0x1a}},
	{"blue", [3]uint8{0x03, 0x43, 0xdf}},
	{"yellow", [3]uint8{0xff, 0xff, 0x14}},
	{"orange", [3]uint8{0xf9, 0x73, 0x06}},
	{"purple", [3]uint8{0x7e, 0x1e, 0x9c}},
	{"white", [3]uint8{0xff, 0xff, 0xff}},
	{"black", [3]uint8{0x00, 0x00, 0x00}},
	{"grey", [3]uint8{0x92, 0x95, 0x91}},
	{"brown", [3]uint8{0x65, 0x37, 0x00}},
	{"pink", [3]uint8{0xff, 0x81, 0xc0}},
}

// nearest gives the colour name that is nearest, other than one, and its distance.
func (c lab) nearest(but int) (name int, distance float64) {
	distance = math.Inf(1)
	for i, n := range named {
		if d := c.distance(toLab(n.rgb)); i != but && d < distance {
			name, distance = i, d
		}
	}
	return name, distance
}

// lab is a colour in OKLab (Björn Ottosson, 2020): lightness 0-1 and two opponents of about -0.3 to 0.3, in which equal
// distances look equal and blue keeps its hue when it gets paler.
type lab struct{ l, a, b float64 }

func toLab(rgb [3]uint8) lab {
	linear := func(v uint8) float64 {
		c := float64(v) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	r, g, b := linear(rgb[0]), linear(rgb[1]), linear(rgb[2])
	l := math.Cbrt(0.4122214708*r + 0.5363325363*g + 0.0514459929*b)
	m := math.Cbrt(0.2119034982*r + 0.6806995451*g + 0.1073969566*b)
	s := math.Cbrt(0.0883024619*r + 0.2817188376*g + 0.6299787005*b)
	return lab{
		0.2104542553*l + 0.7936177850*m - 0.0040720468*s,
		1.9779984951*l - 2.4285922050*m + 0.4505937099*s,
		0.0259040371*l + 0.7827717662*m - 0.8086757660*s,
	}
}

// chroma below which a colour has no hue that one would name: a cool grey has 0.03, the palest of named paints 0.06.
const greyBelow = 0.04

func (c lab) chroma() float64 { return math.Hypot(c.a, c.b) }

// distance from the centre of a name, 0-1. Hue decides, and lightness (at half weight) between names of one hue: brown is a
// dark orange, pink a light red. Chroma does not count: a pale green is nearer to grey than to green by distance in OKLab, and
// is green. Colours without a hue are told apart by lightness, and are at distance 1 from those with one.
func (c lab) distance(o lab) float64 {
	switch grey := c.chroma() < greyBelow; {
	case grey != (o.chroma() < greyBelow):
		return 1
	case grey:
		return math.Abs(c.l - o.l)
	}
	const hue = 0.25 // a turn of 60 degrees counts as much as 0.5 of lightness: lilac is a purple and not a pink
	return math.Hypot((c.l-o.l)/2, 2*hue*math.Sin(c.hueTo(o)*math.Pi/360))
}

// hueTo is the angle between two hues, 0-180 degrees; NaN where one of the colours has none.
func (c lab) hueTo(o lab) float64 {
	if c.chroma() < greyBelow || o.chroma() < greyBelow {
		return math.NaN()
	}
	d := math.Abs(math.Atan2(c.b, c.a)-math.Atan2(o.b, o.a)) * 180 / math.Pi
	return min(d, 360-d)
}
