package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
)

const (
	completionsPath = "/v1/completions"
	chatPath        = "/v1/chat/completions"
)

// Complete sends a completion and reads the whole answer.
func (c *Client) Complete(ctx context.Context, r CompletionRequest) (*Text, error) {
	body, err := r.encode(c.Model, false)
	if err != nil {
		return nil, err
	}
	return c.text(ctx, completionsPath, body, r.RequestID, false)
}

// Chat sends a chat completion and reads the whole answer. If it asked for a picture (Modalities holds "image", or Image
// is set), an answer without one is an error: vLLM-Omni then says so in a content string under status 200.
func (c *Client) Chat(ctx context.Context, r ChatRequest) (*Text, error) {
	body, err := r.encode(c.Model, false)
	if err != nil {
		return nil, err
	}
	return c.text(ctx, chatPath, body, r.RequestID, r.wantsImage())
}

func (r *ChatRequest) wantsImage() bool {
	return r.Image != nil || slices.Contains(r.Modalities, "image")
}

func (c *Client) text(ctx context.Context, path string, body []byte, requestID string, wantsImage bool) (*Text, error) {
	x, err := c.send(ctx, outgoing{
		method: http.MethodPost, path: path, accept: jsonType, contentType: jsonType, requestID: requestID, body: payload{body},
	})
	if err != nil {
		return nil, err
	}
	defer x.close()
	answer, err := x.readJSON(borrow())
	defer giveBack(answer)
	if err != nil {
		return nil, err
	}
	t := &Text{}
	r := textReader{t: t, limits: c.Limits, wantsImage: wantsImage}
	if err := r.whole(answer); err != nil {
		return nil, x.failBody(err, answer)
	}
	t.Exchange = x.ex
	return t, nil
}

// textReader fills a Text from one whole answer or from the chunks of a stream, which have the same shape but for
// message and delta. Whatever it keeps it copies: the bytes it reads are the caller's.
type textReader struct {
	t          *Text
	limits     Limits
	wantsImage bool

	texts []*strings.Builder // text so far, by position in t.Choices
	parts [][]mark           // what stands between the text, the same
	fresh []mark             // of the choice that is being read
	ids   []int              // scratch

	sound   bool    // the document is a chunk whose content is a sound
	has     Content // what the last document carried
	choices bool    // it had a choices list, which may be empty
	failed  bool    // it had an error
}

// whole reads a non-streamed answer.
func (r *textReader) whole(body []byte) error {
	var unused Event
	if err := r.document(body, &unused); err != nil {
		return err
	}
	r.finish()
	if len(r.t.Choices) == 0 {
		return finding(Protocol, "an answer without choices")
	}
	return r.checkImage()
}

// finish copies the collected texts to their choices.
func (r *textReader) finish() {
	for i, text := range r.texts {
		r.t.Choices[i].Text = text.String()
		r.t.Choices[i].Parts = joinParts(r.t.Choices[i].Text, r.parts[i])
	}
	r.texts, r.parts = nil, nil
}

func (r *textReader) checkImage() error {
	if r.wantsImage && len(r.t.Images) == 0 {
		return finding(Protocol, "asked for a picture, got only text: %.200q", r.t.String())
	}
	return nil
}

// document reads one JSON object. ev gets what it carried: the text of choice 0, the number of tokens, the usage so far. The order
// of the keys does not matter.
func (r *textReader) document(body []byte, ev *Event) error {
	c := cursor{b: body}
	r.choices, r.failed, r.has = false, false, 0
	told, tokens, first := false, 0, 0
	if len(r.texts) > 0 {
		first = r.texts[0].Len()
	}
	detail := false
	r.sound = isAudioChunk(body)
	c.object(func(key []byte) {
		switch string(key) {
		case "id":
			keep(&r.t.ID, c.bytes())
		case "model":
			keep(&r.t.Model, c.bytes())
		case "choices":
			r.choices = c.array(func(int) {
				r.has |= HasChoices
				n, has := r.choice(&c)
				tokens += n
				told = told || has
			})
		case "usage":
			if u := readUsage(&c); u != nil {
				r.t.Usage = u
				r.has |= HasUsage
				ev.Usage = u.CompletionTokens
			}
		case "modality":
			switch c.scalar() {
			case "audio":
				r.has |= HasAudio
			case "image":
				r.has |= HasImage
			}
		case "kv_transfer_params":
			if raw := c.raw(); len(raw) > 0 && string(raw) != "null" {
				r.t.Ticket = slices.Clone(raw)
			}
		case "metrics":
			if m := readMetrics(&c); m != nil {
				r.t.Metrics = m
			}
		case "error":
			r.failed = r.failed || !c.null()
		case "detail":
			detail = true
		case "object":
			r.failed = r.failed || string(c.bytes()) == "error"
		}
	})
	c.end()
	if r.failed || detail && !r.choices {
		if said, found, _ := readSaid(body); found {
			e := &Error{Kind: InBand}
			said.set(e)
			return e
		}
	}
	if c.err != nil {
		return unexpected(c.err, body)
	}
	ev.Has = r.has
	if len(r.texts) > 0 && r.t.Choices[0].Index == 0 {
		ev.Text = r.texts[0].String()[first:] // what a Builder holds is never written over, so this needs no copy
	}
	if told {
		ev.Tokens = tokens
	}
	for i := range r.t.Choices {
		if r.t.Choices[i].FinishReason == "error" {
			return &Error{Kind: InBand, Message: `finish_reason "error" of choice ` + itoa(r.t.Choices[i].Index)}
		}
	}
	return nil
}

