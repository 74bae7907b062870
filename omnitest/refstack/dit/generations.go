package dit

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// maxPromptTokens is the recorded limit (max_sequence_length of Qwen-Image). The reference counts a token for each four
// bytes, about what its tokenizer makes of English; Chinese comes out near the truth as well.
const maxPromptTokens = 1024

func promptTokens(prompt string) int { return (len(prompt) + 3) / 4 }

func checkPrompt(prompt string) error {
	if n := promptTokens(prompt); n > maxPromptTokens {
		return fmt.Errorf("`prompt` is too long after applying the Qwen prompt template: got %d tokens, but `max_sequence_length` is %d. Shorten the prompt or increase `max_sequence_length` up to %d.",
			n, maxPromptTokens, maxPromptTokens)
	}
	return nil
}

// generations is POST /v1/images/generations.
func (s *Server) generations(w http.ResponseWriter, r *http.Request) *failure {
	arrived := time.Now()
	if !isJSON(r) {
		return badRequest("1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed")
	}
	raw, fields, bad := readJSON(w, r)
	if bad != nil {
		return bad
	}
	f := form{fields: fields}
	if _, ok := fields["prompt"]; !ok {
		f.problems = append(f.problems, missing("prompt", pyRepr(raw)))
	}
	j := Job{Prompt: f.str("prompt", "")}
	model := f.str("model", "")
	n, _ := f.integer("n", 1, 1, 10)
	size := f.str("size", "")
	if _, given := f.get("size"); given && !strings.Contains(strings.ToLower(size), "x") {
		const why = "size must be in format 'WIDTHxHEIGHT' (e.g., '1024x1024')"
		f.fail("size", "value_error", "Value error, "+why, `{'error': ValueError("`+why+`")}`)
	}
	format := f.responseFormat()
	f.str("user", "")
	f.integer("layers", 2, 2, 10)
	f.str("negative_prompt", "")
	steps, _ := f.integer("num_inference_steps", defaultSteps, 1, 200)
	f.float("guidance_scale", 0, 0, 20)
	j.TrueCFG = f.float("true_cfg_scale", 0, 0, 20)
	seed, overflow := f.integer("seed", int64(rand.Uint32()), 1, 0)
	f.str("generator_device", "")
	f.boolean("vae_use_slicing")
	f.boolean("vae_use_tiling")
	output := f.str("output_format", "png")
	if len(f.problems) > 0 {
		return invalid(f.problems...)
	}
	if bad := s.checkModel(model); bad != nil {
		return bad
	}
	if size != "" {
		if j.W, j.H, bad = parseSize(size); bad != nil {
			return bad
		}
	}
	if l, ok := f.get("lora"); ok {
		var lora struct{ Name, Path *string }
		if json.Unmarshal(l, &lora) != nil || lora.Name == nil || lora.Path == nil {
			return badRequest("Invalid lora object: both name and path are required.")
		}
	}
	if overflow != nil {
		return engineFailure("Image generation", "", overflow)
	}
	j.Steps, j.Seed = int(steps), seed
	b, err := s.run(r.Context(), arrived, j, int(n))
	if err != nil {
		return engineFailure("Image generation", "", err)
	}
	if format == "file" {
		return sendFiles(w, b, output)
	}
	a := imagesAnswer{format: output, quality: 100, stages: b}
	if size != "" {
		a.size = &size
	}
	return a.send(w, b)
}

// responseFormat validates response_format of a generation.
func (f *form) responseFormat() string {
	v := f.str("response_format", "b64_json")
	switch v {
	case "b64_json", "file":
	case "url":
		const why = "Only 'b64_json' or 'file' response format is supported, got: ResponseFormat.URL"
		f.fail("response_format", "value_error", "Value error, "+why, `{'error': ValueError("`+why+`")}`)
	default:
		f.fail("response_format", "enum", "Input should be 'b64_json', 'url' or 'file'", `{'expected': "'b64_json', 'url' or 'file'"}`)
	}
	return v
}

func (s *Server) checkModel(asked string) *failure {
	if asked != "" && asked != s.cfg.Model {
		return badRequest("Model mismatch: request specifies %s but server is running %s.", pyString(asked), pyString(s.cfg.Model))
	}
	return nil
}

