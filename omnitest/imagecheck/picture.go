package imagecheck

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"image"
	"image/draw"
	"sync"

	"github.com/omnitest/suite/omnitest/api"
)

// Check judges one picture. nil means good; else the error is an [*Error].
type Check = func(Picture) error

// Case is what was asked for: it selects the bounds, names the evidence and is printed with every failure.
// The zero Case works: default bounds, no evidence.
type Case struct {
	Name   string   // "poster-zh/open-24-hours": also the folder of the evidence under Dir
	Prompt string   //
	Size   api.Size // as requested
	Steps  int      //
	Seed   int64    //
	Echo   string   // the size that the server's answer claims (api.Images.Size): shown, never believed
	Stack  string   // one line on the stack that made the picture
	Repro  string   // the request as a shell line, for repro.sh
	Dir    string   // folder for evidence of failures; "": none is written
	Bounds Bounds   // zero: those of Table, else the defaults
	Setup  Setup    // what made the picture: selects the row of Table
	Table  Table    // bounds by set-up; nil: the defaults

	// Observe, if not nil, is called with all metrics of every check, passed or failed: soft values for a report, or the
	// sample from which bounds are calibrated. It may be called from several goroutines at once.
	Observe func(check string, metrics []Metric)
}

// Picture is a decoded picture with the request it answers. Make one with [Decode] or [Of]. Pass it by value: the copies
// share pixels and derived planes, which are computed at most once. The pixels must not be changed. Safe for concurrent
// use.
type Picture struct {
	Image *image.RGBA // at origin 0,0
	File  api.Image   // as received; zero for a picture that never was a file
	Case  Case
	*derived
}

// derived holds what several checks need, each computed on first use.
type derived struct {
	opaque func() *image.RGBA // composited on white; Image itself where it is opaque
	luma   func() *image.Gray
	phash  func() (Hash, error)
	extp   func() (Hash, error)
	sha    func() string

	colours func() (ColourGrid, error)
}

// Decode decodes a received picture once. An undecodable file is an [*Error] of check "decode", its bytes kept as raw.bin;
// errors.Is names what [Inspect] finds wrong with it.
func Decode(file api.Image, c Case) (Picture, error) {
	img, err := file.Decode()
	if err != nil {
		e := &Error{Check: "decode", Case: c, Err: err,
			Summary: fmt.Sprintf("picture does not decode: %d bytes of %s, header says %s", len(file.Raw), orUnknown(file.Format), file.Size)}
		if e.names = Inspect(file.Raw, api.Limits{}); len(e.names) == 0 {
			e.names = []error{ErrBroken}
		}
		e.keepRaw(file.Raw)
		return Picture{}, e
	}
	p := Of(img, c)
	p.File = file
	return p, nil
}

// DecodeAll decodes every picture of an answer. With several, "-0", "-1", ... is appended to the case name.
func DecodeAll(answer *api.Images, c Case) ([]Picture, error) {
	c.Echo = answer.Size
	out := make([]Picture, 0, len(answer.Items))
	for i, item := range answer.Items {
		ci := c
		if len(answer.Items) > 1 {
			ci.Name = fmt.Sprintf("%s-%d", c.Name, i)
		}
		p, err := Decode(item, ci)
		if err != nil {
			return out, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Of wraps pixels that are already decoded, from an offline engine for instance. A sub-image is copied to the origin;
// anything else is used as it is and must not be changed afterwards.
func Of(img *image.RGBA, c Case) Picture {
	if img == nil {
		return Picture{Case: c}
	}
	if img.Rect.Min != (image.Point{}) {
		img = crop(img, img.Rect)
	}
	d := &derived{}
	d.opaque = sync.OnceValue(func() *image.RGBA { return onWhite(img) })
	d.luma = sync.OnceValue(func() *image.Gray { return Luma(img) })
	d.phash = sync.OnceValues(func() (Hash, error) { return PHash64(d.opaque()) })
	d.extp = sync.OnceValues(func() (Hash, error) { return ExtP256(d.opaque()) })
	d.colours = sync.OnceValues(func() (ColourGrid, error) { return Colours(d.opaque()) })
	d.sha = sync.OnceValue(func() string { return PixelSHA256(img) })
	return Picture{Image: img, Case: c, derived: d}
}

// Size is the size as decoded; zero without a picture.
func (p Picture) Size() api.Size {
	if p.Image == nil {
		return api.Size{}
	}
	return api.Size{W: p.Image.Rect.Dx(), H: p.Image.Rect.Dy()}
}

// Raw is the file as received; nil for a picture that never was one.
func (p Picture) Raw() []byte { return p.File.Raw }

// PixelSHA256 is the hex SHA-256 of the decoded pixels, row by row as R, G, B, A bytes. Of the file's bytes it would not
// do: encoders and metadata change them. For an opaque picture it equals Python's
// hashlib.sha256(img.convert("RGBA").tobytes()).hexdigest(). The size is not part of it: compare that first.
func PixelSHA256(img *image.RGBA) string {
	h := sha256.New()
	w := 4 * img.Rect.Dx()
	if img.Stride == w {
		h.Write(img.Pix[:w*img.Rect.Dy()])
	} else {
		for y := range img.Rect.Dy() {
			h.Write(img.Pix[y*img.Stride:][:w])
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Luma is the ITU-R BT.601 luma of the picture composited on white, 0-255, rounded: the same integers as Go's
// color.GrayModel and Pillow's convert("L") give.
func Luma(img *image.RGBA) *image.Gray {
	w, h := img.Rect.Dx(), img.Rect.Dy()
	out := image.NewGray(image.Rect(0, 0, w, h))
	for y := range h {
		src := img.Pix[y*img.Stride:][:4*w]
		dst := out.Pix[y*out.Stride:][:w]
		for x := range dst {
			s := src[4*x : 4*x+4 : 4*x+4]
			white := uint32(255 - s[3]) // RGBA is premultiplied: compositing is an addition
			dst[x] = uint8((19595*(uint32(s[0])+white) + 38470*(uint32(s[1])+white) + 7471*(uint32(s[2])+white) + 1<<15) >> 16)
		}
	}
	return out
}

// onWhite composites on white. Hashes count transparent pixels as black otherwise, so that a white picture with alpha 0
// equals an opaque black one.
func onWhite(img *image.RGBA) *image.RGBA {
	if img.Opaque() {
		return img
	}
	out := image.NewRGBA(image.Rect(0, 0, img.Rect.Dx(), img.Rect.Dy()))
	draw.Draw(out, out.Rect, image.White, image.Point{}, draw.Src)
	draw.Draw(out, out.Rect, img, img.Rect.Min, draw.Over)
	return out
}

// crop copies a part of the picture to the origin. Copies, because a sub-image of exactly the hash's working size with
// another origin is hashed wrongly by goimagehash.
func crop(img *image.RGBA, r image.Rectangle) *image.RGBA {
	r = r.Intersect(img.Rect)
	out := image.NewRGBA(image.Rect(0, 0, r.Dx(), r.Dy()))
	draw.Draw(out, out.Rect, img, r.Min, draw.Src)
	return out
}

func orUnknown(format string) string {
	if format == "" {
		return "unknown format"
	}
	return format
}
