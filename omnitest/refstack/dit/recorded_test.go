package dit

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// exchange is one request with its answer, recorded from vLLM-Omni 0.26.
type exchange struct {
	Source       string
	Method, Path string
	ContentType  string `json:"content_type"`
	Body         struct {
		JSON      json.RawMessage
		Text      *string
		Multipart []struct {
			Name, Value, Filename string
			ContentType           string `json:"content_type"`
			Bytes                 int
		}
	}
	Status       int
	ResponseType string `json:"response_type"`
	Response     json.RawMessage
	Decoded      []struct {
		Format, Mode string
		Size         [2]int
	}
}

// differs are the recorded exchanges that the reference answers otherwise, each with its reason.
var differs = map[string]string{
	"043-gen-output-webp":           "no WebP encoder in pure Go: PNG that says png",
	"091-err-speech-on-t2i":         "the reference makes pictures and speech in one, so this is speech; the same answer to a text without words: TestSpeechRefusals",
	"090-err-videos-on-t2i":         "there is no video route: 404",
	"045-gen-without-image-on-edit": "the reference serves generations and edits in one, so this is a generation",
	"047-chat-edit-no-image":        "the same",
}

// TestRecordedExchanges sends every recorded request to the reference and compares the answers: errors word for word,
// pictures by keys, kinds of values, decoded format and size.
func TestRecordedExchanges(t *testing.T) {
	data, err := os.ReadFile("../../../testdata/recordings/vllm-omni-0.26.0/image-routes.json")
	require.NoError(t, err)
	var all []exchange
	require.NoError(t, json.Unmarshal(data, &all))
	require.Len(t, all, 84)
	left := len(differs)
	for _, e := range all {
		name := strings.TrimSuffix(filepath.Base(e.Source), ".json")
		if _, ok := differs[name]; ok {
			left--
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model := "/models/qwen-image"
			if strings.HasPrefix(e.Source, "editplus") {
				model = "/models/qwen-image-edit-plus"
			}
			s, err := New(Config{Model: model})
			require.NoError(t, err)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, e.request(t))
			assert.Equal(t, e.Status, w.Code, w.Body.String())
			assert.Equal(t, e.ResponseType, w.Header().Get("Content-Type"))
			e.compare(t, w)
		})
	}
	assert.Zero(t, left, "an entry of differs names no recorded exchange")
}

func (e exchange) compare(t *testing.T, w *httptest.ResponseRecorder) {
	switch {
	case e.ResponseType == "":
		assert.Empty(t, w.Body.Bytes())
		return
	case e.ResponseType == "image/png", e.ResponseType == "application/zip":
		assert.Regexp(t, `^attachment; filename="images?_[0-9a-f]{8}\.(png|zip)"$`, w.Header().Get("Content-Disposition"))
		return
	}
	var want, got any
	require.NoError(t, json.Unmarshal(e.Response, &want))
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	if e.Status >= 400 {
		assert.Empty(t, cmp.Diff(want, got), "want -, got +")
		return
	}
	assert.Empty(t, cmp.Diff(shapeOf("", want), shapeOf("", got)), "keys and kinds of values: want -, got +")
	if m, ok := want.(map[string]any); ok && strings.HasPrefix(e.Path, "/v1/images/") {
		g := got.(map[string]any)
		for _, k := range []string{"output_format", "size"} {
			if _, auto := m[k].(string); auto && strings.Contains(e.Source, "size-auto") && k == "size" {
				continue // the size of the test's own input
			}
			assert.Equal(t, m[k], g[k], k)
		}
	}
	pics := pictures(t, got)
	for i, d := range e.Decoded {
		c, format, err := image.DecodeConfig(bytes.NewReader(pics[i]))
		require.NoError(t, err)
		assert.Equal(t, strings.ToLower(d.Format), format)
		if !strings.Contains(e.Source, "size-auto") {
			assert.Equal(t, d.Size, [2]int{c.Width, c.Height})
		}
	}
}

