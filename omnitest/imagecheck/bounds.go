package imagecheck

import (
	"math"
	"reflect"
)

// Bounds are the limits of the checks. They are one row of a [Table], or a Case's own. A zero field means the default beside it; a negative field means exactly 0.
// Changing a default needs a measurement in the commit message.
//
// Sources: [P] study of 60 synthetic posters with planted errors (120 substitutions, 60 deletions, 180 aligned and 60
// shifted benign variants) and of confusable hanzi; [E] five before/after pairs published with Step1X-Edit; [O] the
// accuracy tests of vLLM-Omni; [S] the studies of this package, TestTextGateStudy at its full size of 440
// pictures, TestForeignPatchFortyOfForty and TestTenTurns; [R] TestRealEnginesAgree: five recorded pairs of diffusers 0.38.0 and
// vLLM-Omni 0.26.0 on H200s, random weights, hence pictures of noise; [C] chosen, to be calibrated: what would measure it is
// not at hand.
type Bounds struct {
	MinLumaStdDev   float64 `json:",omitempty"` // 4, of 0-255 [C]: below it a picture is flat for every purpose; the noise of a real engine with random weights has 5.35 and passes [R]
	MaxOneColour    float64 `json:",omitempty"` // 0.985, share of pixels with the very same colour [C]; [R] gives 0.0001
	PHash64         int     `json:",omitempty"` // 4 of 64: whole picture; benign reaches 2, unrelated photos start at 26 [P]
	ExtP256         int     `json:",omitempty"` // 12 of 256: whole picture; benign 6, shifted 12, unrelated 108 [P]
	TextExtP256     int     `json:",omitempty"` // 10 of 256: text crop; benign reaches 6 [P], and 8 at the most in 7,130 pictures of 31 seeds [S]; wrong letters start at 12 [P]; confusable hanzi from 6 on are for TextContour
	TextCellNCC     float64 `json:",omitempty"` // 0.95: worst glyph cell [P]; benign stays at 0.9559 and above, the nearest hanzi pair reaches 0.9539, so that no bound on it alone has room on both sides: TextContour tells those [S]
	TextContour     float64 `json:",omitempty"` // 0.15 of a line's contrast, 0.25 where the line moved: worst 3x3 px of a glyph cell after brightness and contrast were fitted; over 31 seeds benign 0.079 and less, the nearest wrong glyph 0.281 [S]
	ElsewhereMAD    float64 `json:",omitempty"` // 12, of 0-255: worst 16 px tile outside the text boxes, and 80 more for each 1 of gain (what saturates does not scale); benign variants reach 9.8 without gain, the least extra text of contrast 80 gives 17.7 [S]
	PlainGround     float64 `json:",omitempty"` // 12, of 0-255: standard deviation of luma around a text, above it the ground is textured [C]
	ReadOnTexture   float64 `json:",omitempty"` // 0.75: character accuracy of a reader on texture; tesseract gave 0.77 to 0.93 [P]
	RecallEN        float64 `json:",omitempty"` // 0.85: recall of characters in free layout; two real posters gave 0.96 and 0.88 [P]
	RecallZH        float64 `json:",omitempty"` // 0.75 [P]
	TileMAD         float64 `json:",omitempty"` // 8, of 0-255: above it a tile has changed; VAE loss gives 3.6, a foreign 32 px patch 10 and more [E]
	TileColour      float64 `json:",omitempty"` // 16, of 0-255: as TileMAD, worst of R, G and B; VAE-like loss gives 1.8, foreign 32 px patches 59 and more [S]
	ChangedInside   float64 `json:",omitempty"` // 0.25, share of the region's tiles that an edit must change [C]
	ChangedAnywhere float64 `json:",omitempty"` // 0.005, share of all tiles where no region is named; the smallest real edit changed 0.012 [E]
	ChangedStyle    float64 `json:",omitempty"` // 0.30, share of tiles that a style transfer must change; one sample had 0.55 [E]
	StylePHash64    int     `json:",omitempty"` // 20 of 64: a restyled picture still shows its source (8); unrelated photos start at 26 [E]
	ChangedLocal    float64 `json:",omitempty"` // 0.40, share of tiles that a local instruction may change; a coat changed 0.36, global tone drift 0.58 [E]
	DriftTone       float64 `json:",omitempty"` // 5, of 0-255: mean of a channel after any number of turns; ten turns of VAE-like loss give 0.6, gain 1.01 a turn 11 [S]
	DriftContrast   float64 `json:",omitempty"` // 0.15: contrast of 8x8 px boxes; ten turns of VAE-like loss give 0.005 [S]
	OutsidePSNR     float64 `json:",omitempty"` // 28 dB; untouched parts of real edits have 31.4 and more [E]
	OutsideSSIM     float64 `json:",omitempty"` // 0.80; film grain alone gives 0.834 [E]
	WarnOutsideSSIM float64 `json:",omitempty"` // 0.90: warn level beside OutsideSSIM, shown and never failing; negative: none [E]
	LoadPSNR        float64 `json:",omitempty"` // 40 dB, same request alone and in a batch: low bits move with the batch size [O]; two engines with the same weights have 46.6 and more [R]
	LoadSSIM        float64 `json:",omitempty"` // 0.99 [O]; two engines 0.9942 and more [R]
	ParityPSNR      float64 `json:",omitempty"` // 27 dB against a control [O]; 46.6 and more [R], at 4 steps
	ParitySSIM      float64 `json:",omitempty"` // 0.94, mean over R, G and B [O]; 0.9941 and more [R]
	WarnParityPSNR  float64 `json:",omitempty"` // 30 dB: warn level beside ParityPSNR; negative: none [O]
	WarnParitySSIM  float64 `json:",omitempty"` // 0.97: warn level beside ParitySSIM; negative: none [O]
	ParityEditPSNR  float64 `json:",omitempty"` // 28 dB, an edit against a control's [O]; the one recorded pair has 53.9 [R]
	DistinctPHash64 int     `json:",omitempty"` // 10 of 64: between benign (2) and unrelated (26), nearer to benign as related prompts share a layout; of 273 pairs of the goldens of different prompts none has less than 10 here and less than 36 in ExtP256, edits of one picture among them [S]
	DistinctExtP256 int     `json:",omitempty"` // 40 of 256: between benign (12) and unrelated (108) [C]
	NoiseRatio      float64 `json:",omitempty"` // 0.90: noise with more steps over noise with fewer [C]
	SearchPixels    int     `json:",omitempty"` // 6 px: how far a glyph cell may have moved [P]
	GridColour      int     `json:",omitempty"` // 28, of 0-255: worst cell of a [ColourGrid]; noise, JPEG and VAE loss give up to 5, gain 1.1 gives 23 [P], colour lost from the palest picture of fixtures 39 [C]
	GreyChroma      float64 `json:",omitempty"` // 12, of 0-255: chroma of 8x8 px boxes; grey with VAE loss gives 3, the palest watercolour 66 [C]
	LeastThing      float64 `json:",omitempty"` // 0.005, share of the picture that a thing has at least [C]
	HoldsNCC        float64 `json:",omitempty"` // 0.8: a picture inside another; after the VAE the same one gives 0.999, the two pictures of fixtures 0.63 with each other [C]
}

