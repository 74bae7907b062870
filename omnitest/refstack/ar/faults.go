package ar

import "time"

// Faults are the failures that an AR engine of the reference stack can be told to have. All false: a healthy engine.
// The tag `fault` is the name after the stage ("prefill." or "decode."), `doc` what it imitates.
type Faults struct {
	// prefill side
	ZeroBlocks     bool `json:",omitempty" stage:"prefill" fault:"zero-blocks" doc:"serves zeroed KV blocks: the transfer succeeds, the content is garbage"`
	LostHead       bool `json:",omitempty" stage:"prefill" fault:"lost-head" doc:"serves KV blocks with the values of one head zeroed: the text stays right, the model is less sure of it (F16)"`
	ForeignBlocks  bool `json:",omitempty" stage:"prefill" fault:"foreign-blocks" doc:"serves the blocks of the previous request: another user's content (F3)"`
	LeakOnAbort    bool `json:",omitempty" stage:"prefill" fault:"leak-on-abort" doc:"never frees the blocks of an aborted request or of a ticket nobody pulls (F6, F7)"`
	FreeEarly      bool `json:",omitempty" stage:"prefill" fault:"free-early" doc:"frees a ticket's blocks when it is made and gives them to the next request: who pulls after that gets the other request's content, and nothing is counted as failed (F3)"`
	ServeExpired   bool `json:",omitempty" stage:"prefill" fault:"serve-expired" doc:"gives the blocks of an expired ticket to the next request and serves them to the ticket's holder all the same (F5)"`
	NoTicketOnStop bool `json:",omitempty" stage:"prefill" fault:"no-ticket-on-stop" doc:"the first token of every prompt whose token ids sum to a multiple of 3 is the end of text, and such a leg gets no ticket (F14)"`
	WrongHost      bool `json:",omitempty" stage:"prefill" fault:"wrong-host" doc:"the ticket names a host where nobody listens, as with VLLM_NIXL_SIDE_CHANNEL_HOST unset (F17)"`
	Fails          bool `json:",omitempty" stage:"prefill" fault:"fails" doc:"answers HTTP 500 to every do_remote_decode request (F21)"`
	// decode side
	SilentRecompute      bool   `json:",omitempty" stage:"decode" fault:"silent-recompute" doc:"ignores the ticket and prefills the prompt itself: right text, no handoff (F1)"`
	Recompute            string `json:",omitempty" stage:"decode" fault:"recompute" values:"chat,long" doc:"ignores the tickets of chat requests (=chat), or of prompts over 256 tokens (=long): all others are handed over"`
	LeakSlowly           bool   `json:",omitempty" stage:"decode" fault:"leak-slowly" doc:"of every fiftieth request that ends one block is never freed"`
	TransferFails        string `json:",omitempty" stage:"decode" fault:"transfer-fails" values:"fail,recompute" doc:"every pull fails; the load-failure policy decides (=fail or =recompute)"`
	ClaimHitWithoutBytes bool   `json:",omitempty" stage:"decode" fault:"claim-hit-without-bytes" doc:"counts the tokens as transferred but moves no bytes and computes them itself (F4)"`
	MissingSeries        bool   `json:",omitempty" stage:"decode" fault:"missing-series" doc:"/metrics lacks the transfer series"`
	CounterReset         bool   `json:",omitempty" stage:"decode" fault:"counter-reset" doc:"every counter falls with each request that ends, as after a restart"`
	TruncateStream       bool   `json:",omitempty" stage:"decode" fault:"truncate-stream" doc:"a stream ends early, without finish_reason and [DONE]"`
	ErrorIn200           bool   `json:",omitempty" stage:"decode" fault:"error-in-200" doc:"HTTP 200 whose body or event is an error object (F19)"`
	GarbageOnFailure     bool   `json:",omitempty" stage:"decode" fault:"garbage-on-failure" doc:"the first, third, fifth ... pull fails and is answered 200 with what lies in the blocks, whatever the load-failure policy (F2)"`
	WrongLayout          bool   `json:",omitempty" stage:"decode" fault:"wrong-layout" doc:"what was pulled is stored with keys and values in another order: all counters are right, the text is garbage from token 0 (F4)"`
	LeakAborted          bool   `json:",omitempty" stage:"decode" fault:"leak-on-abort" doc:"never frees the blocks of an aborted request, waiting for its KV or decoding (F7)"`
	DieOnAbort           bool   `json:",omitempty" stage:"decode" fault:"die-on-abort" doc:"an abort while the transfer is in flight kills the engine (F8)"`
	StalePeer            bool   `json:",omitempty" stage:"decode" fault:"stale-peer" doc:"the first prefill engine it met is the only one it can talk to: once that one restarted, or a connection to it broke, every pull fails (F9)"`
	HandshakeMismatch    bool   `json:",omitempty" stage:"decode" fault:"handshake-mismatch" doc:"healthy, but the handshake of every pull is refused; the load-failure policy decides (F10)"`
	FrontTrim            bool   `json:",omitempty" stage:"decode" fault:"front-trim" doc:"behind a partial local prefix hit it stores the ticket's first blocks instead of those that are missing: wrong text, right counters (F11)"`
	WaitForever          bool   `json:",omitempty" stage:"decode" fault:"wait-forever" doc:"a pull that fails is not noticed: the request is never answered and counts as waiting (F12, F13)"`
	DieOnPreemption      bool   `json:",omitempty" stage:"decode" fault:"die-on-preemption" doc:"the first preemption kills the engine (F15)"`
	CorruptUnderLoad     bool   `json:",omitempty" stage:"decode" fault:"corrupt-under-load" doc:"of the pulls that end while 4 or more requests are open, the first, third, fifth ... lose one block; alone nothing is lost (F16)"`
	Drift                string `json:",omitempty" stage:"decode" fault:"drift" values:"64,32,128,256,512" doc:"from generated token k (64, or =k) on the KV of generated tokens is wrong by a little that grows: the model becomes less sure, then wrong, then repeats itself"`
}

// Timing plants latencies. Zero: as fast as the machine goes.
type Timing struct {
	PrefillPerToken  time.Duration `json:",omitempty" yaml:"prefill_per_token,omitempty"`
	DecodePerStep    time.Duration `json:",omitempty" yaml:"decode_per_step,omitempty"`
	TransferPerBlock time.Duration `json:",omitempty" yaml:"transfer_per_block,omitempty"`
	Jitter           float64       `json:",omitempty" yaml:"jitter,omitempty"`                 // each planted wait is scaled by 1 +- Jitter, uniformly; 0..1
	GrowPerRequest   int64         `json:",omitempty" yaml:"grow_per_request_bytes,omitempty"` // bytes of memory kept for ever per request

	BurnPerRequest time.Duration `json:",omitempty" yaml:"burn_per_request,omitempty"` // CPU time that is burnt for nothing
}
