// Package audiocheck answers one question about a sound: is it the speech that was asked for?
//
// A [Sound] is read once, from a WAV file or from raw samples, and carries what was asked for (its [Case]). A [Check] is a
// value, func(Sound) error, as in imagecheck: the same check gates one answer in a test and every answer under load. A check
// that fails returns an [*Error], a small report whose metrics have value, bound and direction.
//
// # The order
//
// Cheap and certain first:
//
//  1. Is it the promised file?      [ReadWAV], [ReadPCM] with the errors named in wav.go; [Is]
//  2. Is it a sound at all?         [Finite], [NotSilent], [NotClipped], [Centred]
//  3. Has it the length?            [Duration], [Samples], [Pace]
//  4. Is it a voice?                [Voiced] (harmonics to noise), [NotNoise] (spectral flatness), [Quiet] (noise in the pauses)
//  5. Is it the same again?         [Same]
//  6. Is it the approved one?       [Store.Check], [Like]: worst stretch of the log-mel distance
//  7. Does it say the text?         [Transcript], through a tool
//
// # Why the worst stretch and not the mean
//
// One wrong letter in a sentence of four seconds moves the mean log-mel distance about as much as a little noise does, and
// less the longer the sentence is. The worst 60 ms see the letter and nothing else. It is what the text crop is to a whole
// picture.
//
// # Bounds
//
// Every bound is a field of [Bounds] whose zero value is a default with its source. Most come from vLLM-Omni's own accuracy
// tests or were chosen, and the log-mel bounds from this room's study of synthetic speech: calibrate them on the first real
// voice ([Case.Observe] sees every metric, also of checks that pass).
package audiocheck
