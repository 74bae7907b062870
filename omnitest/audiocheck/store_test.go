package audiocheck

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/omnitest/suite/omnitest/refstack/dit"
)

var goldenKey = Key{Engine: "reference", Model: "reference-dit"}

func goldenCase(t *testing.T) Case {
	return Case{Name: "hello", Text: hello, Voice: "alto", Dir: t.TempDir()}
}

func TestGoldenLifecycle(t *testing.T) {
	dir := t.TempDir()
	c := goldenCase(t)
	good := voiceOf(t, hello, "alto").For(c)
	read, write := Store{Dir: dir}, Store{Dir: dir, Update: true}

	err := read.Check("en/hello", goldenKey)(good)
	require.Error(t, err)
	assert.True(t, strings.HasPrefix(err.Error(), "golden missing: en/hello\n"), "%v", err)
	assert.Contains(t, err.Error(), "remedy  listen to the sound; if it is right, run once with OMNITEST_UPDATE=1 and commit "+filepath.Join(dir, "en/hello"))
	var e *Error
	require.ErrorAs(t, err, &e)
	assert.FileExists(t, e.Files.Got, "the sound to be listened to")

	require.NoError(t, write.Check("en/hello", goldenKey)(good))
	require.NoError(t, read.Check("en/hello", goldenKey)(good))
	raw, readErr := os.ReadFile(filepath.Join(dir, "en/hello/golden.json"))
	require.NoError(t, readErr)
	var g Golden
	require.NoError(t, json.Unmarshal(raw, &g))
	assert.Equal(t, Key{Engine: "reference", Model: "reference-dit", Voice: "alto", Text: hello}, g.Key)
	assert.InDelta(t, good.Duration().Seconds(), g.Seconds, 1e-9)

	wrong := voiceOf(t, "hello world, this is a text of speech", "alto").For(c)
	err = read.Check("en/hello", goldenKey)(wrong)
	require.Error(t, err)
	assert.True(t, strings.HasPrefix(err.Error(), "sound differs from golden: log-mel distance at 1.93 s "), "%v", err)
	assert.Contains(t, err.Error(), "key     engine reference, model reference-dit, voice alto, text ")
	assert.Contains(t, err.Error(), "golden "+filepath.Join(dir, "en/hello/golden.wav"))
	assert.Contains(t, err.Error(), "side-by-side.png")

	// Another machine's noise is like it; approving it adds its samples and leaves the sound.
	alike := sound(t, floats(dit.Speak(dit.Utterance{Text: hello, Seed: 8}))).For(c)
	require.NoError(t, read.Check("en/hello", goldenKey)(alike))
	require.NoError(t, write.Check("en/hello", goldenKey)(alike))
	approved, loadErr := LoadGolden(os.DirFS(dir), "en/hello")
	require.NoError(t, loadErr)
	assert.Equal(t, []string{good.SHA256(), alike.SHA256()}, approved.SHA256)

	// What differs replaces it, and the old one is kept for review.
	require.NoError(t, write.Check("en/hello", goldenKey)(wrong))
	assert.NoError(t, read.Check("en/hello", goldenKey)(wrong))
	assert.Error(t, read.Check("en/hello", goldenKey)(good))
	assert.FileExists(t, filepath.Join(c.Dir, "hello", "golden", "expected.prev.wav"))
}

// Another set-up is another golden: that is said, and no distance is.
func TestGoldenOfAnotherKey(t *testing.T) {
	dir := t.TempDir()
	good := voiceOf(t, hello, "alto").For(goldenCase(t))
	require.NoError(t, Store{Dir: dir, Update: true}.Check("hello", goldenKey)(good))
	c := good.Case
	c.Voice, c.Seed = "bass", 4
	err := Store{Dir: dir}.Check("hello", Key{Engine: "vllm-omni", Model: "reference-dit"})(good.For(c))
	require.Error(t, err)
	assert.True(t, strings.HasPrefix(err.Error(), `golden has another key: engine "vllm-omni", golden "reference"; voice "bass", golden "alto"; seed "4", golden "0"`), "%v", err)
	assert.NotContains(t, err.Error(), "logmel")
}

func TestBrokenGoldensAndSounds(t *testing.T) {
	dir := t.TempDir()
	c := goldenCase(t)
	good := voiceOf(t, hello, "alto").For(c)
	require.NoError(t, Store{Dir: dir, Update: true}.Check("hello", goldenKey)(good))
	sidecar, err := os.ReadFile(filepath.Join(dir, "hello/golden.json"))
	require.NoError(t, err)
	wav, err := os.ReadFile(filepath.Join(dir, "hello/golden.wav"))
	require.NoError(t, err)
	at := func(sidecar, wav []byte) error {
		fsys := fstest.MapFS{"hello/golden.json": {Data: sidecar}}
		if wav != nil {
			fsys["hello/golden.wav"] = &fstest.MapFile{Data: wav}
		}
		return Store{FS: fsys}.Check("hello", goldenKey)(good)
	}
	require.NoError(t, at(sidecar, wav))
	assert.ErrorContains(t, at([]byte(`{"nmae":"x"}`), wav), `unknown field "nmae"`)
	assert.ErrorContains(t, at([]byte(`{"name":"x"}`), wav), "not complete: 0 sample hashes")
	assert.ErrorContains(t, at(sidecar, nil), "golden cannot be used: hello", "the sidecar is there: it is not missing")
	assert.ErrorContains(t, at(sidecar, wav[:1000]), "audio is truncated")
	assert.ErrorContains(t, at(sidecar, voiceOf(t, "other", "alto").WAV()), "which the sidecar does not approve")

	// No silence becomes golden, and no fs.FS is written.
	silent := changed(t, good, func(int, float64) float64 { return 0 }).For(c)
	err = Store{Dir: dir, Update: true}.Check("silent", goldenKey)(silent)
	assert.ErrorContains(t, err, "golden was not written: silent")
	assert.ErrorContains(t, err, "sound is silent: RMS -120, at least -50 (dBFS)")
	assert.NoDirExists(t, filepath.Join(dir, "silent"))
	assert.ErrorContains(t, Store{FS: fstest.MapFS{}, Update: true}.Check("x", goldenKey)(good), "Update needs Store.Dir")
}
