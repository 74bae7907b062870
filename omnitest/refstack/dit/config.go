// Package dit is the diffusion transformer of the reference stack: it paints what a prompt asks for, denoises it from
// seeded noise with Euler steps, edits pictures, and serves all that with the HTTP surface of vLLM-Omni 0.26.
//
// It is a small true diffusion model and not a mock: the target is painted instead of learnt, everything after it (noise,
// steps, what is left of the noise, the loss of the autoencoder) is computed as the real thing computes it.
//
// # What a prompt says
//
// A picture's text is what stands in double quotes in its prompt, painted on a sign; its shapes and background come from
// the prompt's other words (English and Chinese) and from a hash of it. So a garbled prompt gives a wrong picture, and a
// checker that knows the prompt knows what must be seen.
//
//   - Text: "...", “...”, 「...」 and 『...』, one or more lines each. A glyph that the fonts lack is painted as a box.
//   - Shapes, at most three: circle, square, triangle, cube, star; 圆形, 方形, 三角形, 立方体, 星形. Each takes the colour
//     named just before it: red, blue, green, yellow, orange, purple, pink, black, white, gray, brown, cyan, gold; 红, 蓝,
//     绿, 黄, 橙, 紫, 粉, 黑, 白, 灰, 棕, 青, 金.
//   - Background: a scene (sunset, forest, sea, night, snow, desert, city, sky, mountain and their Chinese words), else a
//     colour that no shape took, else two hues from the hash. Its clouds come from the hash of the whole prompt.
//
// # What an edit says
//
// With inputs the prompt is an instruction. It names a region (see [Region]) or a mask does, and one operation: new text
// in quotes, a style (watercolor, oil painting, sketch, black and white, anime), "put the second picture into ...",
// remove, add a shape, or a colour. Outside of the region the input comes back with the loss of an autoencoder.
package dit

import (
	"image"
	"time"
)

// Config is one DiT server. The zero value serves model "reference-dit" on a free port.
type Config struct {
	Model    string `json:",omitempty"` // "": "reference-dit"
	Listen   string `json:",omitempty"` // "": 127.0.0.1:0
	MaxBatch int    `json:",omitempty"` // pictures denoised at once; 0: 1, as vLLM-Omni's default (requests queue)
	Faults   Faults
	Timing   Timing
}

// Job is one in-process picture (no HTTP): the offline entry.
type Job struct {
	Prompt  string
	W, H    int // pixels, rounded down to multiples of 16 (at least 16); 0: 1024x1024, or the first input's size
	Steps   int // Euler steps; 0: 20
	Seed    int64
	TrueCFG float64       // classifier-free guidance; above 1 the planted time per step doubles, as the real model's does
	Inputs  []image.Image // none: generation; else an edit of the first
	Mask    image.Image   // white = may change; nil: the region the prompt names
}

// Result is one picture with its own stage times.
type Result struct {
	Image   *image.RGBA
	Stages  map[string]time.Duration // "text_encoder", "diffuse", "vae.decode", for an edit also "vae.encode"
	TextBox image.Rectangle          // where the text was painted; empty: none
	Region  image.Rectangle          // where an edit was allowed to change; empty: not an edit, or the whole picture
}
