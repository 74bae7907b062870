package audiocheck_test

import (
	"fmt"

	"github.com/omnitest/suite/omnitest/audiocheck"
)

func Example() {
	quiet := make([]float32, 24000)
	s, err := audiocheck.Of(quiet, audiocheck.Format{Rate: 24000, Channels: 1, Bits: 16})
	if err != nil {
		fmt.Println(err)
		return
	}
	s = s.For(audiocheck.Case{Name: "greeting", Text: "Good morning.", Voice: "alto"})
	for _, check := range []audiocheck.Check{audiocheck.Finite(), audiocheck.NotClipped(), audiocheck.NotSilent()} {
		if err := check(s); err != nil {
			fmt.Println(err)
		}
	}
	// Output:
	// sound is silent: RMS -120, at least -50 (dBFS); and 1 more
	//   metric  rms -120, want >= -50 (dBFS)
	//   metric  active-frames 0, want >= 0.2 (of 1)
	//   case    greeting   text "Good morning."   voice alto   seed 0
}
