package audiocheck

import (
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/omnitest/suite/omnitest/refstack/dit"
)

var (
	studySize = flag.Int("study", 40, "texts of the study of log-mel distances; each gives 4 wrong and 6 benign sounds")
	studySeed = flag.Uint64("study.seed", 0, "seed of the random study; 0: of the clock")
)

const (
	studyHanzi = "今天气很好我们去公园走大爱早上中国水果书店火车时间红蓝"
	wrongHanzi = "的一是不了人在有他这"
	consonants = "bcdfghjklmnpqrstvwxz"
)

// sentence makes a text of some words or hanzi.
func sentence(rng *rand.Rand) string {
	words := strings.Fields("open closed river market seven blue station evening paper window garden silver train coffee music winter")
	if rng.IntN(2) == 0 {
		h := []rune(studyHanzi)
		var b strings.Builder
		for range 5 + rng.IntN(8) {
			b.WriteRune(h[rng.IntN(len(h))])
		}
		return b.String()
	}
	var w []string
	for range 3 + rng.IntN(6) {
		w = append(w, words[rng.IntN(len(words))])
	}
	return strings.Join(w, " ")
}

// wrongs are texts that are not the asked one: a letter replaced, dropped, doubled, two neighbours swapped.
func wrongs(rng *rand.Rand, text string) []string {
	r := []rune(text)
	at := func() int {
		for {
			if i := rng.IntN(len(r) - 1); r[i] != ' ' && r[i+1] != ' ' && r[i] != r[i+1] {
				return i
			}
		}
	}
	alphabet := []rune(consonants)
	if r[0] > 127 {
		alphabet = []rune(wrongHanzi)
	}
	i := at()
	replaced := slices.Clone(r)
	for replaced[i] == r[i] {
		replaced[i] = alphabet[rng.IntN(len(alphabet))]
	}
	i = at()
	dropped := slices.Delete(slices.Clone(r), i, i+1)
	i = at()
	doubled := slices.Insert(slices.Clone(r), i, r[i])
	i = at()
	swapped := slices.Clone(r)
	swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
	return []string{string(replaced), string(dropped), string(doubled), string(swapped)}
}

// benigns are the same speech as another machine might give it: noise 40 dB below the voice, gain, a shift, 8 bit samples,
// another seed, a slight low-pass.
func benigns(t testing.TB, rng *rand.Rand, u dit.Utterance, s Sound) map[string]Sound {
	rms := math.Sqrt(power(s.mono()))
	shift := rng.IntN(960) // up to 40 ms
	other := u
	other.Seed++
	before := 0.0
	return map[string]Sound{
		"noise": changed(t, s, func(_ int, v float64) float64 { return v + rng.NormFloat64()*rms/100 }),
		"gain":  changed(t, s, func(_ int, v float64) float64 { return v * 0.6 }),
		"shift": sound(t, append(make([]float32, shift), s.Samples...)),
		"8 bit": changed(t, s, func(_ int, v float64) float64 { return math.Round(v*128) / 128 }),
		"seed":  sound(t, floats(dit.Speak(other))),
		"low-pass": changed(t, s, func(_ int, v float64) float64 {
			v, before = (3*v+before)/4, v
			return v
		}),
	}
}

// study gives how many wrong sounds passed and how many benign ones failed, with the distances.
func study(t testing.TB, seed uint64, texts int) (accepts, rejects []string, worst map[string][]float64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	worst = map[string][]float64{}
	judge := func(kind, text string, s, golden Sound, wrong bool) {
		s.Case.Observe = func(_ string, m []Metric) {
			for _, v := range m {
				if v.Name == "logmel-worst" || v.Name == "logmel-mean" {
					worst[kind+" "+v.Name] = append(worst[kind+" "+v.Name], v.Value)
				}
			}
		}
		switch err := Like(golden)(s); {
		case err == nil && wrong:
			accepts = append(accepts, fmt.Sprintf("%s %q", kind, text))
		case err != nil && !wrong:
			rejects = append(rejects, fmt.Sprintf("%s %q: %v", kind, text, err))
		}
	}
	for range texts {
		u := dit.Utterance{Text: sentence(rng), Voice: dit.Voices[rng.IntN(2)]}
		golden := sound(t, floats(dit.Speak(u)))
		for i, text := range wrongs(rng, u.Text) {
			w := u
			w.Text = text
			judge([]string{"replaced", "dropped", "doubled", "swapped"}[i], u.Text+" -> "+text, sound(t, floats(dit.Speak(w))), golden, true)
		}
		same := benigns(t, rng, u, golden)
		for _, kind := range []string{"noise", "gain", "shift", "8 bit", "seed", "low-pass"} {
			judge(kind, u.Text, same[kind], golden, false)
		}
	}
	return accepts, rejects, worst
}

func tell(t *testing.T, worst map[string][]float64) {
	for _, kind := range []string{"replaced", "dropped", "doubled", "swapped", "noise", "gain", "shift", "8 bit", "seed", "low-pass"} {
		for _, m := range []string{" logmel-worst", " logmel-mean"} {
			v := worst[kind+m]
			slices.Sort(v)
			t.Logf("%-22s n %4d  min %5.2f  p50 %5.2f  max %5.2f dB", kind+m, len(v), v[0], v[len(v)/2], v[len(v)-1])
		}
	}
}

// TestStudy: a wrong letter is heard and numeric drift is not, in speech of two languages and two voices.
func TestStudy(t *testing.T) {
	accepts, rejects, worst := study(t, 1, *studySize)
	tell(t, worst)
	assert.Empty(t, accepts, "wrong speech that passed")
	assert.Empty(t, rejects, "right speech that failed")
}

// TestNoHomophones: the characters of the study are apart by more than the bound in the middle of a word, each from each. Two that
// sound the same would be right in each other's place, and the study of the day would fail on the day that draws them.
func TestNoHomophones(t *testing.T) {
	for _, set := range []struct{ characters, before, after string }{
		{studyHanzi + wrongHanzi, "中", "国"}, {consonants + "aeiouy", "ma", "st"},
	} {
		r := []rune(set.characters)
		said := make([]Sound, len(r))
		for i, c := range r {
			said[i] = sound(t, floats(dit.Speak(dit.Utterance{Text: set.before + string(c) + set.after})))
		}
		least, pair := math.Inf(1), ""
		for i := range r {
			for k := range i {
				if d, _ := nearest(said[i], said[k], 0.05); d.Worst < least {
					least, pair = d.Worst, string([]rune{r[i], r[k]})
				}
			}
		}
		t.Logf("nearest of %d characters: %s, %.2f dB", len(r), pair, least)
		assert.Greater(t, least, 1.25*Bounds{}.withDefaults().MelWorst, pair)
	}
}

// TestStudyOfTheDay is the same with other texts every time.
func TestStudyOfTheDay(t *testing.T) {
	seed := *studySeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("repeat with -study.seed=%d", seed)
	accepts, rejects, worst := study(t, seed, max(4, *studySize/4))
	assert.Empty(t, accepts, "wrong speech that passed")
	assert.Empty(t, rejects, "right speech that failed")
	if t.Failed() {
		tell(t, worst)
	}
}
