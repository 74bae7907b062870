package measure

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

// Files are the paths of the evidence of one failure; "" where there is none.
type Files struct {
	Dir    string // the folder that holds them, with metrics.json
	Got    string // actual.png, .wav or .txt, or raw.bin where reading failed
	Golden string // what was approved or given: the golden's own file, expected.*, input.png
	Diff   string // side-by-side.*
	Replay string // repro.sh
}

// Line is "got A   golden B   diff C   replay D" of what there is; golden is the label of the second.
func (f Files) Line(golden string) string {
	var parts []string
	for _, p := range [][2]string{{"got", f.Got}, {golden, f.Golden}, {"diff", f.Diff}, {"replay", f.Replay}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" "+p[1])
		}
	}
	return strings.Join(parts, "   ")
}

// Path is one folder a case and check, <dir>/<case>/<check>; a case without a name is called by its kind, "picture".
func Path(dir, name, kind, check string) string {
	parts := []string{dir}
	for p := range strings.SplitSeq(name, "/") {
		if p = slug(p); p != "" {
			parts = append(parts, p)
		}
	}
	if len(parts) == 1 {
		parts = append(parts, kind)
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

// Folder writes the evidence of one failed check. What fails to be written does not stop the rest: Err tells it at the end.
type Folder struct {
	Dir  string
	errs []error
}

// Open makes the folder.
func Open(dir string) (*Folder, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return &Folder{Dir: dir}, nil
}

// Write writes a file and gives its path; "" if that failed.
func (f *Folder) Write(name string, data []byte) string { return f.write(name, data, 0o644) }

func (f *Folder) write(name string, data []byte, mode os.FileMode) string {
	file := filepath.Join(f.Dir, name)
	if err := WriteFile(file, data, mode); err != nil {
		f.errs = append(f.errs, err)
		return ""
	}
	return file
}

// PNG writes a picture with the fast encoder: evidence is looked at, not kept.
func (f *Folder) PNG(name string, img image.Image) string {
	var b bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&b, img); err != nil {
		f.errs = append(f.errs, err)
		return ""
	}
	return f.Write(name, b.Bytes())
}

// Script writes a request as repro.sh; without one there is none.
func (f *Folder) Script(repro string) string {
	if strings.TrimSpace(repro) == "" {
		return ""
	}
	return f.write("repro.sh", []byte("#!/bin/sh\n"+strings.TrimSpace(repro)+"\n"), 0o755)
}

// Metrics writes metrics.json: what the check measured, with everything needed to judge it again.
func (f *Folder) Metrics(doc any) string {
	raw, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		f.errs = append(f.errs, err)
		return ""
	}
	return f.Write("metrics.json", append(raw, '\n'))
}

// Err is what could not be written.
func (f *Folder) Err() error { return errors.Join(f.errs...) }

// Versions are those of the program that measured, for metrics.json.
func Versions() map[string]string {
	return map[string]string{"go": runtime.Version(), "os": runtime.GOOS + "/" + runtime.GOARCH}
}

// WriteFile writes beside the file and renames: two failures of one case at once leave one whole file, not a mixture.
func WriteFile(file string, data []byte, mode os.FileMode) error {
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
