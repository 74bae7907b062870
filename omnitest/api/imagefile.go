package api

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"

	"golang.org/x/image/webp"
)

// The three formats that vLLM-Omni writes, by their first bytes. What a server says about the format is not trusted.
const pngMagic = "\x89PNG\r\n\x1a\n"

func sniff(raw []byte) string {
	switch {
	case bytes.HasPrefix(raw, []byte(pngMagic)):
		return "png"
	case bytes.HasPrefix(raw, []byte("\xff\xd8\xff")):
		return "jpeg"
	case len(raw) >= 12 && string(raw[:4]) == "RIFF" && string(raw[8:12]) == "WEBP":
		return "webp"
	}
	return ""
}

// ReadImage sniffs and limits a file's bytes without decoding its pixels. It keeps raw, it does not copy it. The error
// is an *Error of kind Limit or Protocol.
//
// A PNG of 72 bytes that claims 20000x20000 makes image/png allocate 1.5 GB before it notices, so the claim has to be
// judged before any decoder sees the file.
func ReadImage(raw []byte, l Limits) (Image, error) {
	if int64(len(raw)) > l.file() {
		return Image{}, finding(Limit, "image file of %d bytes, limit %d (Limits.FileBytes)", len(raw), l.file())
	}
	im := Image{Raw: raw, Format: sniff(raw), limits: l}
	var config func(io.Reader) (image.Config, error)
	switch im.Format {
	case "png":
		config = png.DecodeConfig
	case "jpeg":
		config = jpeg.DecodeConfig
	case "webp":
		config = webp.DecodeConfig
	default:
		if len(raw) == 0 {
			return Image{}, finding(Protocol, "image file is empty")
		}
		return Image{}, finding(Protocol, "image file of %d bytes is no png, jpeg or webp: it begins %.16q", len(raw), raw)
	}
	c, err := config(bytes.NewReader(raw))
	if err != nil {
		return Image{}, finding(Protocol, "%s file of %d bytes has a broken header: %v", im.Format, len(raw), err)
	}
	im.Size = Size{c.Width, c.Height}
	if c.Width <= 0 || c.Height <= 0 {
		return Image{}, finding(Protocol, "%s header claims %s pixels", im.Format, im.Size)
	}
	if pixels := int64(c.Width) * int64(c.Height); pixels > l.pixels() {
		return Image{}, finding(Limit, "%s header of a %d-byte file claims %s = %d pixels, limit %d (Limits.Pixels)",
			im.Format, len(raw), im.Size, pixels, l.pixels())
	}
	return im, nil
}

// Decode reads the pixels as RGBA at origin 0,0. The header was checked against the limits when the image arrived.
// Colours of a picture with transparency come premultiplied, as image.RGBA defines.
func (im *Image) Decode() (*image.RGBA, error) {
	checked, err := ReadImage(im.Raw, im.limits) // again: an Image can be made by hand, and it costs microseconds
	if err != nil {
		return nil, err
	}
	var pixels image.Image
	switch r := bytes.NewReader(im.Raw); checked.Format {
	case "png":
		pixels, err = png.Decode(r)
	case "jpeg":
		pixels, err = jpeg.Decode(r)
	case "webp":
		pixels, err = webp.Decode(r)
	}
	if err != nil {
		what := err.Error()
		if im.Trailing() < 0 {
			what = "the file is truncated: " + what
		}
		return nil, fmt.Errorf("%s of %s pixels in %d bytes cannot be decoded: %s", checked.Format, checked.Size, len(im.Raw), what)
	}
	return toRGBA(pixels), nil
}

// toRGBA converts without copying where the memory already is what image.RGBA means.
func toRGBA(m image.Image) *image.RGBA {
	b := m.Bounds()
	switch p := m.(type) {
	case *image.RGBA:
		if b.Min == (image.Point{}) {
			return p
		}
	case *image.NRGBA: // without transparency, premultiplied and not are the same bytes
		if b.Min == (image.Point{}) && p.Opaque() {
			return &image.RGBA{Pix: p.Pix, Stride: p.Stride, Rect: p.Rect}
		}
	}
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(out, out.Rect, m, b.Min, draw.Src)
	return out
}

// Trailing counts the bytes that follow the picture's own end in the file. Decoders pass over them without a word; a
// server that writes them has glued two answers together. -1: the file ends before its picture does.
func (im *Image) Trailing() int {
	end := -1
	switch raw := im.Raw; sniff(raw) {
	case "png":
		end = pngEnd(raw)
	case "jpeg":
		end = jpegEnd(raw)
	case "webp":
		size := 8 + int64(binary.LittleEndian.Uint32(raw[4:]))
		if size += size & 1; size == int64(len(raw))+1 { // RIFF pads to even, but some writers leave the last padding out
			size--
		}
		if size <= int64(len(raw)) {
			end = int(size)
		}
	}
	if end < 0 || end > len(im.Raw) {
		return -1
	}
	return len(im.Raw) - end
}

// pngEnd walks the chunks (length, type, data, CRC) to the end of IEND.
func pngEnd(raw []byte) int {
	for i := int64(len(pngMagic)); i+12 <= int64(len(raw)); {
		next := i + 12 + int64(binary.BigEndian.Uint32(raw[i:]))
		if string(raw[i+4:i+8]) == "IEND" {
			return int(min(next, int64(len(raw))+1))
		}
		i = next
	}
	return -1
}

// jpegEnd walks the segments to the EOI marker. Entropy-coded data follows SOS; in it FF is followed by 00 (stuffing) or
// a restart marker.
func jpegEnd(raw []byte) int {
	for i := 2; i+1 < len(raw); {
		if raw[i] != 0xff {
			i++ // entropy-coded data
			continue
		}
		switch m := raw[i+1]; {
		case m == 0xd9:
			return i + 2
		case m == 0xff: // fill byte
			i++
		case m == 0 || m == 1 || 0xd0 <= m && m <= 0xd8:
			i += 2
		default:
			if i+4 > len(raw) {
				return -1
			}
			i += 2 + int(binary.BigEndian.Uint16(raw[i+2:]))
		}
	}
	return -1
}
