// Package imagecheck answers one question about a picture: is it the one that was asked for?
//
// # The model
//
// A [Picture] is decoded once and carries what the request asked for (its [Case]). A [Check] is a value, func(Picture)
// error, so that the same check gates one picture in an e2e test, every response under load, and a fixture in a unit
// test. A check that fails returns an [*Error]: a small report with every metric, its bound and direction, the request,
// and the paths of the evidence, which is written before the error is returned.
//
// # The order
//
// Cheap and certain first:
//
//  1. Is it the promised file?      [Count], [Format], [Size], [Aspect], [Opaque], [Plain]
//  2. Is it a picture at all?       [NotBlank]
//  3. Is it the same again?         [SamePixels]; with a batch neighbour [SameUnderLoad]; against a control [Parity], [ParityEdit];
//     over a set of prompts [NonInferior]
//  4. Is it the approved one?       [Store.Check]: hashes and colours of the whole picture, and every text box glyph by glyph,
//     [Text] and [NoExtraText]; where the layout is free a [Reader]: [Reads], [ReadsSomewhere]
//  5. Did an edit do its work?      [EditInside], [EditOutside], [EditLocal], [KeptOverTurns], [NoDrift], [StyleChanged], [Greyscale], [Holds], [ColourLike]
//  6. Does it follow the prompt?    [Colour], [Shows], [Things], [KeptColour], [Distinct]; do more steps help? [LessNoise];
//     a model's opinion, where one can be asked: [Judge]
//
// # Why the text box and not the picture
//
// A perceptual hash of a whole picture cannot see a wrong letter: over 60 posters its AUC was 0.59, where 0.5 is chance,
// and even losing all the text of a small sign moved it by 0. The same hash over a copied crop of the text box, at 16x16
// bits, separates them perfectly as long as the picture is pixel-aligned with its golden, and the local normalised
// cross-correlation of glyph-sized cells ([CellNCC]) also survives a shift of some pixels. Both are asked for.
//
// Likewise an unwanted change of 64 px in an edit moves neither PSNR, SSIM nor pHash, but the worst 32 px tile of a
// low-passed difference ([TileMAD]) rises from 4 to 30 and more.
//
// # Bounds
//
// Every bound is a field of [Bounds] whose zero value is a default with its source. They are starting points measured on
// synthetic posters and five real edit pairs: recalibrate per engine and GPU class on the first real runs ([Case.Observe]
// sees every metric, also of checks that pass; omnitest calibrate, or [Calibration], proposes bounds) and put the result into a
// [Table] with the run it comes from. Every metric names the row that judged it.
//
// A golden is keyed by engine, model, GPU, dtype, attention backend, steps, size and seed ([Key]): the same set-up is
// normally bit-identical, another set-up drops text-to-image to about 28 dB and is no defect. A comparison under another
// key is therefore an error, never a number.
package imagecheck
