package dit

import (
	"encoding/binary"
	"image"
	"math"
	"sync"
)

// Everything random in a picture comes from counters, not from a stream: value i of a key is a pure function of
// (key, i), so rows can be made in any order or in parallel and the pixels stay the same.

// mix is the finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection of 64 bits with good avalanche.
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// key folds numbers into one.
func key(parts ...uint64) uint64 {
	k := uint64(0x6f6d6e69)
	for _, p := range parts {
		k = mix(k ^ p)
	}
	return k
}

// hashString is FNV-1a, mixed.
func hashString(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// hashPixels identifies a picture. It takes 8 bytes at a time: a megapixel costs about a millisecond.
func hashPixels(m *image.RGBA) uint64 {
	b := m.Bounds()
	h := key(uint64(b.Dx()), uint64(b.Dy()))
	for y := b.Min.Y; y < b.Max.Y; y++ {
		row := m.Pix[m.PixOffset(b.Min.X, y):m.PixOffset(b.Max.X, y)]
		for len(row) >= 8 {
			h = (h ^ binary.LittleEndian.Uint64(row)) * 0x9e3779b97f4a7c15
			h ^= h >> 29
			row = row[8:]
		}
		for _, v := range row {
			h = (h ^ uint64(v)) * 1099511628211
		}
	}
	return mix(h)
}

// unit gives a number in [0, 1) for place i of a key.
func unit(k, i uint64) float64 { return float64(mix(k^mix(i))>>11) / (1 << 53) }

// pickN gives a number in [0, n) for place i of a key.
func pickN(k, i uint64, n int) int { return int(unit(k, i) * float64(n)) }

// gaussBits is the resolution of the normal table: 12 bits, so that one hash gives five values.
const gaussBits = 12

// gauss holds the quantiles of the standard normal distribution at the midpoints of 4096 equal slices. Looking a value
// up is far cheaper than Box-Muller, and the same on every machine. The extremes are +-3.7 sigma.
var gauss = sync.OnceValue(func() *[1 << gaussBits]float32 {
	var t [1 << gaussBits]float32
	for i := range t {
		p := (float64(i) + 0.5) / float64(len(t))
		t[i] = float32(math.Sqrt2 * math.Erfinv(2*p-1))
	}
	return &t
})

// normals fills dst with standard normal noise; place of the first value is at.
func normals(dst []float32, k, at uint64) {
	t := gauss()
	const mask = 1<<gaussBits - 1
	c := k ^ mix(at)
	for len(dst) >= 5 {
		c += 0x9e3779b97f4a7c15
		h := (c ^ c>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		h ^= h >> 31
		dst[0] = t[h&mask]
		dst[1] = t[h>>12&mask]
		dst[2] = t[h>>24&mask]
		dst[3] = t[h>>36&mask]
		dst[4] = t[h>>48&mask]
		dst = dst[5:]
	}
	h := mix(c)
	for i := range dst {
		dst[i] = t[h&mask]
		h >>= gaussBits
	}
}
