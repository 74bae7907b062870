package report

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Paths are the files that Write made.
type Paths struct{ JSON, Table, CSV, HTML string }

// Write makes the folder and in it result.json, table.md, table.csv and report.html. Each file is complete or absent, never half
// written. A document that would mislead (no target, a simulated stage that is not said, requests unaccounted for) is
// refused.
func Write(dir string, r Result) (Paths, error) {
	r.Schema = Schema
	if r.Created.IsZero() {
		r.Created = time.Now().UTC().Truncate(time.Second)
	}
	if r.Environment == (Environment{}) {
		r.Environment = Here()
	}
	r.Provenance = r.Provenance.filled()
	if err := r.Check(); err != nil {
		return Paths{}, fmt.Errorf("report: result refused: %w", err)
	}
	doc, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return Paths{}, fmt.Errorf("report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return Paths{}, fmt.Errorf("report: %w", err)
	}
	page, err := HTML(r)
	if err != nil {
		return Paths{}, err
	}
	p := Paths{filepath.Join(dir, "result.json"), filepath.Join(dir, "table.md"), filepath.Join(dir, "table.csv"), filepath.Join(dir, "report.html")}
	for _, f := range []struct {
		path string
		data []byte
	}{{p.JSON, append(doc, '\n')}, {p.Table, []byte(Table(r))}, {p.CSV, []byte(CSV(r))}, {p.HTML, page}} {
		if err := replace(f.path, f.data); err != nil {
			return Paths{}, fmt.Errorf("report: %w", err)
		}
	}
	return p, nil
}

// replace writes beside the file and renames: a reader, or a run that is killed, never sees half of it.
func replace(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // after the rename there is nothing left to remove
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Chmod(0o644)
	}
	if closing := tmp.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// ErrNoSchema is Read's error for a JSON file that says no schema: it may be another tool's, see Import.
var ErrNoSchema = fmt.Errorf("schema \"\", want %q", Schema)

// Read gives back a document. The schema must be ours and no newer major version; fields that this version does not know
// are ignored, as a newer minor writer may add some.
func Read(path string) (Result, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return Result{}, fmt.Errorf("report: %w", err)
	}
	var head struct {
		Schema string `json:"schema"`
	}
	if err := json.Unmarshal(raw, &head); err != nil {
		return Result{}, fmt.Errorf("report: %s is not a result: %w", path, err)
	}
	if err := known(head.Schema); err != nil {
		return Result{}, fmt.Errorf("report: %s: %w", path, err)
	}
	var r Result
	if err := json.Unmarshal(raw, &r); err != nil {
		return Result{}, fmt.Errorf("report: %s: %w", path, err)
	}
	return r, nil
}

func known(schema string) error {
	if schema == "" {
		return ErrNoSchema
	}
	name, ours, _ := strings.Cut(Schema, "/v")
	theirName, theirs, found := strings.Cut(schema, "/v")
	major, _, _ := strings.Cut(theirs, ".")
	n, err := strconv.Atoi(major)
	if theirName != name || !found || err != nil || n < 1 {
		return fmt.Errorf("schema %q, want %q", schema, Schema)
	}
	if most, _ := strconv.Atoi(ours); n > most {
		return fmt.Errorf("schema %q was written by a newer version, this one reads up to %q", schema, Schema)
	}
	return nil
}
