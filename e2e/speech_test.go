package e2e

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/omnitest/suite/fixtures"
	"github.com/omnitest/suite/omnitest"
	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/audiocheck"
	"github.com/omnitest/suite/omnitest/engine"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/refstack/dit"
)

// sayings are what is spoken, each with the characters a second that a voice can have: letters of English, hanzi.
var sayings = []struct {
	name, text, voice string
	slow, fast        float64
}{
	{"en-open-hours", "Open from seven to nine.", "alto", 5, 30},
	{"zh-weather", "今天天气很好，我们去公园。", "bass", 1.5, 10},
}

const speechSeed = 7

// speaker is the client of the stage that speaks. A test on an engine that doesn't is skipped, or fails where
// OMNITEST_REQUIRE=speech says that it must: what such an engine answers is recorded (vLLM-Omni with a picture model).
func speaker(t *testing.T, s *omnitest.Stack) *api.Client {
	t.Helper()
	needStages(t, s, engine.DiT)
	c := s.Stage(engine.DiT)
	if s.Instance(engine.DiT).Simulated {
		return c
	}
	_, err := c.Speak(requestContext(t, s), api.SpeechRequest{Input: "hello"})
	var e *api.Error
	mute := errors.As(err, &e) && (e.Status == 400 || e.Status == 404 || e.Status == 501)
	omnitest.Require(t, "speech", !mute, "serve a model that speaks on /v1/audio/speech as the dit stage")
	return c
}

func speechRequest(s *omnitest.Stack, text, voice string) api.SpeechRequest {
	seed := int64(speechSeed)
	r := api.SpeechRequest{Input: text, Voice: voice, Seed: &seed, RequestID: "speech-" + nonce()}
	if !s.Instance(engine.DiT).Simulated {
		r.Voice = "" // the engine's own voices have other names
	}
	return r
}

// readSound reads an answer that must be a WAVE file, or raw samples of 24 kHz.
func readSound(t *testing.T, a *api.Speech, c audiocheck.Case) audiocheck.Sound {
	t.Helper()
	read := audiocheck.ReadWAV
	if a.Format == "pcm" {
		read = func(raw []byte, l audiocheck.Limits) (audiocheck.Sound, error) {
			return audiocheck.ReadPCM(raw, audiocheck.Format{Rate: dit.SpeechRate, Channels: 1, Bits: 16}, l)
		}
	}
	sound, err := read(a.Raw, audiocheck.Limits{})
	if err != nil {
		t.Fatal(audiocheck.Keep(a.Raw, err, c))
	}
	return sound.For(c)
}

// TestSpeech asks for speech in two languages: it must be a sound, a voice, as long as its text, the approved one; and the same
// again as raw samples, in chunks and as events.
func TestSpeech(t *testing.T) {
	s := omnitest.Shared(t)
	c := speaker(t, s)
	for _, saying := range sayings {
		t.Run(saying.name, func(t *testing.T) {
			r := speechRequest(s, saying.text, saying.voice)
			whole, err := c.Speak(requestContext(t, s), r)
			if err != nil {
				fail(t, s, r.RequestID, err)
			}
			kase := audiocheck.Case{Name: saying.name, Text: saying.text, Voice: saying.voice, Seed: speechSeed, Stack: s.Target(), Dir: omnitest.TestDir(t)}
			sound := readSound(t, whole, kase)
			omnitest.Check(t, sound, audiocheck.Finite(), audiocheck.NotSilent(), audiocheck.NotClipped(), audiocheck.Centred(),
				audiocheck.Pace(saying.text, saying.slow, saying.fast), audiocheck.Voiced(), audiocheck.NotNoise(), audiocheck.Quiet())
			if s.Instance(engine.DiT).Simulated {
				u := dit.Utterance{Text: saying.text, Voice: saying.voice, Seed: speechSeed}
				omnitest.Check(t, sound, audiocheck.Is(audiocheck.Format{Rate: dit.SpeechRate, Channels: 1, Bits: 16}),
					audiocheck.Duration(u.Duration()), speechGoldens(t).Check(saying.name, audiocheck.Key{Engine: "reference", Model: "reference-dit"}))
			}
			if t.Failed() {
				return // the other ways would only say it again
			}
			pcm := r
			pcm.Format, pcm.RequestID = "pcm", "speech-"+nonce()
			raw, err := c.Speak(requestContext(t, s), pcm)
			if err != nil {
				fail(t, s, pcm.RequestID, err)
			}
			omnitest.Check(t, readSound(t, raw, kase), audiocheck.Same(sound))
			for _, events := range []bool{false, true} {
				r.SSE, r.RequestID = events, "speech-"+nonce()
				stream, err := c.StreamSpeak(requestContext(t, s), r, nil)
				if err != nil {
					fail(t, s, r.RequestID, err)
				}
				omnitest.Check(t, readSound(t, stream, kase), audiocheck.Same(sound))
				if at, ok := stream.FirstAudio(); !ok || at > stream.End {
					t.Errorf("events %t: the first audio came at %v (%t), the end at %v", events, at, ok, stream.End)
				}
			}
		})
	}
}

