// Package metrics turns what arrived on the wire into figures: TTFT, TPOT, ITL, E2EL and throughput.
//
// The model, in three steps:
//
//  1. A [Sample] is one request as the client saw it: the api.Exchange with its events and their monotonic times, the token
//     account of the server, the pictures that came back, or the error.
//  2. A [Profile] is a named set of definitions. It reads one Sample and says what each figure of that request is. Tools
//     disagree about these words (one tool's ITL is another's TPOT), so a figure without a profile's name means nothing.
//     [VLLM] follows `vllm bench serve`.
//  3. [Summarize] pools the requests of one run into a [Summary]: a [Dist] per figure, and rates over the whole duration.
//
// What was not measured is a [Value] without a number and with a reason. It is never 0: a mean TTFT of 0 s would win every
// comparison.
package metrics
