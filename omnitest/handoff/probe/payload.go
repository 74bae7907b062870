package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"slices"

	"github.com/omnitest/suite/omnitest/api"
	"github.com/omnitest/suite/omnitest/flow"
	"github.com/omnitest/suite/omnitest/handoff"
	"github.com/omnitest/suite/omnitest/imagecheck"
	"github.com/omnitest/suite/omnitest/textcheck"
)

const payloadClaim = "the picture is painted from the plan that decode made for it"

// The pictures of CrossedPayload: small, as it makes five, and with few steps, as they are compared with each other only.
var payloadParams = api.ImageParams{Size: api.Size{W: 512, H: 512}, Steps: 8, Seed: 20260823}

// CrossedPayload looks at the second handoff by its effect: two pictures of the same size, steps and seed are ordered at the
// entry, and then the DiT is asked directly for a picture from each of the two plans. The entry's picture must be the one of its
// own plan. If it is that of the other plan, payloads are crossed or a picture comes from a cache; if it is neither, the DiT was
// sent something else, such as the client's prompt. What the flow ledger says was sent is not believed here: handoff.PayloadProven
// judges that. The plans themselves are read from the ledger (decode's side), or from the answers where the server tells them.
//
// Pictures are compared by the mean difference of 8x8 px boxes (imagecheck.TileMAD), against how far the two direct pictures are
// from each other: a quarter of that is "the same", and the DiT must itself repeat a picture that well. No threshold of its own
// model enters. Two plans that differ and give the very same picture refute: the DiT does not read them.
//
// Where a plan is its client's own prompt, as an echoing model makes it, prompt and plan cannot be told apart; a note says so.
//
// It sends 5 picture requests, 2 through all stages and 3 to the DiT alone.
func CrossedPayload(ctx context.Context, s handoff.Source, o Options) (Result, error) {
	p, err := newProbe(s, o)
	if err != nil {
		return Result{}, err
	}
	switch {
	case s.Entry == nil:
		return p.done(payloadClaim, handoff.StateInconclusive, "no-entry", "there is no entry to order pictures at: Source.Entry is not given")
	case s.DiT == nil:
		return p.done(payloadClaim, handoff.StateInconclusive, "no-dit", "the DiT cannot be asked directly: Source.DiT is not given")
	}
	a, b := &painting{name: "a", prompt: `A large red circle on a white background, with the words "` + nonce(6) + `"`},
		&painting{name: "b", prompt: `A black night sky with a green square, with the words "` + nonce(6) + `"`}
	for _, x := range []*painting{a, b} {
		if err := p.order(ctx, x); err != nil {
			return p.result, fmt.Errorf("crossed payload: %w", err)
		}
		if x.plan == "" {
			return p.done(payloadClaim, handoff.StateInconclusive, "plan-unknown", "neither the flow ledger nor the answer tells the plan of picture %s", x.name)
		}
	}
	if a.plan == b.plan {
		return p.done(payloadClaim, handoff.StateInconclusive, "same-plans", "both prompts got the same plan %s: an exchange would not show", textcheck.Quote(a.plan))
	}
	var again *image.RGBA
	for _, x := range []struct {
		role string
		of   *painting
		to   **image.RGBA
	}{{"dit with plan a", a, &a.direct}, {"dit with plan b", b, &b.direct}, {"dit with plan a again", a, &again}} {
		if *x.to, err = p.paint(ctx, "dit", s.DiT, x.role, x.of.plan, ""); err != nil {
			return p.result, fmt.Errorf("crossed payload: %w", err)
		}
	}
	return p.judgePaintings(a, b, again)
}

// painting is one prompt with its plan and its two pictures.
type painting struct {
	name, prompt, plan string
	sent               string // what the flow ledger says the DiT was sent
	entry, direct      *image.RGBA
}

// order makes a picture at the entry and finds its plan.
func (p *probe) order(ctx context.Context, x *painting) error {
	ledger, err := handoff.Follow(ctx, p.Source)
	if err != nil {
		return err
	}
	id := "omnitest-payload-" + nonce(12)
	answer, img, err := p.picture(ctx, "entry", p.Source.Entry, "entry "+x.name, x.prompt, id)
	if err != nil {
		return err
	}
	x.entry, x.plan = img, answer.Plan
	seen := ledger.Read(ctx)
	if i := slices.IndexFunc(seen.Records, func(r flow.Record) bool { return r.RequestID == id }); i >= 0 {
		if h := seen.Records[i].Hop("decode"); h != nil && h.Plan != "" {
			x.plan = h.Plan
		}
		if h := seen.Records[i].Hop("dit"); h != nil {
			x.sent = h.Plan
		}
	}
	return nil
}

func (p *probe) paint(ctx context.Context, stage string, client *api.Client, role, prompt, id string) (*image.RGBA, error) {
	_, img, err := p.picture(ctx, stage, client, role, prompt, id)
	return img, err
}