// shapeOf keeps keys and kinds: strings become "string", numbers 0; the stages' pipeline name is a placeholder.
func shapeOf(key string, v any) any {
	switch v := v.(type) {
	case map[string]any:
		out := map[string]any{}
		for k, x := range v {
			for _, p := range []string{"QwenImageEditPlusPipeline.", "QwenImagePipeline.", "ReferenceEditPipeline.", "ReferencePipeline."} {
				k = strings.Replace(k, p, "Pipeline.", 1)
			}
			if key == "stage_durations" && k == "Pipeline.vae.encode" {
				continue // the text-to-image server ignores the input of an edit, so it has none
			}
			out[k] = shapeOf(k, x)
		}
		return out
	case []any:
		out := []any{}
		for _, x := range v {
			out = append(out, shapeOf(key, x))
		}
		return out
	case string:
		switch key {
		case "object", "role", "type", "finish_reason", "owned_by", "organization", "version", "detail":
			return v
		}
		return "string"
	case float64:
		if key == "prompt_tokens" || key == "total_tokens" || key == "completion_tokens" || key == "server_load" {
			return v
		}
		return 0.0
	}
	return v
}

// pictures finds the files in an answer.
func pictures(t *testing.T, v any) (out [][]byte) {
	t.Helper()
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			s, ok := x.(string)
			if !ok {
				out = append(out, pictures(t, x)...)
				continue
			}
			if k == "url" {
				s = strings.TrimPrefix(s, "data:image/png;base64,")
			}
			if k == "url" || k == "b64_json" {
				b, err := base64.StdEncoding.DecodeString(s)
				require.NoError(t, err)
				out = append(out, b)
			}
		}
	case []any:
		for _, x := range v {
			out = append(out, pictures(t, x)...)
		}
	}
	return out
}

func (e exchange) request(t *testing.T) *http.Request {
	t.Helper()
	switch {
	case e.Body.Multipart != nil:
		var b bytes.Buffer
		m := multipart.NewWriter(&b)
		for _, p := range e.Body.Multipart {
			if p.Filename == "" {
				if strings.HasPrefix(p.Value, "data:image") {
					p.Value = "data:image/png;base64," + base64.StdEncoding.EncodeToString(testPNG(t))
				}
				require.NoError(t, m.WriteField(p.Name, p.Value))
				continue
			}
			h := textproto.MIMEHeader{}
			h.Set("Content-Disposition", fmt.Sprintf(`form-data; name=%q; filename=%q`, p.Name, p.Filename))
			h.Set("Content-Type", p.ContentType)
			part, err := m.CreatePart(h)
			require.NoError(t, err)
			_, err = part.Write(inputFor(t, filepath.Base(e.Source)))
			require.NoError(t, err)
		}
		require.NoError(t, m.Close())
		r := httptest.NewRequest(e.Method, e.Path, &b)
		r.Header.Set("Content-Type", m.FormDataContentType())
		return r
	case e.Body.Text != nil:
		r := httptest.NewRequest(e.Method, e.Path, strings.NewReader(*e.Body.Text))
		r.Header.Set("Content-Type", e.ContentType)
		return r
	}
	body := e.Body.JSON
	if i := bytes.Index(body, []byte("data:image/png;base64,iVBOR")); i >= 0 {
		end := i + bytes.IndexByte(body[i:], '"')
		body = append(append(append([]byte(nil), body[:i]...), "data:image/png;base64,"+base64.StdEncoding.EncodeToString(testPNG(t))...), body[end:]...)
	}
	r := httptest.NewRequest(e.Method, e.Path, bytes.NewReader(body))
	if e.ContentType != "" {
		r.Header.Set("Content-Type", e.ContentType)
	}
	return r
}

// inputFor gives the file that a recorded edit sent, as far as its name tells.
func inputFor(t *testing.T, source string) []byte {
	t.Helper()
	whole := testPNG(t)
	switch {
	case strings.Contains(source, "corrupt"):
		return whole[:18]
	case strings.Contains(source, "truncated"):
		return whole[:len(whole)/2]
	case strings.Contains(source, "empty-file"):
		return nil
	case strings.Contains(source, "jpeg-in"):
		var b bytes.Buffer
		require.NoError(t, jpeg.Encode(&b, testPicture(256, 192), nil))
		return b.Bytes()
	}
	return whole
}

func testPNG(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, testPicture(256, 192)))
	return b.Bytes()
}

// testPicture is a smooth picture with some structure.
func testPicture(w, h int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, w, h))
	background(m, color.RGBA{150, 180, 200, 255}, color.RGBA{90, 110, 90, 255}, 42)
	return m
}
