package workload

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"math/rand/v2"

	"github.com/omnitest/suite/omnitest/api"
)

// Pictures describes image requests. The zero value asks for 1024x1024 on prompts of 16 words.
type Pictures struct {
	Words  Length          // of the prompt, the nonce not counted; nil: Fixed(16)
	Params api.ImageParams // zero Size: 1024x1024. Seed is the first one; call i gets Seed + i
}

// Requests checks the description and gives the requests by number.
func (p Pictures) Requests(seed uint64) (func(i int) api.ImageRequest, error) {
	if p.Words == nil {
		p.Words = Fixed(16)
	}
	if p.Params.Size == (api.Size{}) {
		p.Params.Size = api.Size{W: 1024, H: 1024}
	}
	if err := errors.Join(p.Words.Check(), checkPictures(p.Params.N, p.Params.Size)); err != nil {
		return nil, err
	}
	return func(i int) api.ImageRequest {
		rng, nonce := draws(seed, i)
		r := api.ImageRequest{Prompt: wordsOf(rng, nonce, p.Words.Draw(rng)), ImageParams: p.Params}
		r.Seed += int64(i)
		return r
	}, nil
}

// Edits describes image edits. The zero value sends one input of 1024x1024 with an instruction of 16 words.
type Edits struct {
	Words     Length   // of the instruction, the nonce not counted; nil: Fixed(16)
	Inputs    int      // pictures of each request; 0: 1
	InputSize api.Size // zero: 1024x1024
	Params    api.ImageParams
}

// Requests checks the description and gives the requests by number.
func (e Edits) Requests(seed uint64) (func(i int) api.EditRequest, error) {
	turn, err := e.Turns(seed)
	if err != nil {
		return nil, err
	}
	return func(i int) api.EditRequest { return turn(i, nil) }, nil
}

// Turns is Requests for conversations: with a history the instruction is a new one and the input is the last answer's first picture,
// in place of the first of Inputs.
func (e Edits) Turns(seed uint64) (func(conversation int, history []*api.Images) api.EditRequest, error) {
	if e.Words == nil {
		e.Words = Fixed(16)
	}
	if e.Inputs == 0 {
		e.Inputs = 1
	}
	if e.InputSize == (api.Size{}) {
		e.InputSize = api.Size{W: 1024, H: 1024}
	}
	if err := errors.Join(e.Words.Check(), checkPictures(e.Inputs, e.InputSize), checkPictures(e.Params.N, e.Params.Size)); err != nil {
		return nil, err
	}
	return func(conversation int, history []*api.Images) api.EditRequest {
		rng, nonce := draws(seed^mix(uint64(len(history))), conversation)
		r := api.EditRequest{Prompt: wordsOf(rng, nonce, e.Words.Draw(rng)), ImageParams: e.Params}
		r.Seed += int64(conversation)
		for k := range e.Inputs {
			if k == 0 && len(history) > 0 {
				if last := history[len(history)-1]; last != nil && len(last.Items) > 0 {
					r.Images = append(r.Images, api.Input{Data: last.Items[0].Raw})
					continue
				}
			}
			r.Images = append(r.Images, picture(nonce+uint64(k), e.InputSize))
		}
		return r
	}, nil
}

const mostPixels = 64 << 20 // 8192 x 8192

func checkPictures(n int, size api.Size) error {
	if n < 0 {
		return fmt.Errorf("workload: %d pictures", n)
	}
	if size.W < 0 || size.H < 0 || (size.W == 0) != (size.H == 0) || size.W > 0 && size.H > mostPixels/size.W {
		return fmt.Errorf("workload: pictures of %v", size)
	}
	return nil
}

// picture draws a picture that no other nonce has: a wash of colour with some rectangles. Its pixels are what is unique, because
// engines keep what they have encoded under a hash of the pixels, and not of the file.
func picture(nonce uint64, size api.Size) api.Input {
	rng := rand.New(rand.NewPCG(nonce, 1))
	m := image.NewNRGBA(image.Rect(0, 0, size.W, size.H))
	from, to := tint(rng), tint(rng)
	for y := range size.H {
		row := m.Pix[y*m.Stride : (y+1)*m.Stride]
		c := [4]byte{blend(from.R, to.R, y, size.H), blend(from.G, to.G, y, size.H), blend(from.B, to.B, y, size.H), 255}
		for x := 0; x < len(row); x += 4 {
			copy(row[x:], c[:])
		}
	}
	for range 8 {
		x, y := rng.IntN(size.W), rng.IntN(size.H)
		r := image.Rect(x, y, x+1+rng.IntN(size.W), y+1+rng.IntN(size.H))
		draw.Draw(m, r, image.NewUniform(tint(rng)), image.Point{}, draw.Src)
	}
	// The nonce itself, in the first pixels: two random pictures may be alike where they are small.
	for k := range min(8, size.W*size.H) {
		m.Pix[k/size.W*m.Stride+k%size.W*4] = byte(nonce >> (8 * k))
	}
	var file bytes.Buffer
	_ = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&file, m) // a bytes.Buffer takes every write
	return api.Input{Data: file.Bytes()}
}

func tint(rng *rand.Rand) color.NRGBA {
	v := rng.Uint32()
	return color.NRGBA{byte(v), byte(v >> 8), byte(v >> 16), 255}
}

func blend(a, b byte, at, of int) byte { return byte((int(a)*(of-at) + int(b)*at) / of) }
