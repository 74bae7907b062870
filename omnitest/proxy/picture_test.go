package proxy

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pictureRig has a decode that plans; the DiT sees whatever comes of it.
func pictureRig(t testing.TB, plan string, change func(*rig, *Config)) *rig {
	return newRig(t, func(r *rig, c *Config) {
		r.d.answer = completion(plan)
		if change != nil {
			change(r, c)
		}
	})
}

const plan = `A sign that says “営業中” & "OPEN <24h>"` + "\nat dusk"

func TestGenerations(t *testing.T) {
	r := pictureRig(t, plan, nil)
	resp, body := r.post("/v1/images/generations", `{"model":"tiny","prompt":"a shop","seed":9007199254740993,"size":"64x64", "true_cfg_scale":4.0}`, "X-Request-Id", "pic-1")
	assert.Equal(t, 200, resp.StatusCode)
	assert.Equal(t, `{"created":1,"data":[{"b64_json":"aGk="}],"output_format":"png","size":"64x64"}`, body)
	assert.Equal(t, "pic-1", resp.Header.Get("X-Request-Id"))

	for name, leg := range map[string]sent{"prefill": r.p.only(t), "decode": r.d.only(t)} {
		assert.Equal(t, "/v1/completions", leg.path, name)
		assert.Equal(t, "pic-1", leg.header.Get("X-Request-Id"), name)
	}
	assert.JSONEq(t, `{"model":"tiny","prompt":"a shop","max_tokens":4096,"temperature":0,"kv_transfer_params":`+recordedTicket(t)+`}`, string(r.d.only(t).body))
	assert.JSONEq(t, `{"model":"tiny","prompt":"a shop","max_tokens":1,"temperature":0,"stream":false,"kv_transfer_params":`+string(askTicket)+`}`, string(r.p.only(t).body))

	x := r.x.only(t)
	assert.Equal(t, "/v1/images/generations", x.path)
	assert.Equal(t, "pic-1", x.header.Get("X-Request-Id"))
	quoted, _ := json.Marshal(plan)
	assert.JSONEq(t, `{"prompt":`+string(quoted)+`,"seed":9007199254740993,"size":"64x64","true_cfg_scale":4.0}`, string(x.body))
	assert.Contains(t, string(x.body), `"seed":9007199254740993`)
	assert.Contains(t, string(x.body), `"true_cfg_scale":4.0`)

	rec := r.last()
	require.Len(t, rec.Hops, 3)
	assert.Equal(t, []string{"prefill", "decode", "dit"}, []string{rec.Hops[0].Stage, rec.Hops[1].Stage, rec.Hops[2].Stage})
	assert.Equal(t, plan, rec.Hops[1].Plan, "what decode generated")
	assert.Equal(t, plan, rec.Hops[2].Plan, "what the DiT was sent")
	assert.Equal(t, "cmpl-d", rec.Hops[1].ResponseID)
}

func TestModelNamesOfPictures(t *testing.T) {
	asked := 0
	r := pictureRig(t, plan, func(r *rig, c *Config) {
		c.DiTModel, c.PlanTokens = "qwen-image", 77
		answer := r.d.answer
		r.d.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			if q.Method == http.MethodGet {
				asked++
			}
			answer(w, q, b)
		}
	})
	for range 3 {
		r.post("/v1/images/generations", `{"model":"tiny","prompt":"a"}`)
	}
	assert.Equal(t, 1, asked, "decode's /v1/models is asked once")
	assert.JSONEq(t, `"qwen-image"`, string(r.x.calls()[0].fields(t)["model"]))
	assert.JSONEq(t, `77`, string(r.d.calls()[0].fields(t)["max_tokens"]))

	r = pictureRig(t, plan, func(_ *rig, c *Config) { c.Model = "given" })
	r.post("/v1/images/generations", `{"prompt":"a"}`)
	assert.JSONEq(t, `"given"`, string(r.d.only(t).fields(t)["model"]))
}

