package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Size is a picture size in pixels. The zero Size means "the engine's default".
type Size struct{ W, H int }

// String gives "1376x768": the form of the wire, of benchmark names and of reports.
func (s Size) String() string { return strconv.Itoa(s.W) + "x" + strconv.Itoa(s.H) }

// ParseSize reads "1376x768".
func ParseSize(text string) (Size, error) {
	w, h, ok := strings.Cut(text, "x")
	wi, err1 := strconv.Atoi(w)
	hi, err2 := strconv.Atoi(h)
	if !ok || err1 != nil || err2 != nil || wi <= 0 || hi <= 0 {
		return Size{}, fmt.Errorf("size %q: want WxH in pixels, like 1024x1024", text)
	}
	return Size{wi, hi}, nil
}

// Ticket is a kv_transfer_params object, kept byte for byte: a proxy must hand it on unchanged.
// A nil Ticket means there was none (absent or null).
type Ticket = json.RawMessage

// Text parameters shared by completions and chat.
type Sampling struct {
	MaxTokens   int     // 0: left out, the engine's default
	Temperature float64 // always sent: 0 is greedy, because a check needs repeatable output and engines default to 1
	Seed        *int64  // nil: left out
	Stop        []string
	N           int    // 0: left out (1)
	IgnoreEOS   bool   // vLLM extension
	Logprobs    int    // completions: logprobs=k; chat: logprobs=true, top_logprobs=k; 0: none
	TokenIDs    bool   // vLLM extension return_token_ids
	Ticket      Ticket // kv_transfer_params; nil: left out
	RequestID   string // X-Request-Id header; "": none is sent
	// Extra is merged into the top level of the JSON body last, so it can also break a field on purpose.
	Extra map[string]any
}

// CompletionRequest is POST /v1/completions. Either Prompt or PromptIDs.
type CompletionRequest struct {
	Model     string // "": the Client's Model
	Prompt    string
	PromptIDs []int
	Sampling
}

// ChatRequest is POST /v1/chat/completions.
type ChatRequest struct {
	Model      string
	Messages   []Message
	Modalities []string     // {"image"} asks vLLM-Omni for a picture
	Image      *ImageParams // diffusion parameters, sent nested under "extra_body" as vLLM-Omni reads them in raw JSON
	Sampling
}

// Message is one chat message. With Images its content is sent as a list of parts, else as a string.
type Message struct {
	Role   string
	Text   string
	Images []Input
}

// ImageParams are the diffusion parameters. Seed and Steps are always sent: an engine that draws its own seed never
// returns it, and such a run cannot be replayed.
type ImageParams struct {
	NegativePrompt string
	N              int // 0: 1
	Size           Size
	Steps          int     // num_inference_steps; 0: left out
	Seed           int64   // always sent
	TrueCFG        float64 // 0: left out
}

// ImageRequest is POST /v1/images/generations. output_format=png and response_format=b64_json are always sent.
type ImageRequest struct {
	Model     string
	Prompt    string
	RequestID string
	ImageParams
	Extra map[string]any
}

// EditRequest is POST /v1/images/edits (multipart). Zero Size sends size=auto.
type EditRequest struct {
	Model     string
	Prompt    string
	RequestID string
	Images    []Input
	Mask      *Input
	ImageParams
	Extra map[string]string
}

// Input is a file the client sends.
type Input struct {
	Name string // file name; "": image-<n>.png
	Type string // media type; "": sniffed
	Data []byte
}

// Exchange is what every answer carries: the transport's own story, from which metrics are derived.
// Event times are monotonic and counted from the moment before the request's first byte was written.
type Exchange struct {
	Method, URL string
	RequestID   string // X-Request-Id sent, "" if none
	Status      int
	Header      http.Header
	Start       time.Time     // wall clock with monotonic reading
	FirstByte   time.Duration // response headers read
	End         time.Duration // last byte read or the failure
	BodyBytes   int64
	Events      []Event // streamed answers only
}

