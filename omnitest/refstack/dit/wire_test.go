package dit

import (
	"archive/zip"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"image"
	"image/png"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func post(s *Server, path, kind string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, body)
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, r)
	return w
}

func message(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var e errorBody
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e), w.Body.String())
	return e.Error.Message
}

// Validation beyond what was recorded, in pydantic's known words.
func TestValidation(t *testing.T) {
	s := server(t, Config{})
	for _, c := range []struct{ body, want string }{
		{`{"prompt":"x","n":0,"num_inference_steps":1000}`, "2 validation errors:\n  {'type': 'greater_than_equal', 'loc': ('body', 'n'), 'msg': 'Input should be greater than or equal to 1', 'input': 0, 'ctx': {'ge': 1}}\n  {'type': 'less_than_equal', 'loc': ('body', 'num_inference_steps')"},
		{`{"prompt":"x","n":1.5}`, "'int_from_float'"},
		{`{"prompt":"x","n":[1,"it's",null,true,{"a":2.50}]}`, `'int_type', 'loc': ('body', 'n'), 'msg': 'Input should be a valid integer', 'input': [1, "it's", None, True, {'a': 2.50}]`},
		{`{"prompt":"x","true_cfg_scale":"high"}`, "'float_parsing'"},
		{`{"prompt":"x","vae_use_tiling":"perhaps"}`, "'bool_type'"},
		{`{"prompt":"x","response_format":"jpg"}`, "'enum'"},
		{`{"prompt":"x","layers":1}`, "'greater_than_equal', 'loc': ('body', 'layers')"},
		{`{"prompt":"x","negative_prompt":7}`, "'string_type', 'loc': ('body', 'negative_prompt')"},
		{`{"prompt":"x","size":"1024xabc"}`, "Invalid size format: '1024xabc'."},
		{`{"prompt":"x","size":"1024x"}`, "Invalid size format: '1024x'."},
		{`{"prompt":"x","size":"9999999999x9999999999"}`, "exceeds the maximum allowed size"},
		{`{"prompt":"x"`, "JSON decode error"},
		{`null`, "Input should be a valid dictionary or object to extract fields from"},
	} {
		w := post(s, "/v1/images/generations", "application/json", strings.NewReader(c.body))
		assert.Equal(t, 400, w.Code, c.body)
		assert.Contains(t, message(t, w), c.want, c.body)
	}
	ok := `{"prompt":"x","size":"64X64","n":"1","num_inference_steps":2.0,"seed":null,"true_cfg_scale":"4","model":"reference-dit"}`
	assert.Equal(t, 200, post(s, "/v1/images/generations", "application/json; charset=utf-8", strings.NewReader(ok)).Code)
	v, _ := series(t, s, running)
	assert.Zero(t, v)
}

func TestSeedIsDrawnAndNotTold(t *testing.T) {
	s := server(t, Config{})
	a, all := generate(t, s, `{"prompt":"x","size":"64x64","num_inference_steps":1}`)
	b, _ := generate(t, s, `{"prompt":"x","size":"64x64","num_inference_steps":1}`)
	assert.NotEqual(t, a[0].Pix, b[0].Pix, "two unseeded requests gave the same noise")
	assert.NotContains(t, fmt.Sprint(all), "seed")
}

func editBody(t testing.TB, fields map[string]string, files ...[2]any) (string, *bytes.Buffer) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for k, v := range fields {
		require.NoError(t, m.WriteField(k, v))
	}
	for _, f := range files {
		p, err := m.CreateFormFile(f[0].(string), "x.png")
		require.NoError(t, err)
		require.NoError(t, png.Encode(p, f[1].(image.Image)))
	}
	require.NoError(t, m.Close())
	return m.FormDataContentType(), &b
}