// parseSize reads "1376x768".
func parseSize(size string) (w, h int, f *failure) {
	ws, hs, ok := strings.Cut(strings.ToLower(size), "x")
	w, err1 := strconv.Atoi(strings.TrimSpace(ws))
	h, err2 := strconv.Atoi(strings.TrimSpace(hs))
	switch {
	case !ok || err1 != nil || err2 != nil:
		return 0, 0, badRequest("Invalid size format: %s. Expected format: 'WIDTHxHEIGHT' (e.g., '1024x1024'). Did you mean to use 'x' as separator?", pyString(size))
	case w <= 0 || h <= 0:
		return 0, 0, badRequest("Invalid size: %s. Width and height must be positive integers.", size)
	case w > maxPixels || h > maxPixels || w*h > maxPixels:
		return 0, 0, badRequest("Requested image size %s exceeds the maximum allowed size of %d pixels. You can reduce the requested size or increase the server's --max-generated-image-size limit.", size, maxPixels)
	}
	return w, h, nil
}

// imagesAnswer is the body of generations and edits.
type imagesAnswer struct {
	format  string // output_format asked for
	quality int    // of jpeg
	size    *string
	stages  *batch // nil: "metrics" is null, as it is for edits
}

type stageMetrics struct {
	StageDurations map[string]float64 `json:"stage_durations"`
	PeakMemoryMB   float64            `json:"peak_memory_mb"`
}

// buffers hold whole files and bodies: 3 and 4 MB at a megapixel.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// base64Room is about what the pictures of a batch take as base64 of stored PNGs; growing step by step would copy
// megabytes several times.
func base64Room(b *batch) int {
	n := 4096
	for _, r := range b.results {
		n += 4*r.Image.Rect.Dx()*r.Image.Rect.Dy() + 4096
	}
	return n
}

// send builds the body around the pictures without a JSON encoder: base64 needs no escaping, and a copy of megabytes less
// is worth it.
func (a imagesAnswer) send(w http.ResponseWriter, b *batch) *failure {
	body, file := buffers.Get().(*[]byte), buffers.Get().(*[]byte)
	defer buffers.Put(body)
	defer buffers.Put(file)
	out := slices.Grow((*body)[:0], base64Room(b))
	out = append(out, `{"created":`...)
	out = strconv.AppendInt(out, time.Now().Unix(), 10)
	out = append(out, `,"data":[`...)
	format := "png"
	for i, r := range b.results {
		var err error
		if *file, format, err = encodeAs((*file)[:0], r.Image, a.format, a.quality); err != nil {
			return engineFailure("Image encoding", "", err)
		}
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, `{"b64_json":"`...)
		out = appendBase64(out, *file)
		out = append(out, `","url":null,"revised_prompt":null}`...)
	}
	rest := struct {
		OutputFormat string        `json:"output_format"`
		Size         *string       `json:"size"`
		CotOutput    *string       `json:"cot_output"`
		Metrics      *stageMetrics `json:"metrics"`
	}{OutputFormat: format, Size: a.size}
	if a.stages != nil {
		rest.Metrics = &stageMetrics{a.stages.stages, a.stages.peakMB}
	}
	tail, err := json.Marshal(rest)
	if err != nil {
		return engineFailure("Image encoding", "", err)
	}
	out = append(out, `],`...)
	out = append(out, tail[1:]...)
	*body = out
	writeBody(w, http.StatusOK, "application/json", out)
	return nil
}

// sendFiles is response_format=file: the file itself, or a zip of several.
func sendFiles(w http.ResponseWriter, b *batch, format string) *failure {
	var files [][]byte
	kind := ""
	for _, r := range b.results {
		f, k, err := encodeAs(nil, r.Image, format, 100)
		if err != nil {
			return engineFailure("Image encoding", "", err)
		}
		files, kind = append(files, f), k
	}
	if len(files) == 1 {
		w.Header().Set("Content-Disposition", `attachment; filename="image_`+randomHex(4)+`.`+kind+`"`)
		writeBody(w, http.StatusOK, "image/"+kind, files[0])
		return nil
	}
	var z bytes.Buffer
	zw := zip.NewWriter(&z)
	for i, f := range files {
		e, err := zw.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("image_%d.%s", i, kind), Method: zip.Store})
		if err == nil {
			_, err = e.Write(f)
		}
		if err != nil {
			return engineFailure("Image encoding", "", err)
		}
	}
	if err := zw.Close(); err != nil {
		return engineFailure("Image encoding", "", err)
	}
	w.Header().Set("Content-Disposition", `attachment; filename="images_`+randomHex(4)+`.zip"`)
	writeBody(w, http.StatusOK, "application/zip", z.Bytes())
	return nil
}
