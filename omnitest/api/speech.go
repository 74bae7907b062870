package api

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/omnitest/suite/omnitest/internal/sse"
)

// SpeechRequest is POST /v1/audio/speech.
type SpeechRequest struct {
	Model        string  // "": the Client's Model
	Input        string  // the text to say
	Voice        string  // "": left out, the engine's default
	Format       string  // response_format, always sent; "": "wav"
	Instructions string  // "": left out
	Speed        float64 // 0: left out (1)
	Seed         *int64  // nil: left out. A vLLM-Omni extension
	SSE          bool    // of a stream: OpenAI's speech.audio events instead of the raw bytes
	RequestID    string
	Extra        map[string]any // merged into the JSON body last
}

// Speech is the answer to a speech request: the bytes as they came. What is in them is package audiocheck's business; here it
// is only certain that they are no error page, no JSON, and where a WAVE file was asked for begin as one.
type Speech struct {
	Raw         []byte
	Format      string // as asked: "wav", "pcm"
	ContentType string // as claimed: "audio/wav"
	// Chunks are the arrivals of a streamed answer, nil for a whole one: reads of the connection, or events.
	Chunks []SpeechChunk
	Exchange
}

// SpeechChunk is one arrival of a streamed sound.
type SpeechChunk struct {
	At   time.Duration // since Exchange.Start
	Data []byte        // the bytes that it added; part of Speech.Raw only by value
}

const waveHeader = 44 // bytes that come before the first sample of a plain WAVE file

// FirstAudio is when the first sample had come: the header of a WAVE file, which an engine sends before it has computed
// anything, doesn't count. ok is false for a whole answer and for one without samples.
func (s *Speech) FirstAudio() (at time.Duration, ok bool) {
	have, need := 0, 0
	if s.Format == "wav" {
		need = waveHeader
	}
	for _, c := range s.Chunks {
		if have += len(c.Data); have > need {
			return c.At, true
		}
	}
	return 0, false
}

func (r *SpeechRequest) format() string {
	if r.Format == "" {
		return "wav"
	}
	return r.Format
}

func (r *SpeechRequest) encode(model string, stream bool) ([]byte, error) {
	var f fields
	f.model(r.Model, model)
	f.set("input", r.Input)
	if r.Voice != "" {
		f.set("voice", r.Voice)
	}
	if r.Instructions != "" {
		f.set("instructions", r.Instructions)
	}
	f.set("response_format", r.format())
	if r.Speed != 0 {
		f.set("speed", r.Speed)
	}
	if r.Seed != nil {
		f.set("seed", *r.Seed)
	}
	if stream {
		// Said twice: vLLM-Omni's newer servers make events of stream=true alone, its older ones raw bytes.
		f.set("stream", true)
		f.set("stream_format", map[bool]string{false: "audio", true: "sse"}[r.SSE])
	}
	f.extra(r.Extra)
	return f.bytes(), f.err
}

func (c *Client) askSpeech(ctx context.Context, r *SpeechRequest, stream bool) (*call, error) {
	body, err := r.encode(c.Model, stream)
	if err != nil {
		return nil, err
	}
	return c.send(ctx, outgoing{
		method: http.MethodPost, path: "/v1/audio/speech", accept: "*/*", contentType: jsonType, requestID: r.RequestID, body: payload{body},
	})
}

// Speak asks for a sound in one piece. An answer of more than Limits.FileBytes is an error of kind Limit, one that is no
// sound of kind Protocol, an error object inside a 200 of kind InBand.
func (c *Client) Speak(ctx context.Context, r SpeechRequest) (*Speech, error) {
	x, err := c.askSpeech(ctx, &r, false)
	if err != nil {
		return nil, err
	}
	defer x.close()
	if claim := x.resp.ContentLength; claim > c.Limits.file() {
		return nil, x.fail(finding(Limit, "Content-Length claims %d bytes of sound, limit %d (Limits.FileBytes)", claim, c.Limits.file()))
	}
	s := &Speech{Format: r.format(), ContentType: mediaType(x.ex.Header)}
	if err := x.sound(s, nil); err != nil {
		return nil, err
	}
	s.Chunks = nil // reads of one piece are no arrivals of chunks
	return s, nil
}

// StreamSpeak asks for a sound as a stream and reads it as it arrives, raw bytes or events. each, if not nil, sees every
// chunk; a returned error aborts the stream. On failure the *Speech holds what had arrived. A server that sends the whole
// with its length has ignored stream=true: that is told as a failure, for a time to first audio taken from it would be none.
func (c *Client) StreamSpeak(ctx context.Context, r SpeechRequest, each func(SpeechChunk) error) (*Speech, error) {
	s := &Speech{Format: r.format()}
	x, err := c.askSpeech(ctx, &r, true)
	if err != nil {
		if e, ok := err.(*Error); ok {
			s.Exchange = e.Exchange
		}
		return s, err
	}
	defer x.close()
	s.ContentType = mediaType(x.ex.Header)
	switch {
	case s.ContentType == sseType:
		err = x.speechEvents(s, each)
	case strings.HasPrefix(s.ContentType, "audio/") && x.resp.ContentLength >= 0:
		err = x.fail(finding(Protocol, "asked for a stream, got the sound in one piece (%q, Content-Length %d): the server ignored stream=true",
			x.ex.Header.Get("Content-Type"), x.resp.ContentLength))
	default:
		err = x.sound(s, each)
	}
	s.Exchange = x.ex
	return s, err
}

