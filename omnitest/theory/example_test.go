package theory_test

import (
	"fmt"

	"github.com/omnitest/suite/omnitest/theory"
)

// One measurement gives the achieved fraction, the fraction predicts another size, and the next measurement is put beside it.
func Example() {
	files, err := theory.Builtin("Qwen/Qwen-Image")
	if err != nil {
		panic(err)
	}
	model, err := theory.Parse("Qwen-Image", files, "")
	if err != nil {
		panic(err)
	}
	gpu, err := theory.FindGPU("H200")
	if err != nil {
		panic(err)
	}
	bound, err := theory.Predict(model, gpu, theory.Request{Prompt: 64, Size: theory.Size{Width: 1024, Height: 1024}, Steps: 8}, theory.Options{})
	if err != nil {
		panic(err)
	}
	step, _ := bound.Stage(theory.Denoise)
	fraction, err := theory.Fit(step.Bound, 0.1723) // measured with diffusers
	if err != nil {
		panic(err)
	}
	larger := theory.Request{Batch: 4, Prompt: 507, Size: theory.Size{Width: 1376, Height: 768}, Steps: 8}
	p, err := theory.Predict(model, gpu, larger, theory.Options{Efficiency: map[string]float64{theory.Denoise: fraction}})
	if err != nil {
		panic(err)
	}
	measured := 0.7491
	line := theory.Compare(p, []theory.Measured{{Stage: theory.Denoise, Value: &measured}})[0]
	fmt.Printf("fraction %.2f, predicted %.2f s, measured %.2f s, off by more than 20 %%: %v\n", fraction, line.Predicted, *line.Measured, line.Off)
	// Output: fraction 0.41, predicted 0.78 s, measured 0.75 s, off by more than 20 %: false
}