// unexpected makes a Protocol error of a cursor's, unless the cursor stopped at a finding of its own.
func unexpected(err error, body []byte) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return finding(Protocol, "unexpected %v; it begins %.60q", err, body)
}

// keep stores a string that most chunks repeat, without allocating for each.
func keep(s *string, b []byte) {
	if len(b) > 0 && *s != string(b) {
		*s = string(b)
	}
}

// choice reads one element of choices. tokens is the number of token_ids; told is false where there was no such list.
func (r *textReader) choice(c *cursor) (tokens int, told bool) {
	index := 0
	var text, finish []byte
	var logprobs []Logprob
	r.ids, r.fresh = r.ids[:0], r.fresh[:0]
	c.object(func(key []byte) {
		switch string(key) {
		case "index":
			index = c.int(0)
		case "text":
			text = c.bytes()
		case "message", "delta":
			c.object(func(key []byte) {
				switch string(key) {
				case "content":
					text = r.content(c)
				case "audio":
					r.spoken(c, len(text))
				case "reasoning_content", "reasoning":
					if c.peek() == '"' && len(c.bytes()) > 0 {
						r.has |= HasReasoning
					}
				case "tool_calls":
					if c.peek() == '[' {
						c.array(func(int) { r.has |= HasToolCall })
					}
				case "function_call": // the older form, of one call
					if c.peek() == '{' && c.object(func([]byte) {}) {
						r.has |= HasToolCall
					}
				}
			})
		case "finish_reason":
			if finish = c.bytes(); len(finish) > 0 {
				r.has |= HasFinish
			}
		case "token_ids":
			told = c.array(func(int) { r.ids = append(r.ids, c.int(-1)) })
		case "logprobs":
			logprobs = readLogprobs(c)
		}
	})
	if c.err != nil {
		return 0, false
	}
	at := slices.IndexFunc(r.t.Choices, func(ch Choice) bool { return ch.Index == index })
	if at < 0 {
		at = len(r.t.Choices)
		r.t.Choices = append(r.t.Choices, Choice{Index: index})
		r.texts, r.parts = append(r.texts, new(strings.Builder)), append(r.parts, nil)
	}
	for _, m := range r.fresh {
		m.at += r.texts[at].Len()
		r.parts[at] = addMark(r.parts[at], m)
	}
	ch := &r.t.Choices[at]
	if len(text) > 0 {
		r.has |= HasText
		r.texts[at].Write(text)
	}
	keep(&ch.FinishReason, finish)
	ch.TokenIDs = append(ch.TokenIDs, r.ids...)
	ch.Logprobs = append(ch.Logprobs, logprobs...)
	return len(r.ids), told
}

// content reads a message's content: a string, null, or a list of parts. Text parts are joined, pictures go to Images, both and
// sounds to the choice's Parts; parts of other kinds are passed over.
func (r *textReader) content(c *cursor) []byte {
	if r.sound && c.peek() == '"' {
		r.mark(mark{Part: Part{Kind: "audio", Audio: c.base64(r.limits.file())}}, c)
		return nil
	}
	if c.peek() != '[' {
		return c.bytes()
	}
	var text []byte
	c.array(func(n int) {
		m := Metrics{PeakMemoryMB: -1}
		c.object(func(key []byte) {
			switch string(key) {
			case "text":
				text = append(text, c.bytes()...)
			case "image_url":
				c.object(func(key []byte) {
					if string(key) == "url" {
						r.picture(c, len(text))
					}
				})
			case "audio", "input_audio", "audio_url":
				r.spoken(c, len(text))
			default:
				m.read(c, key)
			}
		})
		// vLLM-Omni repeats the timings in every picture; the first is as good as any.
		if r.t.Metrics == nil && m.told() {
			r.t.Metrics = &m
		}
	})
	return text
}

func (r *textReader) picture(c *cursor, at int) {
	if im, ok := readPicture(c, r.limits); ok {
		r.t.Images = append(r.t.Images, im)
		r.mark(mark{at, Part{Kind: "image", Image: im}}, c)
	}
}

func readUsage(c *cursor) *Usage {
	u := &Usage{-1, -1, -1, -1}
	present := c.object(func(key []byte) {
		switch string(key) {
		case "prompt_tokens":
			u.PromptTokens = c.int(-1)
		case "completion_tokens":
			u.CompletionTokens = c.int(-1)
		case "total_tokens":
			u.TotalTokens = c.int(-1)
		case "prompt_tokens_details":
			c.object(func(key []byte) {
				if string(key) == "cached_tokens" {
					u.CachedTokens = c.int(-1)
				}
			})
		}
	})
	if !present {
		return nil
	}
	return u
}

// readMetrics reads a metrics object; nil for null and for an object that tells nothing of what Metrics holds.
func readMetrics(c *cursor) *Metrics {
	m := &Metrics{PeakMemoryMB: -1}
	c.object(func(key []byte) { m.read(c, key) })
	if !m.told() {
		return nil
	}
	return m
}

func (m *Metrics) told() bool { return m.StageDurations != nil || m.PeakMemoryMB >= 0 }

func (m *Metrics) read(c *cursor, key []byte) {
	switch string(key) {
	case "peak_memory_mb":
		m.PeakMemoryMB = c.float(-1)
	case "stage_durations":
		d := map[string]float64{}
		if c.object(func(key []byte) {
			if name := string(key); !c.null() {
				d[name] = c.float(0)
			}
		}) {
			m.StageDurations = d
		}
	}
}
