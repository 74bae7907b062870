package handoff

import (
	"fmt"
	"math"
	"slices"
)

// stageProblems: a restarted, busy or dead engine makes every difference of its counters worthless.
func stageProblems(c *exam) {
	for _, s := range []struct {
		name string
		*Stage
	}{{"prefill", &c.Prefill}, {"decode", &c.Decode}} {
		for _, fall := range s.Resets {
			c.doubt("counter-reset", "", "counter of %s fell back: %s: restarted?", s.name, fall)
			break // the others say the same
		}
		if s.Problem != "" {
			c.doubt("stage-problem", "", "%s", s.Problem)
		}
	}
}

// failedTransfers: decode's own word that KV did not arrive, or that prefill was not told to free it.
func failedTransfers(c *exam) {
	if n, ok := c.Decode.get(c.d.FailedTransfers); ok && n > 0 {
		c.refute("failed-transfer", "", "decode counted %.0f failed transfer%s", n, plural(n))
	}
	if n, ok := c.Decode.get(c.d.FailedNotifications); ok && n > 0 {
		c.refute("failed-notification", "", "decode could not tell prefill to free its blocks %.0f time%s", n, plural(n))
	}
}

// computedItself: a recompute gives the same text, so it is seen here or not at all.
func computedItself(c *exam) {
	computed, ok := c.computed()
	if !ok || computed <= c.tail() {
		return
	}
	text := fmt.Sprintf("decode computed %.0f of %s prompt tokens itself (iteration_tokens %s, bytes %s)",
		computed, count(&c.Decode, c.d.PromptTokens), c.Decode.signed(c.d.Iteration), unsigned(&c.Decode, c.d.Bytes)) + c.whose(computed)
	if c.excused {
		c.doubt("computed-itself", "", "%s, but a request was preempted or aborted", text)
		return
	}
	if n := c.others(); n > 0 && computed-c.othersTokens() <= c.tail() {
		c.doubt("computed-itself", "", "%s, but %.0f request%s of somebody else's finished there as well", text, n, plural(n))
		return
	}
	if external, _ := c.Decode.get(c.d.External); c.d.TailUnknown && external > 0 {
		c.doubt("computed-itself", "", "%s, and took %.0f: how many tokens %s moves together is not known", text, external, c.d.Name)
		return
	}
	c.refute("computed-itself", "", "%s", text)
}

// whose narrows a recompute down to a request where there were several: counters carry no names, but lengths do, and each
// request that was handed over is at least one transfer. "" where neither tells.
func (c *exam) whose(computed float64) string {
	n := c.answered()
	total, ok := c.Decode.get(c.d.PromptTokens)
	if n < 2 || !ok || computed >= total-c.tail() {
		return ""
	}
	text := ""
	if moves, ok := c.Decode.get(c.d.Transfers); ok && int(moves) < n {
		text = fmt.Sprintf(", %.0f transfer%s for %d requests", moves, plural(moves), n)
	}
	var suspects []string
	for _, r := range c.requests {
		switch t := r.tokens(); {
		case t == 0:
			return text // one of unknown length may be it as well
		case math.Abs(computed-float64(t)) <= c.tail():
			suspects = append(suspects, r.id)
		}
	}
	if len(suspects) == 1 {
		text += ", only request " + suspects[0] + " is that long"
	}
	return text
}

// claimsWithoutBytes: counters of tokens are credited when the scheduler matches them, not when they arrive.
func claimsWithoutBytes(c *exam) {
	claimed, ok := c.Decode.get(c.d.External)
	moved, counted := c.Decode.get(c.d.Bytes)
	if ok && counted && claimed > 0 && moved == 0 {
		c.refute("claims-without-bytes", "", "decode claims %.0f transferred tokens, moved 0 bytes", claimed)
	}
}

// prefillDidNothing: tokens that decode took must have been computed, or found in its cache, by prefill.
func prefillDidNothing(c *exam) {
	took, ok1 := c.Decode.get(c.d.External)
	did, ok2 := c.Prefill.get(c.d.PromptTokens)
	again, known := c.tokensOfChoices()
	if ok1 && ok2 && known && took > did+float64(again) {
		c.refute("prefill-idle", "", "decode claims %.0f tokens from prefill, which processed %.0f prompt tokens in this window", took, did)
	}
}

// tokensOfChoices is how many prompt tokens decode takes a second time: it pulls the blocks of a ticket once for each choice,
// and prefill computed them once. known is false where a request with several choices has a prompt of unknown length.
func (c *exam) tokensOfChoices() (n int, known bool) {
	for _, r := range c.requests {
		if r.choices() > 1 && r.tokens() == 0 {
			return 0, false
		}
		n += (r.choices() - 1) * r.tokens()
	}
	return n, true
}

