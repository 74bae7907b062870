package metrics_test

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

// chunk is one event of a stream.
type chunk struct {
	at    float64 // ms
	text  string
	usage int // completion_tokens so far; 0: not told
	ids   int // token_ids; 0: not told
	has   api.Content
}

func chunks(all ...chunk) metrics.Sample {
	t := &api.Text{Exchange: api.Exchange{Status: 200, Start: time.Unix(1, 0)}}
	for _, c := range all {
		e := api.Event{At: time.Duration(c.at * 1e6), Text: c.text, Tokens: -1, Usage: -1, Has: c.has, Bytes: 10}
		if c.text != "" {
			e.Has |= api.HasText
		}
		if c.has&(api.HasUsage|api.IsDone) == 0 {
			e.Has |= api.HasChoices
		}
		if c.usage > 0 {
			e.Usage, e.Has = c.usage, e.Has|api.HasUsage
		}
		if c.ids > 0 {
			e.Tokens = c.ids
		}
		t.Events = append(t.Events, e)
		t.End = e.At
	}
	return metrics.FromText(t, nil)
}

// One stream, two tools: the same words for different figures.
func TestProfilesDisagree(t *testing.T) {
	s := chunks(
		chunk{at: 100}, // role
		chunk{at: 120, text: "ab", usage: 2},
		chunk{at: 150, text: "cde", usage: 5},
		chunk{at: 170, has: api.HasAudio},
		chunk{at: 200, usage: 5, has: api.HasUsage},
		chunk{at: 201, has: api.IsDone},
	)
	s.OutputTokens, s.Sound = 5, metrics.Sound{Seconds: 0.5}
	v, err := metrics.VLLM.Figures(&s)
	assert.NoError(t, err)
	o, err := metrics.VLLMOmni.Figures(&s)
	assert.NoError(t, err)
	assert.Equal(t, 100.0, get(t, v.TTFT))
	assert.Equal(t, 120.0, get(t, o.TTFT), "a role-only chunk starts nothing")
	assert.Equal(t, []float64{20, 30, 20}, v.ITL)
	assert.Equal(t, []float64{0, 10, 10, 10}, o.ITL, "per token, zeros for those that came with the first")
	assert.Equal(t, 70.0/4, get(t, v.TPOT))
	assert.Equal(t, 7.5, get(t, o.TPOT), "the mean of its ITL")
	assert.Equal(t, 170.0, get(t, v.E2EL))
	assert.Equal(t, 200.0, get(t, o.E2EL), "the usage message ends it")
	assert.Equal(t, 170.0, get(t, o.AudioTTFP))
	assert.Equal(t, 0.34, get(t, o.AudioRTF))
}

// Where the tool writes 0, the strict profile says that nothing was measured.
func TestLiteralIsTheToolsZero(t *testing.T) {
	soundOnly := chunks(chunk{at: 50, has: api.HasAudio})
	strict, err := metrics.VLLMOmni.Figures(&soundOnly)
	assert.NoError(t, err)
	assert.Equal(t, "no chunk brought a text token", strict.TTFT.Reason())
	tool, err := asTool(metrics.VLLMOmni).Figures(&soundOnly)
	assert.NoError(t, err)
	assert.Equal(t, 0.0, get(t, tool.TTFT))

	cut := stream(1, 3, 5, 6)
	cut.Err = &api.Error{Kind: api.Truncated, Message: "the stream ended"}
	_, err = metrics.VLLM.Figures(&cut)
	assert.ErrorContains(t, err, "the stream ended")
	tool, err = asTool(metrics.VLLM).Figures(&cut)
	assert.NoError(t, err)
	assert.Equal(t, 6.0, get(t, tool.E2EL))

	cut.Err = &api.Error{Kind: api.Transport}
	_, err = asTool(metrics.VLLM).Figures(&cut)
	assert.Error(t, err, "no tool takes this for a success")
}

func TestSilentTokensAreNotMeasured(t *testing.T) {
	last := chunks(chunk{at: 1, text: "a"}, chunk{at: 2, text: "b", usage: 2})
	last.OutputTokens = 2
	sum := metrics.Summarize(metrics.VLLM, []metrics.Sample{last}, time.Second)
	assert.Equal(t, "usage came only on a chunk with choices, where vLLM passes it over", sum.TPOT.Mean.Reason())
	assert.Equal(t, "the answers did not tell their output tokens", sum.OutputTokenRate.Reason())
	assert.Equal(t, 2.0, get(t, metrics.Summarize(metrics.VLLMOmni, []metrics.Sample{last}, time.Second).OutputTokens))
	last.Retokenized = metrics.Of(2)
	assert.Equal(t, 1.0, get(t, metrics.Summarize(metrics.VLLM, []metrics.Sample{last}, time.Second).TPOT.Mean))
}

