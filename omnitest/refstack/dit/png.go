package dit

import (
	"encoding/base64"
	"image"
	"image/jpeg"
	"image/png"
	"sync"
)

// stored makes 8 bit RGB PNGs whose deflate blocks are not compressed: that is what vLLM-Omni sends for generations and
// edits (a 1376x768 answer is a body of 4.2 MB), so clients meet the true sizes. packed is what chat answers carry
// (recorded: zlib's level 6; here the fastest, since the ratio is not the point).
var (
	stored = png.Encoder{CompressionLevel: png.NoCompression, BufferPool: &pngBuffers{}}
	packed = png.Encoder{CompressionLevel: png.BestSpeed, BufferPool: &pngBuffers{}}
)

type pngBuffers struct{ p sync.Pool }

func (b *pngBuffers) Get() *png.EncoderBuffer {
	e, _ := b.p.Get().(*png.EncoderBuffer) // nil the first time: the encoder then makes one
	return e
}

func (b *pngBuffers) Put(e *png.EncoderBuffer) { b.p.Put(e) }

// encodeAs appends a file in the format that an output_format asks for and names the format it really is. Recorded: an
// unknown format silently becomes jpeg, and says so. There is no WebP encoder in pure Go: a request for webp gets a PNG
// that says png, since an answer whose bytes are not what it claims would be a fault, and a lossless one loses nothing.
func encodeAs(dst []byte, m *image.RGBA, format string, quality int) ([]byte, string, error) {
	w := appender{dst}
	switch format {
	case "", "png", "webp":
		err := stored.Encode(&w, m)
		return w.b, "png", err
	}
	err := jpeg.Encode(&w, m, &jpeg.Options{Quality: max(1, min(100, quality))})
	return w.b, "jpeg", err
}

func appendBase64(dst, raw []byte) []byte { return base64.StdEncoding.AppendEncode(dst, raw) }

// appender is a writer into a reused buffer.
type appender struct{ b []byte }

func (a *appender) Write(p []byte) (int, error) {
	a.b = append(a.b, p...)
	return len(p), nil
}
