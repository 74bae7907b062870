package dit

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	_ "image/gif" // formats an input may have
	_ "image/jpeg"
	_ "image/png"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"strings"
	"time"

	_ "golang.org/x/image/webp"
)

const (
	maxInputs  = 4 // recorded: "At most 4 images are supported by this model."
	formMemory = 64 << 20
	maxURLFile = 64 << 20

	// What a request costs at most before it is painted: its bytes a few times over (form, parts, decoded), and 24 bytes for
	// each pixel that its pictures and its mask claim to have (a progressive CMYK JPEG; a PNG takes 8), whether they hold them
	// or not.
	maxInputPixels = maxPixels // all pictures of a request and its mask together
)

// inputMemory is that limit in bytes, for a body and the pixels that its pictures claim.
func inputMemory(body, pixels int) int { return 16<<20 + 8*body + 24*min(pixels, maxInputPixels) }

// edits is POST /v1/images/edits. Its validation is looser than that of generations, as recorded: no limits on n, steps
// and guidance, failures of the engine are 500.
func (s *Server) edits(w http.ResponseWriter, r *http.Request) *failure {
	arrived := time.Now()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	switch err := r.ParseMultipartForm(formMemory); {
	case errors.Is(err, http.ErrNotMultipart): // a JSON body is seen as an empty form
		r.MultipartForm = &multipart.Form{}
	case err != nil:
		return badRequest("There was an error parsing the body")
	}
	defer r.MultipartForm.RemoveAll()
	f := form{fields: map[string]json.RawMessage{}}
	for k, v := range r.MultipartForm.Value {
		q, err := json.Marshal(v[len(v)-1])
		if err != nil {
			return badRequest("There was an error parsing the body")
		}
		f.fields[k] = q
	}
	if _, ok := f.fields["prompt"]; !ok {
		f.problems = append(f.problems, missing("prompt", "None"))
	}
	j := Job{Prompt: f.str("prompt", "")}
	model := f.str("model", "")
	n, _ := f.integer("n", 1, 1, 0)
	size := f.str("size", "auto")
	steps, _ := f.integer("num_inference_steps", defaultSteps, 1, 0)
	f.float("guidance_scale", 0, 1, 0)
	f.float("strength", 0, 1, 0)
	j.TrueCFG = f.float("true_cfg_scale", 0, 1, 0)
	seed, overflow := f.integer("seed", int64(rand.Uint32()), 1, 0)
	quality, _ := f.integer("output_compression", 100, 0, 100)
	output := f.str("output_format", "png")
	stream := f.boolean("stream")
	if len(f.problems) > 0 {
		return invalid(f.problems...)
	}
	if bad := s.checkModel(model); bad != nil {
		return bad
	}
	if v := f.str("response_format", "b64_json"); v != "b64_json" {
		return badRequest("Only response_format 'b64_json' is supported now.")
	}
	if stream {
		return badRequest("stream=true is only supported for multi-stage image editing pipelines.")
	}
	files, bad := inputFiles(r.Context(), r.MultipartForm)
	if bad != nil {
		return bad
	}
	if len(files) > maxInputs {
		return badRequest("Received %d input images. At most %d images are supported by this model.", len(files), maxInputs)
	}
	first, bad := header(files[0])
	if bad != nil {
		return bad
	}
	if size == "auto" || size == "" {
		j.W, j.H = first.Width, first.Height
		size = fmt.Sprintf("%dx%d", j.W, j.H)
	} else if j.W, j.H, bad = parseSize(size); bad != nil {
		return bad
	}
	if bad := together(files, maskBytes(r.MultipartForm)); bad != nil {
		return bad
	}
	for _, b := range files {
		m, bad := pixels(b)
		if bad != nil {
			return bad
		}
		j.Inputs = append(j.Inputs, m)
	}
	if j.Mask, bad = maskFile(r.MultipartForm); bad != nil {
		return bad
	}
	if overflow != nil {
		return engineFailure("Image edit", "", overflow)
	}
	j.Steps, j.Seed = int(steps), seed
	b, err := s.run(r.Context(), arrived, j, int(max(1, n)))
	if err != nil {
		return engineFailure("Image edit", "", err)
	}
	return imagesAnswer{format: output, quality: int(quality), size: &size}.send(w, b)
}