// Event is one server-sent event on the wire. It holds what every metric definition needs, so that none of them has to look
// into the JSON again.
type Event struct {
	At     time.Duration // since Exchange.Start: when the read returned that completed it, before anything was parsed
	Data   []byte        // payload of the data: line(s), "[DONE]" included; nil where the Client keeps no payloads
	Text   string        // text that this event added to choice 0
	Tokens int           // tokens it carried where the server says so (token_ids), else -1: not told
	Usage  int           // usage.completion_tokens so far where this event said so (continuous_usage_stats), else -1
	Bytes  int           // length of Data as received
	Read   int           // which read of the body completed it, from 0: events of one Read arrived together
	Has    Content       // what it carried
}

// Content is a set of what an event carried.
type Content uint16

const (
	HasChoices   Content = 1 << iota // a non-empty "choices" list
	HasText                          // non-empty content for some choice
	HasReasoning                     // non-empty reasoning (reasoning_content, reasoning)
	HasToolCall                      // a tool-call delta
	HasUsage                         // a usage object
	HasFinish                        // a finish_reason
	HasAudio                         // modality "audio", or audio data
	HasImage                         // modality "image", or an image part
	IsDone                           // the [DONE] line
)

// Text is the answer to a completion or chat request, streamed or not.
type Text struct {
	ID      string
	Model   string
	Choices []Choice
	Usage   *Usage  // nil: the server sent none
	Ticket  Ticket  // kv_transfer_params of the answer; nil: none
	Images  []Image // pictures inside chat content
	// StageDurations and PeakMemoryMB: nil when the server sent none. Units are the server's and mixed (see Metrics).
	Metrics *Metrics
	Exchange
}

// Text of choice 0, "" without choices.
func (t *Text) String() string {
	if len(t.Choices) == 0 {
		return ""
	}
	return t.Choices[0].Text
}

// Choice is one generated sequence.
type Choice struct {
	Index        int
	Text         string
	FinishReason string
	TokenIDs     []int     // only with Sampling.TokenIDs
	Logprobs     []Logprob // only with Sampling.Logprobs
	Parts        []Part    // of a mixed answer, in its order; nil: only text came
}

// Part is one part of a mixed answer: text, a picture or a sound. Texts that follow each other are one part, and so are the
// pieces of a sound that was streamed.
type Part struct {
	Kind       string // "text", "image", "audio"
	Text       string
	Image      Image
	Audio      []byte // as sent: a WAVE file, or raw samples
	Transcript string // what the server says that its sound says; "": it does not
}

// Logprob is one generated token with its alternatives, best first. A null is NaN.
type Logprob struct {
	Token   string
	Logprob float64
	Top     []TopLogprob
}

// TopLogprob is one alternative.
type TopLogprob struct {
	Token   string
	Logprob float64
}

// Usage is the server's token account. A count that the server left out is -1; CachedTokens is so where
// prompt_tokens_details was absent.
type Usage struct {
	PromptTokens, CompletionTokens, TotalTokens int
	CachedTokens                                int
}

// Metrics is the engine's own timing of an image. vLLM-Omni mixes units in one map: keys ending in "_ms" are
// milliseconds, all others seconds (recorded from 0.26.0).
type Metrics struct {
	StageDurations map[string]float64
	PeakMemoryMB   float64 // process high-water mark, not the request's; -1: not told
}

// Images is the answer to an image generation or edit.
type Images struct {
	Created int64
	Items   []Image
	Size    string   // as echoed by the server: never the truth, see Image.Size
	Format  string   // as claimed by the server
	Plan    string   // text that an AR stage made on the way to the picture, where the server returns it; "": it did not
	Metrics *Metrics // nil: none sent
	Exchange
}

// Image is one received picture, its header already checked against the Client's limits but not yet decoded.
type Image struct {
	Raw    []byte
	Format string // sniffed from the bytes: "png", "jpeg", "webp"
	Size   Size   // from the file's own header
	limits Limits
}

// Limits protect the client from hostile or broken answers. They are checked before memory is spent.
type Limits struct {
	BodyBytes int64 // one response body; 0: 256 MiB (an image answer of n=10 at 1 MP, uncompressed PNG as base64, is 57 MB)
	FileBytes int64 // one image file; 0: 64 MiB
	Pixels    int64 // width x height claimed by a header; 0: 16,777,216
}
