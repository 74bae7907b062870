package dit

import "time"

// Faults are the failures that the reference DiT can be told to have. All false: a healthy engine.
type Faults struct {
	WrongSize         bool `json:",omitempty" stage:"dit" fault:"wrong-size" doc:"the decoded picture is 16 px narrower than asked; the size field still echoes the request"`
	Blank             bool `json:",omitempty" stage:"dit" fault:"blank" doc:"one flat colour (NaN latents)"`
	WrongLetter       bool `json:",omitempty" stage:"dit" fault:"wrong-letter" doc:"one character of the text is painted as a look-alike"`
	NoText            bool `json:",omitempty" stage:"dit" fault:"no-text" doc:"the text is missing"`
	ExtraText         bool `json:",omitempty" stage:"dit" fault:"extra-text" doc:"a second sign that nobody asked for stands in a corner of the picture"`
	ShortPrompt       bool `json:",omitempty" stage:"dit" fault:"short-prompt" doc:"the text encoder reads the first half of its prompt: the end of the plan is lost"`
	WrongColour       bool `json:",omitempty" stage:"dit" fault:"wrong-colour" doc:"every thing is painted in another colour than the one that is named"`
	ExtraShape        bool `json:",omitempty" stage:"dit" fault:"extra-shape" doc:"one thing more is painted than was asked for"`
	FewSteps          bool `json:",omitempty" stage:"dit" fault:"few-steps" doc:"never more than four steps, whatever is asked for"`
	EditIgnored       bool `json:",omitempty" stage:"dit" fault:"edit-ignored" doc:"an edit returns its input (after VAE loss)"`
	EditOutsideRegion bool `json:",omitempty" stage:"dit" fault:"edit-outside-region" doc:"an edit also changes a patch outside the named region"`
	EditRedraws       bool `json:",omitempty" stage:"dit" fault:"edit-redraws" doc:"an edit paints a new picture of its instruction and keeps nothing of its input"`
	EditDrift         bool `json:",omitempty" stage:"dit" fault:"edit-drift" doc:"an edit makes the whole picture 1.2 % brighter: no single turn shows it, ten turns do"`
	MaskIgnored       bool `json:",omitempty" stage:"dit" fault:"mask-ignored" doc:"an edit does not look at its mask"`
	FirstInputOnly    bool `json:",omitempty" stage:"dit" fault:"first-input-only" doc:"an edit of several pictures sees the first alone"`
	WrongCount        bool `json:",omitempty" stage:"dit" fault:"wrong-count" doc:"n+1 pictures for n asked"`
	RepeatPicture     bool `json:",omitempty" stage:"dit" fault:"repeat-picture" doc:"a cache that looks at the size alone: the second picture of a size is the first one again"`
	SilentAudio       bool `json:",omitempty" stage:"dit" fault:"silent-audio" doc:"a speech is digital silence of the right length"`
	ClippedAudio      bool `json:",omitempty" stage:"dit" fault:"clipped-audio" doc:"a speech is overdriven twelvefold and cut at full scale"`
	WrongSpeech       bool `json:",omitempty" stage:"dit" fault:"wrong-speech" doc:"one letter of the text is spoken as another, with the same length"`
	TruncatedAudio    bool `json:",omitempty" stage:"dit" fault:"truncated-audio" doc:"a speech ends after two thirds; its header agrees"`
	MixedOrder        bool `json:",omitempty" stage:"dit" fault:"mixed-order" doc:"the text of a mixed chat answer comes after its picture"`
	Stall             bool `json:",omitempty" stage:"dit" fault:"stall" doc:"accepts the request and never answers"`
}

// Timing plants latencies. Zero: as fast as the machine goes.
type Timing struct {
	PerStep        time.Duration `json:",omitempty" yaml:"per_step,omitempty"` // at 1 megapixel, scaled by pixel count
	Encode         time.Duration `json:",omitempty" yaml:"encode,omitempty"`
	Jitter         float64       `json:",omitempty" yaml:"jitter,omitempty"`
	GrowPerRequest int64         `json:",omitempty" yaml:"grow_per_request_bytes,omitempty"`
	BurnPerRequest time.Duration `json:",omitempty" yaml:"burn_per_request,omitempty"` // CPU time that is burnt for nothing
}
