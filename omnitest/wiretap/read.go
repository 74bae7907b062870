package wiretap

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"

	"github.com/omnitest/suite/omnitest/flow"
)

// sent is what a request's body tells.
type sent struct {
	key    string // digest of prompt or messages, to join legs by
	text   string // the prompt as text, to join a DiT leg by
	ticket json.RawMessage
	stream bool
}

func readSent(r *http.Request, body []byte) (s sent) {
	var b struct {
		Prompt, Messages json.RawMessage
		Ticket           json.RawMessage `json:"kv_transfer_params"`
		Stream           json.RawMessage
	}
	if json.Unmarshal(body, &b) != nil {
		if s.text = formPrompt(r.Header.Get("Content-Type"), body); s.text != "" {
			raw, _ := json.Marshal(s.text) // a string always encodes
			s.key = flow.Digest(raw)
		}
		return s
	}
	s.ticket, s.stream = orNil(b.Ticket), string(b.Stream) == "true"
	switch {
	case b.Prompt != nil:
		s.key = flow.Digest(b.Prompt)
		_ = json.Unmarshal(b.Prompt, &s.text) // token ids are no text
	case b.Messages != nil:
		s.key, s.text = flow.Digest(b.Messages), lastText(b.Messages)
	}
	return s
}

func orNil(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// formPrompt is the field "prompt" of a multipart body.
func formPrompt(contentType string, body []byte) string {
	kind, params, err := mime.ParseMediaType(contentType)
	if err != nil || kind != "multipart/form-data" {
		return ""
	}
	for f := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		p, err := f.NextPart()
		if err != nil {
			return ""
		}
		if p.FormName() == "prompt" {
			b, _ := io.ReadAll(io.LimitReader(p, 1<<20))
			return string(b)
		}
	}
}

// lastText is the text of the last message.
func lastText(messages json.RawMessage) string {
	var list []struct{ Content json.RawMessage }
	if json.Unmarshal(messages, &list) != nil || len(list) == 0 {
		return ""
	}
	return contentText(list[len(list)-1].Content)
}

// contentText reads content that is a string or a list of parts.
func contentText(content json.RawMessage) string {
	var text string
	if json.Unmarshal(content, &text) == nil {
		return text
	}
	var parts []struct{ Text string }
	if json.Unmarshal(content, &parts) != nil {
		return ""
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(p.Text)
	}
	return b.String()
}
