package imagecheck

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCalibration(t *testing.T) {
	var c Calibration
	for i := range uint64(10) {
		a := Of(scene(192, 128, i), Case{})
		require.NoError(t, c.Add(PairRepeat, a, Of(clone(a.Image), Case{})))
		require.NoError(t, c.Add(PairLoad, a, Of(noisy(a.Image, 0.6+0.05*float64(i), i), Case{})))
		require.NoError(t, c.Add(PairArm, a, Of(noisy(a.Image, 5, i), Case{})))
		require.NoError(t, c.Add(PairOther, a, Of(scene(192, 128, i+50), Case{})))
	}
	assert.Equal(t, 10, c.Pairs(PairArm))
	got := map[string]Proposal{}
	for _, p := range c.Propose(0) {
		got[p.Field] = p
	}
	// Noise of sigma s is 20*log10(255/s) dB.
	arm := got["ParityPSNR"]
	assert.InDelta(t, 34.1, arm.Worst, 0.4)
	assert.InDelta(t, arm.Worst-0.5, arm.Bound, 0.1)
	assert.Less(t, arm.Nearest, arm.Bound, "other pictures do not keep it")
	assert.Empty(t, arm.Warning)
	assert.Equal(t, 20, got["LoadPSNR"].Pairs)
	assert.Greater(t, got["LoadSSIM"].Bound, 0.9)
	assert.Equal(t, "all pairs were identical: the default stands", got["PHash64"].Warning)
	assert.Equal(t, 4.0, got["PHash64"].Bound)

	var b strings.Builder
	require.NoError(t, c.Report(&b, 0))
	for _, want := range []string{"repeat  PSNR       10  inf", "other   ExtP256    10", "ParitySSIM ", "all pairs were identical: the default stands"} {
		assert.Contains(t, b.String(), want)
	}
	row := GoRow(Setup{Engine: "e", GPU: "H100"}, "3 seeds", c.Propose(0))
	assert.Contains(t, row, `{Setup: imagecheck.Setup{Engine: "e", Model: "", GPU: "H100", DType: ""}, Bounds: imagecheck.Bounds{`)
	assert.Contains(t, row, "ParityPSNR: 33.")
	assert.NotContains(t, row, "PHash64", "what has a warning is not offered")
}

// A calibration that cannot separate, or that has too few pairs, says so in place of proposing.
func TestCalibrationWarns(t *testing.T) {
	var few, blind Calibration
	a := Of(scene(192, 128, 1), Case{})
	require.NoError(t, few.Add(PairArm, a, Of(noisy(a.Image, 5, 1), Case{})))
	for _, p := range few.Propose(0) {
		assert.Equal(t, "1 pairs, at least 8 are needed", p.Warning)
	}
	for i := range uint64(8) { // the arms differ as much as other pictures do
		require.NoError(t, blind.Add(PairArm, a, Of(scene(192, 128, i+2), Case{})))
		require.NoError(t, blind.Add(PairOther, a, Of(scene(192, 128, i+2), Case{})))
	}
	for _, p := range blind.Propose(0) {
		assert.Equal(t, "other pictures keep this bound too: it tells nothing", p.Warning)
	}
	err := few.Add(PairArm, a, Of(scene(100, 128, 1), Case{}))
	assert.ErrorIs(t, err, ErrSize)
	assert.EqualError(t, err, "calibrate, arm: it is 192x128, the other picture is 100x128: size mismatch")
	assert.Error(t, few.Add(PairArm, a, Picture{}))
	assert.Error(t, few.Add(PairArm, Picture{}, a))
}
