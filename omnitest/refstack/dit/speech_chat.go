package dit

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"
)

// mixture is what a chat answer holds beside its pictures.
type mixture struct {
	text  []byte // a part of its content, JSON; nil: none
	sound []byte // message.audio, JSON; nil: none
	late  bool   // the text comes last (Faults.MixedOrder)
}

// audio is the value of message.audio.
func (m mixture) audio() []byte {
	if m.sound == nil {
		return []byte("null")
	}
	return m.sound
}

// mixed makes what a request with the modality "audio" gets beside the picture: with "text" the prompt as a text part before the
// pictures, and the prompt spoken, as message.audio in the shape of OpenAI's that vLLM-Omni merges into the choice of the text.
// No answer with all three was recorded; order and shapes are from its source. Without "audio" a picture comes alone, as recorded,
// whatever else is asked for.
func (s *Server) mixed(modalities json.RawMessage, prompt string, seed int64) (m mixture, bad *failure) {
	var asked []string
	if json.Unmarshal(modalities, &asked) != nil || !slices.Contains(asked, "audio") {
		return m, nil
	}
	text, err := json.Marshal(prompt)
	if err != nil {
		return m, engineFailure("Image generation", "BadRequestError", err)
	}
	if slices.Contains(asked, "text") {
		m.text = append(append([]byte(`{"type":"text","text":`), text...), '}')
	}
	samples := s.cfg.Faults.spoken(Utterance{Text: prompt, Seed: seed})
	if len(samples) == 0 {
		return m, &failure{status: 400, kind: "BadRequestError", message: "TTS model did not produce audio output."}
	}
	wav := appendSamples(appendHeader(nil, 2*len(samples)), samples)
	var b strings.Builder
	b.WriteString(`{"id":"audio-` + randomHex(8) + `","data":"` + base64.StdEncoding.EncodeToString(wav))
	b.WriteString(`","expires_at":` + strconv.FormatInt(time.Now().Add(24*time.Hour).Unix(), 10) + `,"transcript":` + string(text) + `}`)
	m.sound = []byte(b.String())
	return m, nil
}
