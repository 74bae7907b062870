package api

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

// Edit sends input pictures with an instruction (POST /v1/images/edits, multipart). Each picture is a part named
// "image": recordings of vLLM-Omni 0.26.0 take it repeated as well as "image[]".
func (c *Client) Edit(ctx context.Context, r EditRequest) (*Images, error) {
	body, contentType := r.encode(c.Model)
	return c.images(ctx, outgoing{path: "/v1/images/edits", contentType: contentType, requestID: r.RequestID, body: body})
}

func (r *EditRequest) encode(model string) (payload, string) {
	values := r.values(model)
	var head bytes.Buffer // everything but the files, which are sent from where they lie
	w := multipart.NewWriter(&head)
	type file struct {
		at   int
		data []byte
	}
	var files []file
	part := func(field, name string, in *Input) {
		if in.Name != "" {
			name = in.Name
		}
		h := textproto.MIMEHeader{}
		h.Set("Content-Disposition", fmt.Sprintf(`form-data; name="%s"; filename="%s"`, escapeQuotes(field), escapeQuotes(name)))
		h.Set("Content-Type", in.mediaType())
		w.CreatePart(h) // a bytes.Buffer takes every write
		files = append(files, file{head.Len(), in.Data})
	}
	for i := range r.Images {
		part("image", "image-"+strconv.Itoa(i+1)+".png", &r.Images[i])
	}
	if r.Mask != nil {
		part("mask_image", "mask.png", r.Mask)
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		w.WriteField(key, values[key])
	}
	w.Close()
	var body payload
	from := 0
	for _, f := range files {
		body = append(body, head.Bytes()[from:f.at], f.data)
		from = f.at
	}
	return append(body, head.Bytes()[from:]), w.FormDataContentType()
}

// values are the form's plain fields.
func (r *EditRequest) values(model string) map[string]string {
	v := map[string]string{
		"prompt":          r.Prompt,
		"n":               strconv.Itoa(max(r.N, 1)),
		"size":            "auto",
		"seed":            strconv.FormatInt(r.Seed, 10),
		"response_format": "b64_json",
		"output_format":   "png",
	}
	if r.Size != (Size{}) {
		v["size"] = r.Size.String()
	}
	if r.Model != "" {
		model = r.Model
	}
	if model != "" {
		v["model"] = model
	}
	if r.Steps != 0 {
		v["num_inference_steps"] = strconv.Itoa(r.Steps)
	}
	if r.TrueCFG != 0 {
		v["true_cfg_scale"] = strconv.FormatFloat(r.TrueCFG, 'g', -1, 64)
	}
	if r.NegativePrompt != "" {
		v["negative_prompt"] = r.NegativePrompt
	}
	maps.Copy(v, r.Extra)
	return v
}

func escapeQuotes(s string) string {
	return strings.NewReplacer("\\", "\\\\", `"`, `\"`, "\r", "%0D", "\n", "%0A").Replace(s)
}