// vLLM refuses a max_tokens above its context instead of shortening the answer.
func TestPlanFitsTheContext(t *testing.T) {
	r := pictureRig(t, plan, func(r *rig, c *Config) {
		c.Model = "tiny"
		answer := r.d.answer
		r.d.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			if q.URL.Path == "/v1/models" {
				w.Header().Set("Content-Type", "application/json")
				w.Write([]byte(`{"data":[{"id":"other","max_model_len":7},{"id":"tiny","max_model_len":2048}]}`))
				return
			}
			answer(w, q, b)
		}
	})
	r.post("/v1/images/generations", `{"prompt":"a"}`)
	assert.JSONEq(t, `2048`, string(r.d.calls()[0].fields(t)["max_tokens"]))
}

// editForm is a form as a browser or Python would send it, with file bytes that look like anything but a boundary.
func editForm(t testing.TB, fields [][2]string, files map[string][]byte) (body []byte, kind string) {
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, name := range []string{"image", "image[]", "mask_image"} {
		if data, ok := files[name]; ok {
			h := textproto.MIMEHeader{}
			h.Set("Content-Disposition", `form-data; name="`+name+`"; filename="in ü.png"`)
			h.Set("Content-Type", "image/png")
			p, err := w.CreatePart(h)
			require.NoError(t, err)
			p.Write(data)
		}
	}
	for _, f := range fields {
		require.NoError(t, w.WriteField(f[0], f[1]))
	}
	require.NoError(t, w.Close())
	return b.Bytes(), w.FormDataContentType()
}

// readForm reads with the standard library: another reader than the one under test.
func readForm(t testing.TB, body []byte, kind string) (fields map[string][]string, files map[string][]byte, names map[string]string) {
	_, params, err := mime.ParseMediaType(kind)
	require.NoError(t, err)
	fields, files, names = map[string][]string{}, map[string][]byte{}, map[string]string{}
	for m := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := m.NextRawPart()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		b, err := io.ReadAll(p)
		require.NoError(t, err)
		if p.FileName() != "" {
			files[p.FormName()], names[p.FormName()] = b, p.FileName()+" "+p.Header.Get("Content-Type")
			continue
		}
		fields[p.FormName()] = append(fields[p.FormName()], string(b))
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	copy(b, "\x89PNG\r\n\x1a\n\r\n--\r\n\r\n")
	return b
}

func TestEdits(t *testing.T) {
	r := pictureRig(t, plan, nil)
	image, mask := noise(3<<20), noise(100)
	body, kind := editForm(t, [][2]string{{"prompt", "make it blue"}, {"model", "tiny"}, {"seed", "42"}, {"size", "auto"}}, map[string][]byte{"image": image, "mask_image": mask})
	resp, got := r.post("/v1/images/edits", string(body), "Content-Type", kind)
	require.Equal(t, 200, resp.StatusCode, got)

	assert.JSONEq(t, `"make it blue"`, string(r.d.only(t).fields(t)["prompt"]))
	assert.Equal(t, "application/json", r.d.only(t).header.Get("Content-Type"))
	x := r.x.only(t)
	assert.Equal(t, kind, x.header.Get("Content-Type"))
	fields, files, names := readForm(t, x.body, kind)
	assert.Equal(t, map[string][]string{"prompt": {plan}, "seed": {"42"}, "size": {"auto"}}, fields, "the AR model's name is no DiT's")
	assert.Equal(t, sha256.Sum256(image), sha256.Sum256(files["image"]))
	assert.Equal(t, mask, files["mask_image"])
	assert.Equal(t, "in ü.png image/png", names["image"])
	assert.Equal(t, plan, r.last().Hop("dit").Plan)

	r = pictureRig(t, plan, func(_ *rig, c *Config) { c.DiTModel = "edit-plus" })
	r.post("/v1/images/edits", string(body), "Content-Type", kind)
	fields, _, _ = readForm(t, r.x.only(t).body, kind)
	assert.Equal(t, []string{"edit-plus"}, fields["model"])
}

