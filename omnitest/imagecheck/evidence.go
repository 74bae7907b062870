package imagecheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"image"
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
	for _, p := range strings.Split(c.Name, "/") {
		if p = slug(p); p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 {
		parts = append(parts, "picture")
	}
	return filepath.Join(append(parts, check)...)
}

// slug makes a file name of a part of a case name: letters of any script, digits, dots and dashes. "" for "." and "..".
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

// keep writes the evidence of a failure and puts its paths into the error. What fails to be written does not stop the rest.
func (f *finding) keep(p Picture, e *Error) error {
	dir := evidenceDir(p.Case, f.check)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	e.Files.Dir = dir
	var errs []error
	picture := func(name string, img image.Image) string {
		file := filepath.Join(dir, name)
		if err := writePNG(file, img); err != nil {
			errs = append(errs, err)
			return ""
		}
		return file
	}
	sha := map[string]string{"actual": p.sha()}
	e.Files.Got = picture("actual.png", p.Image)
	if f.expected != nil {
		sha["expected"] = PixelSHA256(f.expected)
		file := picture("expected.png", f.expected)
		if e.Files.Golden == "" {
			e.Files.Golden = file
		}
		e.Files.Diff = picture("side-by-side.png", sideBySide(f.expected, p.Image, f.judged))
	}
	for _, t := range f.texts {
		file := picture(t.name+".png", t.draw())
		if e.Files.Diff == "" {
			e.Files.Diff = file
		}
	}
	if p.Case.Repro != "" {
		e.Files.Replay = filepath.Join(dir, "repro.sh")
		errs = append(errs, writeFile(e.Files.Replay, []byte("#!/bin/sh\n"+strings.TrimSpace(p.Case.Repro)+"\n"), 0o755))
	}
	errs = append(errs, writeMetrics(filepath.Join(dir, "metrics.json"), e, sha))
	return errors.Join(errs...)
}

// keepRaw writes the bytes of a file that does not decode.
func (e *Error) keepRaw(raw []byte) {
	if e.Case.Dir == "" {
		return
	}
	e.Files.Dir = evidenceDir(e.Case, e.Check)
	if err := os.MkdirAll(e.Files.Dir, 0o755); err != nil {
		e.Err = errors.Join(e.Err, err)
		return
	}
	e.Files.Got = filepath.Join(e.Files.Dir, "raw.bin")
	if err := writeFile(e.Files.Got, raw, 0o644); err != nil {
		e.Err = errors.Join(e.Err, err)
	}
}

// writeMetrics writes what the check measured, with everything needed to judge it again.
func writeMetrics(file string, e *Error, sha map[string]string) error {
	type request struct {
		Name   string `json:"name"`
		Prompt string `json:"prompt"`
		Size   string `json:"size"`
		Echo   string `json:"size_claimed,omitempty"`
		Steps  int    `json:"steps"`
		Seed   int64  `json:"seed"`
		Stack  string `json:"stack,omitempty"`
	}
	doc := struct {
		Check    string            `json:"check"`
		Summary  string            `json:"summary"`
		Metrics  []Metric          `json:"metrics"`
		Case     request           `json:"case"`
		Key      *jsonKey          `json:"key,omitempty"`
		SHA256   map[string]string `json:"pixel_sha256"`
		Versions map[string]string `json:"versions"`
	}{
		Check: e.Check, Summary: e.Summary, Metrics: e.Metrics, SHA256: sha,
		Case:     request{e.Case.Name, e.Case.Prompt, e.Case.Size.String(), e.Case.Echo, e.Case.Steps, e.Case.Seed, e.Case.Stack},
		Versions: map[string]string{"hash": HashLib, "go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH},
	}
	if k := e.Key; k != nil {
		doc.Key = &jsonKey{k.Engine, k.Model, k.GPU, k.DType, k.Attention, k.Steps, k.Size.String(), k.Seed, k.Prompt}
	}
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(file, append(raw, '\n'), 0o644)
}

// writePNG writes with the fast encoder: evidence is looked at, not kept.
func writePNG(file string, img image.Image) error {
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img); err != nil {
		return err
	}
	return writeFile(file, b.Bytes(), 0o644)
}

// writeFile writes beside the file and renames: two failures of one case at once leave one whole file, not a mixture.
func writeFile(file string, data []byte, mode os.FileMode) error {
	t, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	_, err = t.Write(data)
	err = errors.Join(err, t.Chmod(mode), t.Close())
	if err == nil {
		err = os.Rename(t.Name(), file)
	}
	if err != nil {
		os.Remove(t.Name())
	}
	return err
}
