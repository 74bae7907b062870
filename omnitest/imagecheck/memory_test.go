package imagecheck

import (
	"bytes"
	"image"
	"image/png"
	"os"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/api"
)

// spent is how many bytes f allocates, in all, not at once.
func spent(f func()) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return int64(after.TotalAlloc - before.TotalAlloc)
}

// TestMemoryOfBadFiles: what a file costs is bounded by the limits and not by what its header claims. The bomb of 60 bytes
// would take 1.5 GB; one of a few kilobytes with all its pixels takes what the limit of pixels says. Inspect never
// decodes: its cost is messages.
func TestMemoryOfBadFiles(t *testing.T) {
	const pixels = 1 << 20
	var whole bytes.Buffer
	require.NoError(t, png.Encode(&whole, image.NewRGBA(image.Rect(0, 0, 1<<10, 1<<10)))) // 4 MB of zeros in 4 kB
	require.Less(t, whole.Len(), 16<<10)
	files := map[string][]byte{"bomb": headerPNG(20000, 20000), "no pixels": headerPNG(0, 0), "just within": whole.Bytes(), "cut": whole.Bytes()[:whole.Len()/2],
		"huge chunk": append([]byte("\x89PNG\r\n\x1a\n\xff\xff\xff\xf0IHDR"), make([]byte, 64)...)}
	list, err := os.ReadDir("testdata/files")
	require.NoError(t, err)
	for _, e := range list {
		files[e.Name()] = stored(t, e.Name())
	}
	limits := api.Limits{Pixels: pixels}
	for name, raw := range files {
		bytes := spent(func() { _ = Inspect(raw, limits) })
		assert.Less(t, bytes, int64(64<<10), "Inspect of %s", name)

		// A decoder's own picture of 4 bytes a pixel, ours of 4, one of 4 on white where there is alpha, and 1 of luma: 13 bytes a
		// pixel, and room for tables.
		decoded := spent(func() {
			im, err := api.ReadImage(raw, limits)
			if err != nil {
				return
			}
			if p, err := Decode(im, Case{}); err == nil {
				_ = NotBlank()(p)
			}
		})
		assert.Less(t, decoded, int64(13*pixels+1<<20), "Decode of %s", name)
		t.Logf("%-18s %8d bytes: Inspect allocates %6d, Decode %9d", name, len(raw), bytes, decoded)
	}
}