func TestEditsRefuseWhatIsNoForm(t *testing.T) {
	r := pictureRig(t, plan, nil)
	whole, kind := editForm(t, [][2]string{{"prompt", "x"}}, map[string][]byte{"image": noise(50)})
	noPrompt, kind2 := editForm(t, nil, map[string][]byte{"image": noise(50)})
	for _, c := range []struct{ name, body, kind, want string }{
		{"no prompt", string(noPrompt), kind2, "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required'}"},
		{"json", `{"prompt":"blue"}`, "application/json", "1 validation error:\n  {'type': 'missing', 'loc': ('body', 'prompt'), 'msg': 'Field required'}"},
		{"cut off", string(whole[:len(whole)-30]), kind, "reading the form: boundary missing or form cut off"},
		{"other boundary", string(whole), "multipart/form-data; boundary=zzz", "reading the form: boundary missing or form cut off"},
	} {
		resp, body := r.post("/v1/images/edits", c.body, "Content-Type", c.kind)
		assert.Equal(t, 400, resp.StatusCode, c.name)
		assert.Equal(t, c.want, errorText(t, body), c.name)
	}
	assert.Empty(t, r.p.calls())
	assert.Empty(t, r.x.calls())
}

const dataURL = "data:image/png;base64,iVBORw0KGgo="

func TestChatForAPicture(t *testing.T) {
	r := pictureRig(t, plan, nil)
	r.x.answer = saysJSON(`{"id":"chatcmpl-x","choices":[{"message":{"content":[{"type":"image_url"}]},"finish_reason":"stop"}]}`)
	resp, _ := r.post("/v1/chat/completions", `{"model":"tiny","modalities":["image"],"messages":[
		{"role":"system","content":"be brief"},
		{"role":"user","content":[{"type":"image_url","image_url":{"url":"`+dataURL+`"}},{"type":"text","text":"make it blue"},{"type":"text","text":"and round"}],"name":"bob"},
		{"role":"assistant","content":null}],
		"extra_body":{"size":"64x64","seed":7}}`)
	require.Equal(t, 200, resp.StatusCode)

	assert.Equal(t, "/v1/chat/completions", r.d.only(t).path)
	assert.JSONEq(t, `{"model":"tiny","max_tokens":4096,"temperature":0,"messages":[
		{"role":"system","content":"be brief"},
		{"role":"user","content":"make it blue\nand round","name":"bob"},
		{"role":"assistant","content":null}],"kv_transfer_params":`+recordedTicket(t)+`}`, string(r.d.only(t).body))
	quoted, _ := json.Marshal(plan)
	assert.JSONEq(t, `{"modalities":["image"],"messages":[
		{"role":"system","content":"be brief"},
		{"role":"user","content":[{"type":"image_url","image_url":{"url":"`+dataURL+`"}},{"type":"text","text":`+string(quoted)+`}],"name":"bob"},
		{"role":"assistant","content":null}],
		"extra_body":{"size":"64x64","seed":7}}`, string(r.x.only(t).body))
	assert.Equal(t, "chatcmpl-x", r.last().Hop("dit").ResponseID)
}