// An edit over HTTP gives the pixels of the same edit in process: fields, files and mask all arrive.
func TestEditOverHTTP(t *testing.T) {
	s := server(t, Config{})
	in, second := testPicture(320, 200), testPicture(64, 64)
	mask := image.NewGray(image.Rect(0, 0, 320, 200))
	for i := range mask.Pix {
		if i%320 < 100 {
			mask.Pix[i] = 255
		}
	}
	kind, body := editBody(t, map[string]string{"prompt": "combine", "seed": "9", "num_inference_steps": "3", "size": "auto"},
		[2]any{"image", in}, [2]any{"image", second}, [2]any{"mask_image", mask})
	w := post(s, "/v1/images/edits", kind, body)
	require.Equal(t, 200, w.Code, w.Body.String())
	var a struct {
		Size    string
		Metrics *struct{}
		Data    []struct {
			B64 []byte `json:"b64_json"`
		}
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	assert.Equal(t, "320x200", a.Size, "echoed, not the truth")
	assert.Nil(t, a.Metrics)
	got, err := png.Decode(bytes.NewReader(a.Data[0].B64))
	require.NoError(t, err)
	want, err := s.Render(t.Context(), Job{Prompt: "combine", W: 320, H: 200, Steps: 3, Seed: 9, Inputs: []image.Image{in, second}, Mask: mask})
	require.NoError(t, err)
	assert.Equal(t, image.Rect(0, 0, 320, 192), want.Image.Rect)
	assert.Equal(t, want.Image.Pix, rgba(got).Pix)
	assert.LessOrEqual(t, want.Region.Max.X, 101)

	kind, body = editBody(t, map[string]string{"prompt": "x", "mask_image": "data:image/png;base64,AAAA"}, [2]any{"image", in})
	w = post(s, "/v1/images/edits", kind, body)
	assert.Equal(t, 400, w.Code)
	assert.Contains(t, message(t, w), "cannot identify image file")
}

func TestURLInput(t *testing.T) {
	s := server(t, Config{})
	files := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/in.png" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(testPNG(t))
	}))
	defer files.Close()
	kind, body := editBody(t, map[string]string{"prompt": "red", "url": files.URL + "/in.png"})
	assert.Equal(t, 200, post(s, "/v1/images/edits", kind, body).Code)
	kind, body = editBody(t, map[string]string{"prompt": "red", "url": files.URL + "/none.png"})
	w := post(s, "/v1/images/edits", kind, body)
	assert.Equal(t, 400, w.Code)
	assert.Contains(t, message(t, w), "Failed to download image from URL "+files.URL+"/none.png: status 404")
}

// A 72 byte file can claim 30,000 x 30,000 pixels.
func TestBombIsRefusedBeforeItIsDecoded(t *testing.T) {
	s := server(t, Config{})
	kind, body := editBody(t, map[string]string{"prompt": "red", "url": "data:image/png;base64," + base64.StdEncoding.EncodeToString(bombPNG())})
	w := post(s, "/v1/images/edits", kind, body)
	assert.Equal(t, 400, w.Code)
	assert.Contains(t, message(t, w), "image of 30000x30000 exceeds the limit of 33177600 pixels")
}

func bombPNG() []byte {
	var b bytes.Buffer
	_ = png.Encode(&b, image.NewGray(image.Rect(0, 0, 1, 1)))
	file := b.Bytes()
	copy(file[16:24], []byte{0, 0, 0x75, 0x30, 0, 0, 0x75, 0x30})
	return binary.BigEndian.AppendUint32(file[:29:29], crc32.ChecksumIEEE(file[12:29]))
}

