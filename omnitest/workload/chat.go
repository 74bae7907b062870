package workload

import (
	"errors"

	"github.com/omnitest/suite/omnitest/api"
)

// Chat describes conversations of several turns, with pictures in their history where there are any. The zero value has user messages of
// 32 words and answers of 128 tokens.
type Chat struct {
	System    string
	Words     Length // of each user message, the nonce not counted; nil: Fixed(32)
	Output    Length // max_tokens of each answer; nil: Fixed(128)
	StopAtEOS bool   // see Text
	// Images is the number of pictures of ImageSize (zero: 512x512) with the first message.
	Images    int
	ImageSize api.Size

	Modalities []string         // see api.ChatRequest
	Image      *api.ImageParams // see api.ChatRequest; a nonzero Seed gets the number of the call added
	Sampling   api.Sampling
}

// Turns checks the description and gives the request of a turn from what the turns before it answered: history[k] is the answer to
// turn k, as load.Turn has it. The user's part depends on the conversation and the turn alone.
//
// Answers go back as assistant messages. Pictures in them go with the user's next message, because the chat format takes pictures from
// users only.
func (c Chat) Turns(seed uint64) (func(conversation int, history []*api.Text) api.ChatRequest, error) {
	if c.Words == nil {
		c.Words = Fixed(32)
	}
	if c.Output == nil {
		c.Output = Fixed(128)
	}
	if c.ImageSize == (api.Size{}) {
		c.ImageSize = api.Size{W: 512, H: 512}
	}
	if err := errors.Join(c.Words.Check(), c.Output.Check(), checkPictures(c.Images, c.ImageSize)); err != nil {
		return nil, err
	}
	return func(conversation int, history []*api.Text) api.ChatRequest {
		r := api.ChatRequest{Modalities: c.Modalities, Sampling: c.Sampling}
		r.IgnoreEOS = !c.StopAtEOS
		if c.System != "" {
			// The system prompt is shared: put first, as a chat does, it is what a prefix cache may keep.
			r.Messages = append(r.Messages, api.Message{Role: "system", Text: c.System})
		}
		for turn := 0; turn <= len(history); turn++ {
			rng, nonce := draws(seed^mix(uint64(turn)), conversation)
			user := api.Message{Role: "user", Text: wordsOf(rng, nonce, c.Words.Draw(rng))}
			r.MaxTokens = c.Output.Draw(rng)
			if turn == 0 {
				for k := range c.Images {
					user.Images = append(user.Images, picture(nonce+uint64(k), c.ImageSize))
				}
			} else if answer := history[turn-1]; answer != nil {
				r.Messages = append(r.Messages, api.Message{Role: "assistant", Text: answer.String()})
				for _, im := range answer.Images {
					user.Images = append(user.Images, api.Input{Data: im.Raw})
				}
			}
			r.Messages = append(r.Messages, user)
		}
		if c.Image != nil {
			own := *c.Image
			if own.Seed != 0 {
				own.Seed += int64(conversation)
			}
			r.Image = &own
		}
		return r
	}, nil
}