// speechGoldens are the approved voices of the reference stack. OMNITEST_UPDATE=1 writes them anew; a person listens to each.
func speechGoldens(t *testing.T) audiocheck.Store {
	return audiocheck.Store{Dir: "../fixtures/speech", Update: omnitest.Updating(), Out: omnitest.TestDir(t)}
}

// TestSpeechFollowsItsText: a longer text takes longer, another text or voice is another sound, and the same request is the same
// sound to the sample.
func TestSpeechFollowsItsText(t *testing.T) {
	s := omnitest.Shared(t)
	c := speaker(t, s)
	say := func(text, voice string) audiocheck.Sound {
		r := speechRequest(s, text, voice)
		a, err := c.Speak(requestContext(t, s), r)
		if err != nil {
			fail(t, s, r.RequestID, err)
		}
		return readSound(t, a, audiocheck.Case{Name: "follows", Text: text, Voice: voice, Stack: s.Target(), Dir: omnitest.TestDir(t)})
	}
	short := say("Seven trains.", "alto")
	omnitest.Check(t, say("Seven trains.", "alto"), audiocheck.Same(short))
	if long := say("Seven trains leave the station before the evening.", "alto"); long.Duration() < 2*short.Duration() {
		t.Errorf("37 more characters take %v, without them %v", long.Duration(), short.Duration())
	}
	if err := audiocheck.Like(short)(say("Seven drains.", "alto").For(audiocheck.Case{})); err == nil {
		t.Error("another text is like the first: either the text or the check is ignored")
	}
	if s.Instance(engine.DiT).Simulated && say("Seven trains.", "bass").SHA256() == short.SHA256() {
		t.Error("the voice is ignored")
	}
}

// TestSpeechIsHeard gives speech to a recogniser, which hears what no spectrogram can judge: words of a voice without a golden.
// The reference voice is made of tones and is understood by nobody.
func TestSpeechIsHeard(t *testing.T) {
	s := omnitest.Shared(t)
	needStages(t, s, engine.DiT)
	const remedy = "name a server of /v1/audio/transcriptions in OMNITEST_ASR (http://host:port) and a stack that really speaks in OMNITEST_STACK"
	address := os.Getenv(omnitest.EnvASR)
	omnitest.Require(t, "asr", address != "" && !s.Instance(engine.DiT).Simulated, remedy)
	c, ears := speaker(t, s), &api.Client{BaseURL: strings.TrimRight(address, "/")}
	for _, saying := range sayings {
		t.Run(saying.name, func(t *testing.T) {
			r := speechRequest(s, saying.text, saying.voice)
			a, err := c.Speak(requestContext(t, s), r)
			if err != nil {
				fail(t, s, r.RequestID, err)
			}
			kase := audiocheck.Case{Name: saying.name, Text: saying.text, Stack: s.Target(), Dir: omnitest.TestDir(t)}
			hears := audiocheck.TranscriberFunc(func(ctx context.Context, wav []byte) (string, error) {
				return ears.Transcribe(ctx, api.TranscriptionRequest{Audio: wav, Language: saying.name[:2]})
			})
			omnitest.Check(t, readSound(t, a, kase), audiocheck.Transcript(requestContext(t, s), hears, saying.text))
		})
	}
}

// TestSpeechRefusals: what can't be spoken is refused in words, and the stage speaks on.
func TestSpeechRefusals(t *testing.T) {
	s := omnitest.Shared(t)
	c := speaker(t, s)
	bad := map[string]api.SpeechRequest{
		"empty":          {Input: ""},
		"speed":          {Input: "hello", Speed: 9},
		"unknown format": {Input: "hello", Format: "tape"},
		"unknown voice":  {Input: "hello", Voice: "nobody-" + nonce()},
	}
	if s.Instance(engine.DiT).Simulated {
		bad["nothing to say"] = api.SpeechRequest{Input: "?!"}
	}
	for name, r := range bad {
		t.Run(name, func(t *testing.T) {
			_, err := c.Speak(requestContext(t, s), r)
			if api.KindOf(err) != api.Refused {
				t.Errorf("want a refusal (4xx), got %v", err)
			}
		})
	}
	if _, err := c.Speak(requestContext(t, s), speechRequest(s, "Still here.", "alto")); err != nil {
		t.Errorf("after the refusals: %v", err)
	}
}

