package dit

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"mime/multipart"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const formKind = "multipart/form-data; boundary=x"

// formOf writes a form with the boundary x: name, content, and a file name for pictures ("": a text field).
func formOf(parts ...[3]string) []byte {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	_ = w.SetBoundary("x") // short and plain: never refused
	for _, p := range parts {
		if p[2] == "" {
			_ = w.WriteField(p[0], p[1])
			continue
		}
		f, _ := w.CreateFormFile(p[0], p[2])
		_, _ = f.Write([]byte(p[1]))
	}
	_ = w.Close()
	return b.Bytes()
}

func smallPNG() string {
	var b bytes.Buffer
	_ = png.Encode(&b, image.NewGray(image.Rect(0, 0, 16, 16)))
	return b.String()
}

// claimedPNG has the header of a picture and none of its pixels; 16 bit RGBA costs 8 bytes for each of them.
func claimedPNG(w, h int) string {
	ihdr := binary.BigEndian.AppendUint32([]byte("IHDR"), uint32(w))
	ihdr = append(binary.BigEndian.AppendUint32(ihdr, uint32(h)), 16, 6, 0, 0, 0)
	b := append([]byte("\x89PNG\r\n\x1a\n\x00\x00\x00\x0d"), ihdr...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(ihdr))
	idat := []byte("IDAT\x78\x9c")
	b = append(binary.BigEndian.AppendUint32(b, 2), idat...)
	return string(binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(idat)))
}

// claimedJPEG is a progressive CMYK one whose first scan begins and has no data: the decoder keeps 64 coefficients of 4 bytes for
// each block of 64 pixels and each of four components.
func claimedJPEG(w, h int) string {
	b := []byte{0xff, 0xd8, 0xff, 0xc2, 0, 20, 8, byte(h >> 8), byte(h), byte(w >> 8), byte(w), 4}
	for c := range 4 {
		b = append(b, byte(c+1), 0x11, 0)
	}
	b = append(b, 0xff, 0xda, 0, 14, 4)
	for c := range 4 {
		b = append(b, byte(c+1), 0)
	}
	return string(append(b, 0, 0, 0))
}

// worst are the stored inputs that cost most. pixels is what their pictures claim.
func worstForms() []struct {
	name   string
	body   []byte
	pixels int
	status int
} {
	many := strings.Repeat("--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n", 40_000) + "--x--\r\n"
	head := "--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\nX-Long: " + strings.Repeat("a", 4<<20) + "\r\n\r\nb\r\n--x--\r\n"
	lines := "--x\r\nContent-Disposition: form-data; name=\"prompt\"\r\n" + strings.Repeat("A: b\r\n", 200_000) + "\r\nb\r\n--x--\r\n"
	edit := func(files ...string) []byte {
		parts := [][3]string{{"prompt", "make it red"}, {"num_inference_steps", "1"}}
		for i, f := range files {
			parts = append(parts, [3]string{"image", f, fmt.Sprintf("%d.png", i)})
		}
		return formOf(parts...)
	}
	big := claimedPNG(7680, 4320)
	return []struct {
		name   string
		body   []byte
		pixels int
		status int
	}{
		{"40000 parts", []byte(many), 0, 400},
		{"a header of 4 MiB", []byte(head), 0, 422},
		{"200000 header lines", []byte(lines), 0, 400},
		{"a field of 8 MiB", formOf([3]string{"prompt", strings.Repeat("p", 8<<20), ""}, [3]string{"image", smallPNG(), "a.png"}), 256, 500},
		{"a PNG that claims 33 MP", edit(big), 7680 * 4320, 500},
		{"a PNG that claims 900 MP", edit(claimedPNG(30000, 30000)), 0, 400},
		{"two PNG that claim 33 MP each", edit(big, big), 0, 400},
		{"a mask too much", formOf([3]string{"prompt", "x"}, [3]string{"image", big, "a"}, [3]string{"mask_image", big, "m"}), 0, 400},
		{"a progressive JPEG that claims 33 MP", edit(claimedJPEG(7680, 4320)), 7680 * 4320, 500},
		{"a million pictures", formOf([3]string{"prompt", "x"}, [3]string{"n", "1000000000000"}, [3]string{"image", smallPNG(), "a.png"}), 256, 500},
	}
}

