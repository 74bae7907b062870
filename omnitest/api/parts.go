package api

import "bytes"

// mark is a part that is not text, and how much text of its choice had come before it.
type mark struct {
	at int
	Part
}

var modalityKey = []byte(`"modality"`)

// isAudioChunk finds the chunks of a stream whose delta.content is no text but the base64 of a sound: vLLM-Omni names the kind of a
// chunk in its field "modality", behind the choices, so it has to be looked for before the content is read. Only a document that
// holds these bytes at all is read twice.
func isAudioChunk(body []byte) (is bool) {
	if !bytes.Contains(body, modalityKey) {
		return false
	}
	c := cursor{b: body}
	c.object(func(key []byte) {
		if string(key) == "modality" {
			is = c.scalar() == "audio"
		}
	})
	return is
}

// mark notes a part of the choice that is being read.
func (r *textReader) mark(m mark, c *cursor) {
	if c.err == nil {
		r.fresh = append(r.fresh, m)
		if m.Kind == "image" {
			r.has |= HasImage
		} else {
			r.has |= HasAudio
		}
	}
}

// spoken reads a sound: {"data": base64, "transcript": text}, or {"url": data URL}; null is none.
func (r *textReader) spoken(c *cursor, at int) {
	m := mark{at, Part{Kind: "audio"}}
	c.object(func(key []byte) {
		switch string(key) {
		case "data", "url":
			if !c.null() {
				m.Audio = c.base64(r.limits.file())
			}
		case "transcript":
			m.Transcript = string(c.bytes())
		}
	})
	if m.Audio != nil || m.Transcript != "" {
		r.mark(m, c)
	}
}

// addMark adds a part; a sound that follows a sound without text between them goes on with it.
func addMark(all []mark, m mark) []mark {
	if n := len(all); n > 0 && m.Kind == "audio" && all[n-1].Kind == "audio" && all[n-1].at == m.at {
		all[n-1].Audio = append(all[n-1].Audio, m.Audio...)
		all[n-1].Transcript += m.Transcript
		return all
	}
	return append(all, m)
}

// joinParts puts the text between the marks.
func joinParts(text string, marks []mark) (out []Part) {
	if len(marks) == 0 {
		return nil
	}
	from := 0
	for _, m := range marks {
		if m.at > from {
			out = append(out, Part{Kind: "text", Text: text[from:m.at]})
			from = m.at
		}
		out = append(out, m.Part)
	}
	if from < len(text) {
		out = append(out, Part{Kind: "text", Text: text[from:]})
	}
	return out
}
