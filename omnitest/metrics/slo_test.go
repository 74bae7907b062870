package metrics_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/metrics"
)

func TestParseSLOs(t *testing.T) {
	for text, want := range map[string]string{
		"":                        "",
		"ttft:100 tpot:20":        "ttft:100 tpot:20",
		"e2el:0.5,audio_rtf:1.25": "e2el:0.5 audio_rtf:1.25",
		" audio_ttft:300 ":        "audio_ttfp:300", // how vllm-omni spells it
		"audio_continuity:100":    "audio_continuity:100",
		"ttft:0":                  "ttft:0",
	} {
		got, err := metrics.ParseSLOs(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, got.String(), text)
	}
	for text, want := range map[string]string{
		"ttfp:100":                    `goodput "ttfp:100": unknown objective "ttfp"; there are ttft, tpot, e2el, audio_ttfp, audio_rtf, audio_continuity`,
		"ttft:100 tpot":               `goodput "tpot": want NAME:MILLISECONDS, like ttft:100`,
		"ttft:fast":                   `goodput "ttft:fast": want NAME:MILLISECONDS, like ttft:100`,
		"ttft:NaN":                    `goodput "ttft:NaN": want NAME:MILLISECONDS, like ttft:100`,
		"tpot:-1":                     `goodput "tpot:-1": a limit below 0`,
		"ttft:1 ttft:2":               `goodput "ttft:2": ttft is given twice`,
		"audio_ttft:1 audio_ttfp:100": `goodput "audio_ttfp:100": audio_ttfp is given twice`,
	} {
		_, err := metrics.ParseSLOs(text)
		assert.EqualError(t, err, want)
	}
}

func good(t *testing.T, p metrics.Profile, slos string, samples ...metrics.Sample) *metrics.Goodput {
	t.Helper()
	o, err := metrics.ParseSLOs(slos)
	require.NoError(t, err)
	return metrics.Options{SLOs: o}.Summarize(p, samples, 2*time.Second).Goodput
}

func TestGoodput(t *testing.T) {
	fast, slow, late := stream(1, 3, 50, 60, 70), stream(1, 3, 50, 90, 130), stream(1, 3, 300, 310, 320)
	failed := stream(1, 3, 10, 11, 12)
	failed.Err = errors.New("cut")
	g := good(t, metrics.VLLM, "ttft:100 tpot:20", fast, slow, late, failed)
	assert.Equal(t, 1, g.Requests)
	assert.Equal(t, 0.5, get(t, g.Rate))
	assert.Equal(t, 0.25, get(t, g.Share))
	assert.Equal(t, map[string]int{"ttft": 1, "tpot": 1}, g.Missed)
	assert.Equal(t, 3, good(t, metrics.VLLM, "e2el:320", fast, slow, late, failed).Requests, "a limit is met when it is reached")
	assert.Equal(t, 2, good(t, metrics.VLLM, "e2el:319.9", fast, slow, late, failed).Requests)
	assert.Nil(t, good(t, metrics.VLLM, "", fast))

	none := good(t, metrics.VLLM, "ttft:1")
	assert.Equal(t, "no request was made", none.Share.Reason())
}

// An answer of one token has no TPOT: vLLM takes it for 0, vllm-omni for a miss. Tokens that nobody told are a miss everywhere.
func TestGoodputOfOneToken(t *testing.T) {
	one := stream(1, 1, 40)
	assert.Equal(t, 1, good(t, metrics.VLLM, "tpot:20", one).Requests)
	assert.Equal(t, 0, good(t, metrics.VLLMOmni, "tpot:20", one).Requests)
	assert.Equal(t, 0, good(t, metrics.VLLM, "tpot:20", stream(1, -1, 5, 6)).Requests)
	assert.Equal(t, 0, good(t, metrics.VLLM, "tpot:20", picture(time.Second)).Requests, "a picture has no tokens to be fast with")
}

func TestGoodputOfPicturesAndSound(t *testing.T) {
	assert.Equal(t, 1, good(t, metrics.VLLM, "e2el:1000", picture(time.Second), picture(1001*time.Millisecond)).Requests)

	say := func(ms ...int) metrics.Sample { // 0.1 s of sound at each time
		sp := &api.Speech{Format: "pcm", Exchange: api.Exchange{Status: 200, End: time.Duration(ms[len(ms)-1]) * time.Millisecond}}
		for _, at := range ms {
			sp.Chunks = append(sp.Chunks, api.SpeechChunk{At: time.Duration(at) * time.Millisecond, Data: make([]byte, 4800)})
			sp.Raw = append(sp.Raw, make([]byte, 4800)...)
		}
		return metrics.FromSpeech(sp, metrics.PCM{}, nil)
	}
	smooth, gap := say(50, 100, 190, 200), say(50, 100, 500, 510)
	assert.Equal(t, 1, good(t, metrics.VLLMOmni, "audio_ttfp:60 audio_rtf:1 audio_continuity:100", smooth, gap).Requests)
	assert.Equal(t, 1, good(t, metrics.VLLMOmni, "audio_continuity:100", smooth, gap).Requests)
	assert.Equal(t, 2, good(t, metrics.VLLMOmni, "audio_continuity:250", smooth, gap).Requests, "played 450 ms, had 200: starved for 250")
	assert.Equal(t, 1, good(t, metrics.VLLMOmni, "audio_rtf:1", smooth, gap).Requests)
	assert.Equal(t, 2, good(t, metrics.VLLMOmni, "audio_ttft:50", smooth, gap).Requests, "vllm-omni's spelling")
	assert.Equal(t, 0, good(t, metrics.VLLMOmni, "audio_ttfp:1000", stream(1, 2, 5, 6)).Requests, "no sound, no objective met")

	sum := metrics.Summarize(metrics.VLLMOmni, []metrics.Sample{smooth, gap}, 2*time.Second)
	assert.Equal(t, 50.0, get(t, sum.Audio.TTFP.Mean))
	assert.Equal(t, 0.5, get(t, sum.Audio.Continuity))
	assert.InDelta(t, 250, get(t, sum.Audio.Underrun.Max), 1e-9)
	assert.InDelta(t, 0.8, get(t, sum.Audio.Seconds), 1e-12)
	assert.InDelta(t, 0.4, get(t, sum.Audio.Rate), 1e-12)
	assert.InDelta(t, (0.2/0.4+0.51/0.4)/2, get(t, sum.Audio.RTF.Mean), 1e-12)
	assert.Equal(t, "the answer was no text", sum.TTFT.Mean.Reason())
}
