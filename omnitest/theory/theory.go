// Package theory estimates what hardware allows a model to do, from its config.json files and the data sheet of a GPU: parameters,
// bytes, floating-point operations, times by the roofline, memory, the largest batch, and which stage holds the rest up. It runs nothing
// and measures nothing; a measurement is put beside it with [Compare].
//
// The roofline (Williams, Waterman, Patterson 2009, https://doi.org/10.1145/1498765.1498785): work of F operations that has to move B bytes
// takes at least max(F/peak, B/bandwidth). No engine reaches the roof; the share it reaches, the achieved fraction, is a parameter that is
// stated in every prediction and fitted from one measurement with [Fit]. Without it a prediction is the bound, not a forecast.
//
// What cannot be estimated is an error of type [CannotError]. What had to be assumed stands in Assumptions: nothing is guessed in silence.
//
// The package imports the standard library alone, opens no file and no connection: the caller hands it the bytes of the files.
package theory

import (
	"fmt"
	"math"
)

// CannotError says what could not be estimated and why.
type CannotError struct {
	What    string // "KV cache", "transformer"
	Because string
}

func (e *CannotError) Error() string {
	return "cannot estimate " + e.What + " because " + e.Because
}

func cannot(what, format string, args ...any) error {
	return &CannotError{What: what, Because: fmt.Sprintf(format, args...)}
}

// Work is what one execution has to do at least.
type Work struct {
	FLOPs float64 `json:"flops"` // operations; a multiplication and an addition are two
	Bytes float64 `json:"bytes"` // moved between the GPU's memory and its cores: weights once, caches and activations as often as they pass
}

// Plus adds up work that is done one after the other.
func (w Work) Plus(o Work) Work { return Work{w.FLOPs + o.FLOPs, w.Bytes + o.Bytes} }

// Times is the same work n times.
func (w Work) Times(n float64) Work { return Work{w.FLOPs * n, w.Bytes * n} }

// Intensity is operations per byte; a GPU whose FLOPS/Bandwidth is larger waits for its memory.
func (w Work) Intensity() float64 {
	if w.Bytes == 0 {
		return math.Inf(1)
	}
	return w.FLOPs / w.Bytes
}

// Bound is the roofline: the seconds that w takes at least, and whether "compute" or "memory" sets them.
func (g GPU) Bound(w Work, quant Quantization) (seconds float64, limit string) {
	peak := g.FLOPS
	if quant.computesFP8() && g.FP8 > 0 {
		peak = g.FP8
	}
	compute, memory := w.FLOPs/peak, w.Bytes/g.Bandwidth
	if memory > compute {
		return memory, "memory"
	}
	return compute, "compute"
}

// Fit gives the achieved fraction of the roofline: the share that makes a bound (seconds) equal to what was measured (seconds). A
// fraction above 1 is an error: then the work was counted wrongly, or the GPU or the model is not the one that was measured.
func Fit(bound, measured float64) (float64, error) {
	switch {
	case !(measured > 0) || math.IsInf(measured, 0):
		return 0, cannot("the achieved fraction", "the measured time is %v s", measured)
	case !(bound > 0):
		return 0, cannot("the achieved fraction", "the roofline bound is %v s", bound)
	case bound > measured:
		return 0, cannot("the achieved fraction", "%.4g s measured is less than the bound of %.4g s: work that is not done was counted, or it is another GPU or model", measured, bound)
	}
	return bound / measured, nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }
