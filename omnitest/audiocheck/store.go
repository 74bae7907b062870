package audiocheck

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Store is a folder of approved sounds, one sub-folder each with golden.json and golden.wav, which a person can listen to.
// This room never reads the environment: who wants OMNITEST_UPDATE=1 to mean Update sets the field.
type Store struct {
	Dir    string // where goldens are read from and, with Update, written to
	FS     fs.FS  // read-only goldens, embedded ones for instance; nil: Dir
	Update bool   // approve what comes instead of comparing; needs Dir
	Out    string // evidence of failures, if the sound's Case names no folder; with Update the old sound goes there
}

// Golden is the sidecar of an approved sound.
type Golden struct {
	Name    string   `json:"name"`
	Key     Key      `json:"key"`
	Format  Format   `json:"format"`
	Seconds float64  `json:"seconds"`
	SHA256  []string `json:"sample_sha256"` // several may be right: batch neighbours move low bits
	WAV     string   `json:"wav"`

	sound Sound
}

const (
	sidecar = "golden.json"
	goldWAV = "golden.wav"
)

func (s Store) fsys() fs.FS {
	if s.FS != nil {
		return s.FS
	}
	return os.DirFS(s.Dir)
}

// path of a golden's file, for people.
func (s Store) path(name, file string) string {
	if s.Dir == "" {
		return path.Join(name, file)
	}
	return filepath.Join(s.Dir, filepath.FromSlash(name), file)
}

// Check compares with the golden <name>: equal samples pass at once, else it must be [Like] it. Voice, text and seed that key
// leaves empty are taken from the sound's Case. Another key than the golden's is an error that names the difference and never a
// distance. A missing golden fails and leaves the sound in the evidence folder.
//
// With Update the sound is approved instead, if it is a sound at all ([Finite], [NotSilent], [NotClipped]). One that is already
// like the golden only adds its samples to the approved ones; else the golden is written anew and the old sound kept as
// expected.prev.wav in the evidence folder.
func (s Store) Check(name string, key Key) Check {
	load := sync.OnceValues(func() (*Golden, error) { return LoadGolden(s.fsys(), name) })
	var updating sync.Mutex
	inner := check("golden", "sound differs from golden", func(snd Sound, f *finding) {
		key := key.from(snd.Case)
		if s.Update {
			updating.Lock()
			defer updating.Unlock()
			if err := s.approve(name, key, snd); err != nil {
				f.prefix, f.cause = "golden was not written", err
				f.fail("%s", name)
			}
			return
		}
		g, err := load()
		if err != nil {
			f.prefix, f.cause = "golden cannot be used", err
			if errors.Is(err, fs.ErrNotExist) {
				f.prefix = "golden missing"
				f.remedy = "listen to the sound; if it is right, run once with OMNITEST_UPDATE=1 and commit " + s.path(name, "")
			}
			f.fail("%s", name)
			return
		}
		s.compare(name, key, g, snd, f)
	})
	return func(snd Sound) error {
		if snd.Case.Dir == "" {
			snd.Case.Dir = s.Out
		}
		snd.Case.Key = key.from(snd.Case)
		return inner(snd)
	}
}

func (s Store) compare(name string, key Key, g *Golden, snd Sound, f *finding) {
	if d := key.Differs(g.Key); len(d) > 0 {
		f.prefix = "golden has another key"
		f.remedy = "compare like with like, or keep one golden for each set-up (put the engine into its name)"
		f.fail("%s", strings.Join(d, "; "))
		return
	}
	f.golden = s.path(name, goldWAV)
	same := 0.0
	if slices.Contains(g.SHA256, snd.SHA256()) {
		same = 1
	}
	f.note("samples-approved", same, fmt.Sprintf("SHA-256 %.12s, %d approved", snd.SHA256(), len(g.SHA256)))
	if same == 0 && f.comparable(snd, g.sound, "golden") {
		f.like(snd, g.sound, "golden")
	}
}

// LoadGolden reads <name>/golden.json and its sound. fs.ErrNotExist (by errors.Is) if there is none. A sound whose samples
// the sidecar does not approve is an error.
func LoadGolden(fsys fs.FS, name string) (*Golden, error) {
	file := path.Join(name, sidecar)
	raw, err := fs.ReadFile(fsys, file)
	if err != nil {
		return nil, fmt.Errorf("golden %s: %w", name, err)
	}
	g := &Golden{}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(g); err != nil {
		return nil, fmt.Errorf("golden %s: %w", file, err)
	}
	if len(g.SHA256) == 0 || g.WAV == "" {
		return nil, fmt.Errorf("golden %s: not complete: %d sample hashes, wav %q", file, len(g.SHA256), g.WAV)
	}
	wav, err := fs.ReadFile(fsys, path.Join(name, g.WAV))
	if err != nil { // not fs.ErrNotExist: there is a golden, and it is broken
		return nil, fmt.Errorf("golden %s: %v", file, err)
	}
	if g.sound, err = ReadWAV(wav, Limits{}); err != nil {
		return nil, fmt.Errorf("golden %s: %s: %w", file, g.WAV, err)
	}
	if !slices.Contains(g.SHA256, g.sound.SHA256()) {
		return nil, fmt.Errorf("golden %s: the samples of %s have SHA-256 %.12s, which the sidecar does not approve", file, g.WAV, g.sound.SHA256())
	}
	return g, nil
}

// approve writes the sound as golden.
func (s Store) approve(name string, key Key, snd Sound) error {
	if s.Dir == "" {
		return errors.New("Update needs Store.Dir: an fs.FS cannot be written")
	}
	quiet := snd
	quiet.Case.Dir = ""
	for _, c := range []Check{Finite(), NotSilent(), NotClipped()} {
		if err := c(quiet); err != nil {
			return err
		}
	}
	wav := snd.WAV() // 16 bit: what a golden approves is what its file holds
	kept, err := ReadWAV(wav, Limits{})
	if err != nil {
		return err
	}
	dir := filepath.Join(s.Dir, filepath.FromSlash(name))
	old, err := LoadGolden(os.DirFS(s.Dir), name)
	if err == nil {
		f := &finding{}
		f.bounds, _ = snd.Case.bounds()
		s.compare(name, key, old, snd, f)
		if f.first == "" {
			if slices.Contains(old.SHA256, snd.SHA256()) {
				return nil
			}
			old.SHA256 = append(old.SHA256, snd.SHA256())
			return writeSidecar(dir, old)
		}
		if snd.Case.Dir != "" {
			prev := evidenceDir(snd.Case, "golden")
			if err := errors.Join(os.MkdirAll(prev, 0o755), os.WriteFile(filepath.Join(prev, "expected.prev.wav"), old.sound.Raw, 0o644)); err != nil {
				return err
			}
		}
	} // else: none yet, or one that cannot be used: it is replaced
	g := &Golden{Name: name, Key: key, Format: snd.Format, Seconds: snd.Duration().Seconds(), SHA256: []string{kept.SHA256()}, WAV: goldWAV}
	if sha := snd.SHA256(); sha != g.SHA256[0] {
		g.SHA256 = append(g.SHA256, sha) // a float sound: its own samples, and those of the file
	}
	if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, goldWAV), wav, 0o644)); err != nil {
		return err
	}
	return writeSidecar(dir, g) // last: a golden exists when its sidecar does
}

func writeSidecar(dir string, g *Golden) error {
	raw, err := json.MarshalIndent(g, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sidecar), append(raw, '\n'), 0o644)
}