func TestPlainNames(t *testing.T) {
	s := chunks(
		chunk{at: 10}, // role
		chunk{at: 30, has: api.HasReasoning, usage: 1},
		chunk{at: 40, text: "ab", usage: 3},
		chunk{at: 50, has: api.HasImage},
		chunk{at: 60, has: api.HasAudio},
		chunk{at: 70, text: "c", usage: 4},
		chunk{at: 90, usage: 4, has: api.HasUsage},
		chunk{at: 99, has: api.IsDone},
	)
	s.OutputTokens = 4
	p := metrics.Summarize(metrics.VLLM, []metrics.Sample{s}, time.Second).Plain
	for name, c := range map[string]struct {
		d    metrics.Dist
		mean float64
		n    int
	}{
		"ttfe": {p.TTFE, 10, 1}, "ttft_content": {p.TTFTContent, 30, 1}, "tt_first_image": {p.FirstImage, 50, 1},
		"tt_first_audio": {p.FirstAudio, 60, 1}, "icl": {p.ICL, 20, 2}, "itl_token": {p.ITLToken, 40.0 / 3, 3},
		"tpot": {p.TPOT, 40.0 / 3, 1}, "e2el": {p.E2EL, 99, 1},
	} {
		assert.InDelta(t, c.mean, get(t, c.d.Mean), 1e-9, name)
		assert.Equal(t, c.n, c.d.N, name)
	}
	assert.Equal(t, 4.0, get(t, p.PeakTokenRate))

	untold := metrics.Summarize(metrics.VLLM, []metrics.Sample{stream(1, 2, 5, 6)}, time.Second).Plain
	assert.Equal(t, "no chunk had content", metrics.Summarize(metrics.VLLM, []metrics.Sample{chunks(chunk{at: 1})}, time.Second).Plain.TTFTContent.Mean.Reason())
	assert.Equal(t, "no sound was received", untold.FirstAudio.Mean.Reason())
	assert.Equal(t, 1.0, get(t, untold.ICL.Mean))
	assert.Equal(t, "the answer was not streamed", metrics.Summarize(metrics.VLLM, []metrics.Sample{picture(time.Second)}, time.Second).Plain.TTFE.Mean.Reason())

	silent := chunks(chunk{at: 1, text: "a"}, chunk{at: 3, text: "b"})
	assert.Equal(t, "the chunks do not tell their tokens (continuous_usage_stats or token_ids)",
		metrics.Summarize(metrics.VLLM, []metrics.Sample{silent}, time.Second).Plain.ITLToken.Mean.Reason())
}

func wave(rate uint32, samples int) []byte {
	b := append([]byte("RIFF\x00\x00\x00\x00WAVEfmt \x10\x00\x00\x00\x01\x00\x01\x00"), make([]byte, 12)...)
	binary.LittleEndian.PutUint32(b[24:], rate)
	binary.LittleEndian.PutUint32(b[28:], 2*rate)
	b = append(append(b, "data"...), make([]byte, 4)...)
	binary.LittleEndian.PutUint32(b[40:], uint32(2*samples))
	return append(b, make([]byte, 2*samples)...)
}

func TestSoundOfWaveFiles(t *testing.T) {
	part := func(raw []byte) *api.Text {
		return &api.Text{Exchange: api.Exchange{Status: 200}, Choices: []api.Choice{{Parts: []api.Part{{Kind: "audio", Audio: raw}}}}}
	}
	two := append(wave(24000, 2400), wave(24000, 1200)...)
	assert.InDelta(t, 0.15, metrics.FromText(part(two), nil).Sound.Seconds, 1e-12, "files that follow each other")
	assert.InDelta(t, 0.1, metrics.FromText(part(append(wave(24000, 2400), wave(8000, 800)...)), nil).Sound.Seconds, 1e-12, "the second has another form")
	open := wave(24000, 2400)
	copy(open[40:], "\xff\xff\xff\xff") // a stream's header claims a length that nobody knew
	assert.InDelta(t, 0.1, metrics.FromText(part(open), nil).Sound.Seconds, 1e-12)
	for _, raw := range [][]byte{nil, []byte("RIFF"), []byte("RIFF\x00\x00\x00\x00WAVEjunk\xff\xff\xff\x7f"), wave(24000, 0)[:30]} {
		assert.Zero(t, metrics.FromText(part(raw), nil).Sound.Seconds)
	}

	sp := &api.Speech{Format: "wav", Raw: wave(24000, 2400), Exchange: api.Exchange{Status: 200, End: 90 * time.Millisecond}}
	sp.Chunks = []api.SpeechChunk{{At: 10 * time.Millisecond, Data: sp.Raw[:44]}, {At: 80 * time.Millisecond, Data: sp.Raw[44:]}}
	s := metrics.FromSpeech(sp, metrics.PCM{}, nil)
	assert.InDelta(t, 0.1, s.Sound.Seconds, 1e-12)
	sum := metrics.Summarize(metrics.VLLMOmni, []metrics.Sample{s}, time.Second)
	assert.Equal(t, 10.0, get(t, sum.Audio.TTFP.Mean), "the tool's first packet may be the header of the file")
	assert.Equal(t, 80.0, get(t, sum.Plain.FirstAudio.Mean), "which is no sound")
}
