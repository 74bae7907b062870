package audiocheck

import (
	"errors"
	"fmt"

	"github.com/omnitest/suite/omnitest/measure"
)

// evidenceDir is one folder a case and check: <dir>/<case>/<check>.
func evidenceDir(c Case, check string) string { return measure.Path(c.Dir, c.Name, "sound", check) }

// Keep writes the bytes of an answer that no sound could be read from as raw.bin into the case's evidence folder, and
// gives an [*Error] of check "read" that says so. For what [ReadWAV] refused.
func Keep(raw []byte, err error, c Case) *Error {
	e := &Error{Check: "read", Case: c, Err: err, Summary: fmt.Sprintf("sound does not read: %d bytes", len(raw))}
	if c.Dir == "" {
		return e
	}
	dir, err := measure.Open(evidenceDir(c, e.Check))
	if err != nil {
		e.Err = errors.Join(e.Err, err)
		return e
	}
	e.Files.Dir = dir.Dir
	e.Files.Got = dir.Write("raw.bin", raw)
	e.Files.Replay = dir.Script(c.Repro)
	dir.Metrics(e.document(nil, nil))
	if err := dir.Err(); err != nil {
		e.Err = errors.Join(e.Err, err)
	}
	return e
}

// keep writes the evidence of a failure and puts its paths into the error:
//
//	actual.wav        the sound as received
//	spectrogram.png   of it
//	expected.wav      what it was compared with
//	side-by-side.png  both spectrograms with their difference; heatmap.png the difference alone
//	metrics.json, repro.sh
//
// What fails to be written does not stop the rest.
func (f *finding) keep(s Sound, e *Error) error {
	dir, err := measure.Open(evidenceDir(s.Case, f.check))
	if err != nil {
		return err
	}
	e.Files.Dir = dir.Dir
	sha := map[string]string{"actual": s.SHA256()}
	got := s.Raw // as received: 24 bit and NaN would not survive our writer
	if len(got) < 12 || string(got[:4]) != "RIFF" {
		got = s.WAV()
	}
	e.Files.Got = dir.Write("actual.wav", got)
	dir.PNG("spectrogram.png", stacked(panel{"actual", s.mel().draw()}))
	if f.expected != nil {
		sha["expected"] = f.expected.SHA256()
		file := dir.Write("expected.wav", f.expected.WAV())
		if e.Files.Golden == "" {
			e.Files.Golden = file
		}
		difference := panel{"difference, black 0 dB, red 20 dB and more", drawDifference(f.expected.mel(), s.mel())}
		e.Files.Diff = dir.PNG("side-by-side.png", stacked(panel{"expected", f.expected.mel().draw()}, panel{"actual", s.mel().draw()}, difference))
		dir.PNG("heatmap.png", stacked(difference))
	}
	e.Files.Replay = dir.Script(s.Case.Repro)
	dir.Metrics(e.document(&s.Format, sha))
	return dir.Err()
}

// document is metrics.json: what the check measured, with everything needed to judge it again.
func (e *Error) document(format *Format, sha map[string]string) any {
	doc := struct {
		Check    string            `json:"check"`
		Summary  string            `json:"summary"`
		Metrics  []Metric          `json:"metrics"`
		Cause    string            `json:"cause,omitempty"`
		Name     string            `json:"name"`
		Text     string            `json:"text"`
		Voice    string            `json:"voice,omitempty"`
		Seed     int64             `json:"seed"`
		Stack    string            `json:"stack,omitempty"`
		Format   *Format           `json:"format,omitempty"`
		Key      Key               `json:"key"`
		Bounds   string            `json:"bounds_from,omitempty"`
		SHA256   map[string]string `json:"sample_sha256,omitempty"`
		Versions map[string]string `json:"versions"`
	}{
		Check: e.Check, Summary: e.Summary, Metrics: e.Metrics, Name: e.Case.Name, Text: e.Case.Text, Voice: e.Case.Voice, Seed: e.Case.Seed,
		Stack: e.Case.Stack, Format: format, Key: e.Case.Key, Bounds: e.Bounds, SHA256: sha, Versions: measure.Versions(),
	}
	if e.Err != nil {
		doc.Cause = e.Err.Error()
	}
	return doc
}