// picture orders one picture and decodes it.
func (p *probe) picture(ctx context.Context, stage string, client *api.Client, role, prompt, id string) (*api.Images, *image.RGBA, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.Limit, fmt.Errorf("no picture within %v", p.Limit))
	defer cancel()
	answer, err := client.Generate(ctx, api.ImageRequest{Prompt: prompt, RequestID: id, ImageParams: payloadParams})
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	var img *image.RGBA
	told := ""
	if err == nil {
		if len(answer.Items) != 1 {
			err = fmt.Errorf("%d pictures for one", len(answer.Items))
		} else if img, err = answer.Items[0].Decode(); err == nil {
			told = fmt.Sprintf("picture %s, pixels %.12s", answer.Items[0].Size, imagecheck.PixelSHA256(img))
		}
	}
	a := Answer{Role: role, Stage: stage, Prompt: prompt, Text: told}
	if err != nil {
		a.Error = err.Error()
		err = fmt.Errorf("%s (%s): %w", role, stage, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.result.Requests++
	p.result.Answers = append(p.result.Answers, a)
	return answer, img, err
}

// paintingShare is the part of the distance of two unlike pictures within which two count as the same.
const paintingShare = 0.25

// leastApart is how far two pictures must differ for the experiment, 0-255: imagecheck's bound for a tile that has changed
// (loss of an autoencoder alone reaches 3.6).
const leastApart = 8.0

// judgePaintings compares the pictures. again is a's direct picture a second time.
func (p *probe) judgePaintings(a, b *painting, again *image.RGBA) (Result, error) {
	apart, err1 := pictureDistance(a.direct, b.direct)
	noise, err2 := pictureDistance(a.direct, again)
	if err := errors.Join(err1, err2); err != nil {
		return p.done(payloadClaim, handoff.StateInconclusive, "not-comparable", "the DiT's own pictures cannot be compared: %v", err)
	}
	switch {
	case apart == 0 && bytes.Equal(a.direct.Pix, b.direct.Pix):
		return p.done(payloadClaim, handoff.StateRefuted, "payload-ignored", "the DiT gives the very same picture for the plans %s and %s: it does not read its payload, or answers from a cache",
			textcheck.Quote(a.plan), textcheck.Quote(b.plan))
	case apart < leastApart:
		return p.done(payloadClaim, handoff.StateInconclusive, "alike", "the DiT's pictures of the two plans are only %.1f apart, at least %.0f is needed: an exchange would not show", apart, leastApart)
	case noise > paintingShare*apart:
		return p.done(payloadClaim, handoff.StateInconclusive, "not-repeatable", "the DiT does not repeat its own picture: %.1f apart with the same plan and seed, %.1f with another plan", noise, apart)
	}
	var reasons []handoff.Reason
	var notes []string
	say := func(s handoff.State, rule, format string, args ...any) {
		reasons = append(reasons, handoff.Reason{State: s, Rule: rule, Text: fmt.Sprintf(format, args...)})
	}
	numbers := map[string]float64{"dit.plans_apart": apart, "dit.repeat_apart": noise}
	for _, x := range [][2]*painting{{a, b}, {b, a}} {
		mine, other := x[0], x[1]
		own, err1 := pictureDistance(mine.entry, mine.direct)
		foreign, err2 := pictureDistance(mine.entry, other.direct)
		if err := errors.Join(err1, err2); err != nil {
			say(handoff.StateRefuted, "other-size", "the entry's picture %s cannot be the DiT's: %v", mine.name, err)
			continue
		}
		numbers["entry."+mine.name+".own_plan"], numbers["entry."+mine.name+".other_plan"] = own, foreign
		sent := ""
		if mine.sent != "" && mine.sent != mine.plan {
			sent = "; the flow ledger says that the DiT was sent " + textcheck.Quote(mine.sent)
		}
		switch {
		case own <= paintingShare*apart:
		case foreign <= paintingShare*apart:
			say(handoff.StateRefuted, "payload-crossed", "picture %s at the entry is the one of plan %s: %.1f from it, %.1f from that of its own plan%s", mine.name, other.name, foreign, own, sent)
		default:
			say(handoff.StateRefuted, "payload-lost", "picture %s at the entry is neither that of its own plan %s (%.1f from it, the two plans are %.1f apart) nor that of the other (%.1f): the DiT was given something else%s",
				mine.name, textcheck.Quote(mine.plan), own, apart, foreign, sent)
		}
		if mine.plan == mine.prompt {
			notes = append(notes, "plan "+mine.name+" is the client's own prompt: a DiT that was sent the prompt instead of the plan would not show")
		}
	}
	if len(reasons) == 0 {
		say(handoff.StateProven, "payload-consumed", "each picture is the one of its own plan: %.1f and %.1f from it, %.1f and %.1f from that of the other plan",
			numbers["entry.a.own_plan"], numbers["entry.b.own_plan"], numbers["entry.a.other_plan"], numbers["entry.b.other_plan"])
	}
	p.result.Verdict = verdictOf(payloadClaim, reasons, notes, numbers)
	return p.result, nil
}

// pictureDistance is the mean over all tiles, 0-255.
func pictureDistance(a, b *image.RGBA) (float64, error) {
	t, err := imagecheck.TileMAD(imagecheck.Luma(a), imagecheck.Luma(b))
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, v := range t.MAD {
		sum += v
	}
	return sum / float64(len(t.MAD)), nil
}
