// Package metrics turns what arrived on the wire into figures: TTFT, TPOT, ITL, E2EL and throughput.
//
// The model, in three steps:
//
//  1. A [Sample] is one request as the client saw it: when it was due and sent, the api.Exchange with its events and their monotonic
//     times, the token account of the server, the pictures and sound that came back, or the error.
//  2. A [Profile] is a named set of definitions. It reads one Sample and says what each figure of that request is. Tools
//     disagree about these words (one tool's ITL is another's TPOT), so a figure without a profile's name means nothing.
//     [VLLM] follows `vllm bench serve`, [VLLMOmni] `vllm bench serve --omni`. Both are held to 1e-9 against a calculator in another
//     language (testdata/parity); where they are stricter than the tool, Profile.Literal takes it back.
//  3. [Summarize] pools the requests of one run into a [Summary]: a [Dist] per figure, latencies from the schedule beside those of
//     the service, the figures of [Plain] whose names mean one thing only, peaks, and rates over the whole duration. [Options] adds
//     goodput, more percentiles and the steady state.
//
// Beside it: [BreakDown] says where a request's time went, [VLLMJSON] writes vLLM's result keys, [LittleGap] and [TokensAgree] hold
// figures against each other.
//
// What was not measured is a [Value] without a number and with a reason. It is never 0: a mean TTFT of 0 s would win every
// comparison.
package metrics