func TestWhichChatsAskForAPicture(t *testing.T) {
	const user = `"messages":[{"role":"user","content":"a fox"}]`
	for body, picture := range map[string]bool{
		`{` + user + `}`:                       false,
		`{` + user + `,"modalities":["text"]}`: false,
		`{` + user + `,"modalities":null,"extra_body":{"seed":1,"top_k":5}}`: false,
		`{` + user + `,"modalities":["text","image"]}`:                       true,
		`{` + user + `,"extra_body":{"num_inference_steps":4}}`:              true,
		`{` + user + `,"num_inference_steps":4}`:                             true, // as the OpenAI client flattens it
	} {
		r := pictureRig(t, plan, nil)
		resp, got := r.post("/v1/chat/completions", body)
		require.Equal(t, 200, resp.StatusCode, got)
		assert.Equal(t, picture, len(r.x.calls()) == 1, body)
		if picture {
			assert.Contains(t, string(r.x.only(t).body), `{"role":"user","content":"A sign that says`)
		}
	}
	r := pictureRig(t, plan, nil)
	for _, messages := range []string{`[]`, `"x"`, `[1]`, `[{"role":"system","content":"x"}]`} {
		resp, body := r.post("/v1/chat/completions", `{"modalities":["image"],"messages":`+messages+`}`)
		assert.Equal(t, 400, resp.StatusCode)
		assert.Equal(t, "messages: want a list of messages with one of role user: the picture is made from its text", errorText(t, body))
	}
}

func TestPlanFailuresReachTheClientAndNotTheDiT(t *testing.T) {
	for _, c := range []struct {
		name   string
		answer func(http.ResponseWriter, *http.Request, []byte)
		status int
		want   string
	}{
		{"empty plan", completion(" \n"), 502, `decode: produced an empty plan (finish_reason "stop")`},
		{"no choices", saysJSON(`{"choices":[]}`), 502, "decode: produced an empty plan (no choices)"},
		{"500", says(500, "application/json", []byte(`{"error":{"message":"Internal server error","code":500}}`)), 502, "decode: 500 Internal Server Error: Internal server error"},
		{"error in 200", saysJSON(`{"error":{"message":"load failed"}}`), 502, "decode: 200 with an error inside: load failed"},
		{"html", says(200, "text/html", []byte("<p>")), 502, `decode: 200 with a body that is no completion: "<p>" (invalid character '<' looking for beginning of value)`},
		{"400", says(400, "application/json", []byte(`{"error":{"message":"prompt too long","type":"BadRequestError","param":null,"code":400}}`)), 400, "prompt too long"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := pictureRig(t, "", func(r *rig, conf *Config) { r.d.answer, conf.Model = c.answer, "tiny" })
			form, kind := editForm(t, [][2]string{{"prompt", "x"}}, map[string][]byte{"image": noise(99)})
			for _, q := range [][]string{
				{"/v1/images/generations", `{"prompt":"x"}`},
				{"/v1/images/edits", string(form), "Content-Type", kind},
				{"/v1/chat/completions", `{"modalities":["image"],"messages":[{"role":"user","content":"x"}]}`},
			} {
				resp, body := r.post(q[0], q[1], q[2:]...)
				assert.Equal(t, c.status, resp.StatusCode)
				assert.Equal(t, c.want, errorText(t, body))
				assert.Equal(t, "decode", resp.Header.Get(StageHeader))
				assert.Equal(t, "failed", r.last().Outcome)
			}
			assert.Empty(t, r.x.calls())
		})
	}
}

func TestModelOfDecodeCannotBeAsked(t *testing.T) {
	r := pictureRig(t, plan, func(r *rig, _ *Config) {
		r.d.answer = func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(503) }
	})
	resp, body := r.post("/v1/images/generations", `{"prompt":"x"}`)
	assert.Equal(t, 502, resp.StatusCode)
	assert.Equal(t, "decode: asking /v1/models for the model name: 503 Service Unavailable", errorText(t, body))
	r.d.answer = completion(plan)
	resp, _ = r.post("/v1/images/generations", `{"prompt":"x"}`)
	assert.Equal(t, 200, resp.StatusCode, "a failed question is asked again")
}