// over gives the bounds with the fields that are zero taken from another.
func (b Bounds) over(o Bounds) Bounds {
	v, w := reflect.ValueOf(&b).Elem(), reflect.ValueOf(o)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(w.Field(i))
		}
	}
	return b
}

// withDefaults resolves zero and negative fields.
func (b Bounds) withDefaults() Bounds {
	f := func(v *float64, def float64) {
		switch {
		case *v == 0:
			*v = def
		case *v < 0:
			*v = 0
		}
	}
	n := func(v *int, def int) {
		switch {
		case *v == 0:
			*v = def
		case *v < 0:
			*v = 0
		}
	}
	f(&b.MinLumaStdDev, 4)
	f(&b.MaxOneColour, 0.985)
	n(&b.PHash64, 4)
	n(&b.ExtP256, 12)
	n(&b.TextExtP256, 10)
	f(&b.TextCellNCC, 0.95)
	f(&b.TextContour, 0.15)
	f(&b.ElsewhereMAD, 12)
	f(&b.PlainGround, 12)
	f(&b.ReadOnTexture, 0.75)
	f(&b.RecallEN, 0.85)
	f(&b.RecallZH, 0.75)
	f(&b.TileMAD, 8)
	f(&b.TileColour, 16)
	f(&b.ChangedInside, 0.25)
	f(&b.ChangedAnywhere, 0.005)
	f(&b.ChangedStyle, 0.30)
	n(&b.StylePHash64, 20)
	f(&b.ChangedLocal, 0.40)
	f(&b.DriftTone, 5)
	f(&b.DriftContrast, 0.15)
	f(&b.OutsidePSNR, 28)
	f(&b.OutsideSSIM, 0.80)
	f(&b.WarnOutsideSSIM, 0.90)
	f(&b.WarnParityPSNR, 30)
	f(&b.WarnParitySSIM, 0.97)
	f(&b.LoadPSNR, 40)
	f(&b.LoadSSIM, 0.99)
	f(&b.ParityPSNR, 27)
	f(&b.ParitySSIM, 0.94)
	f(&b.ParityEditPSNR, 28)
	n(&b.DistinctPHash64, 10)
	n(&b.DistinctExtP256, 40)
	f(&b.NoiseRatio, 0.90)
	n(&b.SearchPixels, 6)
	n(&b.GridColour, 28)
	f(&b.GreyChroma, 12)
	f(&b.LeastThing, 0.005)
	f(&b.HoldsNCC, 0.8)
	return b
}

// TurnPSNR is the least PSNR in dB, against the first picture, of what no turn was asked to change after k turns of
// editing: single - 10*log10(k), where single is the bound for one turn (28 by default). It assumes that each turn adds
// independent VAE error; derived, not measured.
func TurnPSNR(single float64, k int) float64 {
	return single - 10*math.Log10(float64(max(k, 1)))
}