// sound reads a body that is the sound itself.
func (x *call) sound(s *Speech, each func(SpeechChunk) error) error {
	r, buf := (*bodyReader)(x), make([]byte, 32<<10)
	if n := x.resp.ContentLength; n > 0 {
		s.Raw = make([]byte, 0, min(n, eagerBytes))
	}
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if err := x.addSound(s, slices.Clone(buf[:n]), x.since(), each); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			x.ex.End = x.since()
			s.Exchange = x.ex
			return x.checkSound(s)
		case err != nil:
			return x.fail(err)
		}
	}
}

func (x *call) addSound(s *Speech, data []byte, at time.Duration, each func(SpeechChunk) error) error {
	if limit := x.c.Limits.file(); int64(len(s.Raw)+len(data)) > limit {
		return x.fail(finding(Limit, "a sound of more than %d bytes (Limits.FileBytes)", limit))
	}
	s.Raw = append(s.Raw, data...)
	chunk := SpeechChunk{At: at, Data: data}
	s.Chunks = append(s.Chunks, chunk)
	if each != nil {
		if err := each(chunk); err != nil {
			return x.fail(&Error{Kind: Canceled, Message: "stopped by the event callback: " + err.Error(), cause: err})
		}
	}
	return nil
}

// checkSound refuses what is no sound: an error in a 200, a page, an empty body, a file of another kind.
func (x *call) checkSound(s *Speech) error {
	head := s.Raw[:min(len(s.Raw), errorBytes)]
	isWave := len(head) >= 12 && string(head[:4]) == "RIFF" && string(head[8:12]) == "WAVE"
	switch {
	case isHTML(x.ex.Header, head):
		return x.failBody(finding(Protocol, "%s", htmlMessage(x.ex.Header, head, x.c.BaseURL)), head)
	case len(head) == 0:
		return x.failBody(finding(Protocol, "an answer without sound: the body is empty"), head)
	case s.ContentType == jsonType:
		if err := x.inBand(head); err != nil {
			return err
		}
		return x.failBody(finding(Protocol, "content type %q where a sound is due, body %.60q", s.ContentType, head), head)
	case !strings.HasPrefix(s.ContentType, "audio/") && s.ContentType != "application/octet-stream" && s.ContentType != sseType:
		return x.failBody(finding(Protocol, "content type %q where a sound is due, body %.60q", s.ContentType, head), head)
	case s.Format == "wav" && !isWave:
		return x.failBody(finding(Protocol, "asked for wav, the body of %d bytes begins %.12q", len(s.Raw), head), head)
	case s.Format == "pcm" && isWave:
		return x.failBody(finding(Protocol, "asked for pcm, the body is a WAVE file"), head)
	}
	return nil
}

// speechEvents reads OpenAI's events: speech.audio.delta with base64, then speech.audio.done.
func (x *call) speechEvents(s *Speech, each func(SpeechChunk) error) error {
	r := x.events()
	for {
		m, err := r.Next()
		switch {
		case err == io.EOF:
			return x.fail(finding(Truncated, "the stream ended after %s of sound: missing speech.audio.done", plural(len(s.Raw), "byte")))
		case err == sse.ErrTooLong:
			return x.fail(finding(Limit, "an event of more than %d bytes (Limits.BodyBytes)", x.c.Limits.body()))
		case err != nil:
			return x.fail(err)
		case m.Name == "error":
			return x.fail(namedError(m.Data))
		}
		kind, data, err := readSpeechEvent(m.Data, x.c.Limits.file(), x.event(m))
		switch {
		case err != nil && m.Cut && KindOf(err) == Protocol:
			return x.fail(finding(Truncated, "the stream ended inside an event, after %s of sound: missing speech.audio.done", plural(len(s.Raw), "byte")))
		case err != nil:
			return x.fail(err)
		case kind == "speech.audio.delta":
			if err := x.addSound(s, data, m.At, each); err != nil {
				return err
			}
		case kind == "speech.audio.done":
			x.ex.End = m.At
			stop := time.AfterFunc(afterDone, x.cancel) // as in drain: the rest keeps the connection, and must not hold up the answer
			for err == nil {
				_, err = r.Next()
			}
			stop.Stop()
			return x.checkSound(s)
		}
	}
}

// readSpeechEvent reads one event of a speech stream and notes in ev what it carried. Events of unknown types are passed over, as
// OpenAI asks of clients. The usage of speech.audio.done counts what was made as output_tokens.
func readSpeechEvent(body []byte, limit int64, ev *Event) (kind string, data []byte, err error) {
	c := cursor{b: body}
	failed := false
	c.object(func(key []byte) {
		switch string(key) {
		case "type":
			kind = string(c.bytes())
		case "audio":
			data = c.base64(limit)
		case "usage":
			if c.object(func(key []byte) {
				if k := string(key); k == "output_tokens" || k == "completion_tokens" {
					ev.Usage = c.int(-1)
				}
			}) {
				ev.Has |= HasUsage
			}
		case "error", "detail":
			failed = failed || !c.null()
		}
	})
	c.end()
	if failed || kind == "error" {
		return "", nil, namedError(body)
	}
	if c.err != nil {
		return "", nil, unexpected(c.err, body)
	}
	switch kind {
	case "speech.audio.delta":
		ev.Has |= HasAudio
	case "speech.audio.done":
		ev.Has |= HasFinish
	}
	return kind, data, nil
}