// inputFiles collects the input pictures: files, then URLs.
func inputFiles(ctx context.Context, m *multipart.Form) ([][]byte, *failure) {
	var out [][]byte
	for _, name := range []string{"image", "image[]"} {
		for _, h := range m.File[name] {
			b, err := readPart(h)
			if err != nil {
				return nil, badRequest("Failed to open uploaded file: %v", err)
			}
			out = append(out, b)
		}
	}
	for _, name := range []string{"url", "url[]"} {
		for _, u := range m.Value[name] {
			b, err := fetch(ctx, u)
			if err != nil {
				return nil, badRequest("Failed to download image from URL %s: %v", shortURL(u), err)
			}
			out = append(out, b)
		}
	}
	if len(out) == 0 {
		return nil, &failure{status: http.StatusUnprocessableEntity, message: "Field 'image' or 'url' is required"}
	}
	return out, nil
}

func readPart(h *multipart.FileHeader) ([]byte, error) {
	f, err := h.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// maskFile reads mask_image, a file or a data URL; nil without one.
func maskFile(m *multipart.Form) (image.Image, *failure) {
	var b []byte
	switch {
	case len(m.File["mask_image"]) > 0:
		var err error
		if b, err = readPart(m.File["mask_image"][0]); err != nil {
			return nil, badRequest("Failed to open uploaded file: %v", err)
		}
	case len(m.Value["mask_image"]) > 0 && m.Value["mask_image"][0] != "":
		var err error
		if b, err = dataURL(m.Value["mask_image"][0]); err != nil {
			return nil, badRequest("Failed to open uploaded file: %v", err)
		}
	default:
		return nil, nil
	}
	if _, bad := header(b); bad != nil {
		return nil, bad
	}
	return pixels(b)
}

// maskBytes is the mask as a file, nil without one or where it is a URL.
func maskBytes(m *multipart.Form) []byte {
	if len(m.File["mask_image"]) == 0 {
		return nil
	}
	b, _ := readPart(m.File["mask_image"][0]) // what is wrong with it is said when it is used
	return b
}

// together refuses pictures that are too many pixels in sum. One that cannot be read is left for its own error.
func together(files [][]byte, mask []byte) *failure {
	sum := 0
	for _, b := range append(files[:len(files):len(files)], mask) {
		if c, bad := header(b); bad == nil {
			sum += c.Width * c.Height
		}
	}
	if sum > maxInputPixels {
		return badRequest("Failed to open uploaded file: images of %d pixels together exceed the limit of %d", sum, maxInputPixels)
	}
	return nil
}

// header reads the size of a picture before memory is spent on its pixels.
func header(b []byte) (image.Config, *failure) {
	c, _, err := image.DecodeConfig(bytes.NewReader(b))
	switch {
	case err != nil && bytes.HasPrefix(b, []byte("\x89PNG\r\n\x1a\n")):
		return c, badRequest("Failed to open uploaded file: Truncated File Read")
	case err != nil:
		return c, badRequest("Failed to open uploaded file: cannot identify image file <_io.BytesIO object>")
	case c.Width <= 0 || c.Height <= 0 || c.Width > maxPixels/c.Height:
		return c, badRequest("Failed to open uploaded file: image of %dx%d exceeds the limit of %d pixels", c.Width, c.Height, maxPixels)
	}
	return c, nil
}

// pixels decodes a picture. A header without its pixels is found only here, in the engine: a 500 (recorded).
func pixels(b []byte) (image.Image, *failure) {
	if _, bad := header(b); bad != nil {
		return nil, bad
	}
	m, _, err := image.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, &failure{status: http.StatusInternalServerError, message: "Image edit failed: image file is truncated"}
	}
	return m, nil
}

func dataURL(u string) ([]byte, error) {
	_, data, ok := strings.Cut(u, ";base64,")
	if !ok || !strings.HasPrefix(u, "data:image") {
		return nil, errors.New("not a base64 data:image URL")
	}
	return base64.StdEncoding.DecodeString(data)
}

func shortURL(u string) string {
	if len(u) > 100 {
		return u[:100] + "..."
	}
	return u
}

func fetch(ctx context.Context, u string) ([]byte, error) {
	if strings.HasPrefix(u, "data:") {
		return dataURL(u)
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, errors.New("All connection attempts failed") // the words of httpx
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	return io.ReadAll(io.LimitReader(res.Body, maxURLFile))
}