// TestMixedAnswer asks one chat request for text, a picture and speech. The parts must come in this order, each must be right by
// itself, and they must belong together: one plan is written, painted and spoken.
func TestMixedAnswer(t *testing.T) {
	s := omnitest.Shared(t)
	c := speaker(t, s)
	scene, size := fixtures.Scenes[1], api.Size{W: 512, H: 512}
	const seed = 5
	id := "mixed-" + nonce()
	answer, err := painter(t, s).Chat(requestContext(t, s), api.ChatRequest{
		Messages:   []api.Message{{Role: "user", Text: scene.Prompt}},
		Modalities: []string{"text", "image", "audio"},
		Image:      &api.ImageParams{Size: size, Steps: 2, Seed: seed},
		Sampling:   api.Sampling{RequestID: id},
	})
	if err != nil {
		fail(t, s, id, err)
	}
	if echoes(s) && s.PIDs()[engine.Proxy] != 0 { // asked at our own proxy: the plan travelled all the way
		r := record(t, s, id)
		inOrder(t, r, "prefill", "decode", "dit")
		sameTicket(t, r)
	}
	var kinds []string
	for _, p := range answer.Choices[0].Parts {
		kinds = append(kinds, p.Kind)
	}
	if got := strings.Join(kinds, ", "); got != "text, image, audio" {
		t.Fatalf("the answer holds %s; want text, image, audio, in this order", got)
	}
	parts := answer.Choices[0].Parts
	text := parts[0].Text
	p := decoded(t, s, parts[1].Image, imagecheck.Case{Name: "mixed", Prompt: scene.Prompt, Steps: 2, Seed: seed}, size)
	kase := audiocheck.Case{Name: "mixed", Text: text, Seed: seed, Stack: s.Target(), Dir: omnitest.TestDir(t)}
	sound := readSound(t, &api.Speech{Raw: parts[2].Audio, Format: "wav"}, kase)
	omnitest.Check(t, sound, audiocheck.Finite(), audiocheck.NotSilent(), audiocheck.NotClipped(), audiocheck.Centred(),
		audiocheck.Voiced(), audiocheck.NotNoise(), audiocheck.Pace(text, 1.5, 30))
	if said := parts[2].Transcript; said != "" && said != text {
		t.Errorf("the sound claims to say %q, the text is %q", said, text)
	}
	if !s.Instance(engine.DiT).Simulated {
		return // what such a model says to the prompt is its own affair
	}
	if text != scene.Prompt {
		t.Errorf("the text is %q, the reference repeats its prompt %q", text, scene.Prompt)
	}
	omnitest.Check(t, p, shows(s, p, scene.Parts, p.Image.Rect)...)
	u := dit.Utterance{Text: text, Seed: seed}
	omnitest.Check(t, sound, audiocheck.Duration(u.Duration()), audiocheck.Like(uttered(t, u)))
	again := int64(seed)
	alone, err := c.Speak(requestContext(t, s), api.SpeechRequest{Input: text, Seed: &again})
	if err != nil {
		t.Fatal(err)
	}
	omnitest.Check(t, sound, audiocheck.Same(readSound(t, alone, kase)))
}

// uttered is what the reference voice says without a stack, and so without a fault.
func uttered(t *testing.T, u dit.Utterance) audiocheck.Sound {
	t.Helper()
	var raw []byte
	for _, v := range dit.Speak(u) {
		raw = binary.LittleEndian.AppendUint16(raw, uint16(v))
	}
	sound, err := audiocheck.ReadPCM(raw, audiocheck.Format{Rate: dit.SpeechRate, Channels: 1, Bits: 16}, audiocheck.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return sound
}

// TestSpeechByOpenAIClient holds OpenAI's own Go client against the same route: it must understand what ours does.
func TestSpeechByOpenAIClient(t *testing.T) {
	s := omnitest.Shared(t)
	both := peer(t, "dit", speaker(t, s))
	r := speechRequest(s, "Open from seven to nine.", "alto")
	ours, err := both.ours.Speak(requestContext(t, s), r)
	if err != nil {
		fail(t, s, r.RequestID, err)
	}
	models, err := both.ours.Models(requestContext(t, s))
	if err != nil {
		t.Fatal(err)
	}
	ask := openai.AudioSpeechNewParams{
		Input: r.Input, Model: openai.SpeechModel(models[0]),
		Voice:          openai.AudioSpeechNewParamsVoice(cmp.Or(r.Voice, "alloy")),
		ResponseFormat: openai.AudioSpeechNewParamsResponseFormatWAV,
	}
	res, err := both.theirs.Audio.Speech.New(requestContext(t, s), ask, option.WithJSONSet("seed", speechSeed))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	kase := audiocheck.Case{Name: "openai", Text: r.Input, Stack: s.Target(), Dir: omnitest.TestDir(t)}
	omnitest.Check(t, readSound(t, &api.Speech{Raw: raw, Format: "wav"}, kase), audiocheck.Same(readSound(t, ours, kase)))

	ask.Input = ""
	_, err = both.theirs.Audio.Speech.New(requestContext(t, s), ask)
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode/100 != 4 {
		t.Errorf("an empty text: want a refusal (4xx), got %v", err)
	}
}