// bytesMoved: whole blocks move, a started block as much as a full one (recorded: bytes = ceil(N/block) x block x bytes per
// token, exactly). Prefix blocks that decode already holds stay where they are.
func bytesMoved(c *exam) {
	moved, ok := c.Decode.get(c.d.Bytes)
	external, ok2 := c.Decode.get(c.d.External)
	if !ok || moved == 0 {
		return
	}
	if ok2 && external == 0 {
		c.doubt("bytes-without-claims", "", "decode moved %.0f bytes but counts no transferred tokens", moved)
		return
	}
	least, most, known := c.blocks()
	if !known {
		return
	}
	if least == most {
		c.numbers["decode.bytes_per_token"] = moved / float64(least*c.BlockSize)
	}
	if c.BytesPerToken == 0 {
		c.note("bytes per token not known: that the bytes are enough was not checked")
		return
	}
	perBlock := float64(c.BlockSize) * c.BytesPerToken
	switch want := fmt.Sprintf("%s of %d tokens x %g bytes", blocksText(least, most), c.BlockSize, c.BytesPerToken); {
	case moved < float64(least)*perBlock:
		c.refute("bytes-short", "", "moved %.0f bytes, %.0f needed: %s", moved, float64(least)*perBlock, want)
	case moved > float64(most)*perBlock:
		c.doubt("bytes-excess", "", "moved %.0f bytes, %.0f needed: %s", moved, float64(most)*perBlock, want)
	case math.Mod(moved, perBlock) != 0:
		c.refute("bytes-short", "", "moved %.0f bytes, not a whole number of blocks of %.0f", moved, perBlock)
	}
}

// blocks bounds the number of blocks that had to move. It is exact where every prompt's length is known; known is false
// where counters are missing or failed requests blur the sums.
func (c *exam) blocks() (least, most int, known bool) {
	external, ok := c.Decode.get(c.d.External)
	hit, ok2 := c.Decode.get(c.d.LocalHit)
	n := c.answered()
	if !ok || c.failed > 0 || c.excused || n == 0 || c.BlockSize <= 0 {
		return 0, 0, false
	}
	// Only answered requests; choices after the first find the blocks in decode's own cache or not: then lengths bound nothing.
	exact, tokens, total := ok2, 0, 0
	for _, r := range c.requests {
		t := r.tokens()
		exact = exact && t > 0 && (r.obs == nil || r.obs.Choices <= 1)
		tokens += t
		total += ceilDiv(t, c.BlockSize)
	}
	if exact && math.Mod(hit, float64(c.BlockSize)) == 0 && int(external+hit) == tokens { // local hits are whole blocks
		b := total - int(hit)/c.BlockSize
		return b, b, true
	}
	least = ceilDiv(int(external), c.BlockSize)
	if n == 1 {
		return least, least, true
	}
	return least, int(external)/c.BlockSize + n, true
}

// nothingToMove: a handoff of nothing is no proof, however green.
func nothingToMove(c *exam) {
	external, ok := c.Decode.get(c.d.External)
	total, ok2 := c.Decode.get(c.d.PromptTokens)
	computed, ok3 := c.computed()
	if moved, counted := c.Decode.get(c.d.Bytes); counted && moved > 0 || !ok || !ok2 || !ok3 || external > 0 || computed > c.tail() || c.answered() == 0 {
		return
	}
	hit, _ := c.Decode.get(c.d.LocalHit)
	switch {
	case total == 0:
		c.doubt("not-counted", "", "decode's counters saw none of the %d answered request%s: is %s its own metrics page?",
			c.answered(), plural(float64(c.answered())), c.Decode.MetricsURL)
	case hit > 0:
		c.doubt("nothing-to-move", "", "nothing needed to move: decode already had %.0f of %.0f prompt tokens in its own prefix cache", hit, total)
	default:
		c.doubt("nothing-to-move", "", "nothing needed to move: %.0f prompt tokens are within the %.0f that decode may compute itself", total, c.tail())
	}
}

// absentSeries: what is not on the page was not measured, and is never 0.
func absentSeries(c *exam) {
	var missing []string
	look := func(stage string, s *Stage, all []Series) {
		if len(s.Counters) == 0 {
			return
		}
		for _, x := range all {
			if state := s.Counters[x.String()].State; !x.Optional && state != "present" && state != "reset" {
				missing = append(missing, x.String()+" of "+stage)
			}
		}
	}
	look("decode", &c.Decode, c.d.decodeSeries())
	look("prefill", &c.Prefill, named(c.d.PromptTokens, c.d.Expired))
	if len(missing) == 0 {
		return
	}
	slices.Sort(missing)
	text := missing[0]
	if n := len(missing); n > 1 {
		text = fmt.Sprintf("%s and %d more", text, n-1)
	}
	c.doubt("absent-series", "", "series absent: %s", text)
	c.notes = append(c.notes, "absent: "+fmt.Sprint(missing))
}

func preempted(c *exam) {
	if n, ok := c.Decode.get(c.d.Preemptions); ok && n > 0 {
		c.doubt("preempted", "", "decode preempted %.0f time%s: what it then computed again cannot be told from a missing handoff", n, plural(n))
	}
}

