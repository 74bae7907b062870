package imagecheck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/png"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Tesseract is the command line program, one process a picture: a crash or a hang of it stays there. Make one with
// [FindTesseract]. Measured with 5.3.0 and Debian's fast models.
type Tesseract struct {
	Path    string        // of the program
	Timeout time.Duration // of one picture; 0: 1 minute
}

// tesseractLangs are its names of our languages.
var tesseractLangs = map[string]string{"en": "eng", "zh": "chi_sim"}

// FindTesseract looks for the program (path "": on the PATH) and its models. The error wraps [ErrNoReader] and says how to
// get what is missing.
func FindTesseract(ctx context.Context, path string) (*Tesseract, error) {
	const remedy = "Debian: apt-get install tesseract-ocr tesseract-ocr-chi-sim"
	if path == "" {
		path = "tesseract"
	}
	full, err := exec.LookPath(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; %s", ErrNoReader, err, remedy)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, full, "--list-langs").Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s --list-langs: %w; %s", ErrNoReader, full, err, remedy)
	}
	for _, l := range []string{"eng", "chi_sim"} {
		if !slices.Contains(strings.Fields(string(out)), l) {
			return nil, fmt.Errorf("%w: %s has no model %s; %s", ErrNoReader, full, l, remedy)
		}
	}
	return &Tesseract{Path: full}, nil
}

// Read runs the program once.
func (t *Tesseract) Read(ctx context.Context, img *image.RGBA, lang string, lines int, spread bool) (string, error) {
	model, ok := tesseractLangs[lang]
	if !ok {
		return "", fmt.Errorf("tesseract: no model is known for language %q", lang)
	}
	layout := "7" // one line
	switch {
	case spread:
		layout = "11" // as much text as possible, in no order
	case lines > 1:
		layout = "6" // one block
	}
	var in, out, errs bytes.Buffer
	if err := (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&in, img); err != nil {
		return "", err
	}
	limit := t.Timeout
	if limit == 0 {
		limit = time.Minute
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.Path, "stdin", "stdout", "-l", model, "--psm", layout)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = &in, &out, &errs
	cmd.Env = append(cmd.Environ(), "OMP_THREAD_LIMIT=1") // its threads slow it down, and everything beside it
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(fmt.Errorf("no answer within %v", limit), ctx.Err())
		}
		return "", fmt.Errorf("tesseract %s --psm %s: %w: %s", model, layout, err, clip(strings.TrimSpace(errs.String()), 200))
	}
	return out.String(), nil
}
