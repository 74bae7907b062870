package proxy

import (
	"io"
	"net/http"

	"github.com/omnitest/suite/omnitest/flow"
)

const cutSpeech = 16 << 10 // bytes, Faults.TruncateSpeech

// speech is POST /v1/audio/speech: one leg, to the stage that speaks. No AR engine takes part: the text is the client's own.
// Sound of whatever kind, a file, raw chunks or events, passes as it arrives. The leg is called "speech" also where the DiT is
// who speaks, so that a ledger and an error tell it from a picture's; the hop's URL says which server it was.
func (c *call) speech() *failure {
	body, f := c.readObject()
	if f != nil {
		return f
	}
	if base, _ := c.stage("speech"); base == "" {
		return noStage("speech")
	}
	c.update(func(r *flow.Record) {
		r.Stream = string(body.get("stream")) == "true" || string(body.get("stream_format")) == `"sse"`
	})
	switch {
	case c.p.c.Speech == "":
		body = c.ditModel(body)
	case c.p.c.Prefill != "": // the client's is the AR model's name, see ditModel
		body = body.drop("model")
	}
	rep, f := c.send(leg{stage: "speech", path: "/v1/audio/speech", kind: c.r.Header.Get("Content-Type"), body: body.pieces()})
	if f != nil {
		return f
	}
	if c.p.c.Faults.TruncateSpeech && rep.StatusCode == http.StatusOK {
		rep.Body = cutShort{io.LimitReader(rep.Body, cutSpeech), rep.Body}
		rep.ContentLength = -1
		rep.Header.Del("Content-Length")
	}
	return rep.relay()
}

// cutShort is a body that ends early.
type cutShort struct {
	io.Reader
	io.Closer
}
