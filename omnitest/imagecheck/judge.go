package imagecheck

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"math"
	"strings"

	"github.com/omnitest/suite/omnitest/api"
)

// ChatReader reads text with a vision model behind an OpenAI-compatible endpoint. Vision models tend to correct what is
// malformed: they read free layouts, they do not prove glyphs.
type ChatReader struct {
	Client *api.Client // its Model is asked
}

// Read asks for a transcription at temperature 0.
func (c *ChatReader) Read(ctx context.Context, img *image.RGBA, lang string, lines int, spread bool) (string, error) {
	answer, err := askAbout(ctx, c.Client, "Transcribe all text in this picture exactly as it is written, also where it is misspelt, one line for each line. Answer with the text alone; with nothing if there is none.", 512, img)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrNoReader, err)
	}
	return answer, nil
}

// Scores are VIEScore's for an edit (or, without a picture before it, for a picture): each of 0-10.
type Scores struct {
	Success, Restraint    float64 // was the instruction carried out; 10: minimal yet effective
	Naturalness, Artifact float64 // 10: natural; 10: no artifacts
}

// SC is semantic consistency, PQ perceptual quality, O both: sqrt(SC*PQ).
func (s Scores) SC() float64 { return min(s.Success, s.Restraint) }
func (s Scores) PQ() float64 { return min(s.Naturalness, s.Artifact) }
func (s Scores) O() float64  { return math.Sqrt(s.SC() * s.PQ()) }

// ErrInvalidScore: the judge's answer holds no two numbers of 0-10. It is counted apart; the reference code of VIEScore puts a
// random number there.
var ErrInvalidScore = errors.New("the judge gave no valid score")

// Judge asks a vision model behind an endpoint for [Scores].
type Judge struct {
	Client *api.Client
}

// Score asks twice: for the instruction with both pictures, for the quality with the result alone.
func (j *Judge) Score(ctx context.Context, before *Picture, after Picture, instruction string) (Scores, error) {
	consistency := "You judge a picture that was made for this prompt: " + instruction
	shown := []*image.RGBA{after.opaque()}
	if before != nil {
		consistency = "The second picture is an edit of the first by this instruction: " + instruction
		shown = []*image.RGBA{before.opaque(), after.opaque()}
	}
	const form = ` Answer with JSON alone: {"score": [a, b], "reasoning": "one sentence"}, each from 0 to 10.`
	sc, err := j.pair(ctx, consistency+". a: how well it was carried out. b: 10 if nothing else was changed or added, 0 if all was."+form, shown...)
	if err != nil {
		return Scores{}, err
	}
	pq, err := j.pair(ctx, "a: how natural this picture is. b: 10 if it has no artifacts (distortion, blur, broken limbs or letters), 0 if it is full of them."+form, after.opaque())
	if err != nil {
		return Scores{}, err
	}
	return Scores{sc[0], sc[1], pq[0], pq[1]}, nil
}

func (j *Judge) pair(ctx context.Context, question string, shown ...*image.RGBA) (v [2]float64, err error) {
	answer, err := askAbout(ctx, j.Client, question, 256, shown...)
	if err != nil {
		return v, err
	}
	return parseScore(answer)
}

// parseScore reads {"score": [a, b]} strictly, but for text around the object.
func parseScore(answer string) (v [2]float64, err error) {
	from, to := strings.Index(answer, "{"), strings.LastIndex(answer, "}")
	var doc struct {
		Score []float64 `json:"score"`
	}
	if from < 0 || to < from || json.Unmarshal([]byte(answer[from:to+1]), &doc) != nil || len(doc.Score) != 2 {
		return v, fmt.Errorf("%w: %q", ErrInvalidScore, clip(answer, 120))
	}
	for i, s := range doc.Score {
		if !(s >= 0 && s <= 10) {
			return v, fmt.Errorf("%w: %v is not within 0 to 10", ErrInvalidScore, s)
		}
		v[i] = s
	}
	return v, nil
}

// ScoreSet collects scores over a set of prompts.
type ScoreSet struct {
	Valid   []Scores
	Invalid int // answers that were no scores
}

// Add takes what Score returned. An error that is no [ErrInvalidScore] is given back: the judge could not be asked.
func (s *ScoreSet) Add(v Scores, err error) error {
	switch {
	case err == nil:
		s.Valid = append(s.Valid, v)
	case errors.Is(err, ErrInvalidScore):
		s.Invalid++
	default:
		return err
	}
	return nil
}

// Err judges the means: SC >= 7.0, PQ >= 5.8, O >= 6.2, and at most a tenth of the answers invalid (vLLM-Omni's gates for
// GEdit in English; Chinese 6.9, 5.7, 6.1). Fewer than 30 valid answers prove nothing and fail.
func (s *ScoreSet) Err(lang string) error {
	n := len(s.Valid)
	least := [3]float64{7.0, 5.8, 6.2}
	if lang == "zh" {
		least = [3]float64{6.9, 5.7, 6.1}
	}
	if n < 30 {
		return fmt.Errorf("judge: %d valid answers (%d invalid), at least 30 are needed to say anything", n, s.Invalid)
	}
	if total := n + s.Invalid; 10*s.Invalid > total {
		return fmt.Errorf("judge: %d of %d answers were no scores, limit a tenth", s.Invalid, total)
	}
	var mean [3]float64
	for _, v := range s.Valid {
		mean[0], mean[1], mean[2] = mean[0]+v.SC()/float64(n), mean[1]+v.PQ()/float64(n), mean[2]+v.O()/float64(n)
	}
	for i, name := range []string{"SC", "PQ", "O"} {
		if mean[i] < least[i] {
			return fmt.Errorf("judge: mean %s %.2f over %d pictures, at least %.1f (SC %.2f, PQ %.2f, O %.2f; %d invalid)", name, mean[i], n, least[i], mean[0], mean[1], mean[2], s.Invalid)
		}
	}
	return nil
}

// askAbout sends pictures with a question at temperature 0.
func askAbout(ctx context.Context, c *api.Client, question string, tokens int, shown ...*image.RGBA) (string, error) {
	if c == nil {
		return "", errors.New("no client was given")
	}
	m := api.Message{Role: "user", Text: question}
	for i, img := range shown {
		var b bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img); err != nil {
			return "", err
		}
		m.Images = append(m.Images, api.Input{Name: fmt.Sprintf("picture-%d.png", i+1), Data: b.Bytes()})
	}
	answer, err := c.Chat(ctx, api.ChatRequest{Messages: []api.Message{m}, Sampling: api.Sampling{MaxTokens: tokens}})
	if err != nil {
		return "", err
	}
	if len(answer.Choices) == 0 {
		return "", errors.New("an answer without choices")
	}
	return answer.Choices[0].Text, nil
}
