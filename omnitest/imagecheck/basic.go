package imagecheck

import (
	"fmt"

	"github.com/omnitest/suite/omnitest/api"
)

// Count demands exactly n pictures in an answer. It is a check of the answer, before any picture is decoded.
func Count(n int) func(*api.Images) error {
	return func(a *api.Images) error {
		if a == nil {
			return &Error{Check: "count", Summary: fmt.Sprintf("wrong number of pictures: no answer, asked for %d", n)}
		}
		if len(a.Items) == n {
			return nil
		}
		return &Error{Check: "count", Case: Case{Echo: a.Size},
			Summary: fmt.Sprintf("wrong number of pictures: %d pictures, asked for %d (%s %s, status %d)", len(a.Items), n, a.Method, a.URL, a.Status),
			Metrics: []Metric{
				{Name: "count", Value: float64(len(a.Items)), Bound: float64(n), Direction: "<=", Key: keyRequest},
				{Name: "count", Value: float64(len(a.Items)), Bound: float64(n), Direction: ">=", Key: keyRequest},
			}}
	}
}

// Size demands exactly this decoded size. The size that the answer's JSON echoes is shown beside it and never believed:
// engines echo the request. The zero size ("the engine's default") is refused: it would pass anything.
func Size(want api.Size) Check {
	return check("size", "wrong picture size", func(p Picture, f *finding) {
		if want.W <= 0 || want.H <= 0 {
			f.fail("no size was asked for (%s), so none can be checked", want)
			return
		}
		got := p.Size()
		f.note("width", float64(got.W), "px")
		f.note("height", float64(got.H), "px")
		if got == want {
			return
		}
		echo := "the answer claims no size"
		if p.Case.Echo != "" {
			echo = "the answer's size field claims " + p.Case.Echo
		}
		f.called(ErrSize)
		f.fail("decoded %s, want %s; %s", got, want, echo)
	})
}

// Format demands this file format, sniffed from the bytes: "png", "jpeg", "webp".
func Format(want string) Check {
	return check("format", "wrong picture format", func(p Picture, f *finding) {
		switch {
		case p.File.Raw == nil && p.File.Format == "":
			f.fail("the picture never was a file, want %s", want)
		case p.File.Format != want:
			f.fail("%s by its bytes, want %s", orUnknown(p.File.Format), want)
		}
	})
}

// Opaque demands that no pixel is transparent, for models that answer RGB.
func Opaque() Check {
	return check("opaque", "picture has transparent parts", func(p Picture, f *finding) {
		_, min := alpha(p)
		f.atLeast("alpha-min", float64(min), 255, "least alpha", "of 255")
	})
}

// NotBlank demands a picture: luma that varies (standard deviation 4 or more), no single colour on more than 98.5 % of
// the pixels, and something that is not transparent. Blank is what NaN latents and a blanked-out answer look like.
func NotBlank() Check {
	return check("not-blank", "picture is blank", notBlank)
}

func notBlank(p Picture, f *finding) {
	if most, _ := alpha(p); most == 0 {
		f.fail("every pixel is transparent")
	}
	_, dev := LumaStats(p.luma())
	f.atLeast("luma-stddev", dev, f.bounds.MinLumaStdDev, "luma standard deviation", "0-255")
	share, c := topColour(p)
	f.atMost("one-colour", share, f.bounds.MaxOneColour, fmt.Sprintf("share of one colour #%02x%02x%02x", c[0], c[1], c[2]), "")
}

// alpha gives the greatest and the least alpha.
func alpha(p Picture) (most, least uint8) {
	least = 255
	w := 4 * p.Image.Rect.Dx()
	for y := range p.Image.Rect.Dy() {
		row := p.Image.Pix[y*p.Image.Stride:][:w]
		for i := 3; i < len(row); i += 4 {
			most, least = max(most, row[i]), min(least, row[i])
		}
	}
	return most, least
}

// topColour gives the share of the most frequent colour, where it is a majority: Boyer and Moore's vote finds the only
// candidate in one pass, without a table of a million colours. Below one half the share is that of some colour.
func topColour(p Picture) (share float64, c [4]uint8) {
	img := p.opaque()
	w, h := img.Rect.Dx(), img.Rect.Dy()
	votes := 0
	each := func(see func([4]uint8)) {
		for y := range h {
			row := img.Pix[y*img.Stride:][:4*w]
			for len(row) >= 4 {
				see([4]uint8(row[:4]))
				row = row[4:]
			}
		}
	}
	each(func(v [4]uint8) {
		switch {
		case votes == 0:
			c, votes = v, 1
		case v == c:
			votes++
		default:
			votes--
		}
	})
	n := 0
	each(func(v [4]uint8) {
		if v == c {
			n++
		}
	})
	return float64(n) / float64(w*h), c
}
