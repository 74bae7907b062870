package audiocheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unicode"
)

// evidenceDir is one folder a case and check: <dir>/<case>/<check>.
func evidenceDir(c Case, check string) string {
	parts := []string{c.Dir}
	for p := range strings.SplitSeq(c.Name, "/") {
		if p = slug(p); p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 {
		parts = append(parts, "sound")
	}
	return filepath.Join(append(parts, check)...)
}

// slug makes a file name of a part of a case name.
func slug(s string) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("._-", r) {
			return r
		}
		return '-'
	}, s)
	if r := []rune(s); len(r) > 80 {
		s = string(r[:80]) // file systems stop at 255 bytes, and hanzi take 3 each
	}
	return strings.TrimLeft(s, ".")
}

// Keep writes the bytes of an answer that no sound could be read from as raw.bin into the case's evidence folder, and
// gives an [*Error] of check "read" that says so. For what [ReadWAV] refused.
func Keep(raw []byte, err error, c Case) *Error {
	e := &Error{Check: "read", Case: c, Err: err, Summary: fmt.Sprintf("sound does not read: %d bytes", len(raw))}
	if c.Dir == "" {
		return e
	}
	e.Files.Dir = evidenceDir(c, e.Check)
	file := filepath.Join(e.Files.Dir, "raw.bin")
	if err := errors.Join(os.MkdirAll(e.Files.Dir, 0o755), os.WriteFile(file, raw, 0o644)); err != nil {
		e.Err = errors.Join(e.Err, err)
		return e
	}
	e.Files.Got = file
	return e
}

// keep writes the evidence of a failure and puts its paths into the error. What fails to be written does not stop the rest.
func (f *finding) keep(s Sound, e *Error) error {
	dir := evidenceDir(s.Case, f.check)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	e.Files.Dir = dir
	var errs []error
	write := func(name string, raw []byte, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, raw, mode); err != nil {
			errs = append(errs, err)
			return ""
		}
		return file
	}
	sha := map[string]string{"actual": s.SHA256()}
	got := s.Raw // as received: 24 bit and NaN would not survive our writer
	if len(got) < 12 || string(got[:4]) != "RIFF" {
		got = s.WAV()
	}
	e.Files.Got = write("actual.wav", got, 0o644)
	if f.expected != nil {
		sha["expected"] = f.expected.SHA256()
		file := write("expected.wav", f.expected.WAV(), 0o644)
		if e.Files.Golden == "" {
			e.Files.Golden = file
		}
		var b bytes.Buffer
		errs = append(errs, png.Encode(&b, sideBySide(f.expected.mel(), s.mel())))
		e.Files.Diff = write("side-by-side.png", b.Bytes(), 0o644)
	}
	if s.Case.Repro != "" {
		e.Files.Replay = write("repro.sh", []byte("#!/bin/sh\n"+strings.TrimSpace(s.Case.Repro)+"\n"), 0o755)
	}
	doc := struct {
		Check    string            `json:"check"`
		Summary  string            `json:"summary"`
		Metrics  []Metric          `json:"metrics"`
		Name     string            `json:"name"`
		Text     string            `json:"text"`
		Voice    string            `json:"voice,omitempty"`
		Seed     int64             `json:"seed"`
		Stack    string            `json:"stack,omitempty"`
		Format   Format            `json:"format"`
		Key      Key               `json:"key"`
		Bounds   string            `json:"bounds_from,omitempty"`
		SHA256   map[string]string `json:"sample_sha256"`
		Versions map[string]string `json:"versions"`
	}{
		e.Check, e.Summary, e.Metrics, e.Case.Name, e.Case.Text, e.Case.Voice, e.Case.Seed, e.Case.Stack, s.Format, e.Case.Key, e.Bounds, sha,
		map[string]string{"go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH},
	}
	raw, err := json.MarshalIndent(doc, "", "  ")
	errs = append(errs, err)
	write("metrics.json", append(raw, '\n'), 0o644)
	return errors.Join(errs...)
}

// maxColumns bounds the picture of two spectrograms: 20 s, where a wrong stretch can still be seen.
const maxColumns = 2000

// sideBySide draws the expected spectrogram, the actual one and where they differ, from top to bottom: time runs to the right,
// 10 ms a pixel, pitch upwards, 2 pixels a band. The differences are scaled 0 to 20 dB.
func sideBySide(expected, actual Mel) *image.RGBA {
	const band, gap = 2, 4
	high := MelBands * band
	w := min(max(len(expected), len(actual), 1), maxColumns)
	out := image.NewRGBA(image.Rect(0, 0, w, 3*high+2*gap))
	for i := range out.Pix {
		out.Pix[i] = 255
	}
	topE, topA := expected.top(), actual.top()
	value := func(m Mel, top float64, x, b int) float64 {
		if x >= len(m) {
			return -melDepth
		}
		return relative(m[x][b], top)
	}
	for x := range w {
		for y := range high {
			b := MelBands - 1 - y/band
			e, a := value(expected, topE, x, b), value(actual, topA, x, b)
			out.SetRGBA(x, y, grey((e+melDepth)/melDepth))
			out.SetRGBA(x, y+high+gap, grey((a+melDepth)/melDepth))
			d := min(max(e-a, a-e)/20, 1)
			out.SetRGBA(x, y+2*(high+gap), color.RGBA{uint8(255 * d), uint8(40 * d), uint8(60 * (1 - d)), 255})
		}
	}
	return out
}

func grey(v float64) color.RGBA {
	g := uint8(255 * max(0, min(1, v)))
	return color.RGBA{g, g, g, 255}
}
