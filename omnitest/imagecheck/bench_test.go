package imagecheck

import (
	"bytes"
	"fmt"
	"image"
	"image/png"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// benchPoster is one megapixel with a line of text, and a benign variant of it.
func benchPoster(b *testing.B) (ref, got *image.RGBA, box Box) {
	p := poster{w: 1024, h: 1024, text: "OPEN 24 HOURS", px: 118, panel: true, scene: 3}
	ref, rect := p.draw(b, p.text)
	return ref, noisy(ref, 3, 1), Box{Text: p.text, Rect: rect}
}

// BenchmarkStack is what one answer costs beyond decoding: every check that a golden case runs, and those of an edit.
// A new Picture each time, because derived planes are kept.
func BenchmarkStack(b *testing.B) {
	ref, got, box := benchPoster(b)
	c := Case{Name: "bench", Size: api.Size{W: 1024, H: 1024}, Steps: 20}
	store := Store{Dir: b.TempDir(), CropsOnly: true}
	update := store
	update.Update = true
	require.NoError(b, update.Check("bench", Key{Engine: "e"}, box)(Of(ref, c)))
	golden := store.Check("bench", Key{Engine: "e"}, box)
	for _, bench := range []struct {
		name   string
		checks []Check
		img    *image.RGBA
	}{
		{"golden/same-pixels", []Check{Size(c.Size), NotBlank(), golden}, ref},
		{"golden/benign", []Check{Size(c.Size), NotBlank(), golden}, got},
		{"edit", []Check{Size(c.Size), NotBlank(), EditInside(Of(patched(ref, image.Rect(0, 512, 1024, 1024)), c), image.Rect(0, 512, 1024, 1024)),
			EditOutside(Of(ref, c), image.Rect(0, 512, 1024, 1024))}, got},
		{"load", []Check{Size(c.Size), NotBlank(), SamePixels(Of(ref, c))}, ref},
	} {
		b.Run(fmt.Sprintf("%s/size=1024x1024", bench.name), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p := Of(bench.img, c)
				for _, check := range bench.checks {
					if err := check(p); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

// BenchmarkFull is a file of one megapixel from its bytes to the last verdict, without a reader of text: decoded, inspected,
// size, format, alpha, blank; then a poster (golden with its text and what stands beside it, PSNR and SSIM against the
// approved picture) or an edit (inside, outside, over-editing). cpu-ms/op is what one core spent: wall time on a machine that
// others use says nothing.
func BenchmarkFull(b *testing.B) {
	ref, got, box := benchPoster(b)
	c := Case{Name: "bench", Size: api.Size{W: 1024, H: 1024}, Steps: 20}
	store := Store{Dir: b.TempDir()}
	update := store
	update.Update = true
	require.NoError(b, update.Check("bench", Key{Engine: "e"}, box)(Of(ref, c)))
	region := image.Rect(0, 512, 512, 1024)
	golden, before := store.Check("bench", Key{Engine: "e"}, box), Of(ref, c)
	loose := c
	loose.Bounds = Bounds{LoadPSNR: 35, LoadSSIM: 0.8} // sigma 3 is more than a neighbour in the batch may cost
	always := []Check{Plain(), Size(c.Size), Format("png"), Opaque(), NotBlank()}
	for _, bench := range []struct {
		name   string
		img    *image.RGBA
		checks []Check
	}{
		{"poster", got, append(always[:5:5], golden, SameUnderLoad(before))},
		{"edit", noisy(patched(ref, region), 3, 1), append(always[:5:5], EditInside(before, region), EditOutside(before, region))},
		{"edit-anywhere", noisy(patched(ref, region), 3, 1), append(always[:5:5], EditInside(before, nil), EditLocal(before))},
	} {
		b.Run(bench.name+"/size=1024x1024", func(b *testing.B) {
			var file bytes.Buffer
			require.NoError(b, png.Encode(&file, bench.img))
			im, err := api.ReadImage(file.Bytes(), api.Limits{})
			require.NoError(b, err)
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				p, err := Decode(im, loose)
				if err != nil {
					b.Fatal(err)
				}
				for _, check := range bench.checks {
					if err := check(p); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64((cpuTime(b)-start).Microseconds())/1000/float64(b.N), "cpu-ms/op")
		})
	}
}

// cpuTime is what this process has spent so far, in user mode and in the kernel.
func cpuTime(tb testing.TB) time.Duration {
	var u syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkMetric is each building block at one megapixel; text-line is one line of 13 letters, 900x90 px.
func BenchmarkMetric(b *testing.B) {
	ref, got, box := benchPoster(b)
	a, g := Luma(ref), Luma(got)
	foreign := Luma(scene(1024, 1024, 8)) // nothing matches: the search runs to its end
	for _, bench := range []struct {
		name string
		f    func()
	}{
		{"luma", func() { Luma(ref) }},
		{"sha256", func() { PixelSHA256(ref) }},
		{"psnr", func() { must(Diff(ref, got)) }},
		{"ssim-gray", func() { must(SSIM(a, g)) }},
		{"ssim-rgb", func() { must(SSIMRGB(ref, got)) }},
		{"tiles", func() { must(TileMAD(a, g)) }},
		{"noise", func() { Noise(g) }},
		{"phash64", func() { must(PHash64(ref)) }},
		{"colour-grid", func() { must(Colours(ref)) }},
		{"extp256", func() { must(ExtP256(ref)) }},
		{"text-line/aligned", func() { CellNCC(a, g, box.Rect, 0, 6) }},
		{"text-line/worst", func() { CellNCC(a, foreign, box.Rect, 0, 6) }},
		{"side-by-side", func() { sideBySide(ref, got, nil, "expected") }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				bench.f()
			}
		})
	}
}