// otherChoices explains late pulls by requests for several choices, as far as these go: decode pulls once for each, and prefill
// gives the blocks up after the first. Measured on vLLM 0.32: right while prefill is idle, of 300 choices behind one ticket 205 to
// 280 wrong, with status 200 and no failed transfer, while it works on other prompts.
func (c *exam) otherChoices(late float64) string {
	others := 0
	for _, r := range c.requests {
		others += r.choices() - 1
	}
	if others == 0 || late > float64(others) {
		return ""
	}
	return " (there are several choices behind one ticket, and prefill gives it up after the first pull)"
}

// expired: a lease that ran out lets prefill give the blocks to somebody else while decode may still read them (F5). It may
// also be an older ticket, so it is doubt and not refutation.
//
// Where prefill held blocks while it was idle before the window, tickets from before it were waiting for their end (a probe
// leaves such tickets), and that they end inside it says nothing about ours: a ticket of the window that nobody pulls leaves
// its prompt to be computed by decode, which other rules see, and one that is pulled too late is counted as such.
func expired(c *exam) {
	late, told := c.Prefill.get(c.d.LateNotices)
	if told && late > 0 {
		c.doubt("late-pull", "", "decode pulled %.0f ticket%s that prefill had already given up: the blocks may have been reused%s", late, plural(late), c.otherChoices(late))
	}
	n, ok := c.Prefill.get(c.d.Expired)
	if !ok || n == 0 {
		return
	}
	if before := c.Prefill.UsageBefore; told && late == 0 && before != nil && *before > 0 {
		c.note("prefill freed the blocks of %.0f ticket%s from before the window (it held %.4f of its KV pool when the window opened)", n, plural(n), *before)
		return
	}
	c.doubt("lease-expired", "", "prefill freed the blocks of %.0f ticket%s that nobody pulled in time", n, plural(n))
}

// exclusive: counters carry no names, so a neighbour's traffic makes them say nothing about ours.
func exclusive(c *exam) {
	finished, ok := c.Decode.get(c.d.Finished)
	if !ok {
		return
	}
	known := 0
	for _, r := range c.requests {
		known += r.choices()
	}
	if int(finished) > known {
		c.doubt("not-exclusive", "", "decode finished %.0f requests in the window, only %d known: something else used the stack", finished, known)
	}
	if want := c.answered(); int(finished) < want && finished > 0 { // one that stands still is the finding of the rule frozen
		c.doubt("not-counted", "", "decode's counters account for %.0f of %d answered requests", finished, want)
	}
}

// attestMovement says what speaks for the claim; without it no verdict is proven.
func attestMovement(c *exam) {
	external, ok := c.Decode.get(c.d.External)
	total, ok2 := c.Decode.get(c.d.PromptTokens)
	computed, ok3 := c.computed()
	if !ok || !ok2 || !ok3 || external == 0 {
		return
	}
	text := fmt.Sprintf("decode took %.0f of %.0f prompt tokens from prefill", external, total)
	if c.d.Bytes.Name != "" {
		moved, ok := c.Decode.get(c.d.Bytes)
		if !ok || moved == 0 {
			return
		}
		text += fmt.Sprintf(" (%.0f bytes)", moved)
	}
	if hit, ok := c.Decode.get(c.d.LocalHit); ok && hit > 0 {
		text += fmt.Sprintf(", had %.0f", hit)
	}
	c.attest("moved", "%s, computed %.0f itself", text, computed)
}

func count(s *Stage, x Series) string {
	if v, ok := s.get(x); ok {
		return fmt.Sprintf("%.0f", v)
	}
	return "an unknown number of"
}

func unsigned(s *Stage, x Series) string {
	if v, ok := s.get(x); ok {
		return fmt.Sprintf("%.0f", v)
	}
	if x.Name == "" {
		return "not counted"
	}
	return s.signed(x)
}

func blocksText(least, most int) string {
	if least == most {
		return fmt.Sprintf("%d block%s", least, plural(float64(least)))
	}
	return fmt.Sprintf("%d to %d blocks", least, most)
}

func plural(n float64) string {
	if n == 1 {
		return ""
	}
	return "s"
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// others is how many requests decode finished in the window that nobody here knows.
func (c *exam) others() float64 {
	finished, ok := c.Decode.get(c.d.Finished)
	if !ok {
		return 0
	}
	known := 0
	for _, r := range c.requests {
		known += r.choices()
	}
	return max(0, finished-float64(known))
}

// othersTokens is how many prompt tokens they can have had, at most: what decode counted beyond the prompts that are known. Where
// a length is not known nothing bounds them.
func (c *exam) othersTokens() float64 {
	total, ok := c.Decode.get(c.d.PromptTokens)
	if !ok {
		return math.Inf(1)
	}
	for _, r := range c.requests {
		if r.tokens() == 0 {
			return math.Inf(1)
		}
		total -= float64(r.choices() * r.tokens())
	}
	return max(0, total)
}
