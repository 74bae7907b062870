package dit

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// speechChunk is what a stream sends at a time: 0.2 s of sound.
const speechChunk = SpeechRate / 5

// speechFormats are what vLLM-Omni 0.26 takes; the reference has an encoder for the first two alone.
var speechFormats = []string{"wav", "pcm", "flac", "mp3", "aac", "opus"}

// speech is POST /v1/audio/speech: input, voice, response_format, speed, seed, stream, stream_format. Whole it answers the
// file; stream=true sends the same bytes in chunks (a WAVE header with open sizes first, as vLLM-Omni's), and
// stream_format=sse sends OpenAI's speech.audio.delta events with speech.audio.done at the end. A text without anything to
// say is the recorded 400 of an engine that produced no audio.
func (s *Server) speech(w http.ResponseWriter, r *http.Request) *failure {
	arrived := time.Now()
	raw, fields, bad := readJSON(w, r)
	if bad != nil {
		return bad
	}
	f := form{fields: fields}
	if _, ok := fields["input"]; !ok {
		f.problems = append(f.problems, missing("input", pyRepr(raw)))
	}
	u := Utterance{Text: f.str("input", "")}
	model := f.str("model", "")
	u.Voice = strings.ToLower(f.str("voice", Voices[0]))
	f.str("instructions", "")
	format := f.choice("response_format", "wav", speechFormats)
	u.Speed = f.float("speed", 1, 1, 0)
	switch {
	case u.Speed < 0.25:
		f.fail("speed", "greater_than_equal", "Input should be greater than or equal to 0.25", "{'ge': 0.25}")
	case u.Speed > 4:
		f.fail("speed", "less_than_equal", "Input should be less than or equal to 4", "{'le': 4.0}")
	}
	seed, overflow := f.integer("seed", 0, 1, 0)
	u.Seed = seed
	stream := f.boolean("stream")
	as := f.choice("stream_format", "", []string{"sse", "audio"})
	switch {
	case len(f.problems) > 0:
		return invalid(f.problems...)
	case overflow != nil:
		return engineFailure("Speech generation", "", overflow)
	}
	if bad := s.checkModel(model); bad != nil {
		return bad
	}
	refused := func(message string) *failure {
		return &failure{status: http.StatusBadRequest, kind: "BadRequestError", message: message}
	}
	switch {
	case strings.TrimSpace(u.Text) == "":
		return refused("Input text cannot be empty")
	case !slices.Contains(Voices, u.Voice):
		return refused("Invalid speaker '" + u.Voice + "'. Supported: " + strings.Join(Voices, ", "))
	case (stream || as == "sse") && format != "wav" && format != "pcm":
		return refused("Streaming requires response_format='pcm' or 'wav'. Got response_format='" + format + "'.")
	case format != "wav" && format != "pcm":
		return refused("The reference stack has no encoder for response_format='" + format + "': it speaks wav and pcm")
	}
	samples, bad := s.speak(r, arrived, u)
	if bad != nil {
		return bad
	}
	switch kind := "audio/" + format; {
	case as == "sse":
		sendEvents(w, samples, format)
	case stream:
		sendChunks(w, samples, format, kind)
	default:
		body := make([]byte, 0, 44+2*len(samples))
		if format == "wav" {
			body = appendHeader(body, 2*len(samples))
		}
		writeBody(w, http.StatusOK, kind, appendSamples(body, samples))
	}
	return nil
}

// speak waits for its turn, as a picture does, and makes the sound.
func (s *Server) speak(r *http.Request, arrived time.Time, u Utterance) ([]int16, *failure) {
	s.meter.waiting.Inc()
	slots, err := s.queue.acquire(r.Context(), 1)
	s.meter.waiting.Dec()
	if err != nil {
		s.meter.finished("abort", arrived)
		return nil, engineFailure("Speech generation", "", errGone)
	}
	defer s.queue.release(slots)
	s.meter.running.Inc()
	defer s.meter.running.Dec()
	if s.cfg.Faults.Stall {
		select {
		case <-r.Context().Done():
		case <-s.stop.Done():
		}
		s.meter.finished("abort", arrived)
		return nil, engineFailure("Speech generation", "", errGone)
	}
	samples := s.cfg.Faults.spoken(u)
	if len(samples) == 0 {
		s.meter.finished("abort", arrived)
		return nil, &failure{status: http.StatusBadRequest, kind: "BadRequestError", message: "TTS model did not produce audio output."}
	}
	s.meter.finished("stop", arrived)
	return samples, nil
}

// choice reads a string out of a closed list.
func (f *form) choice(name, otherwise string, allowed []string) string {
	v := f.str(name, otherwise)
	if _, given := f.get(name); !given || slices.Contains(allowed, v) {
		return v
	}
	var list strings.Builder
	for i, a := range allowed {
		switch {
		case i == len(allowed)-1:
			list.WriteString(" or ")
		case i > 0:
			list.WriteString(", ")
		}
		list.WriteString("'" + a + "'")
	}
	f.fail(name, "literal_error", "Input should be "+list.String(), "{'expected': "+pyString(list.String())+"}")
	return otherwise
}

// openSize stands in a WAVE header that is sent before the sound is complete.
const openSize = 0xFFFFFFFF

// appendHeader appends the 44 bytes before the samples; size is their number of bytes, or openSize.
func appendHeader(b []byte, size int) []byte {
	le := binary.LittleEndian
	form := uint32(size)
	if size != openSize {
		form += 36
	}
	b = le.AppendUint32(append(b, "RIFF"...), form)
	b = le.AppendUint32(append(b, "WAVEfmt "...), 16)
	b = le.AppendUint16(le.AppendUint16(b, 1), 1) // PCM, 1 channel
	b = le.AppendUint32(le.AppendUint32(b, SpeechRate), 2*SpeechRate)
	b = le.AppendUint16(le.AppendUint16(b, 2), 16)
	return le.AppendUint32(append(b, "data"...), uint32(size))
}

func appendSamples(b []byte, samples []int16) []byte {
	for _, v := range samples {
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	return b
}

// sendChunks is the raw stream.
func sendChunks(w http.ResponseWriter, samples []int16, format, kind string) {
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	if format == "wav" {
		_, _ = w.Write(appendHeader(nil, openSize))
		_ = out.Flush()
	}
	for chunk := range slices.Chunk(samples, speechChunk) {
		if _, err := w.Write(appendSamples(nil, chunk)); err != nil {
			return // the client is gone
		}
		_ = out.Flush()
	}
}

// sendEvents is the stream of OpenAI's events. The header of a WAVE file comes with the first.
func sendEvents(w http.ResponseWriter, samples []int16, format string) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.WriteHeader(http.StatusOK)
	out := http.NewResponseController(w)
	var body []byte
	if format == "wav" {
		body = appendHeader(nil, openSize)
	}
	for chunk := range slices.Chunk(samples, speechChunk) {
		body = appendSamples(body, chunk)
		event := `{"type":"speech.audio.delta","audio":"` + base64.StdEncoding.EncodeToString(body) + `"}`
		if _, err := w.Write([]byte("data: " + event + "\n\n")); err != nil {
			return
		}
		_ = out.Flush()
		body = body[:0]
	}
	tokens := strconv.Itoa(len(samples) / speechChunk)
	usage := json.RawMessage(`{"input_tokens":0,"output_tokens":` + tokens + `,"total_tokens":` + tokens + `}`)
	_, _ = w.Write([]byte(`data: {"type":"speech.audio.done","usage":` + string(usage) + "}\n\n"))
}
