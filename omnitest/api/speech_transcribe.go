package api

import (
	"bytes"
	"context"
	"maps"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
)

// TranscriptionRequest is POST /v1/audio/transcriptions (multipart), which vLLM serves for Whisper and its like.
type TranscriptionRequest struct {
	Model     string // "": the Client's Model
	Audio     []byte // a file: WAVE
	Language  string // "en", "zh"; "": left out, the model guesses
	RequestID string
	Extra     map[string]string
}

// Transcribe gives the text that a model hears. temperature=0 and response_format=json are always sent. An answer without a
// text field is an error; an empty text is an answer: the model heard nothing.
func (c *Client) Transcribe(ctx context.Context, r TranscriptionRequest) (string, error) {
	body, contentType := r.encode(c.Model)
	x, err := c.send(ctx, outgoing{
		method: http.MethodPost, path: "/v1/audio/transcriptions", accept: jsonType, contentType: contentType, requestID: r.RequestID, body: body,
	})
	if err != nil {
		return "", err
	}
	defer x.close()
	answer, err := x.readJSON(nil)
	if err != nil {
		return "", err
	}
	if err := x.inBand(answer); err != nil {
		return "", err
	}
	text, found := "", false
	cur := cursor{b: answer}
	cur.object(func(key []byte) {
		if string(key) == "text" && !cur.null() {
			text, found = string(cur.bytes()), true
		}
	})
	cur.end()
	switch {
	case cur.err != nil:
		return "", x.failBody(unexpected(cur.err, answer), answer)
	case !found:
		return "", x.failBody(finding(Protocol, "a transcription without text: %.60q", answer), answer)
	}
	return text, nil
}

func (r *TranscriptionRequest) encode(model string) (payload, string) {
	values := map[string]string{"temperature": "0", "response_format": "json"}
	if r.Model != "" {
		model = r.Model
	}
	if model != "" {
		values["model"] = model
	}
	if r.Language != "" {
		values["language"] = r.Language
	}
	maps.Copy(values, r.Extra)
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		w.WriteField(key, values[key]) // a bytes.Buffer takes every write
	}
	h := textproto.MIMEHeader{}
	h.Set("Content-Disposition", `form-data; name="file"; filename="speech.wav"`)
	h.Set("Content-Type", "audio/wav")
	w.CreatePart(h)
	at := b.Len()
	w.Close()
	return payload{b.Bytes()[:at], r.Audio, b.Bytes()[at:]}, w.FormDataContentType()
}