// spend runs f and gives the bytes that it allocated, freed ones included: more than was ever held at a time.
func spend(f func()) int {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// TestWorstFormsAreBounded: what claims much and holds little is refused for no more memory than inputMemory states.
func TestWorstFormsAreBounded(t *testing.T) {
	s := server(t, Config{})
	for _, c := range worstForms() {
		var status int
		got := spend(func() { status = post(s, "/v1/images/edits", formKind, bytes.NewReader(c.body)).Code })
		limit := inputMemory(len(c.body), c.pixels)
		t.Logf("%-38s %d, %4d MiB of %4d for a body of %d KiB", c.name, status, got>>20, limit>>20, len(c.body)>>10)
		assert.Equal(t, c.status, status, c.name)
		assert.LessOrEqual(t, got, detectorShare*limit, c.name)
	}
	m := image.NewPaletted(image.Rect(0, 0, 16, 16), color.Palette{color.Black, color.White})
	var b bytes.Buffer
	require.NoError(t, gif.Encode(&b, m, nil))
	assert.Equal(t, 200, post(s, "/v1/images/edits", formKind, bytes.NewReader(formOf([3]string{"prompt", "x"}, [3]string{"image", b.String(), "a.gif"}))).Code)
}

// The limit itself is proved to be one: an allocation beyond it is seen.
func TestSpendSees(t *testing.T) {
	var keep []byte
	assert.GreaterOrEqual(t, spend(func() { keep = make([]byte, 32<<20) }), 32<<20)
	runtime.KeepAlive(keep)
}

// FuzzEdits: whatever stands in a form, the answer is JSON, nothing panics, and the memory is within the stated limit and what the
// picture itself needs.
func FuzzEdits(f *testing.F) {
	for _, c := range worstForms() {
		if len(c.body) < 64<<10 && c.pixels < 1<<20 { // small and cheap ones are changed more often
			f.Add(c.body)
		}
	}
	f.Add(formOf([3]string{"prompt", "make the top left red"}, [3]string{"size", "16x16"}, [3]string{"seed", "3"}, [3]string{"num_inference_steps", "1"}, [3]string{"image[]", smallPNG(), "a.png"}))
	f.Add(formOf([3]string{"prompt", "x"}, [3]string{"url", "data:image/png;base64,AAAA"}, [3]string{"n", "2"}, [3]string{"output_format", "webp"}))
	f.Add(formOf([3]string{"prompt", "x"}, [3]string{"image", smallPNG(), "a"}, [3]string{"image", smallPNG(), "b"}, [3]string{"mask_image", smallPNG(), "m"}))
	f.Add(formOf([3]string{"prompt", "x"}, [3]string{"image", claimedJPEG(64, 64), "a"}, [3]string{"image", claimedPNG(64, 64), "b"}))
	f.Add([]byte("--x\r\n\r\n\r\n--x--"))
	f.Add([]byte("--x\r\nContent-Disposition: form-data; name=\"prompt\"; filename*=utf-8''%00\r\n\r\na"))
	s := server(f, Config{})
	f.Fuzz(func(t *testing.T, body []byte) {
		pixels, ok := cheap(body)
		if !ok {
			return
		}
		var code int
		var answer []byte
		var kind string
		got := spend(func() {
			w := post(s, "/v1/images/edits", formKind, bytes.NewReader(body))
			code, answer, kind = w.Code, w.Body.Bytes(), w.Header().Get("Content-Type")
		})
		if !strings.HasPrefix(kind, "application/json") || !json.Valid(answer) {
			t.Fatalf("%d with a body that is no JSON: %.200q", code, answer)
		}
		if limit := inputMemory(len(body), pixels) + 64<<20; got > limit {
			t.Fatalf("%d for %d bytes took %d bytes of memory, limit %d", code, len(body), got, limit)
		}
	})
}

// cheap tells the pixels that a form's pictures claim, and whether it may be sent: a picture of megapixels or thousands of steps
// would only slow the search down, and a URL would leave the machine.
func cheap(body []byte) (pixels int, ok bool) {
	r, err := http.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	if err != nil {
		return 0, false
	}
	r.Header.Set("Content-Type", formKind)
	if r.ParseMultipartForm(formMemory) != nil {
		return 0, true
	}
	defer r.MultipartForm.RemoveAll()
	const side = 128
	for name, values := range r.MultipartForm.Value {
		for _, v := range values {
			n, err := strconv.ParseFloat(strings.Trim(v, " \""), 64)
			switch {
			case name == "num_inference_steps" && err == nil && n > 50 && n <= maxSteps, name == "n" && err == nil && n > 4 && n <= maxPictures:
				return 0, false
			case name == "size":
				if w, h, bad := parseSize(v); bad == nil && w*h > side*side {
					return 0, false
				}
			case strings.HasPrefix(name, "url") && !strings.HasPrefix(v, "data:"):
				return 0, false
			}
		}
	}
	for _, files := range r.MultipartForm.File {
		for _, h := range files {
			b, err := readPart(h)
			if err != nil {
				continue
			}
			c, bad := header(b)
			if bad != nil {
				continue
			}
			pixels += c.Width * c.Height
		}
	}
	return pixels, pixels <= 4*side*side || pixels > maxInputPixels // the others are TestWorstFormsAreBounded's
}