func TestFilesAndFormats(t *testing.T) {
	s := server(t, Config{})
	w := post(s, "/v1/images/generations", "application/json", strings.NewReader(`{"prompt":"x","size":"64x32","seed":1,"n":2,"response_format":"file"}`))
	z, err := zip.NewReader(bytes.NewReader(w.Body.Bytes()), int64(w.Body.Len()))
	require.NoError(t, err)
	require.Len(t, z.File, 2)
	for _, f := range z.File {
		r, err := f.Open()
		require.NoError(t, err)
		m, err := png.Decode(r)
		require.NoError(t, err)
		assert.Equal(t, image.Rect(0, 0, 64, 32), m.Bounds())
	}
	for asked, want := range map[string]string{"png": "png", "jpeg": "jpeg", "gif": "jpeg", "webp": "png"} {
		w := post(s, "/v1/images/generations", "application/json", strings.NewReader(`{"prompt":"x","size":"64x32","seed":1,"output_format":"`+asked+`"}`))
		var a struct {
			Format string `json:"output_format"`
			Data   []struct {
				B64 []byte `json:"b64_json"`
			}
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		_, format, err := image.DecodeConfig(bytes.NewReader(a.Data[0].B64))
		require.NoError(t, err)
		assert.Equal(t, want, a.Format, asked)
		assert.Equal(t, want, format, "%s: the bytes are not what the answer claims", asked)
	}
}

func TestChat(t *testing.T) {
	s := server(t, Config{})
	chat := func(body string) *httptest.ResponseRecorder {
		return post(s, "/v1/chat/completions", "application/json", strings.NewReader(body))
	}
	first := func(w *httptest.ResponseRecorder) *image.RGBA {
		t.Helper()
		require.Equal(t, 200, w.Code, w.Body.String())
		var v any
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &v))
		m, err := png.Decode(bytes.NewReader(pictures(t, v)[0]))
		require.NoError(t, err)
		return rgba(m)
	}
	nested := first(chat(`{"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"old"},{"role":"assistant","content":"ok"},{"role":"user","content":"a red star"}],"extra_body":{"size":"96x64","seed":3,"num_inference_steps":2}}`))
	flat := first(chat(`{"messages":[{"role":"user","content":[{"type":"text","text":"a red star"}]}],"width":96,"height":64,"seed":3,"num_inference_steps":2}`))
	assert.Equal(t, nested.Pix, flat.Pix, "parameters nested and flat, text as string and as part")
	want, err := s.Render(t.Context(), Job{Prompt: "a red star", W: 96, H: 64, Seed: 3, Steps: 2})
	require.NoError(t, err)
	assert.Equal(t, want.Image.Pix, nested.Pix, "the last user message is the prompt")

	u := "data:image/png;base64," + base64.StdEncoding.EncodeToString(testPNG(t))
	edit := first(chat(`{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"` + u + `"}},{"type":"text","text":"make the left half red"}]}],"extra_body":{"seed":3}}`))
	assert.Equal(t, image.Rect(0, 0, 256, 192), edit.Rect)
	outsideOK(t, testPicture(256, 192), edit, image.Rect(0, 0, 128, 192))

	for body, want := range map[string]string{
		`{"messages":[]}`:                                          "No text prompt found in messages.",
		`{"messages":"hi"}`:                                        "Input should be a valid list",
		`{"messages":[{"role":"user","content":5}]}`:               "Invalid content of message 0",
		`{"messages":[{"role":"user","content":"x"}],"width":"w"}`: "'int_parsing'",
	} {
		w := chat(body)
		assert.Equal(t, 400, w.Code, body)
		assert.Contains(t, message(t, w), want, body)
	}
}

func FuzzGenerations(f *testing.F) {
	for _, seed := range []string{`{"prompt":"x","size":"16x16"}`, `{"prompt":"\"A\"","n":1,"size":"16x16","num_inference_steps":1}`, `[]`, `{"prompt":{"a":[1,null]}}`, `{"lora":{}}`, "\xff"} {
		f.Add(seed)
	}
	s := server(f, Config{})
	f.Fuzz(func(t *testing.T, body string) {
		var q struct {
			Size string
			N    json.Number
		}
		_ = json.Unmarshal([]byte(body), &q)
		if w, h, bad := parseSize(q.Size); bad != nil && q.Size != "" || w*h > 256*256 || q.Size == "" {
			return // pictures of a megapixel would only slow the search down
		}
		w := post(s, "/v1/images/generations", "application/json", strings.NewReader(body))
		if !json.Valid(w.Body.Bytes()) && w.Header().Get("Content-Type") == "application/json" {
			t.Fatalf("%d with a body that is no JSON: %.200q", w.Code, w.Body.String())
		}
	})
}
