package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Load reads a stack.yaml. See Parse.
func Load(path string) (Spec, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Spec{}, fmt.Errorf("stack: %w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return Spec{}, fmt.Errorf("stack: %s: %w", path, err)
	}
	dir, err := filepath.Abs(filepath.Dir(path))
	if err != nil {
		return Spec{}, fmt.Errorf("stack: %s: %w", path, err)
	}
	for _, st := range s.Stages {
		if v := st.VLLM; v != nil {
			for _, p := range []*string{&v.Venv, &v.Bin, &v.ModelPath} {
				if strings.HasPrefix(*p, "./") || strings.HasPrefix(*p, "../") {
					*p = filepath.Join(dir, *p)
				}
			}
		}
	}
	return s, nil
}

// Parse reads a stack.yaml strictly: an unknown key, a second document, an unknown stage or engine, a bad URL or an
// unknown fault name is an error, because a mistyped key that is ignored tests something else than what was meant.
func Parse(data []byte) (Spec, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	var s Spec
	if err := d.Decode(&s); err != nil {
		if errors.Is(err, io.EOF) {
			return Spec{}, errors.New("the file is empty; for the whole reference stack leave OMNITEST_STACK unset")
		}
		return Spec{}, plain(err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return Spec{}, errors.New("more than one YAML document; one file describes one stack")
	}
	if err := s.Validate(); err != nil {
		return Spec{}, err
	}
	return s, nil
}

// plain says what the YAML package says of a bad file in the file's own words instead of Go's.
func plain(err error) error {
	text := err.Error()
	for _, r := range []struct{ goes, comes string }{
		{"not found in type stack.Spec", "is no key here; known: name, stages, plan_tokens, skip_smoke, allow_fallback, timing, faults"},
		{"not found in type stack.Stage", "is no key of a stage; known: engine, url, metrics_url, model, ready_timeout, devices, lease, load_failure_policy, block_size, blocks, vllm"},
		{"into time.Duration", "as a duration; write it with its unit, like 5s"},
	} {
		text = strings.ReplaceAll(text, r.goes, r.comes)
	}
	return errors.New(text)
}
