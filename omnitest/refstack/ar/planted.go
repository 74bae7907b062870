package ar

const (
	longPrompt = 256 // tokens, Faults.Recompute=long
	leakEvery  = 50  // requests, Faults.LeakSlowly
)

// ignores tells whether the ticket of a request is not looked at, Faults.Recompute.
func (f *Faults) ignores(chat bool, prompt int) bool {
	return f.Recompute == "chat" && chat || f.Recompute == "long" && prompt > longPrompt
}

// freed is what is given back of the blocks of the request that ends as the nth, Faults.LeakSlowly.
func (f *Faults) freed(table []int32, nth uint64) []int32 {
	if f.LeakSlowly && nth%leakEvery == 0 && len(table) > 0 {
		return table[:len(table)-1]
	}
	return table
}
