package e2e

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/flow"
)

// needSpeechRoute skips, or fails where it is required, at an entry that knows no speech.
func needSpeechRoute(t *testing.T, s *omnitest.Stack) {
	t.Helper()
	_, err := s.Client.Speak(requestContext(t, s), api.SpeechRequest{Input: "hello"})
	var e *api.Error
	omnitest.Require(t, "speech-entry", !errors.As(err, &e) || e.Status != 404, "the entry has no /v1/audio/speech; put omnitest's proxy in front of the stages")
}

// TestSpeechThroughProxy asks at the entry and at the stage itself: the same sound must come, whole, raw, in chunks and as events,
// and the ledger must hold its way.
func TestSpeechThroughProxy(t *testing.T) {
	s := omnitest.Shared(t)
	stage := speaker(t, s)
	needSpeechRoute(t, s)
	for _, c := range []struct {
		name, format string
		stream, sse  bool
	}{{"whole", "wav", false, false}, {"raw", "pcm", false, false}, {"chunks", "wav", true, false}, {"events", "pcm", true, true}} {
		t.Run(c.name, func(t *testing.T) {
			r := speechRequest(s, "Open from seven to nine, and closed on Sundays.", "alto")
			r.Format, r.SSE = c.format, c.sse
			say := func(client *api.Client) *api.Speech {
				r.RequestID = "speech-" + nonce()
				var a *api.Speech
				var err error
				if c.stream {
					a, err = client.StreamSpeak(requestContext(t, s), r, nil)
				} else {
					a, err = client.Speak(requestContext(t, s), r)
				}
				if err != nil {
					fail(t, s, r.RequestID, err)
				}
				return a
			}
			alone := say(stage)
			got := say(s.Client)
			if s.Instance(engine.DiT).Simulated && !bytes.Equal(alone.Raw, got.Raw) {
				t.Errorf("the proxy changed the sound: %d bytes at the entry, %d from the stage itself", len(got.Raw), len(alone.Raw))
			}
			if got.ContentType != alone.ContentType {
				t.Errorf("Content-Type is %q at the entry, %q from the stage itself", got.ContentType, alone.ContentType)
			}
			spoken(t, record(t, s, r.RequestID), c.stream, len(got.Raw))
		})
	}
}

// spoken checks the record of a speech: one leg, with the sound that went by.
func spoken(t *testing.T, r *flow.Record, stream bool, size int) {
	t.Helper()
	inOrder(t, r, "speech")
	h := r.Hops[0]
	if r.Route != "/v1/audio/speech" || r.Stream != stream || r.Outcome != "ok" {
		t.Errorf("record of a speech with stream=%v: %s (stream=%v)", stream, r, r.Stream)
	}
	if h.RequestID != r.RequestID {
		t.Errorf("request ids: client %s, speech leg %s", r.RequestID, h.RequestID)
	}
	if h.Bytes < int64(size) || h.FirstByteMS < h.StartMS || h.FirstByteMS > h.EndMS {
		t.Errorf("the leg of a sound of %d bytes: %d bytes passed, first at +%.1f ms of +%.1f to +%.1f", size, h.Bytes, h.FirstByteMS, h.StartMS, h.EndMS)
	}
}

// TestSpeechRefusalsThroughProxy: what the stage says to a bad request reaches the client word for word, with the leg's name.
func TestSpeechRefusalsThroughProxy(t *testing.T) {
	s := omnitest.Shared(t)
	stage := speaker(t, s)
	needSpeechRoute(t, s)
	for name, r := range map[string]api.SpeechRequest{
		"empty": {Input: ""}, "speed": {Input: "hello", Speed: 9}, "unknown voice": {Input: "hello", Voice: "nobody"},
	} {
		t.Run(name, func(t *testing.T) {
			said := func(c *api.Client) *api.Error {
				_, err := c.Speak(requestContext(t, s), r)
				var e *api.Error
				if !errors.As(err, &e) {
					t.Fatalf("want a refusal, got %v", err)
				}
				return e
			}
			own, entry := said(stage), said(s.Client)
			if diff := cmp.Diff([]any{own.Status, own.Message, own.Type}, []any{entry.Status, entry.Message, entry.Type}); diff != "" {
				t.Errorf("the stage's own refusal, and what came of it at the entry (-stage +entry):\n%s", diff)
			}
			if entry.Stage != "speech" {
				t.Errorf("the refusal names stage %q, want speech: %v", entry.Stage, entry)
			}
		})
	}
}

// deadSpeech asks a stage that is dead to speak: the error must come from the proxy and name the leg.
func deadSpeech(t *testing.T, s *omnitest.Stack) {
	for _, stream := range []bool{false, true} {
		r := speechRequest(s, "Is anybody there?", "alto")
		var err error
		if stream {
			_, err = s.Client.StreamSpeak(requestContext(t, s), r, nil)
		} else {
			_, err = s.Client.Speak(requestContext(t, s), r)
		}
		var e *api.Error
		if !errors.As(err, &e) {
			t.Fatalf("with a dead speech stage the request gave %v, want an error from the proxy", err)
		}
		if e.Status != 502 || e.Stage != "speech" || !strings.HasPrefix(e.Message, "speech: ") {
			t.Errorf("with a dead speech stage the answer is status %d, stage %q, message %q", e.Status, e.Stage, e.Message)
		}
		if rec := record(t, s, r.RequestID); rec.Outcome != "failed" || !strings.Contains(rec.String(), "speech no answer") {
			t.Errorf("the ledger does not name the leg: %s", rec)
		}
	}
}
