package ar

import "time"

// Faults are the failures that an AR engine of the reference stack can be told to have. All false: a healthy engine.
// The tag `fault` is the name after the stage ("prefill." or "decode."), `doc` what it imitates.
type Faults struct {
	// prefill side
	ZeroBlocks    bool `json:",omitempty" stage:"prefill" fault:"zero-blocks" doc:"serves zeroed KV blocks: the transfer succeeds, the content is garbage"`
	ForeignBlocks bool `json:",omitempty" stage:"prefill" fault:"foreign-blocks" doc:"serves the blocks of the previous request: another user's content (F3)"`
	LeakOnAbort   bool `json:",omitempty" stage:"prefill" fault:"leak-on-abort" doc:"never frees the blocks of an aborted request or of a ticket nobody pulls (F6, F7)"`
	// decode side
	SilentRecompute      bool   `json:",omitempty" stage:"decode" fault:"silent-recompute" doc:"ignores the ticket and prefills the prompt itself: right text, no handoff (F1)"`
	TransferFails        string `json:",omitempty" stage:"decode" fault:"transfer-fails" values:"fail,recompute" doc:"every pull fails; the load-failure policy decides (=fail or =recompute)"`
	ClaimHitWithoutBytes bool   `json:",omitempty" stage:"decode" fault:"claim-hit-without-bytes" doc:"counts the tokens as transferred but moves no bytes and computes them itself (F4)"`
	MissingSeries        bool   `json:",omitempty" stage:"decode" fault:"missing-series" doc:"/metrics lacks the transfer series"`
	CounterReset         bool   `json:",omitempty" stage:"decode" fault:"counter-reset" doc:"counters fall back to zero between two scrapes, as after a restart"`
	TruncateStream       bool   `json:",omitempty" stage:"decode" fault:"truncate-stream" doc:"a stream ends early, without finish_reason and [DONE]"`
	ErrorIn200           bool   `json:",omitempty" stage:"decode" fault:"error-in-200" doc:"HTTP 200 whose body or event is an error object (F19)"`
}

// Timing plants latencies. Zero: as fast as the machine goes.
type Timing struct {
	PrefillPerToken  time.Duration `json:",omitempty" yaml:"prefill_per_token,omitempty"`
	DecodePerStep    time.Duration `json:",omitempty" yaml:"decode_per_step,omitempty"`
	TransferPerBlock time.Duration `json:",omitempty" yaml:"transfer_per_block,omitempty"`
	Jitter           float64       `json:",omitempty" yaml:"jitter,omitempty"`                 // each planted wait is scaled by 1 +- Jitter, uniformly; 0..1
	GrowPerRequest   int64         `json:",omitempty" yaml:"grow_per_request_bytes,omitempty"` // bytes of memory kept for ever per request
}
