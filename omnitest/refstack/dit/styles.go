package dit

import "image"

// stylise repaints an area in a style. The order of light and dark stays (so the picture keeps its perceptual hash), the
// levels do not.
func stylise(m *image.RGBA, area image.Rectangle, style string) {
	switch style {
	case "watercolour":
		soften(m, area, 3)
		eachPixel(m, area, func(p []byte) { // pale and a little more colourful, on white paper
			l := lumaOf(p)
			for i := range 3 {
				c := l + 1.25*(float32(p[i])-l)
				p[i] = clamp8(70 + c*0.74)
			}
		})
	case "oil":
		soften(m, area, 2)
		eachPixel(m, area, func(p []byte) { // few, saturated, darker tones
			l := lumaOf(p)
			q := float32(int(l/36))*36 + 4
			for i := range 3 {
				p[i] = clamp8((q + 1.5*(float32(p[i])-l)) * 0.86)
			}
		})
	case "sketch":
		sketch(m, area)
	case "anime":
		soften(m, area, 1)
		eachPixel(m, area, func(p []byte) { // flat, bright, strong colours
			l := lumaOf(p)
			q := float32(int(l/51))*51 + 38
			for i := range 3 {
				p[i] = clamp8(q + 1.7*(float32(p[i])-l))
			}
		})
	default: // "mono": grey, a dark picture printed lighter and a light one darker, as dodging and burning would
		lift := float32(54)
		if meanLuma(m, area) > 128 {
			lift = -24
		}
		eachPixel(m, area, func(p []byte) {
			v := clamp8(lumaOf(p)*0.86 + lift)
			p[0], p[1], p[2] = v, v, v
		})
	}
}

// sketch draws edges and a light hatch of the shadows on paper.
func sketch(m *image.RGBA, area image.Rectangle) {
	w, h := area.Dx(), area.Dy()
	l := make([]float32, w*h)
	i := 0
	eachPixel(m, area, func(p []byte) { l[i] = lumaOf(p); i++ })
	i = 0
	eachPixel(m, area, func(p []byte) {
		x, y := i%w, i/w
		right, below := i+min(1, w-1-x), i+w*min(1, h-1-y)
		edge := max(l[i]-l[right], l[right]-l[i]) + max(l[i]-l[below], l[below]-l[i])
		v := 176 + l[i]*0.3 - 3*max(0, edge-10)
		if (x+y)%6 == 0 {
			v -= max(0, 120-l[i]) * 0.4
		}
		p[0], p[1], p[2] = clamp8(v), clamp8(v), clamp8(v-6)
		i++
	})
}

// soften is a box blur of the given radius, along rows and then columns.
func soften(m *image.RGBA, area image.Rectangle, radius int) {
	w, h := area.Dx(), area.Dy()
	line := make([]byte, 4*max(w, h))
	blur := func(n, offset, stride int) {
		for c := range 3 {
			sum, count := 0, 0
			for i := 0; i < min(radius, n); i++ {
				sum += int(m.Pix[offset+i*stride+c])
				count++
			}
			for i := range n {
				if j := i + radius; j < n {
					sum += int(m.Pix[offset+j*stride+c])
					count++
				}
				if j := i - radius - 1; j >= 0 {
					sum -= int(m.Pix[offset+j*stride+c])
					count--
				}
				line[4*i+c] = byte(sum / count)
			}
		}
		for i := range n {
			copy(m.Pix[offset+i*stride:offset+i*stride+3], line[4*i:4*i+3])
		}
	}
	for y := range h {
		blur(w, m.PixOffset(area.Min.X, area.Min.Y+y), 4)
	}
	for x := range w {
		blur(h, m.PixOffset(area.Min.X+x, area.Min.Y), m.Stride)
	}
}
