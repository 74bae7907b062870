package audiocheck

import (
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
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

// TestMemoryOfBadFiles: what a file costs is bounded by the limits and by its own bytes, never by what its header claims:
// 4 bytes a sample to read it, and 8 more for what the checks derive.
func TestMemoryOfBadFiles(t *testing.T) {
	small := Format{Rate: 24000, Channels: 1, Bits: 8}
	head := chunk("fmt ", fmtChunk(tagPCM, small))
	claims := func(n uint32) []byte { return binary.LittleEndian.AppendUint32([]byte("data"), n) }
	limits := Limits{Bytes: 1 << 20, Samples: 1 << 18}
	for name, raw := range map[string][]byte{
		"claims 2 GB":        riff(head, claims(0x7FFE0000), make([]byte, 64)),
		"claims 4 GB":        riff(head, claims(0xFFFFFFFF), make([]byte, 64)),
		"chunk of 4 GB":      riff(head, append([]byte("LIST"), 0xFE, 0xFF, 0xFF, 0xFF), make([]byte, 64)),
		"format of 4 GB":     riff([]byte("fmt \xF0\xFF\xFF\xFF"), make([]byte, 64)),
		"just within":        riff(head, chunk("data", make([]byte, limits.Samples))),
		"too many samples":   riff(head, chunk("data", make([]byte, limits.Samples+2))),
		"too many bytes":     make([]byte, limits.Bytes+1),
		"a hundred thousand": riff(head, chunk("junk", make([]byte, 100_000)), chunk("data", make([]byte, 4))),
	} {
		read := spent(func() { _, _ = ReadWAV(raw, limits) })
		assert.Less(t, read, 4*min(limits.Samples, int64(len(raw)))+16<<10, "ReadWAV of %s", name)
		judged := spent(func() {
			s, err := ReadWAV(raw, limits)
			if err != nil {
				return
			}
			for _, c := range []Check{Finite(), NotClipped(), Centred(), NotSilent()} {
				_ = c(s)
			}
		})
		assert.Less(t, judged, (4+8+1)*min(limits.Samples, int64(len(raw)))+256<<10, "checks of %s", name)
		t.Logf("%-20s %8d bytes: ReadWAV allocates %8d, with checks %8d", name, len(raw), read, judged)
	}
}