func TestDiTAnswersPassUnchanged(t *testing.T) {
	picture := append([]byte(`{"created":1,"data":[{"b64_json":"`), bytes.Repeat([]byte("A"), 20<<20)...)
	picture = append(picture, `"}],"id":"late"}`...)
	r := pictureRig(t, plan, func(r *rig, _ *Config) {
		r.x.answer = func(w http.ResponseWriter, q *http.Request, b []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(picture)))
			says(200, "application/json", picture)(w, q, b)
		}
	})
	resp, body := r.post("/v1/images/generations", `{"prompt":"x"}`)
	assert.EqualValues(t, len(picture), resp.ContentLength, "the length is announced as the DiT did")
	assert.True(t, body == string(picture))
	assert.EqualValues(t, len(picture), r.last().Hop("dit").Bytes)

	const failed = `{"error":{"message":"asleep","type":"InternalServerError","param":null,"code":500}}`
	r = pictureRig(t, plan, func(r *rig, _ *Config) { r.x.answer = says(500, "application/json", []byte(failed)) })
	resp, body = r.post("/v1/images/generations", `{"prompt":"x"}`)
	assert.Equal(t, 500, resp.StatusCode)
	assert.Equal(t, failed, body)
	assert.Equal(t, "dit", resp.Header.Get(StageHeader))
	assert.Equal(t, "dit: 500 Internal Server Error: asleep", r.last().Error)

	r = pictureRig(t, plan, func(r *rig, c *Config) { c.DiT = deadURL(t) })
	resp, body = r.post("/v1/images/generations", `{"prompt":"x"}`)
	assert.Equal(t, 502, resp.StatusCode)
	assert.Equal(t, "dit: dial tcp "+strings.TrimPrefix(r.proxy.c.DiT, "http://")+": connect: connection refused", errorText(t, body))
}

func TestDiTAlone(t *testing.T) {
	r := newRig(t, func(_ *rig, c *Config) { c.Prefill, c.Decode = "", "" })
	const body = `{"model":"qwen", "prompt":"a fox"}`
	resp, _ := r.post("/v1/images/generations", body)
	assert.Equal(t, 200, resp.StatusCode)
	assert.JSONEq(t, body, string(r.x.calls()[0].body), "nothing to change")
	assert.Equal(t, "a fox", r.last().Hop("dit").Plan)

	form, kind := editForm(t, [][2]string{{"prompt", "x"}, {"model", "qwen"}}, map[string][]byte{"image[]": noise(99)})
	r.post("/v1/images/edits", string(form), "Content-Type", kind)
	fields, _, _ := readForm(t, r.x.calls()[1].body, kind)
	assert.Equal(t, map[string][]string{"prompt": {"x"}, "model": {"qwen"}}, fields)

	chat := `{"modalities":["image"],"messages":[{"role":"user","content":"x"}]}`
	r.post("/v1/chat/completions", chat)
	assert.JSONEq(t, chat, string(r.x.calls()[2].body))

	for _, path := range []string{"/v1/completions", "/v1/chat/completions"} {
		resp, got := r.post(path, `{"prompt":"a","messages":[]}`)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "prefill: proxy has no prefill stage", errorText(t, got))
	}
	resp, _ = r.get("/v1/models")
	assert.Equal(t, 200, resp.StatusCode)
}

func TestNoDiT(t *testing.T) {
	r := newRig(t, func(_ *rig, c *Config) { c.DiT = "" })
	form, kind := editForm(t, [][2]string{{"prompt", "x"}}, nil)
	for _, q := range [][]string{
		{"/v1/images/generations", `{"prompt":"x"}`},
		{"/v1/images/edits", string(form), "Content-Type", kind},
		{"/v1/chat/completions", `{"modalities":["image"],"messages":[{"role":"user","content":"x"}]}`},
	} {
		resp, body := r.post(q[0], q[1], q[2:]...)
		assert.Equal(t, 503, resp.StatusCode)
		assert.Equal(t, "dit: proxy has no dit stage", errorText(t, body))
		assert.Equal(t, "dit", resp.Header.Get(StageHeader))
	}
	assert.Empty(t, r.p.calls(), "no plan is made for nobody")
}
